//! Texts that a repository needs before it can be opened and checked.

use std::collections::{BTreeSet, HashMap};

use crate::crypto::ids::object_id;
use crate::format::commit::Commit;
use crate::format::limits;
use crate::format::roster::Roster;
use crate::format::signed_text::SignedText;
use crate::format::tombstone::Tombstone;
use crate::id::RepositoryId;
use crate::replica::error::{ReplicaError, at};
use crate::replica::heal::{Copy, Healed, replace, require_generation, whole_copy};
use crate::repo::error::RepoError;
use crate::repo::open::replica_mark;
use crate::store::{Store, StoreError};

/// What is at the place that is healed.
struct Place<'a> {
    store: &'a dyn Store,
    location: String,
    names: BTreeSet<String>,
    /// It follows another place: what is newer than it has comes by a copy, in the right order.
    is_replica: bool,
}

/// Fetches rosters, commits, tombstones, keys, FORMAT and the files that help which the copies have,
/// and the store has not, or has damaged. `pinned` is the repository that this host has seen there.
///
/// # Errors
/// [`ReplicaError::OtherRepository`], [`ReplicaError::Occupied`] and [`RepoError::NotThere`] where the
/// store is surely not this repository; copies of another generation; a failure of the store.
pub fn heal_texts(
    store: &dyn Store,
    pinned: Option<RepositoryId>,
    copies: &[Copy],
) -> Result<Vec<Healed>, ReplicaError> {
    let mut healed = Vec::new();
    let Some(place) = Place::read(store, pinned, copies)? else { return Ok(healed) };
    for copy in copies {
        let mut names = Vec::new();
        let listed = copy.repository.store.list("", &mut |entry| names.push(entry.name));
        if listed.is_err() {
            continue;
        }
        for name in names.into_iter().filter(|name| place.may_fetch(name)) {
            let ours = place.get(&name)?;
            // RECOVERY.md has no signature: another version may have written another one.
            let may_stay = |ours: &Vec<u8>| name == "RECOVERY.md" || is_sound(copy, &name, ours);
            if ours.as_ref().is_some_and(may_stay) {
                continue;
            }
            let Some(bytes) = whole_copy(copy, &name, &HashMap::new()) else { continue };
            if let Some(kept_aside) = replace(store, &name, bytes)? {
                healed.push(Healed { object: name, from: copy.name.clone(), kept_aside });
            }
        }
    }
    Ok(healed)
}

