//! The recovery key: shown as words, and taken over from words.

use ioex_api::{ApiError, ErrorCode, vault::RecoveryWords};
use ioex_vault::repo::RecoveryKey;

use super::{
    super::{Node, files},
    failure::fail,
};

/// See [`ioex_api::vault::VaultRequest::ExportKey`].
pub(super) fn export_key(node: &Node) -> Result<RecoveryWords, ApiError> {
    let repo = node.vault.repo()?;
    let key = files::recovery_key(&node.config.data).map_err(|e| fail(ErrorCode::Io, format!("{e:#}")))?;
    Ok(RecoveryWords { repo: repo.keys.repo(), words: key.words().to_string() })
}

/// See [`ioex_api::vault::VaultRequest::ImportKey`].
pub(super) async fn import_key(node: &Node, words: &str, replace: bool) -> Result<RecoveryWords, ApiError> {
    let key = RecoveryKey::from_words(words).map_err(|e| fail(ErrorCode::BadRequest, e.to_string()))?;
    let data = &node.config.data;
    let new = key.keys().repo();
    // What a partner tells of the old key's groups must not come into the book of the new one.
    #[cfg(feature = "super")]
    let _exchange = node.vault.exchanging.lock().await;
    if files::has_recovery_key(data) {
        let repo = node.vault.repo()?;
        if repo.keys.repo() == new {
            return Ok(RecoveryWords { repo: new, words: String::new() });
        }
        // A key that nothing was stored with is nobody's loss.
        let used = repo.book.head()?.is_some() || !repo.book.pending()?.is_empty();
        if used && !replace {
            return Err(fail(
                ErrorCode::Exists,
                "this node has a recovery key of its own: write its words down with `ioex backup export-key`, then add --replace",
            ));
        }
        let _work = repo.work.lock().await;
        repo.book.change(super::book::Changes::clear)?;
        repo.forget_listings(|_| false);
    }
    files::replace_recovery_key(data, &key).map_err(|e| fail(ErrorCode::Io, format!("{e:#}")))?;
    node.vault.reopen()?;
    let repo = node.vault.repo()?;
    Ok(RecoveryWords { repo: repo.keys.repo(), words: String::new() })
}
