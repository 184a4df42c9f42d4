//! Which restore points need something of which too little is left.

use std::{collections::HashSet, sync::Arc};

use ioex_api::{ApiError, ErrorCode};
use ioex_base::ContentAddress;
use ioex_vault::repo::{Index, PointRef, Root};

use super::{
    Repo,
    failure::{fail, internal},
    points::each_chunk,
};

impl Repo {
    /// Names of those of these restore points that need a group which the watch found lost. By what is
    /// known here, without the network: of a restore point whose listing is not here, any group in its index
    /// counts as needed.
    pub(super) async fn harmed(self: &Arc<Self>, points: Vec<PointRef>) -> Result<Vec<String>, ApiError> {
        let repo = self.clone();
        let looking = move || {
            let lost = repo.book.lost()?;
            if lost.is_empty() {
                return Ok(Vec::new());
            }
            let mut out = Vec::new();
            for point in points {
                if repo.is_harmed(&point, &lost)? {
                    out.push(point.id().to_string());
                }
            }
            Ok(out)
        };
        tokio::task::spawn_blocking(looking).await.map_err(internal)?
    }

    fn is_harmed(&self, point: &PointRef, lost: &HashSet<ContentAddress>) -> Result<bool, ApiError> {
        let address = point.root.shard.address;
        if lost.contains(&address) {
            return Ok(true);
        }
        let Some(root) = self.book.root(&address)? else { return Ok(false) };
        let root = Root::decode(&root).map_err(|e| fail(ErrorCode::Manifest, e.to_string()))?;
        let (mut index, mut any) = (Index::default(), false);
        for object in &root.segments {
            any |= lost.contains(&object.shard.address);
            if let Some((_, segment)) = self.book.segment(&object.shard.address)? {
                let mut groups = segment.groups.iter().filter_map(|group| group.data.first());
                any |= groups.any(|first| lost.contains(&first.address));
                index.add(Some(object.clone()), segment);
            }
        }
        let listing = if any { self.kept_listing(point.id()) } else { None };
        let Some(listing) = listing else { return Ok(any) };
        let mut harmed = root.segments.iter().any(|object| lost.contains(&object.shard.address));
        each_chunk(&root, &listing, |id| {
            let group = index.get(id).and_then(|found| Some(index.group(found.segment, found.group_at)?.0));
            let first = group.and_then(|group| group.data.first());
            harmed |= first.is_some_and(|first| lost.contains(&first.address));
            Ok(())
        })?;
        Ok(harmed)
    }
}
