//! Metadata of every role, from whoever carries it: raw.

#![no_main]

use ioex_ota::tuf::{Envelope, Role, Root, Snapshot, Targets, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for role in [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp] {
        let Ok(envelope) = Envelope::parse(role, data) else { continue };
        // What was read is written and read again as the same.
        if let Ok(bytes) = envelope.to_bytes(role)
            && let Ok(again) = Envelope::parse(role, &bytes)
        {
            assert_eq!(again, envelope);
        }
        if let Ok(root) = envelope.read::<Root>() {
            let _ = envelope.verify::<Root>(&root);
        }
        let _ = envelope.read::<Targets>();
        let _ = envelope.read::<Snapshot>();
        let _ = envelope.read::<Timestamp>();
    }
});
