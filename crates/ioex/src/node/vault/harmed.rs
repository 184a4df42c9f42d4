//! Which restore points need something of which too little is left.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

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
            // Points share most of their segments: each is looked through once.
            let (mut out, mut touched) = (Vec::new(), HashMap::new());
            for point in points {
                if repo.is_harmed(&point, &lost, &mut touched)? {
                    out.push(point.id().to_string());
                }
            }
            Ok(out)
        };
        tokio::task::spawn_blocking(looking).await.map_err(internal)?
    }

    /// Whether a restore point needs one of the `lost` groups. `touched` says of segments that were looked
    /// through whether one of their groups is lost.
    fn is_harmed(
        &self,
        point: &PointRef,
        lost: &HashSet<ContentAddress>,
        touched: &mut HashMap<ContentAddress, bool>,
    ) -> Result<bool, ApiError> {
        let address = point.root.shard.address;
        if lost.contains(&address) {
            return Ok(true);
        }
        let Some(root) = self.book.root(&address)? else { return Ok(false) };
        let root = Root::decode(&root).map_err(|e| fail(ErrorCode::Manifest, e.to_string()))?;
        let mut any = false;
        for object in &root.segments {
            let address = object.shard.address;
            let of_segment = match touched.get(&address) {
                Some(known) => *known,
                None => {
                    let segment = self.book.segment(&address)?;
                    let groups = segment.iter().flat_map(|(_, segment)| &segment.groups);
                    let mut first = groups.filter_map(|group| group.data.first());
                    let found = lost.contains(&address) || first.any(|first| lost.contains(&first.address));
                    touched.insert(address, found);
                    found
                }
            };
            any |= of_segment;
        }
        let listing = if any { self.kept_listing(point.id()) } else { None };
        let Some(listing) = listing else { return Ok(any) };
        let mut index = Index::default();
        for object in &root.segments {
            if let Some((_, segment)) = self.book.segment(&object.shard.address)? {
                index.add(Some(object.clone()), segment);
            }
        }
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
