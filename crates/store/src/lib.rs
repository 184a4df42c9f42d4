//! What a device keeps for others.
//!
//! A *shard* is a run of encrypted bytes, named by its [`ContentAddress`](ioex_base::ContentAddress).
//! It stays as long as somebody holds a [`Lease`] on it: a placer (the super node that put it here)
//! for a backup (known by its public reader key), from one date to another. Several backups may
//! lease the same shard; it is stored once. The placer may extend its leases
//! ([`ShardStore::renew`]) and give them back ([`ShardStore::release`]).
//!
//! A *head* ([`SealedHead`](ioex_base::SealedHead)) says what the newest state of a repository is. It
//! is held under leases as well ([`ShardStore::put_head`]); of two heads of one repository the one
//! with the higher number stays.
//!
//! The device's owner says how much space there is
//! ([`ShardStore::set_space`]); every byte that is about to be written is counted before it comes.
//!
//! On disk, below one directory that belongs to the store alone:
//!
//! ```text
//! ab/<address>         the shard, `ab` being the first two characters of its address
//! ab/<address>.lease   its leases (module `sidecar`), always written before the shard appears
//! heads/<address>      the newest head of a repository, and beside it its leases
//! incoming/            what is still arriving; emptied at every start
//! damaged/             what did not fit its description and was set aside
//! moving               here while the store is being copied to this directory
//! lock                 held while a process has the store open
//! ```
//!
//! A shard appears under its name only when its bytes are on disk, have the promised length and
//! hash to the address. After a crash at any point the store opens with all that was committed and
//! nothing else. The calls block; time is a value that the caller passes in.
//!
//! ```
//! use ioex_base::{ContentAddress, NodeKey, UnixSeconds, limits::SHARD_LIFE_SECONDS};
//! use ioex_store::{Lease, PutStart, ShardStore};
//!
//! # let dir = tempfile::tempdir()?;
//! let store = ShardStore::open(dir.path(), 64 * 1024 * 1024)?;
//! let now = UnixSeconds(1_800_000_000);
//! let lease = Lease {
//!     placer: NodeKey::from_seed([1; 32]).uid(),
//!     reader: NodeKey::from_seed([2; 32]).uid(),
//!     bytes: 5,
//!     stored: now,
//!     expires: now.plus(SHARD_LIFE_SECONDS),
//! };
//! let address = ContentAddress::of(b"hello");
//! if let PutStart::Write(mut put) = store.begin_put(address, lease)? {
//!     put.write(b"hel")?;
//!     put.write(b"lo")?;
//!     put.commit()?;
//! }
//! assert!(store.contains(&address));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod files;
mod heads;
mod lease;
mod moving;
mod open;
mod put;
mod renew;
mod sidecar;
mod state;
mod store;
mod time;

pub use error::StoreError;
pub use heads::HeadPut;
pub use lease::{LEASE_GRACE_SECONDS, LEASES_PER_SHARD_MAX, Lease};
pub use moving::{holds_store, is_store, remove_store};
pub use open::OpenReport;
pub use put::{Put, PutStart};
pub use renew::{Released, Terms};
pub use state::{HeldShard, SHARD_OVERHEAD_BYTES, Usage};
pub use store::ShardStore;
pub use time::{CLOCK_SLOW_SECONDS, CLOCKS_APART_SECONDS, Certainty, Expired, certain, lease_times};
