//! What a maker puts into its devices' firmware: the channel's first root, the key to its packages,
//! and whom to ask.

use std::path::Path;

use anyhow::{Context as _, ensure};
use data_encoding::HEXLOWER_PERMISSIVE;
use ioex_base::{ContentAddress, NodeKey, Uid, UnixSeconds};
use ioex_ota::{Trust, channel_address};
use ioex_vault::OwnerKey;
use serde::{Deserialize, Serialize};

/// Largest file in bytes.
const BUNDLE_MAX_BYTES: u64 = 1024 * 1024;
/// The format that this program writes and reads.
pub(crate) const FORMAT: u8 = 1;

/// The file, as JSON.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BundleFile {
    pub(crate) format: u8,
    pub(crate) brand: String,
    pub(crate) model: String,
    /// The first root's file, as text.
    pub(crate) root: String,
    /// The private half of the key that packages are sealed to, in hexadecimal. It is in every device
    /// of the model, so it keeps packages from the nodes that pass them on, not from owners.
    pub(crate) package_key: String,
    /// The key under which packages are cut, in hexadecimal: with it a device finds the parts of an update in what it
    /// runs. Without it the first update of a device is fetched whole. Who has the key above reads packages anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pack_key: Option<String>,
    /// Super nodes to ask first. Others are found under the channel's address.
    pub(crate) matchers: Vec<Uid>,
    /// When the firmware was made: its date is not earlier.
    pub(crate) built: UnixSeconds,
}

/// The bundle, ready for use.
pub(crate) struct Bundle {
    pub(crate) brand: String,
    pub(crate) model: String,
    pub(crate) channel: ContentAddress,
    pub(crate) key: NodeKey,
    /// With what packages are cut.
    pub(crate) cut: Option<OwnerKey>,
    pub(crate) matchers: Vec<Uid>,
    pub(crate) trust: Trust,
    /// The first root, for those who begin with it.
    pub(crate) root: Vec<u8>,
}

/// The 32 bytes of a key in hexadecimal.
pub(super) fn key_bytes(text: &str) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok()?.try_into().ok()
}

impl Bundle {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or makes no sense.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let length = std::fs::metadata(path).with_context(|| format!("the bundle {}", path.display()))?.len();
        ensure!(length <= BUNDLE_MAX_BYTES, "{} is too large for a bundle", path.display());
        let bytes = std::fs::read(path).with_context(|| format!("the bundle {}", path.display()))?;
        let read: BundleFile =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is no bundle", path.display()))?;
        Self::from_file(read).with_context(|| format!("the bundle {} cannot be used", path.display()))
    }

    /// Checks what was read.
    ///
    /// # Errors
    /// When it makes no sense.
    pub(crate) fn from_file(read: BundleFile) -> anyhow::Result<Self> {
        ensure!(
            read.format == FORMAT,
            "it has format {}, this program reads {FORMAT}: update the program, or make it anew with \
             `ioex ota channel bundle`",
            read.format
        );
        let seed = key_bytes(&read.package_key).context("its key is no key")?;
        let cut = read.pack_key.as_deref().map(|key| key_bytes(key).context("its packing key is no key"));
        let root = read.root.into_bytes();
        Ok(Self {
            channel: channel_address(&root),
            trust: Trust::first(&root, read.built)?,
            key: NodeKey::from_seed(seed),
            cut: cut.transpose()?.map(OwnerKey::from_bytes),
            brand: read.brand,
            model: read.model,
            matchers: read.matchers,
            root,
        })
    }
}
