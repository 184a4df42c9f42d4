//! Arguments of the commands that talk to a running node, and of `authority`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use ioex_base::{GrantId, Uid};

use crate::size;

/// Arguments of `ping`.
#[derive(Debug, Args)]
pub struct PingArgs {
    /// A friend's UID or label
    pub uid: String,
    /// How many pings
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Pause between pings in milliseconds
    #[arg(short, long, default_value_t = 1_000, value_name = "MS")]
    pub interval: u64,
}

/// `friend …`.
#[derive(Debug, Subcommand)]
pub enum FriendCommand {
    /// Ask for friendship; waits until the other node has the request
    Add {
        /// The other node's friend address (`ioex id` there prints it)
        address: String,
        /// A sentence for the other person
        #[arg(long, default_value = "")]
        greeting: String,
    },
    /// Accept a request
    Accept {
        /// Who asked
        uid: String,
    },
    /// Refuse a request
    Refuse {
        /// Who asked
        uid: String,
    },
    /// End a friendship; open connections to that node close at once
    Remove {
        /// UID or label
        uid: String,
    },
    /// List friends and requests
    List,
    /// Set a remark on a friend, kept only here; commands take it in place of the UID
    Label {
        /// UID or present label
        uid: String,
        /// The remark; empty removes it
        label: String,
    },
}

/// `pair …`.
#[derive(Debug, Subcommand)]
pub enum PairCommand {
    /// Show a pairing code, as text and as a QR code
    Show {
        /// How long the code works
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_440))]
        minutes: u64,
    },
    /// Use a code that another node shows
    Use {
        /// The `ioex:pair…` link, or the other node's UID
        target: String,
        /// The code; not needed with a link
        #[arg(long)]
        code: Option<String>,
    },
}

/// `message …`.
#[derive(Debug, Subcommand)]
pub enum MessageCommand {
    /// Send a text
    Send {
        /// A friend's UID or label
        uid: String,
        /// The text
        text: String,
        /// Wait this many seconds for the delivery; 0 returns once the message is queued on disk
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        wait: u64,
    },
    /// List messages, oldest first
    List {
        /// Only those with this friend
        uid: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
}

/// Arguments of `send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A friend's UID or label; several times for several friends
    #[arg(long, required = true, value_name = "UID")]
    pub to: Vec<String>,
    /// Return once the files are offered
    #[arg(long)]
    pub no_wait: bool,
}

/// `receive …`.
#[derive(Debug, Subcommand)]
pub enum ReceiveCommand {
    /// List transfers in both directions
    List,
    /// Accept an offer
    Accept {
        /// Number of the transfer
        id: u64,
        /// Folder for the files [default: the node's folder for received files]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Stop a transfer for now
    Pause {
        /// Number of the transfer
        id: u64,
    },
    /// Go on with a transfer
    Resume {
        /// Number of the transfer
        id: u64,
    },
    /// End a transfer; unfinished files are deleted
    Cancel {
        /// Number of the transfer
        id: u64,
    },
    /// Follow a transfer until it ends
    Watch {
        /// Number of the transfer
        id: u64,
    },
}

/// `forward …`.
#[derive(Debug, Subcommand)]
pub enum ForwardCommand {
    /// Open a local port that leads to a port at a friend, as long as the node runs
    Open {
        /// A friend's UID or label
        uid: String,
        /// Local address to listen on; port 0 picks one
        listen: SocketAddr,
        /// Address as seen from the friend, who must allow it
        target: SocketAddr,
        /// Datagrams instead of byte streams
        #[arg(long)]
        udp: bool,
    },
    /// List open forwards
    List,
    /// Close a forward
    Close {
        /// Its number
        id: u64,
    },
    /// Replace the list of addresses here that friends may be forwarded to
    Allow {
        /// The addresses; none allows nothing
        targets: Vec<SocketAddr>,
    },
}

/// Where a phone goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PhoneState {
    /// Leave the mesh.
    Background,
    /// Come back.
    Foreground,
}

/// `authority …`.
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Make a key; peers that list its UID under `authorities` trust its grants
    Create {
        /// File for the key; must not exist
        file: PathBuf,
    },
    /// Permit a super node to place shards
    Grant {
        /// The authority's key file
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// UID of the super node
        #[arg(long, value_name = "UID")]
        to: Uid,
        /// How much it may place on any one device
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        max_bytes_per_device: u64,
        /// For how many days from now
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
        /// File for the grant; must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Take a grant back before it ends, on the devices that have the list
    Revoke {
        /// The authority's key file
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Which grant: the number that `authority grant` printed
        #[arg(long, value_name = "GRANT_ID", value_parser = grant_id)]
        id: GrantId,
        /// File for the list of revoked grants; one that is there grows
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// Reads the number of a grant: 32 hexadecimal digits.
fn grant_id(text: &str) -> Result<GrantId, String> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    let id = bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(GrantId);
    id.ok_or_else(|| "the number of a grant has 32 hexadecimal digits".to_owned())
}
