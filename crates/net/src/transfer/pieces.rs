//! Pieces: how a content of any size is verified before it is complete.
//!
//! BLAKE3 is a tree over chunks of 1 KiB. A *piece* is a subtree: a power-of-two number of bytes,
//! aligned, so that it has a chaining value of its own. The list of all pieces' chaining values
//! hashes up to the content address, so the list is checked once against the address, and each
//! piece alone against its entry, whoever sent it. Bytes travel as they are, without a tree
//! between them. (BLAKE3 paper, section 2.1 and 6.)

use std::io::Read;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use ioex_base::ContentAddress;

/// Smallest piece: small enough to ask several providers for a file of some MiB, large enough
/// that asking costs nothing beside moving.
pub const PIECE_MIN_BYTES: u64 = 1024 * 1024;
/// Most pieces of a content, so that the list (32 bytes each) stays below 2 MiB.
pub const PIECES_MAX: u64 = 65_536;
/// Largest content: 2^45 bytes (32 TiB) in pieces of 512 MiB at most.
pub const CONTENT_MAX_BYTES: u64 = PIECES_MAX * 512 * 1024 * 1024;
const CV_BYTES: usize = blake3::OUT_LEN;

/// Bytes in each piece of a content of `size` bytes; the last piece may be shorter.
#[must_use]
pub fn piece_bytes(size: u64) -> u64 {
    let mut piece = PIECE_MIN_BYTES;
    while size.div_ceil(piece) > PIECES_MAX {
        piece *= 2;
    }
    piece
}

/// How many pieces a content of `size` bytes has; an empty one has none.
#[must_use]
pub fn piece_count(size: u64) -> u64 {
    size.div_ceil(piece_bytes(size))
}

/// The verified list of a content's pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceList {
    size: u64,
    /// Chaining values; for a content of one piece, its root hash.
    values: Vec<[u8; CV_BYTES]>,
}

/// Why a piece list is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PieceError {
    /// Its length does not fit the size.
    #[error("a content of {size} bytes has {want} pieces, the list has {got}")]
    Length {
        /// Claimed size.
        size: u64,
        /// Pieces of that size.
        want: u64,
        /// Entries of the list.
        got: u64,
    },
    /// It does not hash to the address.
    #[error("the piece list does not belong to {0}")]
    Address(ContentAddress),
    /// Larger than any content.
    #[error("{0} bytes are more than a content can have")]
    Size(u64),
}

impl PieceList {
    /// Reads a content to its end and returns its address and pieces. `progress` is told how
    /// many bytes were read.
    ///
    /// # Errors
    /// When reading fails.
    pub fn of(
        mut content: impl Read,
        mut progress: impl FnMut(u64),
        size_hint: u64,
    ) -> std::io::Result<(ContentAddress, Self)> {
        // The piece size follows from the real size: a file that grows meanwhile is read up to
        // the size it had, and the caller compares.
        let size = size_hint;
        let piece = piece_bytes(size);
        let count = piece_count(size);
        let mut values = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        let mut buffer = vec![0; usize::try_from(PIECE_MIN_BYTES.min(size.max(1))).unwrap_or(1)];
        let mut at = 0;
        while at < size {
            let end = (at + piece).min(size);
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(at);
            while at < end {
                let want = usize::try_from((end - at).min(buffer.len() as u64)).unwrap_or(buffer.len());
                content.read_exact(&mut buffer[..want])?;
                hasher.update(&buffer[..want]);
                at += want as u64;
                progress(at);
            }
            values.push(if count == 1 { *hasher.finalize().as_bytes() } else { hasher.finalize_non_root() });
        }
        let list = Self { size, values };
        Ok((list.root(), list))
    }

    /// Checks a list from the wire against the address.
    ///
    /// # Errors
    /// [`PieceError`].
    pub fn verified(address: &ContentAddress, size: u64, bytes: &[u8]) -> Result<Self, PieceError> {
        if size > CONTENT_MAX_BYTES {
            return Err(PieceError::Size(size));
        }
        let (want, got) = (piece_count(size), (bytes.len() / CV_BYTES) as u64);
        if want != got || !bytes.len().is_multiple_of(CV_BYTES) {
            return Err(PieceError::Length { size, want, got });
        }
        let mut values = Vec::with_capacity(bytes.len() / CV_BYTES);
        for chunk in bytes.chunks_exact(CV_BYTES) {
            let mut value = [0; CV_BYTES];
            value.copy_from_slice(chunk);
            values.push(value);
        }
        let list = Self { size, values };
        if list.root() == *address { Ok(list) } else { Err(PieceError::Address(*address)) }
    }

