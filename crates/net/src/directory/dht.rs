//! The DHT way of asking: mainline Kademlia with BEP 44 items and signed peers, on a network of
//! its own (only our bootstraps are contacted, never public routers).

use std::net::SocketAddr;

use ioex_base::{ContentAddress, NodeKey, Uid};
use n0_future::StreamExt;
use n0_mainline::{Dht, Id, MutableItem, ServerSettings, SigningKey};
use tokio::sync::mpsc;

use super::holder::{HolderRecord, info_hash};
use crate::record::{RECORD_MAX_BYTES, SALT, SignedRecord};

/// How much one DHT node keeps for others.
struct Keeps {
    /// Records, at 1 kB each.
    values: usize,
    /// Contents of which it knows holders (about 150 bytes a holder).
    info_hashes: usize,
}

/// A server: 32 MB of records at most.
const SERVER_KEEPS: Keeps = Keeps { values: 32_768, info_hashes: 65_536 };
/// A device, which keeps something only once it proved to be reachable: 1 MB of records at most.
/// The tables take memory for their bounds at once.
const DEVICE_KEEPS: Keeps = Keeps { values: 1_024, info_hashes: 1_024 };
/// Holders kept per content.
const HOLDERS_PER_HASH_MAX: usize = 64;
/// Most bootstraps taken from one look into the directory.
const BOOTSTRAPS_FOUND_MAX: usize = 32;

/// The content address under which bootstraps announce themselves.
fn bootstrap_topic() -> ContentAddress {
    ContentAddress::of(b"ioex 2026 bootstraps")
}

/// This node's part in the DHT.
#[derive(Clone, Debug)]
pub(crate) struct DhtNode {
    dht: Dht,
}

impl DhtNode {
    /// Joins over `contacts`. A `server` answers others from the start; any other node becomes
    /// one by itself once it proved to be reachable.
    pub(crate) fn start(port: u16, contacts: &[SocketAddr], server: bool) -> std::io::Result<Self> {
        let keeps = if server { SERVER_KEEPS } else { DEVICE_KEEPS };
        let settings = ServerSettings {
            max_mutable_values: keeps.values,
            max_immutable_values: 1, // unused by us: nothing for strangers to fill
            max_info_hashes: keeps.info_hashes,
            max_peers_per_info_hash: HOLDERS_PER_HASH_MAX,
            ..ServerSettings::default()
        };
        let contacts: Vec<SocketAddr> = contacts.iter().filter(|a| a.is_ipv4()).copied().collect();
        let mut builder = Dht::builder();
        builder.no_bootstrap().bootstrap(&contacts).port(port).server_settings(settings);
        if server {
            builder.server_mode();
        }
        Ok(Self { dht: builder.build()? })
    }

    /// Where this node is reached on this machine.
    pub(crate) async fn loopback(&self) -> std::io::Result<SocketAddr> {
        let info = self.dht.info().await.map_err(std::io::Error::other)?;
        Ok(SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, info.local_addr().port())))
    }

    /// Whether other nodes are known.
    pub(crate) async fn joined(&self) -> bool {
        match self.dht.info().await {
            Ok(info) => info.routing_table_size() > 0,
            Err(_) => false,
        }
    }

    /// Looks for nodes near this one, which also joins.
    pub(crate) async fn bootstrap(&self) -> bool {
        self.dht.bootstrapped().await.unwrap_or(false)
    }

    /// Stores a record (this node's, or for a node that asked over QUIC).
    pub(crate) async fn publish(&self, record: &SignedRecord) -> bool {
        if record.value.len() > RECORD_MAX_BYTES + 1 {
            return false;
        }
        let Ok(seq) = i64::try_from(record.seq_ms) else { return false };
        let item = MutableItem::new_signed_unchecked(
            *record.uid.as_bytes(),
            record.signature,
            &record.value,
            seq,
            Some(SALT),
        );
        match self.dht.put_mutable(item, None).await {
            Ok(_) => true,
            Err(e) => {
                tracing::debug!("the DHT did not take the record: {e:#}");
                false
            }
        }
    }

    /// The most recent record that the DHT has for `uid`. The first answers decide: they come
    /// from the nodes closest to the key.
    pub(crate) async fn resolve(&self, uid: Uid) -> Option<SignedRecord> {
        let mut items = self.dht.get_mutable(uid.as_bytes(), Some(SALT), None).await.ok()?;
        let item = items.next().await?;
        Some(SignedRecord {
            uid,
            seq_ms: u64::try_from(item.seq()).ok()?,
            value: item.value().to_vec(),
            signature: *item.signature(),
        })
    }

    /// Announces that this node holds `address`.
    pub(crate) async fn announce(&self, key: &NodeKey, address: &ContentAddress) -> bool {
        let signer = SigningKey::from_bytes(&key.seed());
        match self.dht.announce_signed_peer(Id::from(info_hash(address)), &signer).await {
            Ok(_) => true,
            Err(e) => {
                tracing::debug!("the DHT did not take {}: {e:#}", address.short());
                false
            }
        }
    }

    /// Sends holders of `address` to `found` as answers come in; true when the question ran.
    pub(crate) async fn find(
        &self,
        address: &ContentAddress,
        found: mpsc::Sender<Vec<HolderRecord>>,
    ) -> bool {
        let Ok(mut answers) = self.dht.get_signed_peers(Id::from(info_hash(address))).await else {
            return false;
        };
        while let Some(peers) = answers.next().await {
            let holders = peers
                .iter()
                .map(|p| HolderRecord::from_parts(Uid::from_bytes(*p.key()), p.timestamp(), p.signature()))
                .collect();
            if found.send(holders).await.is_err() {
                break;
            }
        }
        true
    }

    /// Bootstraps announce themselves.
    pub(crate) async fn announce_bootstrap(&self, key: &NodeKey) -> bool {
        self.announce(key, &bootstrap_topic()).await
    }

    /// UIDs of nodes that announced themselves as bootstraps.
    pub(crate) async fn bootstrap_uids(&self) -> Vec<Uid> {
        let topic = bootstrap_topic();
        let (found, mut incoming) = mpsc::channel(16);
        let now = crate::clock::unix();
        let asking = self.find(&topic, found);
        let collecting = async {
            let mut out = Vec::new();
            while let Some(records) = incoming.recv().await {
                out.extend(records.iter().filter_map(|r| r.check(&topic, now)));
                if out.len() >= BOOTSTRAPS_FOUND_MAX {
                    break;
                }
            }
            out
        };
        let (_, mut out) = tokio::join!(asking, collecting);
        out.sort_unstable();
        out.dedup();
        out
    }
}
