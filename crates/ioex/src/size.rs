//! Sizes as people write them: `10GB`, `512MiB`, `1.5 TB`.

use serde::{Deserialize, Deserializer};

/// Units, in bytes. Written in any case; `KB` counts 1,000 and `KiB` 1,024.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Most digits after the point: a trillionth is one byte of a terabyte.
const FRACTION_DIGITS_MAX: usize = 12;

/// A text that is no size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SizeError {
    /// No number at the beginning.
    #[error("'{0}' is no size: write a number and a unit, such as 10GB or 512MiB")]
    Number(String),
    /// A word that names no unit.
    #[error("'{0}' is no unit of size: write B, KB, MB, GB, TB (1,000) or KiB, MiB, GiB, TiB (1,024)")]
    Unit(String),
    /// More than fits 64 bits.
    #[error("the size '{0}' is too large")]
    TooLarge(String),
}

/// Reads a size in bytes. Parts of a byte are dropped.
///
/// # Errors
/// [`SizeError`], which says what to write.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim();
    let unit_bytes =
        UNITS.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name)).map(|(_, bytes)| u128::from(*bytes));
    let no_number = || SizeError::Number(text.to_owned());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > FRACTION_DIGITS_MAX {
        return Err(no_number());
    }
    let unit_bytes = unit_bytes.ok_or_else(|| SizeError::Unit(unit.to_owned()))?;
    let too_large = || SizeError::TooLarge(text.to_owned());
    // Digits only, so the one error left is the size.
    if fraction.contains('.') {
        return Err(no_number());
    }
    let whole = u128::from(whole.parse::<u64>().map_err(|_| too_large())?);
    let parts = u128::from(fraction.parse::<u64>().map_err(|_| no_number())?);
    let scale = fraction.chars().fold(1u128, |scale, _| scale * 10);
    // At most 2^64 * 2^40 + 10^12 * 2^40: far from the end of 128 bits.
    let bytes = whole * unit_bytes + parts * unit_bytes / scale;
    u64::try_from(bytes).map_err(|_| too_large())
}

/// For configuration files: a number of bytes, or a text such as `"10GB"`.
///
/// # Errors
/// When it is neither.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a size: a number of bytes or a text such as \"10GB\"")]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => Ok(bytes),
        Size::Text(text) => parse(&text).map_err(serde::de::Error::custom),
    }
}

/// A size for people: three digits and a decimal unit.
#[must_use]
pub fn human(bytes: u64) -> String {
    const NAMES: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_000.0;
    let mut unit = 0;
    // What would be rounded to 1000 belongs to the next unit.
    while value >= 999.5 && unit + 1 < NAMES.len() {
        value /= 1_000.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", NAMES[unit])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("10GB", 10_000_000_000),
            ("512MiB", 512 << 20),
            ("512 mib", 512 << 20),
            ("1.5kB", 1_500),
            ("0.5KiB", 512),
            (" 2 TB ", 2_000_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_what_to_write() {
        for text in ["", "GB", ".5GB", "5.GB", "1.2.3MB", "-1", "1e3"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("5 G"), Err(SizeError::Unit("G".to_owned())));
        assert!(matches!(parse("99999999999TB"), Err(SizeError::TooLarge(_))));
        assert!(matches!(parse("99999999999999999999999999"), Err(SizeError::TooLarge(_))));
    }

    #[test]
    fn human_sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (9_999, "10.0 kB"),
            (123_456, "123 kB"),
            (999_600, "1.00 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn whole_units_are_exact(n in 0u64..1_000_000, unit in 0usize..UNITS.len()) {
            let (name, bytes) = UNITS[unit];
            prop_assert_eq!(parse(&format!("{n}{name}")), Ok(n * bytes));
            prop_assert_eq!(parse(&format!("{n} {}", name.to_uppercase())), Ok(n * bytes));
        }

        #[test]
        fn any_number_of_bytes_is_read(n: u64) {
            prop_assert_eq!(parse(&n.to_string()), Ok(n));
        }

        #[test]
        fn any_text_is_handled(text in ".{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_near_size_is_handled(text in "[0-9.]{0,30} ?[kmgtKMGT]?i?[bB]?") {
            let _ = parse(&text);
        }
    }
}
