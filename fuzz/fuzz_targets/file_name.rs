//! A file's name from an offer or a manifest: what is accepted stays in its folder.

#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;

fn stays(name: &str) {
    let mut parts = Path::new(name).components();
    assert!(matches!(parts.next(), Some(Component::Normal(part)) if part == name));
    assert!(parts.next().is_none());
    assert!(!name.chars().any(char::is_control));
}

fuzz_target!(|name: &str| {
    if let Ok(name) = ioex_net::transfer::safe_file_name(name) {
        stays(name);
    }
    if let Ok(name) = ioex_vault::safe_file_name(name) {
        stays(name);
    }
});
