//! Names as text. A name on disk is bytes; what is printed, and typed, is text.
//!
//! Most names are text and stay as they are. Of one that is not UTF-8, or has characters that hide something
//! (control characters, such as turn the direction), the bytes that are no text and those characters become `\xHH`, and each backslash becomes `\\`. So does each
//! backslash of a name that would otherwise be read as another one: two names are never written the same.

use std::borrow::Cow;

/// Hexadecimal digits of a byte.
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A name, or a path, as text: [`meant`] gives it back.
#[must_use]
pub fn shown(name: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(name) {
        Ok(text) if !text.chars().any(hides) && *meant(text) == *name => Cow::Borrowed(text),
        _ => Cow::Owned(escaped(name)),
    }
}

/// Whether a character is not seen, or changes how others are: control characters, ends of lines, and those that turn
/// the direction of what follows. Joiners, which some scripts need, stay.
fn hides(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escaped(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len() * 2);
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if hides(c) => push_bytes(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => out.push(c),
            }
        }
        push_bytes(&mut out, chunk.invalid());
    }
    out
}

fn push_bytes(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        out.push_str("\\x");
        for digit in [byte >> 4, byte & 15] {
            out.extend(DIGITS.get(usize::from(digit)).map(|c| char::from(*c)));
        }
    }
}

/// The name, or path, that a text means. A backslash that begins neither `\\` nor `\xHH` means itself.
#[must_use]
pub fn meant(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('\\') {
        return Cow::Borrowed(text.as_bytes());
    }
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((byte, behind)) = rest.split_first() {
        let (byte, behind) = match (byte, behind) {
            (b'\\', [b'\\', behind @ ..]) => (b'\\', behind),
            (b'\\', [b'x', high, low, behind @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, behind),
                _ => (b'\\', rest.get(1..).unwrap_or_default()),
            },
            (byte, behind) => (*byte, behind),
        };
        out.push(byte);
        rest = behind;
    }
    Cow::Owned(out)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_are_text_stay_and_others_are_told_apart() {
        for (name, text) in [
            (&b"plain"[..], "plain"),
            ("gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
            (b"C:\\new\\x", "C:\\new\\x"),
            (b"a\xff", "a\\xff"),
            (b"a\xfe", "a\\xfe"),
            // A name that is text and reads like the one above.
            (b"a\\xff", "a\\\\xff"),
            (b"a\\\\b", "a\\\\\\\\b"),
            (b"\\\xff\\", "\\\\\\xff\\\\"),
            (b"two\nlines", "two\\x0alines"),
            ("c1\u{85}".as_bytes(), "c1\\xc2\\x85"),
            ("a\u{202e}txt.exe".as_bytes(), "a\\xe2\\x80\\xaetxt.exe"),
        ] {
            assert_eq!(shown(name), text);
            assert_eq!(*meant(text), *name, "{text}");
        }
        assert_eq!(*meant("a\\xFf"), *b"a\xff");
        assert_eq!(*meant("a\\xg0\\"), *b"a\\xg0\\");
    }

    proptest! {
        #[test]
        fn what_is_shown_means_the_name(name in prop::collection::vec(
            prop_oneof![Just(b'\\'), Just(b'x'), Just(b'f'), Just(0xff), Just(b'\n'), any::<u8>()], 0..12,
        )) {
            let text = shown(&name);
            prop_assert_eq!(&*meant(&text), name.as_slice());
            prop_assert!(!text.chars().any(char::is_control));
        }

        #[test]
        fn any_text_means_something(text in ".{0,40}") {
            let _ = meant(&text);
        }
    }
}
