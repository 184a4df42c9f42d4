//! Proofs that a device has a shard: one leaf of its BLAKE3 tree, and what leads from there to the
//! shard's address.
//!
//! BLAKE3 is a binary tree over *leaves* of 1 KiB. The auditor names a leaf, the device answers with
//! its bytes and with the hash of each sibling on the way up. Whoever knows the address and the
//! length of the shard checks that without having the shard. A device that does not have the leaf
//! cannot answer, and it does not know beforehand which one it will be asked for. (BLAKE3 paper,
//! section 2.1; the idea is that of Merkle's trees.)
//!
//! The shape of the tree follows from the length alone, which the auditor takes from its own
//! records: nothing that comes with a proof is believed.

use blake3::{
    CHUNK_LEN, Hasher, OUT_LEN,
    hazmat::{
        ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
    },
};
use ioex_base::{
    ContentAddress,
    limits::SHARD_MAX_BYTES,
    wire::{self, WireError},
};
use serde::{Deserialize, Serialize};

/// Bytes of a leaf, but for a shard's last one: BLAKE3's chunk.
pub const LEAF_BYTES: u64 = CHUNK_LEN as u64;

/// Longest encoded proof in bytes: a leaf and a sibling for each of the 12 levels of the largest
/// shard take 1,411.
pub const PROOF_MAX_BYTES: usize = 2 * 1024;

/// Levels above the leaves of the largest shard.
const LEVELS_MAX: u32 = (SHARD_MAX_BYTES / LEAF_BYTES).ilog2();

const _: () = {
    assert!((SHARD_MAX_BYTES / LEAF_BYTES).is_power_of_two(), "the depth is the logarithm");
    assert!(CHUNK_LEN + LEVELS_MAX as usize * OUT_LEN + 3 <= PROOF_MAX_BYTES, "every proof fits");
};

/// A leaf and the way to the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The bytes of the leaf, at most [`LEAF_BYTES`].
    pub leaf: Vec<u8>,
    /// The siblings' chaining values, from the leaf's own up to the one below the root.
    pub siblings: Vec<[u8; OUT_LEN]>,
}

/// How many leaves a shard has; at least one.
#[must_use]
pub fn leaves(shard_bytes: u64) -> u32 {
    u32::try_from(shard_bytes.div_ceil(LEAF_BYTES).max(1)).unwrap_or(u32::MAX)
}

/// The proof for leaf number `leaf` of a shard. Reads and hashes all of the shard. `None` when
/// the shard has no such leaf, or is empty or longer than any shard.
#[must_use]
pub fn prove(shard: &[u8], leaf: u32) -> Option<Proof> {
    let path = Path::to(shard.len() as u64, leaf)?;
    let siblings = path.steps.iter().map(|step| step.sibling.value(shard)).collect::<Option<_>>()?;
    Some(Proof { leaf: path.leaf.of(shard)?.to_vec(), siblings })
}

/// Whether `proof` shows leaf number `leaf` of the shard with this address and length.
#[must_use]
pub fn verify(address: &ContentAddress, shard_bytes: u64, leaf: u32, proof: &Proof) -> bool {
    let Some(path) = Path::to(shard_bytes, leaf) else { return false };
    if proof.leaf.len() as u64 != path.leaf.bytes || proof.siblings.len() != path.steps.len() {
        return false;
    }
    let Some((last, below)) = path.steps.split_last() else {
        return ContentAddress::of(&proof.leaf) == *address;
    };
    let Some((top, siblings)) = proof.siblings.split_last() else { return false };
    let mut value = hash_part(path.leaf.from, &proof.leaf);
    for (step, sibling) in below.iter().zip(siblings) {
        let (left, right) = step.order(&value, sibling);
        value = merge_subtrees_non_root(left, right, Mode::Hash);
    }
    let (left, right) = last.order(&value, top);
    ContentAddress::from(merge_subtrees_root(left, right, Mode::Hash)) == *address
}

impl Proof {
    /// The bytes as they travel.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Reads a proof from the wire. Whether it proves anything, [`verify`] says.
    ///
    /// # Errors
    /// [`WireError`]; more than [`PROOF_MAX_BYTES`] are not read.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, PROOF_MAX_BYTES)
    }
}

/// A part of a shard that is a subtree: first byte and length.
#[derive(Clone, Copy)]
struct Part {
    from: u64,
    bytes: u64,
}

impl Part {
    fn of(self, shard: &[u8]) -> Option<&[u8]> {
        let from = usize::try_from(self.from).ok()?;
        shard.get(from..from.checked_add(usize::try_from(self.bytes).ok()?)?)
    }

    fn value(self, shard: &[u8]) -> Option<ChainingValue> {
        Some(hash_part(self.from, self.of(shard)?))
    }
}

/// The chaining value of a subtree below the root.
fn hash_part(from: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(from);
    hasher.update(bytes).finalize_non_root()
}

/// One level of the way up.
struct Step {
    sibling: Part,
    sibling_is_left: bool,
}

impl Step {
    fn order<'v>(
        &self,
        own: &'v ChainingValue,
        sibling: &'v ChainingValue,
    ) -> (&'v ChainingValue, &'v ChainingValue) {
        if self.sibling_is_left { (sibling, own) } else { (own, sibling) }
    }
}

/// Where a leaf lies in its tree.
struct Path {
    leaf: Part,
    /// From the leaf up.
    steps: Vec<Step>,
}

