//! What the door decides.

use ioex_base::NodeKey;

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

struct Node {
    channel: ContentAddress,
    device: Uid,
    friend: Uid,
    authority: Uid,
    reader: Uid,
    shard: ContentAddress,
    revoked: Option<GrantId>,
    availability: Availability,
    bootstrap: bool,
    pairing: bool,
}

impl Standing for Node {
    fn is_friend(&self, uid: &Uid) -> bool {
        *uid == self.friend
    }
    fn serves_directory(&self) -> bool {
        self.bootstrap
    }
    fn takes_friends(&self) -> bool {
        !self.bootstrap
    }
    fn tag(&self) -> Tag {
        Tag([1; 4])
    }
    fn pairing_open(&self) -> bool {
        self.pairing
    }
    fn lends_space(&self) -> bool {
        !self.bootstrap
    }
    fn availability(&self) -> Availability {
        self.availability
    }
    fn accepts_authority(&self, issuer: &Uid) -> bool {
        *issuer == self.authority
    }
    fn is_revoked(&self, issuer: &Uid, id: &GrantId) -> bool {
        *issuer == self.authority && self.revoked == Some(*id)
    }
    fn is_reader(&self, address: &ContentAddress, reader: &Uid) -> bool {
        *address == self.shard && *reader == self.reader
    }
    fn exchanges(&self) -> bool {
        !self.bootstrap
    }
    fn carries(&self, address: &ContentAddress) -> bool {
        *address == self.channel
    }
    fn on_roster(&self, manifest: &ContentAddress, caller: &Uid) -> bool {
        *manifest == self.shard && *caller == self.device
    }
    fn on_a_roster(&self, caller: &Uid) -> bool {
        *caller == self.device
    }
    fn is_co_matcher(&self, channel: &ContentAddress, caller: &Uid) -> bool {
        *channel == self.channel && *caller == self.device
    }
    fn admits(&self, caller: &Uid, join: &Join) -> bool {
        *caller == self.device && join.credential == b"voucher"
    }
    fn has_joined(&self, manifest: &ContentAddress, caller: &Uid) -> bool {
        *manifest == self.shard && *caller == self.device
    }
}

fn key(n: u8) -> NodeKey {
    NodeKey::from_seed([n; 32])
}

fn device() -> Node {
    Node {
        channel: ContentAddress::of(b"channel"),
        device: key(6).uid(),
        friend: key(1).uid(),
        authority: key(2).uid(),
        reader: key(3).uid(),
        shard: ContentAddress::of(b"shard"),
        revoked: None,
        availability: Availability::Open,
        bootstrap: false,
        pairing: false,
    }
}

fn ask(node: &Node, caller: &Uid, ask: &Ask<'_>) -> Result<Pass, Refusal> {
    authorise(caller, ask, node, &mut Budgets::default(), NOW, 0)
}

fn grant(right: Right, issuer: &NodeKey, subject: Uid) -> SignedGrant {
    let grant = Grant { id: GrantId([7; 16]), subject, right, not_before: NOW, not_after: NOW.plus(60) };
    SignedGrant::new(&grant, issuer)
}

#[test]
fn a_stranger_gets_nothing() {
    let (node, stranger) = (device(), key(9).uid());
    assert_eq!(ask(&node, &stranger, &Ask::Enter(Door::Friend)), Err(Refusal::NotFriend));
    assert_eq!(ask(&node, &stranger, &Ask::Friend), Err(Refusal::NotFriend));
    assert_eq!(ask(&node, &stranger, &Ask::Directory), Err(Refusal::NotOffered));
    assert_eq!(ask(&node, &stranger, &Ask::Pair), Err(Refusal::NotOffered));
    let wrong = Ask::FriendRequest { tag: Tag([0; 4]) };
    assert_eq!(ask(&node, &stranger, &wrong), Err(Refusal::WrongTag));
    // Signed by a key that is no reader of this shard and no authority.
    let self_made = grant(Right::Fetch, &key(9), stranger);
    let fetch = Ask::Fetch { grant: &self_made, address: &node.shard };
    assert_eq!(ask(&node, &stranger, &fetch), Err(Refusal::NoAuthority));
    let self_made = grant(Right::Place { max_bytes_per_device: 9 }, &key(9), stranger);
    let place =
        Ask::Place { grant: &self_made, bytes: 1, already: &|| panic!("no look at the disk for a stranger") };
    assert_eq!(ask(&node, &stranger, &place), Err(Refusal::NoAuthority));
    assert_eq!(ask(&node, &stranger, &Ask::Keep { grant: &self_made }), Err(Refusal::NoAuthority));
}

