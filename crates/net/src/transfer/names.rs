//! File names from the wire.

use ioex_base::limits::FILE_NAME_MAX_BYTES;

/// Why a file name is not used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Empty, `.` or `..`.
    #[error("'{0}' is no file name")]
    Special(String),
    /// A path, or characters that fool a terminal or another file system.
    #[error("the file name {0:?} contains a separator or a control character")]
    Character(String),
    /// Too long for common file systems.
    #[error("the file name has {0} bytes, at most {FILE_NAME_MAX_BYTES} are possible")]
    Long(usize),
}

/// Accepts a name that is one plain path component, and refuses everything else. Names are never
/// repaired: two different names must not become one file.
///
/// # Errors
/// [`NameError`].
pub fn safe_file_name(name: &str) -> Result<&str, NameError> {
    if name.len() > FILE_NAME_MAX_BYTES {
        return Err(NameError::Long(name.len()));
    }
    if name.is_empty() || name == "." || name == ".." {
        return Err(NameError::Special(name.to_owned()));
    }
    // Direction overrides make "exe.txt" out of "txt.exe" on screen.
    let odd = |c: char| {
        c.is_control() || matches!(c, '/' | '\\' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if name.chars().any(odd) {
        return Err(NameError::Character(name.to_owned()));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_refused() {
        for name in ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\nb", "a\u{202e}b"] {
            assert!(safe_file_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "...", "a b.tar.gz", "файл", "-rf", ".hidden"] {
            assert_eq!(safe_file_name(name), Ok(name));
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_stays_in_its_folder(name in "\\PC{0,300}") {
            if let Ok(name) = safe_file_name(&name) {
                let path = std::path::Path::new("/dir").join(name);
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/dir")));
            }
        }
    }
}
