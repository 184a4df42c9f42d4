//! What is watched over: a repository, and on whose behalf.

use std::sync::Arc;

use ioex_api::ApiError;
use ioex_base::{SignedGrant, Uid};

use super::super::{super::Node, Repo, book::Book, fetch::fetch_grant, partner};

/// What is watched over: the own repository, or a partner's.
pub(super) struct Charge<'a> {
    pub(super) repo: Uid,
    pub(super) book: &'a Arc<Book>,
    /// Lets this node read the shards.
    pub(super) read: SignedGrant,
    /// Public reader key of the repository.
    pub(super) reader: Uid,
    /// All who watch over it.
    pub(super) members: Vec<Uid>,
    /// Only the owner reads the list of restore points.
    pub(super) own: Option<&'a Arc<Repo>>,
}

pub(super) fn own_charge<'a>(node: &Node, repo: &'a Arc<Repo>) -> Result<Charge<'a>, ApiError> {
    Ok(Charge {
        repo: repo.keys.repo(),
        book: &repo.book,
        read: fetch_grant(&node.mesh, &repo.keys.reader)?,
        reader: repo.keys.reader.uid(),
        members: partner::own_members(node),
        own: Some(repo),
    })
}

pub(super) fn watched_charge(watched: &partner::Watched) -> Result<Option<Charge<'_>>, ApiError> {
    let Some(mandate) = watched.mandate()? else { return Ok(None) };
    Ok(Some(Charge {
        repo: watched.repo,
        book: &watched.book,
        read: mandate.read,
        reader: mandate.reader,
        members: mandate.members,
        own: None,
    }))
}
