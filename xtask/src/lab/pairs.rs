//! Scenario `nat`: every kind of NAT against every other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    Options, Outcome, ioex, millis, millis_json,
    nat::Nat,
    world::{Bootstrap, Host, World},
};
use crate::{node::Node, probe::Behaviour};

/// A pair that has found no direct path by then stays relayed.
const DIRECT_LIMIT: Duration = Duration::from_secs(15);

/// Pause between pings: what the time to direct is rounded up to.
const PING_MS: &str = "20";

/// Enough pings for the whole limit.
const PINGS: &str = "1000";

/// Bootstraps in the lab's internet.
const BOOTSTRAPS: usize = 2;

/// What continuous integration has the time for: the easy, the usual, the hard and the blocked.
const QUICK: [(Nat, Nat); 4] = [
    (Nat::PortRestricted, Nat::PortRestricted),
    (Nat::OtherPort, Nat::Double),
    (Nat::Open, Nat::Symmetric),
    (Nat::PortRestricted, Nat::UdpBlocked),
];

/// How two nodes met. Times count from the first packet, the request for friendship.
struct Meeting {
    pair: (Nat, Nat),
    /// Until the other node had the request: found by its UID, connected, answered.
    connect: Option<Duration>,
    /// Until the first ping of the friendship came back.
    reply: Option<Duration>,
    /// Until the path was direct.
    direct: Option<Duration>,
    error: Option<String>,
}

/// Runs the pairs one after the other, so that none disturbs another's times.
pub(super) fn run(options: &Options) -> Result<Outcome> {
    let pairs = if options.quick { QUICK.to_vec() } else { all_pairs() };
    let mut world = World::new(ioex())?;
    world.serve_probes()?;
    let bootstraps = world.bootstraps(BOOTSTRAPS)?;
    let mut left = BTreeMap::new();
    let mut right = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for (one, other) in &pairs {
        place(&mut world, &bootstraps, &mut left, &mut seen, *one, "a")?;
        place(&mut world, &bootstraps, &mut right, &mut seen, *other, "b")?;
    }
    let mut meetings = Vec::new();
    for (one, other) in pairs {
        let (a, b) = (left.get(&one).context("no host")?, right.get(&other).context("no host")?);
        let meeting = meet(a, b, (one, other));
        if !options.json {
            eprintln!("{}", row(&meeting, &seen).join("  "));
        }
        meetings.push(meeting);
    }
    Ok(outcome(&meetings, &seen))
}

/// Every kind with every kind, itself included.
fn all_pairs() -> Vec<(Nat, Nat)> {
    let with = |(index, one): (usize, Nat)| Nat::ALL[index..].iter().map(move |other| (one, *other));
    Nat::ALL.into_iter().enumerate().flat_map(with).collect()
}

/// Builds a host of a kind, measures its NAT and starts its node, unless that was done before.
fn place(
    world: &mut World,
    bootstraps: &[Bootstrap],
    nodes: &mut BTreeMap<Nat, Node>,
    seen: &mut BTreeMap<Nat, Behaviour>,
    nat: Nat,
    side: &str,
) -> Result<()> {
    if nodes.contains_key(&nat) {
        return Ok(());
    }
    let host = Host::build(world, nat, side)?;
    let behaviour = host.probe().with_context(|| format!("probing {}", host.name))?;
    host.forget_mappings()?;
    seen.insert(nat, behaviour);
    nodes.insert(nat, world.peer(&host.namespace, &host.name, bootstraps, &[])?);
    Ok(())
}

fn meet(a: &Node, b: &Node, pair: (Nat, Nat)) -> Meeting {
    let mut meeting = Meeting { pair, connect: None, reply: None, direct: None, error: None };
    if let Err(error) = try_meet(a, b, &mut meeting) {
        meeting.error = Some(format!("{error:#}"));
    }
    meeting
}

