//! Where a bootstrap is, and the name under which its relay is reached.
//!
//! A relay's URL says everything a device needs to reach it and to know that it is the right one:
//! `https://<uid>.<address>.relay.internal:<port>/`. The first label is the bootstrap's UID, the
//! second its IP address; [`NameResolver`] reads the address out of the name, so no DNS question
//! ever leaves the device, and the TLS verifier (module `relay_tls`) reads the UID out of it, so
//! no certificate authority is involved. `.internal` is reserved for private use and never
//! resolves in public.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use ioex_base::Uid;
use iroh::{
    RelayUrl,
    dns::{BoxIter, DnsError, Resolver, TxtRecordData},
};
use serde::{Deserialize, Serialize};

const DOMAIN: &str = "relay.internal";

/// The DHT's UDP port lies this much above a bootstrap's first port.
pub const DHT_PORT_OFFSET: u16 = 1;
/// The node's own QUIC port lies this much above a bootstrap's first port.
pub const NODE_PORT_OFFSET: u16 = 2;

/// A bootstrap's identity and address: what a seed list contains, written `UID@IP:PORT`.
///
/// The port is the first of three: relay (TCP) and address discovery (UDP) on it, the DHT (UDP)
/// on the next, the node itself (UDP) on the one after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BootstrapAddr {
    /// Who it is.
    pub uid: Uid,
    /// Public IP address and first port.
    pub addr: SocketAddr,
}

/// A text that names no bootstrap.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is no bootstrap: write UID@IP:PORT, with a port below 65534")]
pub struct ParseBootstrapError(String);

impl BootstrapAddr {
    /// A bootstrap at `addr`; `None` when the port leaves no room for the other two.
    #[must_use]
    pub fn new(uid: Uid, addr: SocketAddr) -> Option<Self> {
        let fits = addr.port() != 0 && addr.port().checked_add(NODE_PORT_OFFSET).is_some();
        fits.then_some(Self { uid, addr })
    }

    /// The URL of its relay.
    #[must_use]
    pub fn relay_url(&self) -> RelayUrl {
        let ip = match self.addr.ip() {
            IpAddr::V4(ip) => ip.to_string().replace('.', "-"),
            IpAddr::V6(ip) => format!("{:032x}", u128::from(ip)),
        };
        let text = format!("https://{}.{ip}.{DOMAIN}:{}/", self.uid, self.addr.port());
        text.parse().expect("labels of base32, digits and dashes make a valid URL")
    }

    /// Its DHT node.
    #[must_use]
    pub fn dht(&self) -> SocketAddr {
        SocketAddr::new(self.addr.ip(), self.addr.port().saturating_add(DHT_PORT_OFFSET))
    }

    /// Its QUIC endpoint.
    #[must_use]
    pub fn node(&self) -> SocketAddr {
        SocketAddr::new(self.addr.ip(), self.addr.port().saturating_add(NODE_PORT_OFFSET))
    }

    /// The bootstrap that a relay URL names; `None` for URLs that are not ours.
    #[must_use]
    pub fn from_relay_url(url: &RelayUrl) -> Option<Self> {
        let (uid, ip) = parse_host(url.host_str()?)?;
        Self::new(uid, SocketAddr::new(ip, url.port_or_known_default()?))
    }
}

/// Reads UID and address out of a relay's host name.
pub(crate) fn parse_host(host: &str) -> Option<(Uid, IpAddr)> {
    let rest = host.trim_end_matches('.').strip_suffix(DOMAIN)?.strip_suffix('.')?;
    let (uid, ip) = rest.split_once('.')?;
    let ip = if ip.len() == 32 {
        IpAddr::V6(Ipv6Addr::from(u128::from_str_radix(ip, 16).ok()?))
    } else {
        IpAddr::V4(ip.replace('-', ".").parse::<Ipv4Addr>().ok()?)
    };
    Some((uid.parse().ok()?, ip))
}

impl fmt::Display for BootstrapAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.uid, self.addr)
    }
}

impl FromStr for BootstrapAddr {
    type Err = ParseBootstrapError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.split_once('@')
            .and_then(|(uid, addr)| Self::new(uid.parse().ok()?, addr.parse().ok()?))
            .ok_or_else(|| ParseBootstrapError(s.to_owned()))
    }
}

/// Answers name questions from the names themselves; knows no other names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NameResolver;

type Answer<T> = n0_future::boxed::BoxFuture<Result<BoxIter<T>, DnsError>>;

fn answer<T: Send + 'static>(found: Option<T>) -> Answer<T> {
    Box::pin(async move {
        match found {
            Some(ip) => Ok(Box::new(std::iter::once(ip)) as BoxIter<T>),
            None => Ok(Box::new(std::iter::empty()) as BoxIter<T>),
        }
    })
}

impl Resolver for NameResolver {
    fn lookup_ipv4(&self, host: String) -> Answer<Ipv4Addr> {
        answer(parse_host(&host).and_then(|(_, ip)| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        }))
    }

    fn lookup_ipv6(&self, host: String) -> Answer<Ipv6Addr> {
        answer(parse_host(&host).and_then(|(_, ip)| match ip {
            IpAddr::V6(ip) => Some(ip),
            IpAddr::V4(_) => None,
        }))
    }

    fn lookup_txt(&self, _host: String) -> Answer<TxtRecordData> {
        answer(None)
    }

    fn clear_cache(&self) {}

    fn reset(&self) -> Box<dyn Resolver> {
        Box::new(*self)
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::NodeKey;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_relay_url_names_its_bootstrap(seed: [u8; 32], v6: bool, ip: u128, port in 1u16..65_534) {
            let ip = if v6 { IpAddr::V6(ip.into()) } else { IpAddr::V4((ip as u32).into()) };
            let b = BootstrapAddr::new(NodeKey::from_seed(seed).uid(), SocketAddr::new(ip, port)).unwrap();
            prop_assert_eq!(BootstrapAddr::from_relay_url(&b.relay_url()), Some(b));
            prop_assert_eq!(b.to_string().parse::<BootstrapAddr>().unwrap(), b);
        }

        #[test]
        fn any_host_is_handled(host in ".{0,120}") {
            let _ = parse_host(&host);
        }
    }

    #[test]
    fn ports_that_leave_no_room_are_refused() {
        let uid = NodeKey::from_seed([1; 32]).uid();
        assert!(format!("{uid}@10.0.0.1:65534").parse::<BootstrapAddr>().is_err());
        assert!(format!("{uid}@10.0.0.1:0").parse::<BootstrapAddr>().is_err());
    }
}
