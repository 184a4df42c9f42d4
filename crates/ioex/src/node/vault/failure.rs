//! What a client is told when something about a repository fails.

use std::path::Path;

use ioex_api::{ApiError, ErrorCode};

pub(crate) fn fail(code: ErrorCode, text: impl Into<String>) -> ApiError {
    ApiError::new(code, text)
}

pub(crate) fn internal(e: impl std::fmt::Display) -> ApiError {
    fail(ErrorCode::Internal, e.to_string())
}

pub(crate) fn io_error(path: &Path) -> impl Fn(std::io::Error) -> ApiError + '_ {
    move |e| fail(ErrorCode::Io, format!("{}: {e}", path.display()))
}

/// A number that nobody could foresee.
pub(crate) fn fresh_seed() -> Result<u64, ApiError> {
    let mut out = [0; 8];
    getrandom::fill(&mut out).map_err(internal)?;
    Ok(u64::from_le_bytes(out))
}
