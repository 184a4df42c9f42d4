//! Restoring, also after crashes and from those who lie.

use std::fs;

use ioex_base::ContentAddress;
use ioex_vault::{ChunkError, ChunkKey, Manifest, RestoreError, Restorer, Shard, ShardError};
use proptest::prelude::*;

use crate::{MB, Places, details, noise, pack};

fn bytes_of<'s>(shards: &'s [Shard], manifest: &Manifest, index: u32) -> &'s [u8] {
    let address = manifest.shards[index as usize].address;
    &shards.iter().find(|shard| shard.address == address).unwrap().bytes
}

pub(crate) fn restore(manifest: &Manifest, shards: &[Shard], places: &Places) {
    let mut restorer = Restorer::open(manifest.clone(), &places.part).unwrap();
    for index in restorer.missing() {
        restorer.accept_shard(index, bytes_of(shards, manifest, index)).unwrap();
    }
    assert_eq!(restorer.done_bytes(), manifest.stored_bytes());
    restorer.finish(&places.to).unwrap();
}

#[test]
fn shards_in_any_order_give_the_file() {
    let mut data = noise(13 * MB, 1);
    data.extend(vec![0; 5 * MB]);
    data.extend_from_slice(&data.clone()[..3 * MB]);
    let (manifest, shards) = pack(&data);
    let places = Places::new();
    let mut restorer = Restorer::open(manifest.clone(), &places.part).unwrap();
    for shard in shards.iter().rev() {
        restorer.accept_shard(shard.index, &shard.bytes).unwrap();
        restorer.accept_shard(shard.index, b"again, and wrong").unwrap();
    }
    restorer.finish(&places.to).unwrap();
    assert!(fs::read(&places.to).unwrap() == data);
    assert_eq!(places.names(), ["file.bin"]);
}

#[test]
fn an_empty_file_is_restored() {
    let (manifest, shards) = pack(b"");
    let places = Places::new();
    restore(&manifest, &shards, &places);
    assert_eq!(fs::read(&places.to).unwrap(), b"");
}

/// The restorer is dropped after every step, and what a crash can leave of the journal's end is
/// tried too.
#[test]
fn a_crash_at_any_step_costs_at_most_that_step() {
    let data = noise(11 * MB, 2);
    let (manifest, shards) = pack(&data);
    let places = Places::new();
    let journal = places.part.with_extension("part.journal");
    for shard in &shards {
        let before = Restorer::open(manifest.clone(), &places.part).unwrap().missing();
        assert_eq!(before.len(), shards.len() - shard.index as usize);
        let mut restorer = Restorer::open(manifest.clone(), &places.part).unwrap();
        restorer.accept_shard(shard.index, &shard.bytes).unwrap();
        drop(restorer);

        let whole = fs::read(&journal).unwrap();
        for cut in 1..=8 {
            fs::write(&journal, &whole[..whole.len() - cut]).unwrap();
            let restorer = Restorer::open(manifest.clone(), &places.part).unwrap();
            assert_eq!(restorer.missing(), before, "a torn record is no record");
        }
        fs::write(&journal, &whole).unwrap();
    }
    let restorer = Restorer::open(manifest, &places.part).unwrap();
    assert_eq!(restorer.missing(), Vec::<u32>::new());
    restorer.finish(&places.to).unwrap();
    assert!(fs::read(&places.to).unwrap() == data);
}

#[test]
fn a_crash_while_setting_up_starts_afresh() {
    let (manifest, shards) = pack(&noise(MB, 3));
    let places = Places::new();
    let journal = places.part.with_extension("part.journal");
    // The journal was created, or its header cut off, or the file is not there yet.
    for begun in [&b""[..], b"\x01abc"] {
        fs::write(&journal, begun).unwrap();
        assert_eq!(Restorer::open(manifest.clone(), &places.part).unwrap().missing().len(), 1);
        fs::remove_file(&places.part).unwrap();
    }
    // The header is there and the file is too short.
    let mut restorer = Restorer::open(manifest.clone(), &places.part).unwrap();
    restorer.accept_shard(0, &shards[0].bytes).unwrap();
    drop(restorer);
    fs::write(&places.part, b"short").unwrap();
    let restorer = Restorer::open(manifest.clone(), &places.part).unwrap();
    assert_eq!(restorer.missing(), [0]);
    drop(restorer);
    restore(&manifest, &shards, &places);
}

/// Between naming the file and forgetting its temporary name.
#[test]
fn a_crash_while_finishing_does_not_harm_the_finished_file() {
    let data = noise(MB, 4);
    let (manifest, shards) = pack(&data);
    let (other, _) = pack(&noise(MB, 5));
    let places = Places::new();
    let mut restorer = Restorer::open(manifest.clone(), &places.part).unwrap();
    restorer.accept_shard(0, &shards[0].bytes).unwrap();
    drop(restorer);
    fs::hard_link(&places.part, &places.to).unwrap();
    let again = Restorer::open(manifest, &places.part).unwrap();
    assert!(matches!(again.finish(&places.to), Err(RestoreError::Exists(_))));
    let fresh = Restorer::open(other, &places.part).unwrap();
    assert!(fs::read(&places.to).unwrap() == data, "a new restore does not write into it");
    fresh.discard().unwrap();
    assert_eq!(places.names(), ["file.bin"]);
}

