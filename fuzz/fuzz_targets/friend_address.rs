//! A friend address as somebody typed it.

#![no_main]

use ioex_base::{FriendAddress, Tag};
use ioex_fuzz::{patched, signer};
use libfuzzer_sys::fuzz_target;

fn check(text: &str) {
    if let Ok(address) = text.parse::<FriendAddress>() {
        assert_eq!(address.to_string(), text.trim().to_ascii_lowercase());
    }
}

fuzz_target!(|data: &[u8]| {
    check(&String::from_utf8_lossy(data));
    let good = FriendAddress::new(signer().uid(), Tag([9; 4])).to_string();
    let changed = patched(good.as_bytes(), data);
    if let Ok(text) = std::str::from_utf8(&changed) {
        check(text);
        // Four bytes of checksum: what passes by chance is not found in a run.
        assert_eq!(text.parse::<FriendAddress>().is_ok(), text.trim().to_ascii_lowercase() == good);
    }
});
