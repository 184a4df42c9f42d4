//! A device's settings file, which its owner may have edited.

#![no_main]

use ioex::device::{DeviceSettings, hours, rate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = (hours(text), rate(text));
    for text in [text.to_owned(), format!("version = 1\n{text}")] {
        if let Ok(settings) = DeviceSettings::from_toml(&text) {
            let written = settings.to_toml().expect("what was read as text is text");
            assert_eq!(DeviceSettings::from_toml(&written), Ok(settings));
        }
    }
});
