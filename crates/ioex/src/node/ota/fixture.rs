//! What the tests of several modules begin with.

use ioex_net::proto::ChannelFiles;

use crate::channel_folder::ChannelFolder;

/// Version 2.0 for any box of acme's, with one image, handed out by nobody.
#[cfg(feature = "super")]
pub(super) fn release() -> ioex_ota::Release {
    use ioex_base::{ContentAddress, Uid};
    use ioex_ota::{Release, Version};

    Release {
        brand: "acme".to_owned(),
        model: "box".to_owned(),
        hardware: Vec::new(),
        version: Version([2, 0, 0, 0]),
        follows: Version::default(),
        downgrade_from: Vec::new(),
        manifest: ContentAddress::of(b"manifest"),
        recipient: Uid::from_bytes([9; 32]),
        matchers: Vec::new(),
        images: vec![hash().image("app")],
        rollout: None,
    }
}

/// What that image hashes to, which is the whole package.
#[cfg(feature = "super")]
pub(super) fn hash() -> ioex_ota::channel::PackageHash {
    let mut hash = ioex_ota::channel::PackageHash::default();
    hash.update(b"image");
    hash
}

/// All files of a channel from its first root on.
pub(super) fn files_of(folder: &ChannelFolder) -> ChannelFiles {
    let mut all = folder.channel.files();
    let roots = (1..).map_while(|n| all.remove(&format!("{n}.root.json"))).collect();
    let one = |end: &str| all.iter().find(|(name, _)| name.ends_with(end)).unwrap().1.clone();
    ChannelFiles {
        roots,
        timestamp: one("timestamp.json"),
        snapshot: one(".snapshot.json"),
        targets: one(".targets.json"),
    }
}
