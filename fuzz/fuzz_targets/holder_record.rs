//! "I hold this", from the directory.

#![no_main]

use ioex_base::{ContentAddress, wire};
use ioex_fuzz::{NOW, signer};
use ioex_net::directory::HolderRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let address = ContentAddress::of(b"content");
    if let Ok(record) = wire::decode::<HolderRecord>(data, 4_096) {
        assert_eq!(record.check(&address, NOW), None, "a forged announcement");
    }
    if let Some((at, rest)) = data.split_first_chunk::<8>() {
        let record = HolderRecord::sign(&signer(), &address, u64::from_le_bytes(*at));
        let _ = record.check(&address, NOW);
        let other = ContentAddress::of(rest);
        assert!(other == address || record.check(&other, NOW).is_none());
    }
});