impl Path {
    fn to(shard_bytes: u64, leaf: u32) -> Option<Self> {
        let at = u64::from(leaf) * LEAF_BYTES;
        if shard_bytes > SHARD_MAX_BYTES || at >= shard_bytes {
            return None;
        }
        let mut part = Part { from: 0, bytes: shard_bytes };
        let mut steps = Vec::new();
        while part.bytes > LEAF_BYTES {
            let left = Part { bytes: left_subtree_len(part.bytes), ..part };
            let right = Part { from: part.from + left.bytes, bytes: part.bytes - left.bytes };
            let sibling_is_left = at >= right.from;
            let sibling;
            (part, sibling) = if sibling_is_left { (right, left) } else { (left, right) };
            steps.push(Step { sibling, sibling_is_left });
        }
        steps.reverse();
        Some(Self { leaf: part, steps })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shard(bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn the_bytes_are_frozen() {
        let shard = shard(2_500);
        let proof = prove(&shard, 2).unwrap();
        assert_eq!((proof.leaf.len(), proof.siblings.len()), (452, 1));
        let bytes = proof.encode();
        assert_eq!(
            blake3::hash(&bytes).to_hex().to_string(),
            "c8da1b1eb72344163e3329dcbe61f21c0da4495e79e73e894c1c97b7d94b7650"
        );
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes[..4]), "c403c3e7", "length, then the leaf");
        assert_eq!(Proof::decode(&bytes), Ok(proof));
        let tiny = Proof { leaf: vec![7, 8], siblings: vec![[9; 32]] };
        assert_eq!(tiny.encode(), [&[2, 7, 8, 1][..], &[9; 32]].concat());
    }

    #[test]
    fn every_leaf_of_every_small_shard_is_proven() {
        for bytes in 1..=5 * CHUNK_LEN {
            let shard = shard(bytes);
            let address = ContentAddress::of(&shard);
            let count = leaves(bytes as u64);
            for leaf in 0..count {
                let proof = prove(&shard, leaf).unwrap();
                assert!(verify(&address, bytes as u64, leaf, &proof), "{leaf} of {bytes}");
            }
            assert_eq!(prove(&shard, count), None);
        }
    }

    #[test]
    fn the_largest_shard_has_proofs_within_the_bound() {
        let shard = shard(SHARD_MAX_BYTES as usize);
        let (address, bytes) = (ContentAddress::of(&shard), SHARD_MAX_BYTES);
        assert_eq!(leaves(bytes), 4_096);
        for leaf in [0, 1, 2_047, 2_048, 4_094, 4_095] {
            let proof = prove(&shard, leaf).unwrap();
            assert_eq!(proof.siblings.len(), 12);
            assert_eq!(proof.encode().len(), 1_411);
            assert!(verify(&address, bytes, leaf, &proof));
        }
    }

    #[test]
    fn lengths_and_indexes_from_outside_are_not_believed() {
        let shard = shard(3_000);
        let address = ContentAddress::of(&shard);
        let proof = prove(&shard, 1).unwrap();
        for bytes in [0, 1, 1_024, 2_048, 4_097, SHARD_MAX_BYTES + 1, u64::MAX] {
            assert!(!verify(&address, bytes, 1, &proof), "{bytes}");
        }
        for leaf in [0, 2, 3, u32::MAX] {
            assert!(!verify(&address, 3_000, leaf, &proof), "{leaf}");
        }
        let mut more = proof.clone();
        more.siblings.push([0; 32]);
        assert!(!verify(&address, 3_000, 1, &more));
        let mut fewer = proof.clone();
        fewer.siblings.pop();
        assert!(!verify(&address, 3_000, 1, &fewer));
        assert!(!verify(&address, 3_000, 1, &Proof { leaf: vec![], ..proof }));
        assert!(verify(&address, 3_000, 2, &prove(&shard, 2).unwrap()));
        assert_eq!(prove(&[], 0), None);
        assert_eq!(prove(&vec![0; SHARD_MAX_BYTES as usize + 1], 0), None);
    }

    /// The root and an inner node over the same values differ, so no inner node passes for a leaf.
    #[test]
    fn an_inner_node_is_no_leaf() {
        let shard = shard(2_048);
        let address = ContentAddress::of(&shard);
        let values = [0, 1_024].map(|from| hash_part(from as u64, &shard[from..from + 1_024]));
        let proof = Proof { leaf: values.concat(), siblings: vec![] };
        assert!(!verify(&address, 64, 0, &proof));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_forged_is_refused(
            bytes in 1usize..300_000,
            leaf: prop::sample::Index,
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let shard = shard(bytes);
            let address = ContentAddress::of(&shard);
            let leaf = u32::try_from(leaf.index(leaves(bytes as u64) as usize)).unwrap();
            let proof = prove(&shard, leaf).unwrap();
            prop_assert!(verify(&address, bytes as u64, leaf, &proof));
            prop_assert_eq!(Proof::decode(&proof.encode()), Ok(proof.clone()));
            let mut forged = proof.clone();
            let at = at.index(proof.leaf.len() + 32 * proof.siblings.len());
            match at.checked_sub(proof.leaf.len()) {
                None => forged.leaf[at] ^= 1 << bit,
                Some(at) => forged.siblings[at / 32][at % 32] ^= 1 << bit,
            }
            prop_assert!(!verify(&address, bytes as u64, leaf, &forged));
            let other = ContentAddress::of(&[0]);
            prop_assert!(!verify(&other, bytes as u64, leaf, &proof));
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            input in prop::collection::vec(any::<u8>(), 0..3_000), bytes: u64, leaf: u32,
        ) {
            if let Ok(proof) = Proof::decode(&input) {
                prop_assert!(input.len() <= PROOF_MAX_BYTES);
                let _ = verify(&ContentAddress::of(&input), bytes, leaf, &proof);
            }
        }
    }
}
