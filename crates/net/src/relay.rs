//! The relay inside a bootstrap node.
//!
//! It passes datagrams between nodes that cannot reach each other and tells them the address
//! under which they are seen. What passes is QUIC, encrypted between the two ends: the relay has
//! no key for it, keeps nothing and writes nothing to disk.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ioex_base::NodeKey;
use iroh_relay::server::{CertConfig, QuicConfig, RelayConfig, Server, ServerConfig, TlsConfig};

use crate::relay_tls;

/// How many clients' verified keys the relay remembers: 32 bytes and some overhead each.
const KEY_CACHE_ENTRIES: usize = 16_384;

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The node's key does not make a TLS server.
    #[error("the relay's TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// A port is taken or may not be used.
    #[error("the relay could not listen on {0}: {1}")]
    Listen(SocketAddr, String),
}

/// A running relay; ends when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    server: Server,
}

impl Relay {
    /// Listens on `addr`: TCP for the relay, UDP for address discovery, both TLS 1.3 with the
    /// node's own key.
    ///
    /// # Errors
    /// [`RelayError`] when the port cannot be used.
    pub(crate) async fn start(key: &NodeKey, addr: SocketAddr) -> Result<Self, RelayError> {
        let tls = relay_tls::server_config(key)?;
        // The relay crate insists on a plain HTTP listener beside TLS; nobody needs to reach it.
        let unused = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let mut relay = RelayConfig::new(unused);
        relay.tls = Some(TlsConfig::new(addr, CertConfig::Manual { server_config: tls.clone() }));
        relay.key_cache_capacity = Some(KEY_CACHE_ENTRIES);
        let mut quic = QuicConfig::new(addr);
        quic.server_config = Some(tls);
        let mut config = ServerConfig::default();
        config.relay = Some(relay);
        config.quic = Some(quic);
        let server = Server::spawn(config).await.map_err(|e| RelayError::Listen(addr, format!("{e:#}")))?;
        Ok(Self { server })
    }

    /// Stops in order.
    pub(crate) async fn stop(self) {
        if let Err(e) = self.server.shutdown().await {
            tracing::warn!("relay did not stop cleanly: {e:#}");
        }
    }
}
