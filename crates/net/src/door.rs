//! The one door: a single function decides for every protocol who gets in (requirement N5).
//!
//! A caller is known by its UID, which the handshake proved. What it asks is an [`Ask`]. It gets
//! in as a **friend**, as the holder of a signed **grant**, or to a bounded **public** service;
//! anyone else gets a [`Refusal`] and nothing more. The rules are pure: what the node knows comes
//! through [`Standing`], time and budgets come in as arguments.
//!
//! Each way in has its own ALPN, so that a stranger on the friends' door is cut off right after
//! the handshake, before a stream exists. Before the handshake, [`Budgets::handshake`] bounds what
//! one address can make this node compute.

use std::{collections::HashMap, hash::Hash, net::IpAddr};

use ioex_base::{ContentAddress, Grant, GrantError, GrantId, Right, SignedGrant, Tag, Uid, UnixSeconds};

use crate::{host::Availability, proto::Join};

/// ALPN for friends.
pub const ALPN_FRIEND: &[u8] = b"ioex/friend/1";
/// ALPN for holders of a grant.
pub const ALPN_GRANT: &[u8] = b"ioex/grant/1";
/// ALPN for the public services.
pub const ALPN_PUBLIC: &[u8] = b"ioex/public/1";

/// Which door a connection came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Door {
    /// [`ALPN_FRIEND`].
    Friend,
    /// [`ALPN_GRANT`].
    Grant,
    /// [`ALPN_PUBLIC`].
    Public,
}

impl Door {
    /// The door with this ALPN.
    #[must_use]
    pub fn from_alpn(alpn: &[u8]) -> Option<Self> {
        match alpn {
            ALPN_FRIEND => Some(Self::Friend),
            ALPN_GRANT => Some(Self::Grant),
            ALPN_PUBLIC => Some(Self::Public),
            _ => None,
        }
    }

    /// Its ALPN.
    #[must_use]
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Friend => ALPN_FRIEND,
            Self::Grant => ALPN_GRANT,
            Self::Public => ALPN_PUBLIC,
        }
    }

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Friend => "friend",
            Self::Grant => "grant",
            Self::Public => "public",
        }
    }
}

/// What a caller wants.
pub enum Ask<'a> {
    /// To come through a door at all, right after the handshake.
    Enter(Door),
    /// Anything between friends: messages, sessions, offers, offered content.
    Friend,
    /// To place a shard of this size under a placement grant.
    Place {
        /// What was shown.
        grant: &'a SignedGrant,
        /// Size of the shard in bytes.
        bytes: u64,
        /// What this super node already stores here, in bytes. Asked only once the grant holds,
        /// because it may cost a look at the disk.
        already: &'a (dyn Fn() -> u64 + Sync),
    },
    /// To ask after what was placed, keep it longer or give it back, under a placement grant.
    Keep {
        /// What was shown.
        grant: &'a SignedGrant,
    },
    /// To read a shard under a fetch grant.
    Fetch {
        /// What was shown.
        grant: &'a SignedGrant,
        /// The shard.
        address: &'a ContentAddress,
    },
    /// A channel's metadata or a package's manifest, which are no secret.
    Carried {
        /// The channel or the manifest.
        address: &'a ContentAddress,
    },
    /// To be matched with providers of a package, or to report.
    Roster {
        /// The package's manifest.
        manifest: &'a ContentAddress,
    },
    /// To say that a channel changed for which both match.
    CoMatcher {
        /// The channel.
        channel: &'a ContentAddress,
    },
    /// To exchange a package's shards, with a matcher's voucher or pass.
    Join(&'a Join),
    /// A shard, or to settle for it, in an exchange.
    Exchange {
        /// The package's manifest; absent where the bytes shown name it.
        manifest: Option<&'a ContentAddress>,
    },
    /// A directory question.
    Directory,
    /// A friend request, which must carry the current tag.
    FriendRequest {
        /// What it carries.
        tag: Tag,
    },
    /// A pairing attempt.
    Pair,
}

