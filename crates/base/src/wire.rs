//! How values become bytes: postcard, with a bound on what is read.

use serde::{Serialize, de::DeserializeOwned};

/// Bytes that are no value of the expected type.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// More bytes than the type's bound.
    #[error("{got} bytes where at most {max} are allowed")]
    TooLong {
        /// The bound in bytes.
        max: usize,
        /// What came, in bytes.
        got: usize,
    },
    /// Not a value of this type.
    #[error("malformed bytes: {0}")]
    Malformed(postcard::Error),
    /// Bytes were left over after the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
}

/// The bytes of `value`.
///
/// # Panics
/// Never for our wire types: postcard fails only on types without a known length, which none of
/// them contains (each has a golden-bytes test).
#[must_use]
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("wire types have known lengths")
}

/// Reads one value from exactly `bytes`, of which there may be at most `max`.
///
/// # Errors
/// [`WireError`], whichever of its cases comes first.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, WireError> {
    if bytes.len() > max {
        return Err(WireError::TooLong { max, got: bytes.len() });
    }
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(WireError::Malformed)?;
    if rest.is_empty() { Ok(value) } else { Err(WireError::Trailing(rest.len())) }
}
