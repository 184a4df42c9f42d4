//! Texts across the border.

use std::{
    ffi::{CStr, CString, c_char},
    ptr,
};

use ioex_sdk::Error;

/// Texts that live as long as what points to them.
#[derive(Default)]
pub(crate) struct Texts(Vec<CString>);

impl Texts {
    /// A pointer that is good as long as this is.
    pub(crate) fn keep(&mut self, text: &str) -> *const c_char {
        let text = c_text(text);
        let pointer = text.as_ptr();
        // A `CString` has its bytes on the heap: they stay where they are when the list grows.
        self.0.push(text);
        pointer
    }

    /// The same; `NULL` for none.
    pub(crate) fn keep_some(&mut self, text: Option<&str>) -> *const c_char {
        text.map_or(ptr::null(), |text| self.keep(text))
    }
}

/// `text` without what would end it early.
pub(crate) fn c_text(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().filter(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

/// Copies a text.
///
/// # Safety
/// `text` is `NULL` or ends with a zero byte.
pub(crate) unsafe fn read(text: *const c_char, what: &str) -> Result<String, Error> {
    if text.is_null() {
        return Err(Error::Argument(format!("{what} is NULL")));
    }
    // SAFETY: not `NULL`; that it ends with a zero byte is the caller's word.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(str::to_owned).map_err(|_| Error::Argument(format!("{what} is not in UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_lose_only_their_zero_bytes() {
        assert_eq!(c_text("a\0b").to_str(), Ok("ab"));
        let mut texts = Texts::default();
        let first = texts.keep("first");
        for n in 0..100 {
            texts.keep(&n.to_string());
        }
        // SAFETY: `texts` lives, and keeps what it gave a pointer to.
        assert_eq!(unsafe { read(first, "it") }.as_deref(), Ok("first"));
        assert!(texts.keep_some(None).is_null());
        // SAFETY: `NULL` is allowed.
        assert!(unsafe { read(ptr::null(), "it") }.is_err());
    }
}