/// What this node knows when it decides.
pub trait Standing {
    /// Whether both sides agreed to be friends.
    fn is_friend(&self, uid: &Uid) -> bool;
    /// Whether this node answers directory questions (bootstraps do).
    fn serves_directory(&self) -> bool;
    /// Whether this node takes friends at all (bootstraps do not: white paper II.A (B) 1).
    fn takes_friends(&self) -> bool;
    /// The tag of the current friend address.
    fn tag(&self) -> Tag;
    /// Whether a pairing window is open.
    fn pairing_open(&self) -> bool;
    /// Whether this node stores for others at all.
    fn lends_space(&self) -> bool;
    /// Whether the owner lets this node do something for others now.
    fn availability(&self) -> Availability;
    /// Whether this node stores for others, and this key may say who places.
    fn accepts_authority(&self, issuer: &Uid) -> bool;
    /// Whether `issuer` revoked its grant with this id.
    fn is_revoked(&self, issuer: &Uid, id: &GrantId) -> bool;
    /// Whether a shard is held under a lease with this reader key.
    fn is_reader(&self, address: &ContentAddress, reader: &Uid) -> bool;
    /// Whether shards of packages are exchanged here.
    fn exchanges(&self) -> bool;
    /// Whether a channel or a package's manifest is handed out here.
    fn carries(&self, address: &ContentAddress) -> bool;
    /// Whether this node matches for this package, and the caller is on its roster.
    fn on_roster(&self, manifest: &ContentAddress, caller: &Uid) -> bool;
    /// Whether the caller is on the roster of any package.
    fn on_a_roster(&self, caller: &Uid) -> bool;
    /// Whether the caller matches for the same channel as this node.
    fn is_co_matcher(&self, channel: &ContentAddress, caller: &Uid) -> bool;
    /// Whether a voucher or pass lets the caller into an exchange.
    fn admits(&self, caller: &Uid, join: &Join) -> bool;
    /// Whether the caller is in the exchange of this package.
    fn has_joined(&self, manifest: &ContentAddress, caller: &Uid) -> bool;
}

/// Who got in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pass {
    /// A friend.
    Friend,
    /// The holder of this grant.
    Grant(Grant),
    /// Anybody, within the budget.
    Public,
}

/// Why somebody did not get in. The code travels in the close frame; the text stays here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// No friend of this node.
    #[error("not a friend")]
    NotFriend,
    /// The service is not offered here.
    #[error("this node does not offer that service")]
    NotOffered,
    /// The grant is forged, not the caller's, or out of time.
    #[error("the grant does not hold: {0}")]
    Grant(#[from] GrantError),
    /// The grant's issuer has no say here.
    #[error("the grant's issuer has no authority on this device")]
    NoAuthority,
    /// The grant was revoked.
    #[error("the grant was revoked")]
    Revoked,
    /// The grant allows something else or less.
    #[error("the grant does not allow this")]
    Exceeds,
    /// The friend request carries an old tag.
    #[error("the friend address is no longer valid: ask its owner for the current one")]
    WrongTag,
    /// Too many of these lately.
    #[error("too many requests; try again later")]
    Busy,
    /// The owner lets the device do nothing of this for others now.
    #[error("paused by its owner")]
    Paused,
}

impl Refusal {
    /// Error code in QUIC close and reset frames. Never reused for another meaning.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::NotFriend => 0x10,
            Self::NotOffered => 0x11,
            Self::Grant(_) => 0x12,
            Self::NoAuthority => 0x13,
            Self::Revoked => 0x14,
            Self::Exceeds => 0x15,
            Self::WrongTag => 0x16,
            Self::Busy => 0x17,
            Self::Paused => 0x18,
        }
    }
}

