//! Version 1 of a head's body, read only: without origins, tags, dropped points and other roots.

use ioex_base::UnixSeconds;
use serde::Deserialize;
#[cfg(test)]
use serde::Serialize;

use super::{POINTS_MAX, PointRef};
use crate::{
    bounded::at_most,
    repo::{object::ObjectRef, point::Totals},
};

/// The first byte of its body.
pub(super) const VERSION: u8 = 1;

#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(super) struct Point {
    pub(super) created: UnixSeconds,
    pub(super) expires: UnixSeconds,
    pub(super) label: String,
    pub(super) totals: Totals,
    pub(super) root: ObjectRef,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(super) struct Head {
    #[serde(deserialize_with = "at_most::<_, _, POINTS_MAX>")]
    pub(super) points: Vec<Point>,
}

impl From<Head> for super::Head {
    fn from(old: Head) -> Self {
        let point = |p: Point| PointRef {
            created: p.created,
            expires: p.expires,
            label: p.label,
            origin: None,
            tags: Vec::new(),
            totals: p.totals,
            root: p.root,
            rewritten: None,
        };
        Self { points: old.points.into_iter().map(point).collect(), forgotten: Vec::new() }
    }
}
