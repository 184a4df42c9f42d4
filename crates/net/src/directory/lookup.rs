//! Lets the endpoint ask the directory: connecting by UID alone is all anyone needs (N2).

use std::{
    collections::HashSet,
    sync::{OnceLock, PoisonError, RwLock, Weak},
};

use ioex_base::Uid;
use iroh::{
    EndpointId, TransportAddr,
    address_lookup::{AddressLookup, EndpointData, EndpointInfo, Error, Item},
};
use n0_future::{StreamExt, boxed::BoxStream};

use super::Directory;
use crate::names::BootstrapAddr;

/// Answers the endpoint's question where a UID is. Bootstraps come from the table, so that the
/// directory itself can be reached; all others from the directory.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    directory: OnceLock<Weak<Directory>>,
    bootstraps: RwLock<Vec<BootstrapAddr>>,
    /// Bootstraps that were reached over UDP, so that no relay is troubled for them.
    direct: RwLock<HashSet<Uid>>,
}

const PROVENANCE: &str = "ioex directory";

impl Lookup {
    pub(crate) fn connect(&self, directory: Weak<Directory>) {
        // A second call would be a bug of the caller and changes nothing.
        let _ = self.directory.set(directory);
    }

    pub(crate) fn use_bootstraps(&self, all: Vec<BootstrapAddr>) {
        *self.bootstraps.write().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

impl Lookup {
    /// Notes whether a bootstrap was reached over UDP.
    pub(crate) fn note_direct(&self, uid: Uid, direct: bool) {
        let mut known = self.direct.write().unwrap_or_else(PoisonError::into_inner);
        if direct {
            known.insert(uid);
        } else {
            known.remove(&uid);
        }
    }

    /// Another network may let other packets through.
    pub(crate) fn forget_direct(&self) {
        self.direct.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn item(id: EndpointId, addrs: Vec<TransportAddr>) -> Item {
    Item::new(EndpointInfo::from_parts(id, EndpointData::new(addrs)), PROVENANCE, None)
}

impl AddressLookup for Lookup {
    fn resolve(&self, endpoint_id: EndpointId) -> Option<BoxStream<Result<Item, Error>>> {
        let uid = Uid::from_bytes(*endpoint_id.as_bytes());
        let known = self.bootstraps.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(b) = known.iter().find(|b| b.uid == uid) {
            let mut addrs = vec![TransportAddr::Ip(b.node())];
            if !self.direct.read().unwrap_or_else(PoisonError::into_inner).contains(&uid) {
                addrs.push(TransportAddr::Relay(b.relay_url()));
            }
            return Some(n0_future::stream::once(Ok(item(endpoint_id, addrs))).boxed());
        }
        drop(known);
        let directory = self.directory.get()?.upgrade()?;
        let answer = async move {
            match directory.resolve_fresh(uid).await {
                Ok(Some(record)) => {
                    let relays = record.bootstraps.iter().map(|b| TransportAddr::Relay(b.relay_url()));
                    let direct = record.addresses.iter().map(|a| TransportAddr::Ip(*a));
                    Some(Ok(item(endpoint_id, relays.chain(direct).collect())))
                }
                Ok(None) => None,
                Err(e) => Some(Err(Error::from_err(PROVENANCE, e))),
            }
        };
        Some(n0_future::stream::once_future(answer).filter_map(|found| found).boxed())
    }
}