/// Decides. `now` is for grants, `now_ms` (any monotonic milliseconds) for budgets.
///
/// # Errors
/// The first [`Refusal`] that applies, cheapest checks first.
pub fn authorise(
    caller: &Uid,
    ask: &Ask<'_>,
    standing: &impl Standing,
    budgets: &mut Budgets,
    now: UnixSeconds,
    now_ms: u64,
) -> Result<Pass, Refusal> {
    match ask {
        Ask::Enter(Door::Friend) | Ask::Friend => {
            standing.is_friend(caller).then_some(Pass::Friend).ok_or(Refusal::NotFriend)
        }
        Ask::Enter(Door::Grant) => {
            let offered = standing.lends_space() || standing.exchanges();
            offered.then_some(Pass::Public).ok_or(Refusal::NotOffered)
        }
        Ask::Enter(Door::Public) => {
            let offered = standing.serves_directory() || standing.takes_friends();
            offered.then_some(Pass::Public).ok_or(Refusal::NotOffered)
        }
        Ask::Place { grant, bytes, already } => {
            let (grant, max_bytes) = placer(caller, grant, standing, now)?;
            if standing.availability() != Availability::Open {
                return Err(Refusal::Paused);
            }
            let fits = already().saturating_add(*bytes) <= max_bytes;
            fits.then_some(Pass::Grant(grant)).ok_or(Refusal::Exceeds)
        }
        Ask::Keep { grant } => {
            let (grant, _) = placer(caller, grant, standing, now)?;
            let on = standing.availability() != Availability::Off;
            on.then_some(Pass::Grant(grant)).ok_or(Refusal::Paused)
        }
        Ask::Fetch { grant, address } => {
            if !standing.is_reader(address, &grant.issuer) {
                return Err(Refusal::NoAuthority);
            }
            let grant = grant.check(caller, now)?;
            match grant.right {
                Right::Fetch if standing.availability() == Availability::Open => Ok(Pass::Grant(grant)),
                Right::Fetch => Err(Refusal::Paused),
                Right::Place { .. } => Err(Refusal::Exceeds),
            }
        }
        Ask::Carried { address } => {
            if !standing.carries(address) {
                return Err(Refusal::NotOffered);
            }
            let known = standing.on_a_roster(caller);
            let budget = if known { &mut budgets.roster } else { &mut budgets.carried };
            budget.take(*caller, now_ms).then_some(Pass::Public).ok_or(Refusal::Busy)
        }
        Ask::Roster { manifest } => {
            if !standing.on_roster(manifest, caller) {
                return Err(Refusal::NoAuthority);
            }
            budgets.roster.take(*caller, now_ms).then_some(Pass::Public).ok_or(Refusal::Busy)
        }
        Ask::CoMatcher { channel } => {
            if !standing.is_co_matcher(channel, caller) {
                return Err(Refusal::NoAuthority);
            }
            budgets.roster.take(*caller, now_ms).then_some(Pass::Public).ok_or(Refusal::Busy)
        }
        Ask::Join(join) => {
            if !standing.exchanges() {
                return Err(Refusal::NotOffered);
            }
            standing.admits(caller, join).then_some(Pass::Public).ok_or(Refusal::NoAuthority)
        }
        Ask::Exchange { manifest } => {
            if !standing.exchanges() {
                return Err(Refusal::NotOffered);
            }
            let inside = manifest.is_none_or(|manifest| standing.has_joined(manifest, caller));
            inside.then_some(Pass::Public).ok_or(Refusal::NoAuthority)
        }
        Ask::Directory => {
            if !standing.serves_directory() {
                return Err(Refusal::NotOffered);
            }
            budgets.directory.take(*caller, now_ms).then_some(Pass::Public).ok_or(Refusal::Busy)
        }
        Ask::FriendRequest { tag } => {
            if !standing.takes_friends() {
                return Err(Refusal::NotOffered);
            }
            // The budget comes before the tag, so that tags cannot be guessed.
            if !budgets.friend_requests.take(*caller, now_ms) {
                return Err(Refusal::Busy);
            }
            (*tag == standing.tag()).then_some(Pass::Public).ok_or(Refusal::WrongTag)
        }
        Ask::Pair => {
            if !standing.pairing_open() {
                return Err(Refusal::NotOffered);
            }
            budgets.pairing.take(*caller, now_ms).then_some(Pass::Public).ok_or(Refusal::Busy)
        }
    }
}

/// The placement grant that `caller` shows, and how many bytes it allows, if it holds here.
fn placer(
    caller: &Uid,
    grant: &SignedGrant,
    standing: &impl Standing,
    now: UnixSeconds,
) -> Result<(Grant, u64), Refusal> {
    if !standing.accepts_authority(&grant.issuer) {
        return Err(Refusal::NoAuthority);
    }
    let issuer = grant.issuer;
    let grant = grant.check(caller, now)?;
    if standing.is_revoked(&issuer, &grant.id) {
        return Err(Refusal::Revoked);
    }
    match grant.right {
        Right::Place { max_bytes_per_device } => Ok((grant, max_bytes_per_device)),
        Right::Fetch => Err(Refusal::Exceeds),
    }
}

/// A rate with a burst.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// How many at once after a pause.
    pub burst: u32,
    /// How long until one more is allowed.
    pub refill_ms: u64,
}

/// Questions about updates that one device on a roster may ask.
const ROSTER_RATE: Rate = Rate { burst: 60, refill_ms: 2_000 };
/// All of them together: 1,000 a second.
const ROSTER_RATE_ALL: Rate = Rate { burst: 20_000, refill_ms: 1 };
/// Questions about channels and manifests that one stranger may ask: a device whose matcher this node is not.
const CARRIED_RATE: Rate = Rate { burst: 60, refill_ms: 2_000 };
/// All strangers together: 500 a second, half of what a roster has.
const CARRIED_RATE_ALL: Rate = Rate { burst: 10_000, refill_ms: 2 };

