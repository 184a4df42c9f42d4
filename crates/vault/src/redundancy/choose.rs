//! Which redundancy the devices at hand allow.

use std::collections::HashSet;

use ioex_base::limits::SHARD_MAX_BYTES;

use super::{Redundancy, Wanted};
use crate::place::Holder;

/// A device with less free space than one largest shard takes is not counted, in bytes.
pub const HOLDER_FREE_MIN_BYTES: u64 = SHARD_MAX_BYTES;

/// Most stored bytes per byte of data that [`choose`] takes by itself: what three whole copies
/// cost, the least that is usual for backups.
pub const OVERHEAD_MAX: u8 = 3;

/// From this many owners on the scheme stays the same: `MANY`.
const MANY_OWNERS: usize = 80;

/// The scheme for a large network; `docs/sim-vault.md` argues for it.
const MANY: Redundancy = Redundancy::clamped(20, 32, 60, 80);

/// Up to this many owners all of them are needed, and every loss is repaired at once: with so few
/// devices, each further loss weighs much, and repair is cheap because `k` is small.
const FEW_OWNERS: usize = 8;

const _: () = {
    assert!(MANY.made as usize == MANY_OWNERS, "the large scheme needs no more owners than there are");
    assert!(MANY.complete <= OVERHEAD_MAX * MANY.needed, "and costs no more than allowed");
    assert!(FEW_OWNERS < MANY.complete as usize);
};

/// What was chosen, and what could not be given, in words for the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The redundancy.
    pub redundancy: Redundancy,
    /// What is less than was asked for or could be; empty when nothing is.
    pub notes: Vec<String>,
}

/// How many different owners have devices that store for others and have room.
#[must_use]
pub fn owners(holders: &[Holder]) -> usize {
    let owners: HashSet<&str> = holders
        .iter()
        .filter(|h| h.kind.stores_for_others() && h.free_bytes >= HOLDER_FREE_MIN_BYTES)
        .map(|h| h.owner.as_str())
        .collect();
    owners.len()
}

/// The redundancy for what is wanted and who is there. `None` when nobody stores for others.
///
/// Depends on the number of different [`owners`] only, as no two shards of a group go to one
/// owner; never asks for more shards than owners. More owners never give less protection.
#[must_use]
pub fn choose(wanted: Wanted, holders: &[Holder]) -> Option<Choice> {
    let owners = owners(holders);
    if owners == 0 {
        return None;
    }
    Some(match wanted {
        Wanted::Auto => automatic(owners),
        Wanted::Exact(asked) => nearest(asked, owners),
    })
}

fn automatic(owners: usize) -> Choice {
    let redundancy = for_owners(owners);
    let mut notes = Vec::new();
    if owners < MANY_OWNERS {
        notes.push(format!(
            "{} free space: {redundancy} {}; with {MANY_OWNERS} owners it would be {MANY} and bear {}",
            plural(owners, "owner lends", "owners lend"),
            bears(redundancy),
            MANY.tolerated_losses(),
        ));
    }
    Choice { redundancy, notes }
}

/// The scheme for this many owners.
///
/// As many shards as owners, and as few needed as [`OVERHEAD_MAX`] allows: so the tolerated losses
/// grow with the owners. Up to three owners that is whole copies. Above [`FEW_OWNERS`], some owners
/// stay free to hold repaired shards, and repair waits for more than one loss; both grow evenly up
/// to [`MANY`].
fn for_owners(owners: usize) -> Redundancy {
    let few = FEW_OWNERS;
    let made = owners.min(MANY_OWNERS);
    let beyond = made.saturating_sub(few);
    let spare = beyond * usize::from(MANY.made - MANY.complete) / (MANY_OWNERS - few);
    let complete = made - spare;
    let waits = complete.saturating_sub(few) * usize::from(MANY.complete - MANY.repair_at)
        / (usize::from(MANY.complete) - few);
    let needed = complete.div_ceil(usize::from(OVERHEAD_MAX));
    Redundancy::clamped(small(needed), small(complete - waits), small(complete), small(made))
}

/// What comes next to what was asked for.
fn nearest(asked: Redundancy, owners: usize) -> Choice {
    if owners >= usize::from(asked.made) {
        return Choice { redundancy: asked, notes: Vec::new() };
    }
    let lend = plural(owners, "owner lends", "owners lend");
    if owners >= usize::from(asked.complete) {
        // Complete all the same: only the head start of further shards is smaller.
        let redundancy = Redundancy::clamped(asked.needed, asked.repair_at, asked.complete, small(owners));
        let note = format!(
            "{asked} starts with {} shards and {lend} free space: {redundancy} instead, as complete as asked for, but slow devices can hold it up",
            asked.made,
        );
        return Choice { redundancy, notes: vec![note] };
    }
    // The same ratios with fewer shards. `needed` is rounded up, so it costs no more than asked.
    let scaled = |number: u8| (usize::from(number) * owners).div_ceil(usize::from(asked.complete));
    let redundancy = Redundancy::clamped(
        small(scaled(asked.needed)),
        small(scaled(asked.repair_at)),
        small(owners),
        small(owners),
    );
    let note = format!(
        "{asked} needs {} and {lend} free space: {redundancy} instead, which {} rather than {}",
        plural(usize::from(asked.complete), "owner", "different owners"),
        bears(redundancy),
        asked.tolerated_losses(),
    );
    Choice { redundancy, notes: vec![note] }
}

fn bears(redundancy: Redundancy) -> String {
    match redundancy.tolerated_losses() {
        0 => "bears the loss of no device".to_owned(),
        losses => format!("bears the loss of {}", plural(usize::from(losses), "device", "devices")),
    }
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A count of shards as a byte; [`Redundancy::clamped`] takes it from there.
fn small(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}
