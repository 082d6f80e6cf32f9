//! From opened keys to a reader of chunks.

use std::sync::Arc;

use crate::crypto::ids::DomainKeys;
use crate::index::database::IndexDatabase;
use crate::repo::domain_index::{self, SegmentFindings};
use crate::repo::error::RepoError;
use crate::repo::history::History;
use crate::repo::open::Repository;
use crate::repo::read_access::ReadAccess;
use crate::repo::unlock::Unlocked;
use crate::store::shared_blocks::SharedBlocks;

/// A reader of chunks, whose index is brought up to date, and what is wrong with index segments.
///
/// The index is another than that of a writer: a writer must not take over what other writers
/// claim, and forgets packs that have been deleted, whose ids a reader needs after a repack.
pub fn read_access(
    repository: &Repository,
    history: &History,
    unlocked: &Unlocked,
) -> Result<(Arc<ReadAccess>, SegmentFindings), RepoError> {
    let mut domains = Vec::new();
    let mut findings = Vec::new();
    for file in &unlocked.domains {
        let keys = DomainKeys::derive(&file.secret);
        let database = IndexDatabase::open(&repository.state.reading_index_path(file.domain))?;
        let identity = keys.index_identity();
        let all = |_| true;
        findings.extend(domain_index::update(
            repository,
            history,
            file.domain,
            &identity,
            &database,
            all,
        )?);
        domains.push((file.domain, keys, database));
    }
    let mut store = Arc::clone(&repository.store);
    if store.requests().is_some() {
        store = Arc::new(SharedBlocks::new(store));
    }
    let access = ReadAccess::new(store, repository.id, unlocked.read_identities(), domains)
        .spooling_into(repository.state.path());
    Ok((Arc::new(access), findings))
}
