//! Opening a repository: which one it is, and what its newest roster says.
//!
//! Nothing is believed before it is checked against the repository id that this host has pinned,
//! and nothing older than what it has seen is accepted.

use std::path::Path;
use std::sync::Arc;

use crate::crypto::ids::object_id;
use crate::format::limits;
use crate::format::roster::Roster;
use crate::format::signed_text::RosterReference;
use crate::id::{ObjectId, RepositoryId};
use crate::repo::error::RepoError;
use crate::repo::objects::refused;
use crate::repo::state::{StateDir, Witness};
use crate::store::{Store, StoreError};

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
        let found = read_format(&*store)?;
        let known = match pinned {
            Some(id) => Some(id),
            None => StateDir::known_at(states, &location)?,
        };
        if let Some(pinned) = known.filter(|pinned| *pinned != found) {
            return Err(RepoError::Replaced { location, pinned, found });
        }
        let state = StateDir::open(states, found)?;
        let witness = state.witness()?;
        let (roster, roster_hash) = read_rosters(&*store, found, &witness)?;
        StateDir::remember(states, &location, found)?;
        let repository = Self { store, id: found, roster, roster_hash, state };
        repository.see(|witness| witness.roster = Some(repository.roster_seen()))?;
        Ok(repository)
    }

    fn roster_seen(&self) -> (u64, ObjectId) {
        (self.roster.seq, self.roster_hash)
    }

    /// How texts that are written now name the roster.
    #[must_use]
    pub fn roster_reference(&self) -> RosterReference {
        RosterReference { seq: self.roster.seq, hash: self.roster_hash }
    }

    /// Changes the witness under its lock.
    pub fn see(&self, change: impl FnOnce(&mut Witness)) -> Result<(), RepoError> {
        let _lock = self.state.lock("witness.lock")?;
        let before = self.state.witness()?;
        let mut after = before.clone();
        change(&mut after);
        if after == before { Ok(()) } else { self.state.set_witness(&after) }
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

/// Reads the chain of rosters from the one seen last (or the first) to the newest.
fn read_rosters(
    store: &dyn Store,
    id: RepositoryId,
    witness: &Witness,
) -> Result<(Roster, ObjectId), RepoError> {
    let first = witness.roster.map_or(1, |(seq, _)| seq);
    let mut newest: Option<(Roster, ObjectId)> = None;
    for seq in first.. {
        let object = Roster::object_name(seq);
        let bytes = match store.get(&object, limits::SIGNED_TEXT_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => break,
            Err(error) => return Err(error.into()),
        };
        let roster = Roster::open(&bytes, id).map_err(refused(&object))?;
        let hash = object_id(&bytes);
        let continues = match &newest {
            Some((before, before_hash)) => before.is_followed_by(&roster, *before_hash),
            None => roster.seq == seq && witness.roster.is_none_or(|(_, seen)| seen == hash),
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
