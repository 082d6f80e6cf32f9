//! Reading refs: what snapshots use, and the labels that retention goes by.
//!
//! A maintainer's identity or a read identity opens them. What they say inside is compared with the
//! commit that names them, so that no refs stand in for those of another snapshot or log.

use std::collections::HashMap;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::crypto::recipient::Identity;
use crate::format::commit::{ObjectName, SnapshotEntry};
use crate::format::limits;
use crate::format::refs::{Refs, SnapshotLabel};
use crate::repo::error::RepoError;
use crate::repo::history::{History, SnapshotRecord};
use crate::repo::objects::open_named;
use crate::repo::open::Repository;

/// Refs that are held at once: they grow with the snapshot.
pub const BATCH: usize = 16;

/// Opens refs.
pub struct RefsReader<'a> {
    repository: &'a Repository,
    identities: Vec<&'a Identity>,
    /// Sequence numbers of the commits that put the refs.
    commits: HashMap<ObjectName, u64>,
}

impl<'a> RefsReader<'a> {
    /// A reader with the identities that may open them.
    #[must_use]
    pub fn new(repository: &'a Repository, history: &History, identities: &'a [Identity]) -> Self {
        let commits = history.logs.values().flatten().flat_map(|record| {
            let refs = |name: &ObjectName| matches!(name, ObjectName::Refs(..));
            let names = record.commit.puts.iter().map(|put| put.name).filter(refs);
            names.map(|name| (name, record.commit.seq)).collect::<Vec<_>>()
        });
        Self { repository, identities: identities.iter().collect(), commits: commits.collect() }
    }

    /// The name of the refs object of an entry.
    #[must_use]
    pub fn name(entry: &SnapshotEntry) -> ObjectName {
        ObjectName::Refs(entry.refs_actor, entry.refs)
    }

    /// Reads one refs object.
    pub fn read(&self, entry: &SnapshotEntry) -> Result<Refs, RepoError> {
        let name = Self::name(entry);
        let object = name.to_string();
        let store = &*self.repository.store;
        let content = open_named(store, &name, &self.identities, limits::REFS_BYTES_MAX)?;
        let refs = Refs::decode(&content)
            .map_err(|source| RepoError::Refs { object: object.clone(), source })?;
        let commit = self.commits.get(&name).copied();
        if refs.repository != self.repository.id
            || refs.writer != entry.refs_actor
            || commit != Some(refs.seq)
        {
            return Err(RepoError::Misplaced { object, what: "its commit is another" });
        }
        Ok(refs)
    }

    /// Reads the newest refs of some snapshots, several at once, in their order.
    #[must_use]
    pub fn read_newest(&self, records: &[&SnapshotRecord]) -> Vec<Result<Refs, RepoError>> {
        records.par_iter().map(|record| self.read(&record.refs)).collect()
    }

    /// The labels of some snapshots, in their order. The memory of the refs is given back.
    #[must_use]
    pub fn read_labels(
        &self,
        records: &[&SnapshotRecord],
    ) -> Vec<Result<Option<SnapshotLabel>, RepoError>> {
        records.par_iter().map(|record| self.read(&record.refs).map(|refs| refs.label)).collect()
    }
}
