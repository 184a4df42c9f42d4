//! A piece list from a provider: `size (8) | list`.

#![no_main]

use ioex_base::ContentAddress;
use ioex_net::transfer::pieces::{CONTENT_MAX_BYTES, PIECES_MAX, PieceList, piece_count};
use libfuzzer_sys::fuzz_target;

fn check(address: &ContentAddress, size: u64, list: &[u8]) {
    let Ok(known) = PieceList::verified(address, size, list) else { return };
    assert!(size <= CONTENT_MAX_BYTES && known.count() <= PIECES_MAX);
    assert_eq!(known.to_bytes(), list);
    let mut end = 0;
    for piece in 0..known.count() {
        let (start, len) = known.range(piece);
        assert!(start == end && len > 0);
        end = start + len;
    }
    assert_eq!(end, size);
    let mut verifier = known.verifier(size);
    verifier.update(list);
    let _ = verifier.holds();
}

fuzz_target!(|data: &[u8]| {
    let Some((size, list)) = data.split_first_chunk::<8>() else { return };
    let size = u64::from_le_bytes(*size);
    assert!(piece_count(size) <= PIECES_MAX || size > CONTENT_MAX_BYTES);
    check(&ContentAddress::of(b""), size, list);
    // A list of one piece is its own root.
    if let Some(only) = list.first_chunk::<32>() {
        check(&ContentAddress::from_bytes(*only), size, list);
        // As many entries as the size asks for, so that the tree is built.
        let count = usize::try_from(piece_count(size)).unwrap_or(usize::MAX).min(1_024);
        check(&ContentAddress::from_bytes(*only), size, &only.repeat(count));
    }
});
