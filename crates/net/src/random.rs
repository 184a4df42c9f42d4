//! Randomness for the shell; rules get it as an argument.

/// Random bytes from the operating system.
///
/// # Panics
/// When the operating system has no randomness: nothing secret could be made then.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    getrandom::fill(&mut out).expect("the operating system gives randomness");
    out
}
