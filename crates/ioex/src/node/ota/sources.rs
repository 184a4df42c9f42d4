//! From whom a device may fetch: matchers' vouchers, holders that the directory names, guests.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{Arc, Mutex},
};

use ioex_base::Uid;
use ioex_ota::{Release, policy::Hold};

use super::{
    Ota,
    device::Device,
    download::{Candidate, DownloadError, Sources},
    live::lock,
};

/// Holders from the directory that are asked for a manifest.
const MANIFEST_HOLDERS_MAX: usize = 8;
/// Why a matcher refused, which is shown when nobody else provides.
type Refused = Mutex<Option<String>>;

/// The sources of one release for this device.
pub(super) struct DeviceSources {
    ota: Arc<Ota>,
    device: Arc<Device>,
    release: Release,
    refused: Refused,
}

impl DeviceSources {
    pub(super) fn new(ota: Arc<Ota>, device: Arc<Device>, release: Release) -> Self {
        Self { ota, device, release, refused: Mutex::default() }
    }

    /// Gets the sealed manifest, if it is not here.
    ///
    /// # Errors
    /// When nobody has it.
    pub(super) async fn manifest(&self) -> Result<(), DownloadError> {
        let address = self.release.manifest;
        if self.ota.shelf().manifest(&address)?.is_some() {
            return Ok(());
        }
        let Some(mesh) = self.ota.mesh() else { return Err(DownloadError::Alone) };
        let mut nodes = self.release.matchers.clone();
        if let Ok(directory) = mesh.directory() {
            let found = directory.find(address).await.unwrap_or_default();
            nodes.extend(found.into_iter().take(MANIFEST_HOLDERS_MAX));
        }
        let mut asked = HashSet::from([mesh.uid()]);
        for node in nodes {
            if !asked.insert(node) {
                continue;
            }
            match mesh.package_fetch(node, address).await {
                Ok(sealed) => {
                    self.ota.shelf().put_manifest(&sealed)?;
                    mesh.announce(address);
                    return Ok(());
                }
                Err(e) => tracing::debug!("{} has no manifest: {e}", node.short()),
            }
        }
        Err(DownloadError::Alone)
    }

    async fn find(&self) -> Vec<Candidate> {
        let Some(mesh) = self.ota.mesh() else { return Vec::new() };
        let manifest = self.release.manifest;
        let mut candidates = Vec::new();
        for matcher in &self.release.matchers {
            match mesh.update_match(*matcher, manifest).await {
                Ok(told) => {
                    *lock(&self.refused) = None;
                    if !told.pass.is_empty() {
                        self.device.keep_pass(manifest, *matcher, &told.pass);
                    }
                    candidates.extend(told.providers.into_iter().map(|provider| Candidate {
                        uid: provider.uid,
                        issuer: *matcher,
                        credential: provider.voucher,
                        origin: provider.origin,
                    }));
                    break;
                }
                Err(e) => {
                    tracing::debug!("{} does not match: {e}", matcher.short());
                    *lock(&self.refused) = Some(e.to_string());
                }
            }
        }
        // Without a matcher devices go on among themselves.
        if candidates.is_empty()
            && let Ok(directory) = mesh.directory()
        {
            let found = directory.find(manifest).await.unwrap_or_default();
            candidates.extend(found.into_iter().filter_map(|uid| self.pass_for(uid)));
        }
        candidates
    }
}

impl Sources for DeviceSources {
    fn more(&self) -> Pin<Box<dyn Future<Output = Vec<Candidate>> + Send + '_>> {
        Box::pin(self.find())
    }

    fn pass_for(&self, uid: Uid) -> Option<Candidate> {
        let (issuer, credential) = self.device.pass(&self.release.manifest)?;
        Some(Candidate { uid, issuer, credential, origin: false })
    }

    fn allowed(&self, bytes: u64) -> Result<(), Hold> {
        self.device.may_fetch(bytes)
    }
}
