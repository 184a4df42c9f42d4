//! What a NAT really does, seen from behind it (after RFC 5780, with a protocol of our own).
//!
//! A server has three sockets: two ports of one address and a port of another. The client sends
//! the number of the socket that shall answer, to any of them; the answer is the address that the
//! client was seen from. Two questions are settled so: whether the mapping depends on the
//! destination, and from where packets are let in.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// Inside one machine an answer takes microseconds; three tries cover a busy one.
const TRY: Duration = Duration::from_millis(300);
const TRIES: usize = 3;

/// A NAT's behaviour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Behaviour {
    /// `none`, `endpoint-independent`, `endpoint-dependent` or `udp-blocked`.
    pub(crate) mapping: String,
    /// Whether the port seen outside is the one inside.
    pub(crate) same_port: bool,
    /// `endpoint-independent`, `address-dependent`, `port-dependent` or `all`.
    pub(crate) filtering: String,
}

impl Behaviour {
    /// As measured or as expected.
    pub(crate) fn new(mapping: &str, same_port: bool, filtering: &str) -> Self {
        Self { mapping: mapping.into(), same_port, filtering: filtering.into() }
    }

    /// In a few words.
    pub(crate) fn words(&self) -> String {
        if self.mapping == "udp-blocked" {
            return "no UDP at all".into();
        }
        let port = if self.same_port { "same port" } else { "other port" };
        format!("mapping {}, {port}, filtering {}", self.mapping, self.filtering)
    }

    /// For machines.
    pub(crate) fn json(&self) -> Value {
        json!({ "mapping": self.mapping, "same_port": self.same_port, "filtering": self.filtering })
    }

    /// Reads what [`Behaviour::json`] wrote.
    pub(crate) fn parse(value: &Value) -> Result<Self> {
        let text = |key: &str| value[key].as_str().with_context(|| format!("probe: no {key}"));
        let same_port = value["same_port"].as_bool().context("probe: no same_port")?;
        Ok(Self::new(text("mapping")?, same_port, text("filtering")?))
    }
}

/// Answers until it is ended.
pub(crate) fn serve(addresses: &[SocketAddrV4]) -> Result<()> {
    let mut sockets = Vec::new();
    for address in addresses {
        sockets.push(UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?);
    }
    let sockets = Arc::new(sockets);
    let answer = |own: usize, sockets: Arc<Vec<UdpSocket>>| -> Result<()> {
        let mut buffer = [0; 16];
        loop {
            let (length, from) = sockets[own].recv_from(&mut buffer)?;
            let chosen = buffer[..length].first().and_then(|index| sockets.get(usize::from(*index)));
            if let Some(socket) = chosen {
                // A client that cannot be reached asks again or gives up.
                let _ = socket.send_to(from.to_string().as_bytes(), from);
            }
        }
    };
    let threads: Vec<_> = (0..sockets.len())
        .map(|own| {
            let sockets = Arc::clone(&sockets);
            thread::spawn(move || answer(own, sockets))
        })
        .collect();
    println!("ready");
    for thread in threads {
        if let Ok(outcome) = thread.join() {
            outcome?;
        }
    }
    Ok(())
}

/// Measures and prints one line of JSON.
pub(crate) fn report(servers: &[SocketAddrV4]) -> Result<()> {
    println!("{}", measure(servers)?.json());
    Ok(())
}

fn measure(servers: &[SocketAddrV4]) -> Result<Behaviour> {
    ensure!(servers.len() == 3, "three sockets are needed");
    let (socket, local) = open(servers)?;
    let mut seen = BTreeSet::new();
    for (index, server) in servers.iter().enumerate() {
        match ask(&socket, *server, index, *server)? {
            Some(address) => seen.insert(address),
            None if index == 0 => return Ok(Behaviour::new("udp-blocked", false, "all")),
            None => bail!("{server} did not answer, but the first server did"),
        };
    }
    let mapping = match seen.first() {
        _ if seen.len() > 1 => "endpoint-dependent",
        Some(address) if address.ip() == local.ip() => "none",
        _ => "endpoint-independent",
    };
    let same_port = seen.iter().all(|address| address.port() == local.port());
    Ok(Behaviour::new(mapping, same_port, filtering(servers)?))
}

/// From a fresh socket that has only ever sent to the first server.
fn filtering(servers: &[SocketAddrV4]) -> Result<&'static str> {
    let (socket, _) = open(servers)?;
    ensure!(ask(&socket, servers[0], 0, servers[0])?.is_some(), "the probe's server is gone");
    if ask(&socket, servers[0], 2, servers[2])?.is_some() {
        return Ok("endpoint-independent");
    }
    Ok(match ask(&socket, servers[0], 1, servers[1])? {
        Some(_) => "address-dependent",
        None => "port-dependent",
    })
}

/// A socket on any address, and the address from which it speaks to the servers.
fn open(servers: &[SocketAddrV4]) -> Result<(UdpSocket, SocketAddr)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let route = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    route.connect(servers[0])?;
    let local = SocketAddr::new(route.local_addr()?.ip(), socket.local_addr()?.port());
    Ok((socket, local))
}

/// Asks `server` that socket number `answerer` answers; what it says, if it comes from `from`.
fn ask(
    socket: &UdpSocket,
    server: SocketAddrV4,
    answerer: usize,
    from: SocketAddrV4,
) -> Result<Option<SocketAddr>> {
    for _ in 0..TRIES {
        // A router that rejects shows up as an error here, which is as telling as silence.
        if socket.send_to(&[u8::try_from(answerer)?], server).is_err() {
            continue;
        }
        if let Some(text) = receive(socket, SocketAddr::V4(from)) {
            return Ok(Some(text.parse().with_context(|| format!("the server said `{text}`"))?));
        }
    }
    Ok(None)
}

/// The next packet from `from` within [`TRY`].
fn receive(socket: &UdpSocket, from: SocketAddr) -> Option<String> {
    let end = Instant::now() + TRY;
    let mut buffer = [0; 64];
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).ok()?;
        if let Ok((length, sender)) = socket.recv_from(&mut buffer)
            && sender == from
        {
            return Some(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_nat_everything_is_open() {
        // Bound and released: nothing else on this machine takes a port in between, or we fail.
        let free = |ip: [u8; 4]| match UdpSocket::bind((Ipv4Addr::from(ip), 0)).unwrap().local_addr().unwrap()
        {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => unreachable!("bound to IPv4"),
        };
        let servers = vec![free([127, 0, 0, 1]), free([127, 0, 0, 1]), free([127, 0, 0, 2])];
        let serving = servers.clone();
        thread::spawn(move || serve(&serving));
        let measured = measure(&servers).unwrap();
        assert_eq!(measured, Behaviour::new("none", true, "endpoint-independent"));
        assert_eq!(Behaviour::parse(&measured.json()).unwrap(), measured);
    }
}