#[test]
fn a_grant_opens_what_it_names_and_no_more() {
    let mut node = device();
    let spn = key(4).uid();
    let signed = grant(Right::Place { max_bytes_per_device: 100 }, &key(2), spn);
    let stored = || 40;
    let place = |bytes| Ask::Place { grant: &signed, bytes, already: &stored };
    assert!(matches!(ask(&node, &spn, &place(60)), Ok(Pass::Grant(_))));
    assert_eq!(ask(&node, &spn, &place(61)), Err(Refusal::Exceeds));
    assert!(matches!(ask(&node, &key(5).uid(), &place(1)), Err(Refusal::Grant(_))));
    // To ask after what is there it does not matter how much that is.
    let keep = Ask::Keep { grant: &signed };
    assert!(matches!(ask(&node, &spn, &keep), Ok(Pass::Grant(_))));
    assert!(matches!(ask(&node, &key(5).uid(), &keep), Err(Refusal::Grant(_))));
    let reads = grant(Right::Fetch, &key(2), spn);
    assert_eq!(ask(&node, &spn, &Ask::Keep { grant: &reads }), Err(Refusal::Exceeds));
    // A placement grant is no key to what is stored.
    let fetch = Ask::Fetch { grant: &signed, address: &node.shard };
    assert_eq!(ask(&node, &spn, &fetch), Err(Refusal::NoAuthority));
    node.revoked = Some(GrantId([7; 16]));
    assert_eq!(ask(&node, &spn, &place(1)), Err(Refusal::Revoked));
    assert_eq!(ask(&node, &spn, &keep), Err(Refusal::Revoked));
}

#[test]
fn a_fetch_grant_reads_its_backup_only() {
    let node = device();
    let reader = key(5).uid();
    let signed = grant(Right::Fetch, &key(3), reader);
    assert!(ask(&node, &reader, &Ask::Fetch { grant: &signed, address: &node.shard }).is_ok());
    let other = ContentAddress::of(b"another shard");
    let got = ask(&node, &reader, &Ask::Fetch { grant: &signed, address: &other });
    assert_eq!(got, Err(Refusal::NoAuthority));
    let place = Ask::Place { grant: &signed, bytes: 1, already: &|| 0 };
    assert_eq!(ask(&node, &reader, &place), Err(Refusal::NoAuthority));
}

#[test]
fn a_device_that_pauses_keeps_and_proves_but_takes_and_sends_nothing() {
    let mut node = device();
    let (spn, reader) = (key(4).uid(), key(5).uid());
    let may_place = grant(Right::Place { max_bytes_per_device: 100 }, &key(2), spn);
    let may_read = grant(Right::Fetch, &key(3), reader);
    let place = Ask::Place { grant: &may_place, bytes: 1, already: &|| 0 };
    let keep = Ask::Keep { grant: &may_place };
    let fetch = Ask::Fetch { grant: &may_read, address: &node.shard.clone() };
    for (availability, keeps) in [(Availability::Paused, true), (Availability::Off, false)] {
        node.availability = availability;
        assert_eq!(ask(&node, &spn, &place), Err(Refusal::Paused));
        assert_eq!(ask(&node, &reader, &fetch), Err(Refusal::Paused));
        assert_eq!(ask(&node, &spn, &keep).is_ok(), keeps);
        // Who may not ask does not learn that.
        let stranger = key(9).uid();
        assert!(matches!(ask(&node, &stranger, &place), Err(Refusal::Grant(_))));
        assert!(matches!(ask(&node, &stranger, &fetch), Err(Refusal::Grant(_))));
    }
}