#[test]
fn another_restore_at_the_same_place_begins_anew() {
    let (first, shards) = pack(&noise(MB, 6));
    let (second, second_shards) = pack(&noise(MB, 7));
    let places = Places::new();
    let mut restorer = Restorer::open(first, &places.part).unwrap();
    restorer.accept_shard(0, &shards[0].bytes).unwrap();
    drop(restorer);
    assert_eq!(Restorer::open(second.clone(), &places.part).unwrap().missing(), [0]);
    restore(&second, &second_shards, &places);
}

#[test]
fn nothing_is_overwritten() {
    let (manifest, shards) = pack(b"new");
    let places = Places::new();
    fs::write(&places.to, b"old").unwrap();
    let mut restorer = Restorer::open(manifest.clone(), &places.part).unwrap();
    restorer.accept_shard(0, &shards[0].bytes).unwrap();
    assert!(matches!(restorer.finish(&places.to), Err(RestoreError::Exists(_))));
    assert_eq!(fs::read(&places.to).unwrap(), b"old");
    let other = places.dir.path().join("other");
    Restorer::open(manifest.clone(), &places.part).unwrap().finish(&other).unwrap();
    assert_eq!(fs::read(&other).unwrap(), b"new");

    fs::write(&places.part, b"somebody's").unwrap();
    for _ in 0..2 {
        let refused = Restorer::open(manifest.clone(), &places.part);
        assert!(matches!(refused, Err(RestoreError::NotOurs(_))));
        assert_eq!(fs::read(&places.part).unwrap(), b"somebody's");
    }
}

#[test]
fn two_restores_of_one_place_exclude_each_other() {
    let (manifest, _) = pack(b"x");
    let places = Places::new();
    let first = Restorer::open(manifest.clone(), &places.part).unwrap();
    assert!(matches!(Restorer::open(manifest.clone(), &places.part), Err(RestoreError::InUse(_))));
    drop(first);
    assert!(Restorer::open(manifest, &places.part).is_ok());
}

#[test]
fn wrong_shards_are_refused_by_name() {
    let (manifest, shards) = pack(&noise(6 * MB, 8));
    let places = Places::new();
    let mut restorer = Restorer::open(manifest.clone(), &places.part).unwrap();
    let total = shards.len();
    let got = restorer.accept_shard(total as u32, &shards[0].bytes);
    assert!(matches!(got, Err(ShardError::Unknown { total: t, .. }) if t == total), "{got:?}");
    let got = restorer.accept_shard(0, b"short");
    assert!(matches!(got, Err(ShardError::Length { got: 5, .. })), "{got:?}");
    let mut changed = shards[0].bytes.clone();
    changed[1_000] ^= 1;
    let got = restorer.accept_shard(0, &changed);
    let want = ContentAddress::of(&changed);
    assert!(matches!(got, Err(ShardError::Address { got, .. }) if got == want), "{got:?}");
    assert_eq!(restorer.missing().len(), total);
    let unfinished = restorer.finish(&places.to);
    assert!(matches!(unfinished, Err(RestoreError::Missing { missing, .. }) if missing == total));
    assert!(!places.to.exists());
}

#[test]
fn a_lying_manifest_is_found_out() {
    let (manifest, shards) = pack(&noise(MB, 9));
    let places = Places::new();
    let mut wrong_key = manifest.clone();
    wrong_key.chunks[0].key = ChunkKey([0; 32]);
    let mut restorer = Restorer::open(wrong_key, &places.part).unwrap();
    let got = restorer.accept_shard(0, &shards[0].bytes);
    assert!(matches!(got, Err(ShardError::Chunk { chunk: 0, source: ChunkError::Cipher })), "{got:?}");
    drop(restorer);

    let mut wrong_hash = manifest.clone();
    wrong_hash.content = ContentAddress::of(b"something else");
    let mut restorer = Restorer::open(wrong_hash, &places.part).unwrap();
    restorer.accept_shard(0, &shards[0].bytes).unwrap();
    let got = restorer.finish(&places.to);
    assert!(matches!(got, Err(RestoreError::Content { got, .. }) if got == manifest.content), "{got:?}");
    assert_eq!(places.names(), Vec::<String>::new());

    let mut contradicting = manifest;
    contradicting.details.name = "..".into();
    let got = Restorer::open(contradicting, &places.part).map(|_| ());
    assert!(matches!(got, Err(RestoreError::Manifest(_))), "{got:?}");
}

#[test]
fn the_manifest_suffices_without_the_owners_key() {
    let data = noise(2 * MB, 10);
    let (manifest, shards) = pack(&data);
    let manifest = Manifest::decode(&manifest.encode()).unwrap();
    assert_eq!(manifest.details, details());
    let places = Places::new();
    restore(&manifest, &shards, &places);
    assert!(fs::read(&places.to).unwrap() == data);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Pieces of noise, runs of one byte and copies of earlier pieces, in any mixture.
    #[test]
    fn any_file_comes_back(pieces in prop::collection::vec((0u64..4, 0usize..2_000_000, any::<bool>()), 0..8)) {
        let mut data = Vec::new();
        for (seed, len, dull) in pieces {
            if dull { data.resize(data.len() + len, seed as u8) } else { data.extend(noise(len, seed)) }
        }
        let (manifest, shards) = pack(&data);
        let places = Places::new();
        restore(&manifest, &shards, &places);
        prop_assert!(fs::read(&places.to).unwrap() == data);
    }
}
