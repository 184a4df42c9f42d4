use proptest::prelude::*;

use super::*;

/// Bytes that look random and are the same everywhere: BLAKE3's extended output.
fn shard(n: usize, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&(n as u64).to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn shards(lens: &[usize]) -> Vec<Vec<u8>> {
    lens.iter().enumerate().map(|(n, len)| shard(n, *len)).collect()
}

fn hash(shards: &[Vec<u8>]) -> String {
    let mut hasher = blake3::Hasher::new();
    shards.iter().for_each(|shard| {
        hasher.update(shard);
    });
    hasher.finalize().to_hex().to_string()
}

/// A stored format: these bytes lie on devices. If this fails after an update of the code's crate, the
/// update cannot be taken.
#[test]
fn the_parity_bytes_are_frozen() {
    let parity = encode(&shards(&[100, 64, 7]), 2).unwrap();
    assert_eq!(parity[0].len(), 128);
    assert_eq!(data_encoding::HEXLOWER.encode(&parity[0][..16]), "74ad16de39a1f74129dda6cc784b99dc");
    assert_eq!(hash(&parity), "a73538b7179ac519dfed5e4b86745c59ad1ba910f25666405ab9c4839315c76e");
    // Both ways in which the crate works, and more than one stripe.
    let parity = encode(&shards(&[STRIPE_BYTES + 65; 20]), 60).unwrap();
    assert_eq!(hash(&parity), "da9e81a80c1ce873e977fdf82df15361ea8616ca366f53f6126eca689f4a3969");
    let parity = encode(&shards(&[1_000; 20]), 4).unwrap();
    assert_eq!(hash(&parity), "ef4f0e44ba26826ce3a372643da56733e09a7a667d307ec5d91481af78a73310");
}

/// Stripes are our affair, not the format's: another program may encode a group in one go.
#[test]
fn stripes_change_nothing() {
    let data = shards(&[2 * STRIPE_BYTES + 128; 3]);
    let at_once = reed_solomon_simd::encode(3, 5, &data).unwrap();
    assert_eq!(encode(&data, 5).unwrap(), at_once);
}

/// Processors without the instructions that the crate likes make the same shards.
#[test]
fn every_processor_makes_the_same_bytes() {
    use reed_solomon_simd::{
        engine::NoSimd,
        rate::{DefaultRateEncoder, RateEncoder},
    };
    let data = shards(&[1024; 20]);
    let mut plain = DefaultRateEncoder::new(20, 60, 1024, NoSimd::new(), None).unwrap();
    data.iter().for_each(|shard| plain.add_original_shard(shard).unwrap());
    let plain: Vec<Vec<u8>> = plain.encode().unwrap().recovery_iter().map(<[u8]>::to_vec).collect();
    assert_eq!(encode(&data, 60).unwrap(), plain);
}

#[test]
fn lengths_may_differ_and_come_back() {
    let lens = [3 * STRIPE_BYTES, 1, 0, STRIPE_BYTES, STRIPE_BYTES + 1];
    let data = shards(&lens);
    let parity = encode(&data, 5).unwrap();
    assert!(parity.iter().all(|shard| shard.len() == 3 * STRIPE_BYTES));
    let present = parity.iter().enumerate().map(|(n, shard)| (5 + n, shard));
    let all: Vec<usize> = (0..10).collect();
    let back = reconstruct(&lens, present, 5, &all).unwrap();
    assert_eq!(back[..5], data);
    assert_eq!(back[5..], parity);
}

#[test]
fn too_few_are_told_and_enough_are_enough() {
    let lens = [64; 4];
    let data = shards(&lens);
    let parity = encode(&data, 2).unwrap();
    let few = [(0, &data[0]), (2, &data[2]), (5, &parity[1])];
    let error = reconstruct(&lens, few, 2, &[1]).unwrap_err();
    assert_eq!(error, CodeError::TooFew { need: 4, have: 3 });
    let enough = few.into_iter().chain([(4, &parity[0])]);
    assert_eq!(
        reconstruct(&lens, enough, 2, &[3, 1, 3]).unwrap(),
        [&data[3], &data[1], &data[3]].map(Clone::clone)
    );
}

#[test]
fn without_parity_there_is_nothing_to_make() {
    let data = shards(&[10, 20]);
    assert_eq!(encode(&data, 0), Ok(vec![]));
    let present = || data.iter().enumerate();
    assert_eq!(reconstruct(&[10, 20], present(), 0, &[1]), Ok(vec![data[1].clone()]));
    let one = present().take(1);
    assert_eq!(reconstruct(&[10, 20], one, 0, &[1]), Err(CodeError::TooFew { need: 2, have: 1 }));
}

#[test]
fn nonsense_is_refused() {
    let data = shards(&[10, 20]);
    assert_eq!(encode::<Vec<u8>>(&[], 2), Err(CodeError::Empty));
    assert_eq!(encode(&[[], []], 2), Err(CodeError::Empty));
    let max = usize::from(REDUNDANCY_MAX);
    assert_eq!(encode(&data, max - 1), Err(CodeError::TooMany { data: 2, parity: max - 1 }));
    assert_eq!(encode(&data, usize::MAX), Err(CodeError::TooMany { data: 2, parity: usize::MAX }));
    assert!(encode(&data, max - 2).is_ok());

    let rebuilt = |present: &[(usize, Vec<u8>)], want: &[usize]| {
        reconstruct(&[10, 20], present.iter().map(|(n, shard)| (*n, shard)), 1, want)
    };
    let (one, two) = ((0, data[0].clone()), (1, data[1].clone()));
    assert_eq!(rebuilt(&[(3, vec![0; 64])], &[0]), Err(CodeError::Index { index: 3, shards: 3 }));
    assert_eq!(rebuilt(&[one.clone(), two.clone()], &[3]), Err(CodeError::Index { index: 3, shards: 3 }));
    assert_eq!(rebuilt(&[one.clone(), one.clone()], &[0]), Err(CodeError::Twice(0)));
    let length = CodeError::Length { index: 0, want: 10, got: 20 };
    assert_eq!(rebuilt(&[(0, data[1].clone())], &[0]), Err(length));
    let length = CodeError::Length { index: 2, want: 64, got: 20 };
    assert_eq!(rebuilt(&[(2, data[1].clone())], &[0]), Err(length));
    assert_eq!(rebuilt(&[one, two], &[]), Ok(vec![]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any `k` of `d + p` give back all others, and one fewer do not.
    #[test]
    fn any_as_many_as_data_suffice(
        lens in prop::collection::vec(1usize..300, 1..12),
        parity in 1usize..24,
        order: u64,
    ) {
        let data = shards(&lens);
        let mut all = data.clone();
        all.extend(encode(&data, parity).unwrap());
        let mut indexes: Vec<usize> = (0..all.len()).collect();
        indexes.sort_by_key(|n| *blake3::hash(&[order.to_le_bytes(), (*n as u64).to_le_bytes()].concat()).as_bytes());
        let present = || indexes.iter().take(lens.len()).map(|n| (*n, &all[*n]));
        let want: Vec<usize> = (0..all.len()).collect();
        prop_assert_eq!(&reconstruct(&lens, present(), parity, &want).unwrap(), &all);
        let fewer = present().skip(1);
        let need = lens.len();
        prop_assert_eq!(
            reconstruct(&lens, fewer, parity, &[0]),
            Err(CodeError::TooFew { need, have: need - 1 })
        );
    }

    /// That one fewer do not suffice is no matter of counting: they fit more than one content.
    #[test]
    fn one_fewer_says_nothing_about_the_rest(lens in prop::collection::vec(64usize..65, 2..8), parity in 1usize..8) {
        let (data, other) = (shards(&lens), {
            let mut other = shards(&lens);
            other[0][0] ^= 1;
            other
        });
        let differ = encode(&data, parity).unwrap().iter().zip(encode(&other, parity).unwrap())
            .filter(|(a, b)| *a != b).count();
        prop_assert_eq!(differ, parity, "a change in one data shard shows in every parity shard");
    }
}
