//! The swarm: one package, fetched from and served to many at the same time.
//!
//! # Participants
//! The *origin* is the maker's super node; it has the whole package from the start. A *device* fetches
//! ([`Swarm`]) and serves ([`Uplink`]) at the same time. The piece that travels is a whole shard.
//!
//! # Messages
//! On a connection both sides say what they have, as [`Bits`]; afterwards a provider tells every new shard to whoever
//! asks it, and a device to the origins that it asks (*have*). An *ask* names a shard, or leaves the choice to the provider
//! ([`Want::LeastServed`]). It waits at the provider until a slot is free, and is answered with the number and length of
//! a shard and then its bytes, or with a [`Failure`]. Asks that wait cost nothing and can be cancelled.
//!
//! # Goals
//! Nobody's uplink is idle while somebody wants what lies behind it, and the origin sends every shard
//! about once. The origin gives a shard that it never gave before, whoever asks (*super-seeding*,
//! BEP 16), so that the first copy is spread over all devices; whatever a neighbour has is asked
//! from the neighbour. It sends a shard a second time when nobody connected has it after
//! [`LOST_AFTER_MS`], when a device says that it cannot get it elsewhere, and out of a small
//! allowance ([`SPARE_PERMILLE`]).
//!
//! Rarest first keeps copies of every shard about equal, so that neighbours always have something for each
//! other (Legout et al., "Rarest First and Choke Algorithms Are Enough", IMC 2006). Requests are few
//! per provider and queues are short: who finds one full asks somebody else, and so the first holders of
//! a new shard are joined by others instead of being waited for.
//!
//! # Absences
//! No tit-for-tat: devices of one maker do not compete, and what they serve is paid by receipts. No
//! clock, no randomness, no I/O: time is monotonic milliseconds and comes in as an argument, as does a seed.

mod bits;
mod fetch;
#[cfg(any(test, feature = "lab"))]
pub mod lab;
mod pick;
mod serve;

use ioex_base::Dice;

pub use bits::{Bits, MalformedBits};
pub use fetch::{Action, Ask, AskId, Rules, Swarm, Totals};
pub use serve::{Role, ServeId, Turn, Uplink};

/// Most shards of a package: at about 1 MiB each, 64 GiB.
pub const SHARDS_MAX: usize = 65_536;

/// Most neighbours of a device in one swarm. Each costs a bitmap (8 KiB at most) and a connection.
pub const NEIGHBOURS_MAX: usize = 64;

/// Most devices that are connected to one origin for one package, 8 KiB each at most.
pub const REQUESTERS_MAX: usize = 1_024;

/// Most asks that one requester has at one provider, waiting and being served together. Reached only
/// by a requester whose only provider is fast.
pub const ASKS_PER_REQUESTER_MAX: usize = 8;

/// Most asks that wait at a device. Few, so that what is asked for is had soon: with about this many, a
/// device's uplink is never idle between two answers.
pub const WAITING_MAX: usize = 8;

/// Most asks that wait at an origin, where they name no shard and lose nothing by waiting.
pub const WAITING_AT_ORIGIN_MAX: usize = 256;

/// A device does not take an ask that would wait longer than this at the pace at which it sends.
pub const QUEUE_MAX_MS: u64 = 4_000;

/// For how long an origin that has begun to send a shard lets others wait who ask for the same one: they
/// can have it from whoever got it.
pub const RELAY_MS: u64 = 3_000;

/// How long an ask waits at a provider before it is answered as busy.
pub const WAIT_MAX_MS: u64 = 30_000;

/// After how long an origin sends a shard again that nobody connected to it has: whoever took it is
/// slow, or gone without having passed it on.
pub const LOST_AFTER_MS: u64 = 10_000;

/// What an origin sends beyond one copy to devices that otherwise have nobody free: this many thousandths of the package,
pub const SPARE_PERMILLE: u64 = 50;

/// and this many for each device connected: 0.6 copies more for a hundred devices.
pub const SPARE_PERMILLE_PER_DEVICE: u64 = 6;

const _: () = assert!(SPARE_PERMILLE + 32 * SPARE_PERMILLE_PER_DEVICE < 300);

/// What a neighbour is to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// In the same local network: asked first.
    Lan,
    /// Another device elsewhere.
    Wan,
    /// The maker's own node: asked for what nobody else has.
    Origin,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// This shard.
    Shard(u32),
    /// Whichever of these the provider has sent least.
    LeastServed(Bits),
}

/// Why an ask brought nothing. The first two travel on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The provider has too much to do; it expects to be free after this time, in ms.
    Busy {
        /// When to ask again.
        after_ms: u64,
    },
    /// The provider does not have it, or as an origin sees that others do.
    Nothing {
        /// When to ask again.
        after_ms: u64,
    },
    /// The bytes are not the shard: the provider is not asked again for this package.
    Wrong,
    /// The connection or stream broke.
    Broken,
}

/// A package that has no shards or too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a package has 1 to {SHARDS_MAX} shards, not {0}")]
pub struct InvalidPackage(pub usize);

/// A sequence from one number, for choosing, not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Choice(Dice);

impl Choice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(Dice::new(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.roll()
    }

    /// Below `n`; 0 for 0. The remainder's bias over 2^64 is nothing that a choice can show.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n.max(1) as u64)).unwrap_or(0)
    }
}

/// The package's shards by length, in bytes.
fn checked(sizes: &[u32]) -> Result<(), InvalidPackage> {
    if sizes.is_empty() || sizes.len() > SHARDS_MAX { Err(InvalidPackage(sizes.len())) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
