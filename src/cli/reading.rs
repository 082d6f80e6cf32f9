//! Opening a repository for reading back: keys, index, snapshots.

use std::sync::Arc;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::open_repository::{open, unlock};
use crate::cli::selector::{Candidate, Selector};
use crate::crypto::ids::DomainKeys;
use crate::format::commit::ObjectName;
use crate::format::limits;
use crate::format::snapshot::Snapshot;
use crate::index::database::IndexDatabase;
use crate::repo::domain_index;
use crate::repo::error::RepoError;
use crate::repo::history::{History, SnapshotRecord};
use crate::repo::objects::open_named;
use crate::repo::open::Repository;
use crate::repo::read_access::ReadAccess;
use crate::repo::unlock::Unlocked;

/// A repository that can be read.
pub struct Reading {
    /// The repository.
    pub repository: Repository,
    /// What its logs say.
    pub history: History,
    /// The keys.
    pub unlocked: Unlocked,
    /// The chunks.
    pub access: Arc<ReadAccess>,
}

impl Reading {
    /// Asks for the key, checks the logs and brings the local index up to date.
    ///
    /// What is wrong with a log or an index segment is a warning: what can be read is read.
    pub fn open(context: &Context) -> Result<Self, CommandError> {
        let repository = open(context)?;
        let unlocked = unlock(context, &repository)?;
        let history = History::read(&repository)?;
        for finding in &history.findings {
            context.output.warning(&finding.to_string());
        }
        let mut domains = Vec::new();
        for file in &unlocked.domains {
            let keys = DomainKeys::derive(&file.secret);
            let database = IndexDatabase::open(&repository.state.reading_index_path(file.domain))
                .map_err(RepoError::from)?;
            let identity = keys.index_identity();
            let all = |_| true;
            let findings = domain_index::update(
                &repository,
                &history,
                file.domain,
                &identity,
                &database,
                all,
            )?;
            for finding in findings {
                context.output.warning(&finding.to_string());
            }
            domains.push((file.domain, keys, database));
        }
        let access = ReadAccess::new(
            Arc::clone(&repository.store),
            repository.id,
            unlocked.read_identities(),
            domains,
        );
        Ok(Self { repository, history, unlocked, access: Arc::new(access) })
    }

    /// Reads one snapshot.
    pub fn snapshot(&self, record: &SnapshotRecord) -> Result<Snapshot, RepoError> {
        let name = ObjectName::Snapshot(record.name.writer, record.name.id);
        let identities = self.unlocked.read_identities();
        let identities: Vec<_> = identities.iter().collect();
        let content =
            open_named(&*self.repository.store, &name, &identities, limits::SNAPSHOT_BYTES_MAX)?;
        let object = name.to_string();
        let snapshot = Snapshot::decode(&content)
            .map_err(|source| RepoError::Snapshot { object: object.clone(), source })?;
        let is_own = snapshot.repository == self.repository.id
            && snapshot.writer == record.name.writer
            && snapshot.seq == record.seq;
        if is_own {
            Ok(snapshot)
        } else {
            Err(RepoError::Misplaced { object, what: "its writer or sequence number" })
        }
    }

    /// The snapshot that a selector means.
    pub fn select(
        &self,
        context: &Context,
        selector: &Selector,
    ) -> Result<(&SnapshotRecord, Snapshot), CommandError> {
        let mut found: Vec<(&SnapshotRecord, Snapshot)> = Vec::new();
        for record in self.history.live() {
            match self.snapshot(record) {
                Ok(snapshot) => found.push((record, snapshot)),
                Err(error) => context.output.warning(&error.to_string()),
            }
        }
        let ids: Vec<String> = found.iter().map(|(record, _)| record.name.id.to_string()).collect();
        let candidates: Vec<Candidate<'_>> = found
            .iter()
            .zip(&ids)
            .map(|((record, snapshot), id)| Candidate {
                id,
                source: &snapshot.source,
                time: snapshot.time.parse().unwrap_or(record.time),
            })
            .collect();
        let index = selector.resolve(&candidates)?;
        Ok(found.swap_remove(index))
    }
}