fn try_meet(a: &Node, b: &Node, meeting: &mut Meeting) -> Result<()> {
    let start = Instant::now();
    a.ask_friendship(b)?;
    meeting.connect = Some(start.elapsed());
    b.accept_friendship(a)?;
    a.wait_friend(b)?;
    let pings = a.stream(&["ping", b.uid()?, "--count", PINGS, "--interval", PING_MS])?;
    while start.elapsed() < DIRECT_LIMIT {
        let Some(line) = pings.next(DIRECT_LIMIT.saturating_sub(start.elapsed()))? else { break };
        let pong = &line["value"]["value"];
        if pong["rtt_ms"].is_number() {
            meeting.reply.get_or_insert(start.elapsed());
        }
        if pong["path"]["type"] == "direct" {
            meeting.direct = Some(start.elapsed());
            break;
        }
    }
    Ok(())
}

impl Meeting {
    fn path(&self) -> &'static str {
        match (self.reply, self.direct) {
            (_, Some(_)) => "direct",
            (Some(_), None) => "relayed",
            (None, None) => "none",
        }
    }

    fn expected(&self) -> &'static str {
        if self.pair.0.direct_with(self.pair.1) { "direct" } else { "relayed" }
    }

    /// What should have held and did not. A direct path where none was expected is no failure.
    fn failure(&self) -> Option<String> {
        let (one, other) = self.pair;
        if self.path() == "direct" || self.path() == self.expected() {
            return None;
        }
        let why = self.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        Some(format!("{one} with {other}: {} instead of {}{why}", self.path(), self.expected()))
    }
}

const HEADING: &[&str] = &["host", "host", "path", "expected", "connect ms", "reply ms", "direct ms"];

fn row(meeting: &Meeting, seen: &BTreeMap<Nat, Behaviour>) -> Vec<String> {
    // A kind that is not what it is called says so in every row.
    let label = |nat: Nat| match seen.get(&nat) {
        Some(behaviour) if *behaviour == nat.behaviour() => nat.to_string(),
        _ => format!("{nat}(!)"),
    };
    vec![
        label(meeting.pair.0),
        label(meeting.pair.1),
        meeting.path().into(),
        meeting.expected().into(),
        millis(meeting.connect),
        millis(meeting.reply),
        millis(meeting.direct),
    ]
}

fn outcome(meetings: &[Meeting], seen: &BTreeMap<Nat, Behaviour>) -> Outcome {
    let mut failures: Vec<String> = meetings.iter().filter_map(Meeting::failure).collect();
    for (nat, behaviour) in seen {
        if *behaviour != nat.behaviour() {
            let (is, should) = (behaviour.words(), nat.behaviour().words());
            failures.push(format!("the lab's {nat} NAT is not what it should be: {is} instead of {should}"));
        }
    }
    let rows = meetings.iter().map(|meeting| row(meeting, seen)).collect();
    let notes = seen.iter().map(|(nat, behaviour)| format!("{nat}: {}", behaviour.words())).collect();
    Outcome { heading: HEADING, rows, notes, json: json(meetings, seen), failures }
}

fn json(meetings: &[Meeting], seen: &BTreeMap<Nat, Behaviour>) -> Value {
    let pairs: Vec<Value> = meetings
        .iter()
        .map(|meeting| {
            json!({
                "hosts": [meeting.pair.0.name(), meeting.pair.1.name()],
                "path": meeting.path(),
                "expected": meeting.expected(),
                "connect_ms": millis_json(meeting.connect),
                "reply_ms": millis_json(meeting.reply),
                "direct_ms": millis_json(meeting.direct),
                "error": meeting.error,
            })
        })
        .collect();
    let nats: serde_json::Map<String, Value> =
        seen.iter().map(|(nat, behaviour)| (nat.to_string(), behaviour.json())).collect();
    json!({ "pairs": pairs, "nats": nats })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_there_once() {
        let pairs = all_pairs();
        assert_eq!(pairs.len(), 28);
        assert!(pairs.contains(&(Nat::Double, Nat::Double)));
    }

    #[test]
    fn relayed_instead_of_direct_is_a_failure_but_not_the_reverse() {
        let second = Some(Duration::from_secs(1));
        let meeting = |pair, direct| Meeting { pair, connect: second, reply: second, direct, error: None };
        assert!(meeting((Nat::Open, Nat::Open), None).failure().is_some());
        assert!(meeting((Nat::Open, Nat::Open), second).failure().is_none());
        assert!(meeting((Nat::Symmetric, Nat::Symmetric), None).failure().is_none());
        assert!(meeting((Nat::Symmetric, Nat::Symmetric), second).failure().is_none());
    }
}
