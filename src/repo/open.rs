//! Opening a repository: which one it is, and what its newest roster says.
//!
//! Nothing is believed before it is checked against the repository id that this host has pinned,
//! and nothing older than what it has seen is accepted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::crypto::ids::object_id;
use crate::format::roster::Roster;
use crate::format::signed_text::RosterReference;
use crate::id::{ObjectId, RepositoryId};
use crate::repo::error::RepoError;
use crate::repo::objects::refused;
use crate::repo::state::{StateDir, Witness};
use crate::repo::texts::{TextCache, read_texts};
use crate::store::{Entry, Store, StoreError};

/// A repository whose roster has been checked.
#[derive(Clone)]
pub struct Repository {
    /// Where its objects are.
    pub store: Arc<dyn Store>,
    /// Which one it is.
    pub id: RepositoryId,
    /// The newest roster.
    pub roster: Roster,
    /// Hash of the newest roster's object.
    pub roster_hash: ObjectId,
    /// Local state.
    pub state: StateDir,
    /// A copy that follows another place, and was not made the primary.
    pub is_replica: bool,
    /// Signed texts that this host has fetched before.
    pub texts: Arc<TextCache>,
}

impl Repository {
    /// Opens the repository in `store`, with its local state below `states`.
    ///
    /// `pinned` is the id that it must have; without it, what this host has seen at the place
    /// before, and at the first time what FORMAT says.
    pub fn open(
        store: Arc<dyn Store>,
        states: &Path,
        pinned: Option<RepositoryId>,
    ) -> Result<Self, RepoError> {
        let location = store.location();
        let known = match pinned {
            Some(id) => Some(id),
            None => StateDir::known_at(states, &location)?,
        };
        // Where requests cost anything, what is known is not asked for: the roster vouches for it.
        let rosters = list_rosters(&*store)?;
        let id = match known.filter(|_| store.requests().is_some() && !rosters.texts.is_empty()) {
            Some(id) => id,
            None => read_format(&*store)?,
        };
        if let Some(pinned) = known.filter(|pinned| *pinned != id) {
            return Err(RepoError::Replaced { location, pinned, found: id });
        }
        let mut state = StateDir::open(states, id)?;
        // A mark is no proof: a place that was the primary of this generation stays what it was.
        let marked = rosters.replica_of.iter().max().copied();
        let was_primary = match marked {
            Some(generation) => state.was_primary(&location, generation)?,
            None => true,
        };
        if !was_primary {
            state = state.of_replica(&location);
        }
        let texts = match store.requests() {
            Some(_) => TextCache::open(&state.path().join("texts.sqlite"))?,
            None => TextCache::none(),
        };
        let read = |state: &StateDir| {
            let read = read_rosters(&*store, &texts, id, &rosters, &state.witness()?);
            read.map_err(|error| other_repository(&*store, id, error))
        };
        let (mut roster, mut roster_hash) = read(&state)?;
        StateDir::remember(states, &location, id)?;
        let is_replica = rosters.replica_of.contains(&roster.generation.number);
        if !is_replica && !was_primary {
            // A replica that was promoted: now it must agree with what was seen of the primary.
            state = StateDir::open(states, id)?;
            (roster, roster_hash) = read(&state)?;
        }
        if !is_replica {
            state.remember_primary(&location, roster.generation.number)?;
        }
        let texts = Arc::new(texts);
        let repository = Self { store, id, roster, roster_hash, state, is_replica, texts };
        repository.see(|witness| witness.see_roster(&repository.roster, roster_hash))?;
        Ok(repository)
    }

    /// Refuses a replica: what is written to it would be a second history.
    pub fn require_primary(&self) -> Result<(), RepoError> {
        if self.is_replica {
            return Err(RepoError::IsReplica { location: self.store.location() });
        }
        Ok(())
    }

    /// How texts that are written now name the roster.
    #[must_use]
    pub fn roster_reference(&self) -> RosterReference {
        RosterReference { seq: self.roster.seq, hash: self.roster_hash }
    }

    /// Changes the witness under its lock.
    pub fn see(&self, change: impl FnOnce(&mut Witness)) -> Result<(), RepoError> {
        self.state.see(change)
    }
}

fn read_format(store: &dyn Store) -> Result<RepositoryId, RepoError> {
    let bytes = match store.get("FORMAT", 4096) {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => {
            return Err(RepoError::NotThere { location: store.location() });
        }
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8_lossy(&bytes);
    let id = text.strip_prefix("holdfast 1 ").and_then(|rest| rest.trim_end().parse().ok());
    id.ok_or_else(|| RepoError::FormatUnknown { found: text.chars().take(80).collect() })
}

/// What lies below `roster/`.
#[derive(Default)]
struct ListedRosters {
    texts: BTreeMap<u64, Entry>,
    /// Generations as whose replica the place is marked.
    replica_of: Vec<u64>,
}

/// `roster/replica-<generation>`: this place is a copy, until a later generation makes it the
/// primary.
#[must_use]
pub fn replica_mark(generation: u64) -> String {
    format!("roster/replica-{generation}")
}

fn list_rosters(store: &dyn Store) -> Result<ListedRosters, RepoError> {
    let mut listed = ListedRosters::default();
    store.list("roster/", &mut |entry| {
        let Some(name) = entry.name.strip_prefix("roster/") else { return };
        if let Some(number) = name.strip_prefix("replica-") {
            listed.replica_of.extend(number.parse::<u64>().ok());
        } else if let Ok(seq) = u64::from_str_radix(name, 16)
            && Roster::object_name(seq) == entry.name
        {
            listed.texts.insert(seq, entry);
        }
    })?;
    Ok(listed)
}

/// Where another id was expected than the rosters have: FORMAT says which one it is.
fn other_repository(store: &dyn Store, id: RepositoryId, error: RepoError) -> RepoError {
    match read_format(store) {
        Ok(found) if found != id => {
            RepoError::Replaced { location: store.location(), pinned: id, found }
        }
        _ => error,
    }
}

/// Reads the chain of rosters from the one seen last (or the first) to the newest.
fn read_rosters(
    store: &dyn Store,
    cache: &TextCache,
    id: RepositoryId,
    listed: &ListedRosters,
    witness: &Witness,
) -> Result<(Roster, ObjectId), RepoError> {
    let first = witness.roster.map_or(1, |(seq, _)| seq);
    let mut newest: Option<(Roster, ObjectId)> = None;
    for (next, (seq, entry)) in (first..).zip(listed.texts.range(first..)) {
        let object = Roster::object_name(next);
        if next != *seq {
            return Err(RepoError::Chain { object });
        }
        let bytes = read_texts(store, cache, &[entry]).remove(0)?;
        let roster = Roster::open(&bytes, id).map_err(refused(&object))?;
        let hash = object_id(&bytes);
        let continues = match &newest {
            Some((before, before_hash)) => before.is_followed_by(&roster, *before_hash),
            None => roster.seq == next && witness.roster.is_none_or(|(_, seen)| seen == hash),
        };
        if !continues {
            return Err(RepoError::Chain { object });
        }
        newest = Some((roster, hash));
    }
    newest.ok_or_else(|| RepoError::Rollback {
        what: format!("{} is missing", Roster::object_name(first)),
    })
}
