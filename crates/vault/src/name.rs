//! File names that came from elsewhere.

use ioex_base::limits::FILE_NAME_MAX_BYTES;

/// Why a text cannot be a file's name.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// No characters at all.
    #[error("a file name cannot be empty")]
    Empty,
    /// Longer than file systems allow.
    #[error("a file name has at most {FILE_NAME_MAX_BYTES} bytes, this one {0}")]
    TooLong(usize),
    /// `.` or `..`.
    #[error("'.' and '..' name directories, not files")]
    Directory,
    /// A character that separates directories, controls a terminal or reverses what is read.
    #[error("the character {0:?} cannot stand in a file name")]
    Character(char),
}

/// Returns `name` when it names a file in whatever directory it is joined to, and looks like what
/// it is: no separators of any system, no directory names, no control characters, and none of the
/// marks that turn the reading direction (they make `gnp.exe` read as a picture).
///
/// # Errors
/// [`NameError`], whichever of its cases comes first.
pub fn safe_file_name(name: &str) -> Result<&str, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > FILE_NAME_MAX_BYTES {
        return Err(NameError::TooLong(name.len()));
    }
    if name == "." || name == ".." {
        return Err(NameError::Directory);
    }
    match name.chars().find(|c| is_refused(*c)) {
        Some(c) => Err(NameError::Character(c)),
        None => Ok(name),
    }
}

fn is_refused(c: char) -> bool {
    let turns_direction =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    matches!(c, '/' | '\\') || c.is_control() || turns_direction
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_names_pass() {
        for name in ["a", "holiday 2026.jpg", ".profile", "..a", "Grüße.txt", "写真.png", "a:b", "x..y"] {
            assert_eq!(safe_file_name(name), Ok(name));
        }
        assert!(safe_file_name(&"x".repeat(FILE_NAME_MAX_BYTES)).is_ok());
    }

    #[test]
    fn tricks_are_refused() {
        assert_eq!(safe_file_name(""), Err(NameError::Empty));
        assert_eq!(safe_file_name(&"é".repeat(128)), Err(NameError::TooLong(256)));
        assert_eq!(safe_file_name(".."), Err(NameError::Directory));
        for (name, c) in [
            ("../x", '/'),
            ("a\\b", '\\'),
            ("a\0", '\0'),
            ("a\n", '\n'),
            ("\u{1b}[2J", '\u{1b}'),
            ("a\u{85}", '\u{85}'),
            ("gpj\u{202e}exe.", '\u{202e}'),
        ] {
            assert_eq!(safe_file_name(name), Err(NameError::Character(c)));
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_one_component(name in "\\PC{0,40}|[./a\\\\]{0,6}") {
            if safe_file_name(&name).is_ok() {
                let parts: Vec<_> = Path::new(&name).components().collect();
                prop_assert_eq!(parts, [Component::Normal(name.as_ref())]);
            }
        }
    }
}
