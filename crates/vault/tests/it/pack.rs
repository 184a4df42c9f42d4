//! What packing gives.

use std::{
    collections::HashSet,
    io::{self, Read},
};

use ioex_base::{ContentAddress, limits::SHARD_MAX_BYTES};
use ioex_vault::{
    BackupDetails, Codec, InvalidManifest, OwnerKey, PackError, Packer,
    limits::{SHARD_MIN_BYTES, TAG_BYTES},
    padded_bytes,
};

use crate::{MB, Places, details, noise, owner, pack, pack_with, restore::restore};

#[test]
fn shards_are_named_by_their_bytes_and_bounded() {
    let data = noise(20 * MB, 1);
    let (manifest, shards) = pack(&data);
    assert_eq!(manifest.size_bytes, data.len() as u64);
    assert_eq!(manifest.content, ContentAddress::of(&data));
    assert_eq!(manifest.check(), Ok(()));
    assert_eq!(shards.len(), manifest.shards.len());
    for (shard, listed) in shards.iter().zip(&manifest.shards) {
        assert_eq!(shard.address, ContentAddress::of(&shard.bytes));
        assert_eq!((listed.address, listed.bytes as usize), (shard.address, shard.bytes.len()));
        assert!((SHARD_MIN_BYTES..=SHARD_MAX_BYTES as usize).contains(&shard.bytes.len()));
        assert_eq!(padded_bytes(shard.bytes.len()), shard.bytes.len());
    }
    let stored = manifest.stored_bytes() as usize;
    assert!(stored < data.len() + data.len() / 20, "padding costs under 5%: {stored}");
}

#[test]
fn the_same_file_gives_the_same_shards_to_its_owner_only() {
    let data = noise(6 * MB, 2);
    let (first, shards) = pack(&data);
    assert_eq!(pack(&data).1, shards);
    let other = Packer::new(&OwnerKey::from_bytes([8; 32]), data.as_slice()).unwrap();
    let other: HashSet<_> = other.map(|shard| shard.unwrap().address).collect();
    assert!(first.shards.iter().all(|shard| !other.contains(&shard.address)));
}

/// A holder sees neither zeros at the end nor a frame's beginning.
#[test]
fn shards_look_like_noise_to_the_end() {
    let (_, shards) = pack(&vec![b'x'; 300]);
    let [shard] = shards.as_slice() else { panic!("one shard") };
    assert_eq!(shard.bytes.len(), SHARD_MIN_BYTES);
    let mut counts = [0u32; 256];
    shard.bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    // 64 expected of each value; the chance of a value beyond these bounds is below 1e-9.
    assert!(counts.iter().all(|n| (10..130).contains(n)), "{counts:?}");
    assert!(shard.bytes.chunks(32).collect::<HashSet<_>>().len() == SHARD_MIN_BYTES / 32);
}

#[test]
fn repeated_content_is_stored_once() {
    let data = vec![0; 40 * MB];
    let (manifest, shards) = pack(&data);
    assert!(manifest.order.len() >= 20 && manifest.chunks.len() <= 2, "{}", manifest.chunks.len());
    assert_eq!(manifest.chunks[0].codec, Codec::Zstd);
    assert_eq!((shards.len(), shards[0].bytes.len()), (1, SHARD_MIN_BYTES));
    let twice = noise(8 * MB, 3).repeat(2);
    let (manifest, _) = pack(&twice);
    assert!(manifest.stored_bytes() < 12 * MB as u64, "cuts find the same places again");
}

#[test]
fn text_is_compressed() {
    let text = "It was the best of times, it was the worst of times. ".repeat(40_000);
    let (manifest, _) = pack(text.as_bytes());
    assert!(manifest.stored_bytes() < text.len() as u64 / 20);
}

#[test]
fn an_empty_file_has_no_shards() {
    let (manifest, shards) = pack(b"");
    assert_eq!((manifest.size_bytes, shards.len(), manifest.order.len()), (0, 0, 0));
}

#[test]
fn a_second_restore_point_stores_only_what_changed() {
    let old = noise(24 * MB, 4);
    let (first, first_shards) = pack(&old);
    let mut new = old.clone();
    new.splice(10 * MB..10 * MB, *b"an insertion");
    let mut packer = Packer::new(&owner(), new.as_slice()).unwrap().with_previous(&first);
    let fresh: Vec<_> = packer.by_ref().map(Result::unwrap).collect();
    let reused: Vec<_> = packer.reused().collect();
    let second = packer.finish(details()).unwrap();
    let fresh_bytes: usize = fresh.iter().map(|shard| shard.bytes.len()).sum();
    assert!(fresh_bytes < 5 * MB, "{fresh_bytes}");
    let mut addresses: HashSet<_> = fresh.iter().map(|shard| shard.address).collect();
    addresses.extend(reused.iter().map(|shard| shard.address));
    assert_eq!(addresses, second.shards.iter().map(|shard| shard.address).collect());
    assert!(reused.iter().all(|shard| first.shards.contains(shard)));

    let all: Vec<_> = first_shards.iter().chain(&fresh).cloned().collect();
    let places = Places::new();
    restore(&second, &all, &places);
    assert!(std::fs::read(&places.to).unwrap() == new);

    // A third one builds on both; nothing is new, nothing is listed twice.
    let (third, fresh) = pack_with(&new, &[&first, &second]);
    assert_eq!((fresh.len(), third.check()), (0, Ok(())));
    // Another owner's restore point helps nobody.
    let mut packer =
        Packer::new(&OwnerKey::from_bytes([9; 32]), new.as_slice()).unwrap().with_previous(&first);
    packer.by_ref().for_each(|shard| drop(shard.unwrap()));
    assert_eq!(packer.reused().count(), 0);
}

#[test]
fn packing_must_come_to_its_end() {
    let packer = Packer::new(&owner(), &b"x"[..]).unwrap();
    assert!(matches!(packer.finish(details()), Err(PackError::Unfinished)));

    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = self.0.min(out.len());
            self.0 -= n;
            if n == 0 { Err(io::Error::other("the disk is gone")) } else { Ok(n) }
        }
    }
    let mut packer = Packer::new(&owner(), Failing(9 * MB)).unwrap();
    let results: Vec<_> = packer.by_ref().collect();
    assert!(matches!(results.last(), Some(Err(PackError::Io(_)))));
    assert!(matches!(packer.finish(details()), Err(PackError::Unfinished)));
}

#[test]
fn bad_details_are_refused() {
    let finish = |details: BackupDetails| {
        let mut packer = Packer::new(&owner(), &b"x"[..]).unwrap();
        packer.by_ref().for_each(|shard| drop(shard.unwrap()));
        packer.finish(details)
    };
    let bad = finish(BackupDetails { name: "../../etc/passwd".into(), ..details() });
    assert!(matches!(bad, Err(PackError::Details(InvalidManifest::Name(_)))), "{bad:?}");
    let bad = finish(BackupDetails { expires: details().created, ..details() });
    assert!(matches!(bad, Err(PackError::Details(InvalidManifest::Dates { .. }))), "{bad:?}");
    let good = finish(details()).unwrap();
    assert_eq!(good.chunks[0].stored_bytes as usize, 1 + TAG_BYTES);
}
