//! All packs that the index segments of a repository describe, by name: what maintenance looks up.
//!
//! Every segment that commits name is read and compared with its commit. One that cannot be read
//! is a finding, and its packs are missing here.

use std::collections::HashMap;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::crypto::ids::DomainKeys;
use crate::crypto::recipient::Identity;
use crate::format::commit::{Commit, ObjectName};
use crate::format::pack::PackKind;
use crate::id::{DomainId, ObjectId, PackHandle};
use crate::repo::domain_index::read_segment;
use crate::repo::error::RepoError;
use crate::repo::history::History;
use crate::repo::open::Repository;

/// What a segment says of a pack, without its tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackFacts {
    /// Its random name.
    pub handle: PackHandle,
    /// Its domain.
    pub domain: DomainId,
    /// What it holds.
    pub kind: PackKind,
    /// Chunks in it.
    pub chunks: u32,
}

/// The packs of all domains whose keys are at hand.
#[derive(Debug, Default)]
pub struct PackCatalog {
    packs: HashMap<ObjectId, PackFacts>,
    names: HashMap<PackHandle, ObjectId>,
}

/// A segment that cannot be used.
#[derive(Debug)]
pub struct SegmentFinding {
    /// Its object.
    pub segment: ObjectName,
    /// Packs of its commit, which it should list.
    pub packs: Vec<ObjectId>,
    /// Why.
    pub error: RepoError,
}

impl PackCatalog {
    /// Reads all segments of the domains, several at once.
    #[must_use]
    pub fn read(
        repository: &Repository,
        history: &History,
        domains: &[(DomainId, DomainKeys)],
    ) -> (Self, Vec<SegmentFinding>) {
        let segments: Vec<(&Commit, ObjectName, DomainId, Identity)> = domains
            .iter()
            .flat_map(|(domain, keys)| {
                let names = segments_of(history, *domain);
                names.map(|(commit, name)| (commit, name, *domain, keys.index_identity()))
            })
            .collect();
        let read = segments.par_iter().map(|(commit, name, domain, identity)| {
            let segment = read_segment(repository, commit, *domain, identity, name);
            let facts = segment.map(|segment| {
                let facts = segment.packs.iter().map(|pack| {
                    let (table, domain) = (&pack.table, *domain);
                    let chunks = pack.ids.len() as u32;
                    (
                        pack.name,
                        PackFacts { handle: table.handle, domain, kind: table.kind, chunks },
                    )
                });
                facts.collect::<Vec<_>>()
            });
            facts.map_err(|error| SegmentFinding {
                segment: *name,
                packs: packs_of(commit).collect(),
                error,
            })
        });
        let (mut catalog, mut findings) = (Self::default(), Vec::new());
        for result in read.collect::<Vec<_>>() {
            match result {
                Ok(facts) => facts.into_iter().for_each(|(name, facts)| catalog.add(name, facts)),
                Err(finding) => findings.push(finding),
            }
        }
        (catalog, findings)
    }

    fn add(&mut self, name: ObjectId, facts: PackFacts) {
        self.names.insert(facts.handle, name);
        self.packs.insert(name, facts);
    }

    /// A pack by the name of its object.
    #[must_use]
    pub fn pack(&self, name: &ObjectId) -> Option<&PackFacts> {
        self.packs.get(name)
    }

    /// The object that has that handle.
    #[must_use]
    pub fn name_of(&self, handle: &PackHandle) -> Option<&ObjectId> {
        self.names.get(handle)
    }
}

fn segments_of(history: &History, domain: DomainId) -> impl Iterator<Item = (&Commit, ObjectName)> {
    history.logs.values().flatten().flat_map(move |record| {
        let names = record.commit.puts.iter().map(|put| put.name);
        let wanted = names.filter(move |name| {
            matches!(name, ObjectName::Index(of, _) if *of == domain)
                && !history.deleted.contains(name)
        });
        wanted.map(|name| (&record.commit, name))
    })
}

/// Packs that a commit puts.
pub fn packs_of(commit: &Commit) -> impl Iterator<Item = ObjectId> + '_ {
    commit.puts.iter().filter_map(|put| match put.name {
        ObjectName::Data(id) => Some(id),
        _ => None,
    })
}