#[test]
fn an_exchange_is_for_those_whom_a_matcher_sent() {
    let (node, device, stranger) = (device(), key(6).uid(), key(9).uid());
    let join = |credential: &[u8]| Join {
        manifest: node.shard,
        issuer: key(7).uid(),
        credential: credential.to_vec(),
        have: Vec::new(),
        certificate: Vec::new(),
    };
    assert_eq!(ask(&node, &device, &Ask::Join(&join(b"voucher"))), Ok(Pass::Public));
    assert_eq!(ask(&node, &device, &Ask::Join(&join(b"forged"))), Err(Refusal::NoAuthority));
    assert_eq!(ask(&node, &stranger, &Ask::Join(&join(b"voucher"))), Err(Refusal::NoAuthority));
    let inside = Ask::Exchange { manifest: Some(&node.shard) };
    assert_eq!(ask(&node, &device, &inside), Ok(Pass::Public));
    assert_eq!(ask(&node, &stranger, &inside), Err(Refusal::NoAuthority));
    let other = Ask::Exchange { manifest: Some(&node.channel) };
    assert_eq!(ask(&node, &device, &other), Err(Refusal::NoAuthority));
    let roster = Ask::Roster { manifest: &node.shard };
    assert_eq!(ask(&node, &device, &roster), Ok(Pass::Public));
    assert_eq!(ask(&node, &stranger, &roster), Err(Refusal::NoAuthority));
    let changed = Ask::CoMatcher { channel: &node.channel };
    assert_eq!(ask(&node, &device, &changed), Ok(Pass::Public));
    assert_eq!(ask(&node, &stranger, &changed), Err(Refusal::NoAuthority));
    assert_eq!(ask(&node, &device, &Ask::CoMatcher { channel: &node.shard }), Err(Refusal::NoAuthority));
    assert_eq!(ask(&node, &stranger, &Ask::Carried { address: &node.channel }), Ok(Pass::Public));
    let carried = Ask::Carried { address: &node.shard };
    assert_eq!(ask(&node, &stranger, &carried), Err(Refusal::NotOffered));
}

#[test]
fn a_bootstrap_has_no_friends() {
    let node = Node { bootstrap: true, friend: key(8).uid(), ..device() };
    let got = ask(&node, &key(9).uid(), &Ask::FriendRequest { tag: Tag([1; 4]) });
    assert_eq!(got, Err(Refusal::NotOffered));
    assert_eq!(ask(&node, &key(9).uid(), &Ask::Directory), Ok(Pass::Public));
    let got = ask(&node, &key(9).uid(), &Ask::Enter(Door::Grant));
    assert_eq!(got, Err(Refusal::NotOffered));
}

#[test]
fn budgets_refill_with_time_and_are_bounded_together() {
    let mut buckets = Buckets::new(Rate { burst: 2, refill_ms: 100 }, Rate { burst: 3, refill_ms: 1_000 });
    assert!(buckets.take(1, 0) && buckets.take(1, 0));
    assert!(!buckets.take(1, 99), "the key's burst is used");
    assert!(buckets.take(1, 100), "one came back");
    assert!(!buckets.take(2, 100), "all together used their burst");
    assert!(buckets.take(2, 1_100));
}

#[test]
fn strangers_do_not_use_up_what_a_roster_needs() {
    let node = device();
    let mut budgets = Budgets::default();
    let channel = Ask::Carried { address: &node.channel };
    let mut ask = |caller: &Uid, ask: &Ask<'_>| authorise(caller, ask, &node, &mut budgets, NOW, 0);
    let stranger = |n: u32| {
        let mut uid = [9; 32];
        uid[..4].copy_from_slice(&n.to_le_bytes());
        Uid::from_bytes(uid)
    };
    // More identities than are remembered, all at once.
    let served = (0..20_000).filter(|n| ask(&stranger(*n), &channel).is_ok()).count();
    assert!(served < 20_000, "their budget is bounded");
    let device = key(6).uid();
    assert_eq!(ask(&device, &channel), Ok(Pass::Public));
    assert_eq!(ask(&device, &Ask::Roster { manifest: &node.shard }), Ok(Pass::Public));
}

#[test]
fn tags_cannot_be_guessed() {
    let (node, stranger) = (device(), key(9).uid());
    let mut budgets = Budgets::default();
    let mut tries = 0;
    for tag in 0..=255u8 {
        let ask = Ask::FriendRequest { tag: Tag([tag, 0, 0, 0]) };
        match authorise(&stranger, &ask, &node, &mut budgets, NOW, 0) {
            Err(Refusal::WrongTag) => tries += 1,
            other => assert_eq!(other, Err(Refusal::Busy)),
        }
    }
    assert!(tries <= 5, "{tries} guesses were answered");
}