/// Most keys a [`Buckets`] remembers; the whole is bounded by its shared rate anyway.
const BUCKET_KEYS_MAX: usize = 4_096;

/// Token buckets: one per key, and one that all keys share.
#[derive(Debug)]
pub struct Buckets<K> {
    each: Rate,
    all: Rate,
    shared: Bucket,
    keyed: HashMap<K, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    used: u32,
    since_ms: u64,
}

impl Bucket {
    const EMPTY: Self = Self { used: 0, since_ms: 0 };

    /// Gives back what time has refilled, then says whether one more fits.
    fn fits(&mut self, rate: Rate, now_ms: u64) -> bool {
        let refills = now_ms.saturating_sub(self.since_ms) / rate.refill_ms.max(1);
        if self.used == 0 || refills >= u64::from(self.used) {
            *self = Self { used: 0, since_ms: now_ms };
        } else {
            self.used -= u32::try_from(refills).unwrap_or(u32::MAX).min(self.used);
            self.since_ms += refills * rate.refill_ms;
        }
        self.used < rate.burst
    }
}

impl<K: Hash + Eq> Buckets<K> {
    /// Buckets with a rate for each key and one for all together.
    #[must_use]
    pub fn new(each: Rate, all: Rate) -> Self {
        Self { each, all, shared: Bucket::EMPTY, keyed: HashMap::new() }
    }

    /// Takes one token for `key`; false when there is none.
    pub fn take(&mut self, key: K, now_ms: u64) -> bool {
        if !self.shared.fits(self.all, now_ms) {
            return false;
        }
        if self.keyed.len() >= BUCKET_KEYS_MAX && !self.keyed.contains_key(&key) {
            let each = self.each;
            self.keyed.retain(|_, bucket| {
                bucket.fits(each, now_ms);
                bucket.used > 0
            });
            if self.keyed.len() >= BUCKET_KEYS_MAX {
                return false;
            }
        }
        let bucket = self.keyed.entry(key).or_insert(Bucket::EMPTY);
        if !bucket.fits(self.each, now_ms) {
            return false;
        }
        bucket.used += 1;
        self.shared.used += 1;
        true
    }
}

/// Where a handshake comes from, for its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An IPv4 address, or an IPv6 /64: what one subscriber commonly has.
    Ip(IpAddr),
    /// Anyone over a relay: identities cost nothing, so relayed strangers share one budget.
    Relay,
}

impl Origin {
    /// The origin of packets from `ip`.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::Ip(ip.into()),
            IpAddr::V6(ip) => Self::Ip(IpAddr::V6((u128::from(ip) & (u128::MAX << 64)).into())),
        }
    }
}

/// All budgets of a node.
#[derive(Debug)]
pub struct Budgets {
    /// TLS handshakes, by origin. A home with many devices behind one address fits; a flood from
    /// one address costs a bounded share of a core (a handshake is below 1 ms).
    pub handshake: Buckets<Origin>,
    /// Directory questions, by caller.
    pub directory: Buckets<Uid>,
    /// Questions of devices on a roster about updates, by caller: a fleet that was told at once asks a few times each.
    /// Nothing that others ask takes from it.
    pub roster: Buckets<Uid>,
    /// Questions of anybody else about channels and manifests, by caller.
    pub carried: Buckets<Uid>,
    /// Friend requests, by caller.
    pub friend_requests: Buckets<Uid>,
    /// Pairing attempts, by caller.
    pub pairing: Buckets<Uid>,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            handshake: Buckets::new(Rate { burst: 200, refill_ms: 50 }, Rate { burst: 2_000, refill_ms: 2 }),
            directory: Buckets::new(Rate { burst: 400, refill_ms: 25 }, Rate { burst: 20_000, refill_ms: 1 }),
            roster: Buckets::new(ROSTER_RATE, ROSTER_RATE_ALL),
            carried: Buckets::new(CARRIED_RATE, CARRIED_RATE_ALL),
            friend_requests: Buckets::new(
                Rate { burst: 5, refill_ms: 600_000 },
                Rate { burst: 100, refill_ms: 10_000 },
            ),
            pairing: Buckets::new(
                Rate { burst: 10, refill_ms: 10_000 },
                Rate { burst: 20, refill_ms: 5_000 },
            ),
        }
    }
}

#[cfg(test)]
mod tests;
