//! Limits that several parts of ioeX must agree on. Limits of one part stand beside its code.

/// Longest text message in bytes. Larger text goes as a file. Ten times what the longest chat
/// message of other messengers holds, and small enough that a queue of thousands fits a device.
pub const MESSAGE_MAX_BYTES: usize = 64 * 1024;

/// Longest greeting in a friend request, in bytes: a sentence or two, not an advertisement.
pub const GREETING_MAX_BYTES: usize = 280;

/// Longest name or remark that a person gives a node or a friend, in bytes.
pub const LABEL_MAX_BYTES: usize = 120;

/// Longest file name accepted from the wire, in bytes (the limit of common file systems).
pub const FILE_NAME_MAX_BYTES: usize = 255;

/// Most files in one offer.
pub const OFFER_FILES_MAX: usize = 1_000;

/// Largest shard in bytes. Small enough that a device holds one in memory, large enough that
/// asking the directory for it costs little beside moving it.
pub const SHARD_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// How long a stored shard lives without renewal: three months of 30 days (white paper II.C (B)).
pub const SHARD_LIFE_SECONDS: u64 = 90 * crate::DAY_SECONDS;

/// Most grants that one authority has revoked at a time. Grants end by themselves, after which they
/// need not stand in a list.
pub const REVOKED_MAX: usize = 10_000;

/// Largest head of a repository in bytes, signature included: the list of its restore points,
/// one a day for three months for some hundred machines. Small enough to be read at every question.
pub const HEAD_MAX_BYTES: usize = 256 * 1024;
