//! Which redundancy the devices at hand allow.

use std::collections::HashSet;

use ioex_base::limits::SHARD_MAX_BYTES;

use super::{Redundancy, Wanted};
use crate::place::Holder;

/// A device with less free space than one largest shard takes is not counted, in bytes.
pub const HOLDER_FREE_MIN_BYTES: u64 = SHARD_MAX_BYTES;

/// Stored bytes per byte of data that [`choose`] takes by itself, at most: what three whole copies
/// cost, the least that is usual for backups.
pub const OVERHEAD_MAX: u8 = 3;

/// One owner in this many stays free to hold what is made anew: otherwise a lost shard of a small
/// network has nowhere to go until somebody joins. Eight owners of which six hold a shard (2 of 6) lost as
/// little in the simulation as with a shard at each (3 of 8), could be read more often, and moved three
/// fifths of the bytes in repairs.
const SPARE_OWNERS: usize = 4;

/// Shards that are needed in a large network, thus also when the scheme stops growing with it.
const NEEDED_MAX: usize = 20;

/// From this many owners on the scheme stays the same.
const MANY_OWNERS: usize = NEEDED_MAX * SPARE_OWNERS;

/// The scheme for a large network; `docs/sim-vault.md` argues for it.
const MANY: Redundancy = Redundancy::clamped(20, 40, 60, 80);

const _: () = {
    assert!(MANY.made as usize == MANY_OWNERS, "the large scheme needs no more owners than there are");
    assert!(MANY.needed as usize == NEEDED_MAX);
    assert!(MANY.complete == OVERHEAD_MAX * MANY.needed, "and costs what is allowed");
    assert!(OVERHEAD_MAX as usize * NEEDED_MAX == MANY_OWNERS - MANY_OWNERS / SPARE_OWNERS);
};

/// What was chosen, and what could not be given, in words for the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What can be had now.
    pub redundancy: Redundancy,
    /// What groups are to have, now or as soon as further owners have room: whole copies are added
    /// later, up to here. A code keeps its numbers, as further parity would be other shards; then
    /// this is the same as `redundancy`. Never less than that.
    pub goal: Redundancy,
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
    let (redundancy, notes) = match wanted {
        Wanted::Auto => automatic(owners),
        Wanted::Exact(asked) => nearest(asked, owners),
    };
    Some(Choice { redundancy, goal: goal(wanted, redundancy), notes })
}

/// What groups are to have that are made with `now` in place of what was `wanted`.
fn goal(wanted: Wanted, now: Redundancy) -> Redundancy {
    let goal = match wanted {
        Wanted::Auto => Redundancy::clamped(1, OVERHEAD_MAX, OVERHEAD_MAX, OVERHEAD_MAX),
        Wanted::Exact(asked) => asked.as_copies(),
    };
    if now.is_whole_copies() && goal.o() > now.o() { goal } else { now }
}

fn automatic(owners: usize) -> (Redundancy, Vec<String>) {
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
    (redundancy, notes)
}

/// The scheme for this many owners: a quarter of them is needed, three quarters hold a shard, and a
/// quarter stays free ([`SPARE_OWNERS`]); below eight, whole copies, up to three. So the tolerated losses
/// grow with the owners at the same overhead.
fn for_owners(owners: usize) -> Redundancy {
    if owners >= MANY_OWNERS {
        return MANY;
    }
    let needed = (owners / SPARE_OWNERS).max(1);
    let complete = (usize::from(OVERHEAD_MAX) * needed).min(owners);
    let made = if needed == 1 { complete } else { SPARE_OWNERS * needed };
    Redundancy::clamped(small(needed), small(repair_at(needed)), small(complete), small(made))
}

/// Repair begins one loss before half of the tolerated ones of a scheme with three shards for each
/// needed one: in a small network each further loss weighs much.
fn repair_at(needed: usize) -> usize {
    2 * needed + 1
}

/// What comes next to what was asked for.
fn nearest(asked: Redundancy, owners: usize) -> (Redundancy, Vec<String>) {
    if owners >= usize::from(asked.made) {
        return (asked, Vec::new());
    }
    let lend = plural(owners, "owner lends", "owners lend");
    if owners >= usize::from(asked.complete) {
        // Complete all the same: only the head start of further shards is smaller.
        let redundancy = Redundancy::clamped(asked.needed, asked.repair_at, asked.complete, small(owners));
        let note = format!(
            "{asked} starts with {} shards and {lend} free space: {redundancy} instead, as complete as asked for, but slow devices can hold it up",
            asked.made,
        );
        return (redundancy, vec![note]);
    }
    // The same ratios with fewer shards, and owners to spare as in a scheme of our own. What is needed is
    // rounded up, so it costs no more than asked.
    let spare = if asked.is_whole_copies() { 0 } else { owners / SPARE_OWNERS };
    let complete = owners - spare;
    let scaled = |number: u8| (usize::from(number) * complete).div_ceil(usize::from(asked.complete));
    let needed = scaled(asked.needed);
    let repair_at = scaled(asked.repair_at).max(repair_at(needed));
    // Of whole copies none is started only for speed.
    let made = if needed == 1 { complete } else { owners };
    let redundancy = Redundancy::clamped(small(needed), small(repair_at), small(complete), small(made));
    (redundancy, vec![less(asked, redundancy, owners)])
}

/// Says that there are fewer owners than needed, and what that means.
fn less(asked: Redundancy, redundancy: Redundancy, owners: usize) -> String {
    format!(
        "{asked} needs {} and {} free space: {redundancy} instead, which {} rather than {}",
        plural(usize::from(asked.complete), "owner", "different owners"),
        plural(owners, "owner lends", "owners lend"),
        bears(redundancy),
        asked.tolerated_losses(),
    )
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
