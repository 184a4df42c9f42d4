//! Metadata of the TUF reference implementation (python-tuf 7.0), ed25519 keys of seeds 1, 2 (root, both
//! must sign), 10, 20 and 30; valid until 2036.

use ioex_base::UnixSeconds;
use ioex_ota::{Trust, Verdict};

use crate::fleet::{Mirror, NOW, at, device, version};

fn mirror() -> Mirror {
    Mirror {
        roots: vec![include_bytes!("../data/reference/1.root.json").to_vec()],
        timestamp: include_bytes!("../data/reference/timestamp.json").to_vec(),
        snapshot: include_bytes!("../data/reference/1.snapshot.json").to_vec(),
        targets: include_bytes!("../data/reference/1.targets.json").to_vec(),
    }
}

#[test]
fn metadata_of_the_reference_implementation_is_read() {
    let mirror = mirror();
    let trust = Trust::first(&mirror.roots[0], UnixSeconds(0)).unwrap();
    let outcome = mirror.check(&trust, &device("1.0"), at(NOW));
    let Verdict::Install(release) = outcome.verdict else { panic!("{:?}", outcome.verdict) };
    assert_eq!(release.version, version("1.1"));
    let mut changed = mirror.clone();
    let place = changed.targets.windows(4).position(|part| part == b"acme").unwrap();
    changed.targets[place] = b'A';
    assert!(matches!(changed.check(&trust, &device("1.0"), at(NOW)).verdict, Verdict::Refuse(_)));
}

/// Writes a channel for the reference implementation to read: what it says of it is in docs/formats/ota.md.
#[test]
fn a_channel_has_the_reference_s_file_names() {
    let files = crate::fleet::channel().files();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["1.root.json", "1.snapshot.json", "1.targets.json", "timestamp.json"]);
    if let Some(folder) = std::env::var_os("IOEX_OTA_WRITE_CHANNEL") {
        for (name, bytes) in files {
            std::fs::write(std::path::Path::new(&folder).join(name), bytes).unwrap();
        }
    }
}