impl<'a> Place<'a> {
    /// Lists the store, and makes sure that it is the repository of the copies. Nothing without copies.
    fn read(
        store: &'a dyn Store,
        pinned: Option<RepositoryId>,
        copies: &[Copy],
    ) -> Result<Option<Self>, ReplicaError> {
        let Some(first) = copies.first() else { return Ok(None) };
        let (expected, location) = (first.repository.id, store.location());
        let other = |place: &str, found| ReplicaError::OtherRepository {
            place: place.to_owned(),
            expected,
            found,
        };
        if let Some(copy) = copies.iter().find(|copy| copy.repository.id != expected) {
            return Err(other(&copy.name, copy.repository.id));
        }
        if let Some(pinned) = pinned.filter(|pinned| *pinned != expected) {
            return Err(other(&location, pinned));
        }
        let mut names = BTreeSet::new();
        let list = store.list("", &mut |entry| {
            names.insert(entry.name);
        });
        list.map_err(at(&location))?;
        let generation = first.repository.roster.generation.number;
        let is_replica = names.contains(&replica_mark(generation));
        let this = Self { store, location, names, is_replica };
        let named = this.named_by_format()?;
        let newest = this.newest_roster(expected)?;
        // A roster is signed, FORMAT is not: where they differ, FORMAT is damaged.
        if let Some(found) = named.filter(|found| *found != expected && newest.is_none()) {
            return Err(other(&this.location, found));
        }
        let is_known = pinned.is_some() || named.is_some() || newest.is_some();
        if !is_known && this.names.is_empty() {
            return Err(RepoError::NotThere { location: this.location }.into());
        }
        if !is_known {
            return Err(ReplicaError::Occupied { place: this.location });
        }
        match newest {
            Some(roster) => require_generation(&this.location, roster.generation.number, copies)?,
            // Without a roster it could not be told from a second primary.
            None if !is_replica && copies.iter().any(|copy| !copy.repository.is_replica) => {
                require_generation(&this.location, 0, copies)?;
            }
            None => {}
        }
        Ok(Some(this))
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ReplicaError> {
        match self.store.get(name, limits::SIGNED_TEXT_BYTES_MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(StoreError::WrongSize { .. }) => Ok(Some(Vec::new())),
            Err(error) if error.is_unreadable() => Ok(Some(Vec::new())),
            Err(error) => Err(at(&self.location)(error)),
        }
    }

    fn named_by_format(&self) -> Result<Option<RepositoryId>, ReplicaError> {
        let text = self.get("FORMAT")?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        Ok(text.strip_prefix("holdfast 1 ").and_then(|id| id.trim_end().parse().ok()))
    }

    fn newest_roster(&self, id: RepositoryId) -> Result<Option<Roster>, ReplicaError> {
        for name in self.below("roster/").rev() {
            let bytes = self.get(name)?.unwrap_or_default();
            if let Ok(roster) = Roster::open(&bytes, id)
                && Roster::object_name(roster.seq) == *name
            {
                return Ok(Some(roster));
            }
        }
        Ok(None)
    }

    fn below(&self, folder: &'a str) -> impl DoubleEndedIterator<Item = &String> {
        let rest = self.names.range(folder.to_owned()..);
        rest.take_while(move |name| name.starts_with(folder)).collect::<Vec<_>>().into_iter()
    }

    /// Whether a text of this name is to be here, where a copy has it.
    fn may_fetch(&self, name: &str) -> bool {
        let folder = name.rfind('/').map_or("", |end| &name[..=end]);
        match name.split('/').next() {
            // Key files that were removed here stay removed, unless none is left.
            Some("keys") if name.starts_with("keys/operator-") => {
                self.names.contains(name) || self.below("keys/operator-").next().is_none()
            }
            Some("log" | "tomb") if self.is_replica => {
                self.below(folder).next_back().is_some_and(|last| name <= last.as_str())
            }
            Some("roster") => !name.starts_with("roster/replica-"),
            Some("log" | "tomb" | "keys" | "recovery" | "FORMAT" | "RECOVERY.md") => true,
            _ => false,
        }
    }
}

/// Whether a text that differs from the copy's may still be right: a newer or other text, validly
/// signed, is not damage.
pub(super) fn is_sound(copy: &Copy, name: &str, bytes: &[u8]) -> bool {
    let repository = &copy.repository;
    match name.split_once('/') {
        Some(("roster", _)) => Roster::open(bytes, repository.id)
            .is_ok_and(|roster| Roster::object_name(roster.seq) == name),
        Some(("log", rest)) => {
            let actor = rest.split('/').next().and_then(|actor| actor.parse().ok());
            let seq = name.rsplit('/').next().and_then(|seq| u64::from_str_radix(seq, 16).ok());
            let key = actor.zip(seq).and_then(|(a, s)| repository.roster.log_key(a, s));
            key.is_some_and(|key| Commit::open(bytes, key, repository.id).is_ok())
        }
        Some(("tomb", _)) => {
            let text = SignedText::split(bytes);
            let id = text.ok().and_then(|text| Tombstone::claimed_maintainer(&text));
            let maintainer = id.and_then(|id| repository.roster.maintainer(id));
            maintainer.is_some_and(|m| Tombstone::open(bytes, &m.key, repository.id).is_ok())
        }
        Some(("keys", file)) => name_fits(file.trim_end_matches(".age"), bytes),
        _ => false,
    }
}

fn name_fits(stem: &str, bytes: &[u8]) -> bool {
    let digits = stem.rsplit('-').next().unwrap_or_default();
    digits.len() == 16 && object_id(bytes).to_string().starts_with(digits)
}
