//! Sharing the watch among super nodes.
//!
//! Every one of them knows all groups and devices. Who looks after which follows from rendezvous hashing
//! (Thaler and Ravishankar, 1998) over those that live: nobody hands anything out, and when one falls
//! silent only its part moves. Two that disagree about who lives do the same work twice, which costs
//! something and harms nothing.

use ioex_base::{Uid, UnixSeconds};

/// A super node that was not heard of for so long has its part taken over, in seconds: two of its hourly
/// rounds, and half of one for delays.
pub const PARTNER_SILENT_SECONDS: u64 = 9_000;

/// The members that live: this node itself, and whoever was heard of lately.
#[must_use]
pub fn living(own: Uid, heard: &[(Uid, UnixSeconds)], now: UnixSeconds) -> Vec<Uid> {
    // A date in the future is a clock that was set back since: as good as now.
    let lives = |at: &UnixSeconds| now.0.saturating_sub(at.0) < PARTNER_SILENT_SECONDS;
    let mut out: Vec<Uid> = heard.iter().filter(|(_, at)| lives(at)).map(|(uid, _)| *uid).collect();
    out.push(own);
    out.sort_unstable();
    out.dedup();
    out
}

/// Who of `members` looks after the device or group named `name`; `None` only when there are none.
#[must_use]
pub fn responsible(members: &[Uid], name: &[u8; 32]) -> Option<Uid> {
    let weight = |member: &Uid| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(member.as_bytes());
        hasher.update(name);
        *hasher.finalize().as_bytes()
    };
    members.iter().copied().max_by_key(|member| (weight(member), *member))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(n: u8) -> Uid {
        Uid::from_bytes([n; 32])
    }

    #[test]
    fn each_has_its_part_and_only_a_silent_one_s_part_moves() {
        let all = [uid(1), uid(2), uid(3)];
        let names: Vec<[u8; 32]> =
            (0..3_000u32).map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
        let of = |members: &[Uid]| -> Vec<Uid> {
            names.iter().map(|name| responsible(members, name).unwrap()).collect()
        };
        let before = of(&all);
        for member in all {
            let part = before.iter().filter(|m| **m == member).count();
            assert!((850..1_150).contains(&part), "{part} of 3,000");
        }
        let mut other_order = all;
        other_order.reverse();
        assert_eq!(of(&other_order), before, "everybody comes to the same");
        let after = of(&[uid(1), uid(3)]);
        for (before, after) in before.iter().zip(&after) {
            assert!(*before == uid(2) || before == after, "nothing moves between those that live");
        }
        assert!(responsible(&[], &names[0]).is_none());
    }

    #[test]
    fn who_was_not_heard_of_for_long_does_not_live() {
        let now = UnixSeconds(1_000_000);
        let ago = |s: u64| UnixSeconds(now.0 - s);
        let heard = [(uid(1), ago(PARTNER_SILENT_SECONDS - 1)), (uid(2), ago(PARTNER_SILENT_SECONDS))];
        assert_eq!(living(uid(9), &heard, now), [uid(1), uid(9)]);
        let ahead = [(uid(1), UnixSeconds(now.0 + 50))];
        assert_eq!(living(uid(9), &ahead, now), [uid(1), uid(9)]);
    }
}
