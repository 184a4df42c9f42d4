//! The kinds of NAT and the nftables rules that make them.
//!
//! Linux keeps a connection's source port when it is free and lets in only answers: masquerading
//! alone is a port-restricted NAT, and with random ports a symmetric one. The other kinds need
//! more: a set of the ports in use, through which anyone may come in, and for another port a bit
//! flipped in the port number outside of connection tracking.

use std::fmt;

use crate::probe::Behaviour;

/// How a host reaches the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nat {
    /// A public address.
    Open,
    /// One mapping for all destinations, its port the same as inside, open to everyone.
    SamePort,
    /// The same with another port.
    OtherPort,
    /// One mapping, which lets in only addresses and ports that were sent to.
    PortRestricted,
    /// A mapping of its own for each destination.
    Symmetric,
    /// Only TCP gets out.
    UdpBlocked,
    /// A port-restricted router behind a carrier's, which changes the port as well.
    Double,
}

/// Flipped in the port number by routers that map to another port. It moves every port far enough
/// to be told apart and keeps those above 8192 out of the privileged range.
const PORT_FLIP: u16 = 0x0800;

impl Nat {
    /// All kinds, in the order of the table.
    pub(crate) const ALL: [Self; 7] = [
        Self::Open,
        Self::SamePort,
        Self::OtherPort,
        Self::PortRestricted,
        Self::Symmetric,
        Self::UdpBlocked,
        Self::Double,
    ];

    /// A short name, also used in the names of namespaces.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::SamePort => "same-port",
            Self::OtherPort => "other-port",
            Self::PortRestricted => "restricted",
            Self::Symmetric => "symmetric",
            Self::UdpBlocked => "udp-blocked",
            Self::Double => "double",
        }
    }

    /// What the probe has to see behind it.
    pub(crate) fn behaviour(self) -> Behaviour {
        let (mapping, same_port, filtering) = match self {
            Self::Open => ("none", true, "endpoint-independent"),
            Self::SamePort => ("endpoint-independent", true, "endpoint-independent"),
            Self::OtherPort => ("endpoint-independent", false, "endpoint-independent"),
            Self::PortRestricted => ("endpoint-independent", true, "port-dependent"),
            Self::Symmetric => ("endpoint-dependent", false, "port-dependent"),
            Self::UdpBlocked => ("udp-blocked", false, "all"),
            Self::Double => ("endpoint-independent", false, "port-dependent"),
        };
        Behaviour::new(mapping, same_port, filtering)
    }

    /// Whether two such hosts have to find a direct path. Behind a symmetric NAT the port towards
    /// the other host is not known to anyone beforehand, so the other side has to let it in
    /// unasked; without UDP there is nothing but the relay.
    pub(crate) fn direct_with(self, other: Self) -> bool {
        let strict = |nat| matches!(nat, Self::PortRestricted | Self::Symmetric | Self::Double);
        let blocked = self == Self::UdpBlocked || other == Self::UdpBlocked;
        let unpredictable =
            (self == Self::Symmetric && strict(other)) || (other == Self::Symmetric && strict(self));
        !blocked && !unpredictable
    }

    /// The rules of its router, whose devices are `wan` and `lan` and whose one host is `host`;
    /// `None` for a host that has no router. A double NAT's inner router is a port-restricted one.
    pub(crate) fn rules(self, host: &str) -> Option<String> {
        Some(match self {
            Self::Open => return None,
            Self::SamePort => table(&[&full_cone(host), MASQUERADE, CLOSED]),
            Self::OtherPort => table(&[&full_cone(host), MASQUERADE, CLOSED, &flip_ports()]),
            Self::PortRestricted => table(&[MASQUERADE, CLOSED]),
            Self::Symmetric => table(&[MASQUERADE_RANDOM, CLOSED]),
            Self::UdpBlocked => table(&[MASQUERADE, CLOSED, NO_UDP]),
            Self::Double => table(&[MASQUERADE, CLOSED, &flip_ports()]),
        })
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn table(chains: &[&str]) -> String {
    format!("flush ruleset\ntable ip nat {{\n{}}}\n", chains.concat())
}

const MASQUERADE: &str = "\
  chain post { type nat hook postrouting priority srcnat; oifname \"wan\" masquerade; }\n";

const MASQUERADE_RANDOM: &str = "\
  chain post { type nat hook postrouting priority srcnat; oifname \"wan\" masquerade fully-random; }\n";

/// The router itself takes nothing from outside. Were a stray packet accepted, its connection
/// would occupy the port, and the host's own packets to the same peer would get another one.
const CLOSED: &str = "\
  chain input { type filter hook input priority filter; iifname \"wan\" meta l4proto udp drop; }\n";

const NO_UDP: &str = "\
  chain block { type filter hook forward priority filter; meta l4proto udp drop; }\n";

/// Everyone may send to a port that the host has used in the last two minutes.
fn full_cone(host: &str) -> String {
    format!(
        "  set mapped {{ type inet_service; flags dynamic,timeout; timeout 2m; }}\n\
         \x20 chain learn {{ type filter hook forward priority filter;\n\
         \x20   oifname \"wan\" meta l4proto udp update @mapped {{ udp sport }}; }}\n\
         \x20 chain pre {{ type nat hook prerouting priority dstnat;\n\
         \x20   iifname \"wan\" udp dport @mapped dnat to {host}; }}\n"
    )
}

/// Before connection tracking on the way in, after everything else on the way out.
fn flip_ports() -> String {
    format!(
        "  chain flip_in {{ type filter hook prerouting priority raw;\n\
         \x20   iifname \"wan\" meta l4proto udp udp dport set udp dport ^ {PORT_FLIP}; }}\n\
         \x20 chain flip_out {{ type filter hook postrouting priority 300;\n\
         \x20   oifname \"wan\" meta l4proto udp udp sport set udp sport ^ {PORT_FLIP}; }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_is_expected_both_ways_alike() {
        for one in Nat::ALL {
            for other in Nat::ALL {
                assert_eq!(one.direct_with(other), other.direct_with(one), "{one} {other}");
            }
            assert_eq!(Nat::Open.direct_with(one), one != Nat::UdpBlocked);
        }
        assert!(Nat::Symmetric.direct_with(Nat::OtherPort));
        assert!(!Nat::Symmetric.direct_with(Nat::PortRestricted));
        assert!(Nat::Double.direct_with(Nat::Double));
    }

    #[test]
    fn every_kind_but_open_has_rules() {
        for nat in Nat::ALL {
            assert_eq!(nat.rules("10.0.0.2").is_none(), nat == Nat::Open);
        }
    }
}
