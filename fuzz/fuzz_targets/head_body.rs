//! The body of a repository's head: raw, a good one with changes, and any compressed text and any list
//! that somebody with the recovery key encrypted, as the newest version and as the one before.

#![no_main]

use std::sync::LazyLock;

use ioex_base::{UnixSeconds, wire};
use ioex_fuzz::patched;
use ioex_vault::repo::{Head, POINTS_MAX, PointRef, RecoveryKey, RepoKeys, Totals, seal_object};
use libfuzzer_sys::fuzz_target;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

const RECOVERY: [u8; 32] = [7; 32];

static KEYS: LazyLock<RepoKeys> = LazyLock::new(|| RecoveryKey::from_bytes(RECOVERY).keys());

static SAMPLE: LazyLock<Head> = LazyLock::new(|| {
    let point = |n: u8| PointRef {
        created: UnixSeconds(1_800_000_000 + u64::from(n)),
        expires: UnixSeconds(1_807_000_000),
        label: "host /home #daily".into(),
        origin: None,
        tags: Vec::new(),
        totals: Totals::default(),
        root: seal_object(&KEYS, &[n; 100]).unwrap().0,
        rewritten: None,
    };
    Head { points: (0..3).map(point).collect(), forgotten: Vec::new() }
});

/// The same as version 1 has it, without what that did not know.
static OLD_SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let old = |p: &PointRef| (p.created, p.expires, p.label.clone(), p.totals, p.root.clone());
    wire::encode(&SAMPLE.points.iter().map(old).collect::<Vec<_>>())
});

static BODY: LazyLock<Vec<u8>> = LazyLock::new(|| SAMPLE.seal(&KEYS).unwrap());

/// As `docs/formats/vault.md` has it.
fn sealed(version: u8, compressed: &[u8]) -> Vec<u8> {
    let head_key = blake3::derive_key("ioex 2026 recovery v1 head", &RECOVERY);
    let siv_key = blake3::derive_key("ioex 2026 recovery v1 head siv", &head_key);
    let siv = *blake3::keyed_hash(&siv_key, compressed).as_bytes();
    let key = *blake3::keyed_hash(&head_key, &siv).as_bytes();
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap());
    let mut text = compressed.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut text).unwrap();
    [&[version][..], &siv, &text].concat()
}

fn listed(version: u8, plain: &[u8]) {
    let body = sealed(version, &zstd::bulk::compress(plain, 1).unwrap());
    let Ok(head) = Head::open(&body, &KEYS) else { return };
    assert!(head.points.len() <= POINTS_MAX);
    if let Ok(again) = head.seal(&KEYS) {
        assert_eq!(Head::open(&again, &KEYS).unwrap(), head);
    }
    let mut merged = head.clone();
    merged.merge(&SAMPLE);
    merged.expire(UnixSeconds(1_800_000_000));
    assert!(merged.points.len() <= POINTS_MAX);
}

fuzz_target!(|data: &[u8]| {
    let _ = Head::open(data, &KEYS);
    let changed = patched(&BODY, data);
    assert_eq!(Head::open(&changed, &KEYS).is_ok(), changed == *BODY, "a change went unnoticed");
    let old = data.first().is_some_and(|byte| byte % 2 == 1);
    let version = if old { 1 } else { 2 };
    let _ = Head::open(&sealed(version, data), &KEYS);
    listed(version, data);
    let sample = if old { OLD_SAMPLE.clone() } else { wire::encode(&*SAMPLE) };
    let read = Head::open(&sealed(version, &zstd::bulk::compress(&sample, 1).unwrap()), &KEYS);
    assert_eq!(read.unwrap(), *SAMPLE);
    listed(version, &patched(&sample, data));
});