    /// The list as it travels.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values.concat()
    }

    /// Size of the content in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of pieces.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.values.len() as u64
    }

    /// First byte and length of a piece; an empty range beyond the last one.
    #[must_use]
    pub fn range(&self, piece: u64) -> (u64, u64) {
        let bytes = piece_bytes(self.size);
        let start = piece.saturating_mul(bytes).min(self.size);
        (start, bytes.min(self.size - start))
    }

    /// Takes a piece's bytes one after the other and says at the end whether they are it.
    #[must_use]
    pub fn verifier(&self, piece: u64) -> PieceVerifier {
        let (start, len) = self.range(piece);
        let want = usize::try_from(piece).ok().and_then(|i| self.values.get(i)).copied();
        let mut hasher = blake3::Hasher::new();
        // Beyond the last piece the offset is no subtree's, which the hasher does not take.
        if want.is_some() {
            hasher.set_input_offset(start);
        }
        PieceVerifier { hasher, left: len, only: self.values.len() == 1, want }
    }

    /// Whether `bytes` are this piece.
    #[must_use]
    pub fn holds(&self, piece: u64, bytes: &[u8]) -> bool {
        let mut verifier = self.verifier(piece);
        verifier.update(bytes);
        verifier.holds()
    }

    fn root(&self) -> ContentAddress {
        match self.values.as_slice() {
            [] => ContentAddress::of(b""),
            [only] => ContentAddress::from_bytes(*only),
            many => {
                let (left, right) = split(many);
                merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).into()
            }
        }
    }
}

/// See [`PieceList::verifier`].
#[derive(Debug)]
pub struct PieceVerifier {
    hasher: blake3::Hasher,
    left: u64,
    only: bool,
    want: Option<[u8; CV_BYTES]>,
}

impl PieceVerifier {
    /// The next bytes of the piece; more than the piece has make it fail.
    pub fn update(&mut self, bytes: &[u8]) {
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) if self.want.is_some() => {
                self.left = left;
                self.hasher.update(bytes);
            }
            _ => self.want = None,
        }
    }

    /// Whether all bytes came and are the piece.
    #[must_use]
    pub fn holds(&self) -> bool {
        if self.left != 0 || self.want.is_none() {
            return false;
        }
        let got =
            if self.only { *self.hasher.finalize().as_bytes() } else { self.hasher.finalize_non_root() };
        self.want == Some(got)
    }
}

/// BLAKE3's rule: the left subtree is the largest power of two that leaves something right of it.
fn split(values: &[[u8; CV_BYTES]]) -> (&[[u8; CV_BYTES]], &[[u8; CV_BYTES]]) {
    let left = values.len().next_power_of_two() / 2;
    values.split_at(left)
}

fn subtree(values: &[[u8; CV_BYTES]]) -> [u8; CV_BYTES] {
    match values {
        [only] => *only,
        many => {
            let (left, right) = split(many);
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn the_list_hashes_to_the_plain_blake3_address() {
        let mib = PIECE_MIN_BYTES as usize;
        for size in [0, 1, 1024, mib - 1, mib, mib + 1, 2 * mib, 3 * mib + 5, 5 * mib, 7 * mib + 1] {
            let bytes = content(size);
            let (address, list) = PieceList::of(&bytes[..], |_| (), size as u64).unwrap();
            assert_eq!(address, ContentAddress::of(&bytes), "{size}");
            let back = PieceList::verified(&address, size as u64, &list.to_bytes()).unwrap();
            assert_eq!(back, list);
            for piece in 0..list.count() {
                let (start, len) = list.range(piece);
                let range = start as usize..(start + len) as usize;
                assert!(back.holds(piece, &bytes[range.clone()]), "{size} {piece}");
                let mut bad = bytes[range].to_vec();
                bad[0] ^= 1;
                assert!(!back.holds(piece, &bad));
            }
        }
    }

    #[test]
    fn a_piece_does_not_pass_for_another_place() {
        let mib = PIECE_MIN_BYTES as usize;
        let bytes = vec![7; 3 * mib];
        let (_, list) = PieceList::of(&bytes[..], |_| (), bytes.len() as u64).unwrap();
        assert_ne!(list.values[0], list.values[1], "equal bytes at another place have another value");
        assert!(list.holds(1, &bytes[..mib]) && !list.holds(3, &bytes[..mib]));
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let bytes = content(3 * PIECE_MIN_BYTES as usize);
        let size = bytes.len() as u64;
        let (address, list) = PieceList::of(&bytes[..], |_| (), size).unwrap();
        let mut wire = list.to_bytes();
        assert!(matches!(
            PieceList::verified(&address, size + PIECE_MIN_BYTES, &wire),
            Err(PieceError::Length { .. })
        ));
        assert!(matches!(PieceList::verified(&address, u64::MAX, &wire), Err(PieceError::Size(_))));
        wire[40] ^= 1;
        assert_eq!(PieceList::verified(&address, size, &wire), Err(PieceError::Address(address)));
    }

    #[test]
    fn the_number_of_pieces_is_bounded() {
        for size in [0, 1, PIECES_MAX * PIECE_MIN_BYTES, PIECES_MAX * PIECE_MIN_BYTES + 1, CONTENT_MAX_BYTES]
        {
            assert!(piece_count(size) <= PIECES_MAX, "{size}");
            assert!(piece_bytes(size).is_power_of_two());
        }
    }
}
