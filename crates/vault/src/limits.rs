//! The bounds of the vault format, tied together where one follows from the other.

use ioex_base::limits::{FILE_NAME_MAX_BYTES, SHARD_MAX_BYTES};

/// Shortest chunk in bytes but for a file's last. A quarter of the average, the usual ratio: cuts
/// before it are not looked for, which makes the search faster and the tables shorter.
pub const CHUNK_MIN_BYTES: usize = 256 * 1024;

/// Average chunk in bytes: small enough that a changed byte in a large file moves about one
/// megabyte, large enough that a restore point of 100 GB has a manifest of about 6 MB.
pub const CHUNK_AVERAGE_BYTES: usize = 1024 * 1024;

/// Longest chunk in bytes. Twice the average, because the stronger normalisation in use cuts only
/// one to five chunks in a hundred by force; a device then restores with one shard and one chunk in memory.
pub const CHUNK_MAX_BYTES: usize = 2 * 1024 * 1024;

/// Where a stream is cut, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cuts {
    pub(crate) min_bytes: usize,
    pub(crate) average_bytes: usize,
    pub(crate) max_bytes: usize,
}

/// Cuts of a single file that others will fetch whole ([`Packer`](crate::Packer)).
pub(crate) const FILE_CUTS: Cuts =
    Cuts { min_bytes: CHUNK_MIN_BYTES, average_bytes: CHUNK_AVERAGE_BYTES, max_bytes: CHUNK_MAX_BYTES };

/// Cuts in a repository. Half as long as those of single files: what changes from one restore
/// point to the next is stored again chunk by chunk, and a chunk must fit the 1 MiB shards that wide
/// erasure codes use.
pub(crate) const REPO_CUTS: Cuts =
    Cuts { min_bytes: 128 * 1024, average_bytes: 512 * 1024, max_bytes: 1024 * 1024 - 64 };

const _: () = assert!(
    REPO_CUTS.max_bytes + TAG_BYTES <= crate::redundancy::CODED_SHARD_MIN_BYTES as usize,
    "any chunk of a repository fits the full shards of any policy"
);

/// Cuts of an update's package. Shorter than those of other files: what changes from version to version is
/// fetched by each of a million devices, and its manifest is about a thousandth of it.
pub(crate) const PACKAGE_CUTS: Cuts =
    Cuts { min_bytes: 16 * 1024, average_bytes: 64 * 1024, max_bytes: 256 * 1024 };

/// Largest shard of an update's package in bytes. It is what devices pass on, and only whole: so small that a
/// device with an uplink of 20 Mbit/s passes one on in a quarter of a second, so large that asking costs nothing
/// beside it. A package of 100 MB has two hundred.
pub const PACKAGE_SHARD_BYTES: usize = 512 * 1024;

/// Bytes by which encryption lengthens a chunk (the Poly1305 tag).
pub const TAG_BYTES: usize = 16;

/// Shortest shard in bytes: all small files look alike.
pub const SHARD_MIN_BYTES: usize = 16 * 1024;

/// Level of the compressor. On 600 MB of programs, level 3 gave 408 MB/s and 33% of the size, level
/// 9 a quarter of that speed for 31%.
pub const ZSTD_LEVEL: i32 = 3;

/// Largest file in bytes: 256 GiB. Its manifest of some 15 MB still fits a small device's
/// memory; a larger file is packed in parts.
pub const FILE_MAX_BYTES: u64 = 256 * 1024 * 1024 * 1024;

/// Most chunks that follow one another in a file.
pub const ORDER_MAX: usize = 1024 * 1024;

/// Most different chunks in a file: the largest file at half the average size.
pub const CHUNKS_MAX: usize = 512 * 1024;

/// Most shards of a file: the largest file at a quarter of the largest shard, so that also a
/// restore point that takes single chunks from many older shards fits.
pub const SHARDS_MAX: usize = 256 * 1024;

/// Longest encoded manifest in bytes.
pub const MANIFEST_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Most nodes that one manifest is sealed to: an owner's devices and a few trusted others. Each
/// one costs every reader up to one more key agreement.
pub const RECIPIENTS_MAX: usize = 64;

/// Copies of each shard unless the owner says otherwise. In a small network of home devices that
/// are up half of the time, three copies are out of reach at one moment with probability 1/8 and
/// lost for good only when three owners' devices die before one repair; each further copy costs a
/// whole file's space.
pub const DEFAULT_REPLICAS: u8 = 3;

/// Most copies of each shard that a policy may ask for. More is not safer, only dearer.
pub const REPLICAS_MAX: u8 = 16;

const CHUNK_REF_MAX_BYTES: usize = 5 + 4 + 4 + 4 + 1 + 32 + 16;
const SHARD_REF_MAX_BYTES: usize = 32 + 4;
const ORDER_ENTRY_MAX_BYTES: usize = 3;
const REST_MAX_BYTES: usize = FILE_NAME_MAX_BYTES + 256;

const _: () = {
    assert!(CHUNK_MAX_BYTES + TAG_BYTES <= SHARD_MAX_BYTES as usize, "any chunk fits a shard");
    assert!(PACKAGE_CUTS.max_bytes + TAG_BYTES <= PACKAGE_SHARD_BYTES, "any chunk fits a package's shard");
    assert!(SHARD_MAX_BYTES.is_power_of_two(), "padding never goes past the largest shard");
    assert!(SHARD_MIN_BYTES <= SHARD_MAX_BYTES as usize);
    assert!(ORDER_MAX as u64 >= FILE_MAX_BYTES / CHUNK_MIN_BYTES as u64, "any file has an order");
    assert!(ORDER_MAX <= 1 << (7 * ORDER_ENTRY_MAX_BYTES), "an order entry is a short varint");
    assert!(
        CHUNKS_MAX * CHUNK_REF_MAX_BYTES
            + SHARDS_MAX * SHARD_REF_MAX_BYTES
            + ORDER_MAX * ORDER_ENTRY_MAX_BYTES
            + REST_MAX_BYTES
            <= MANIFEST_MAX_BYTES,
        "whatever is within the counts is within the bytes"
    );
};
