//! What is at the target of a copy, compared with the source before anything is written.

use std::collections::HashMap;

use crate::crypto::ids::object_id;
use crate::format::commit::Commit;
use crate::format::limits;
use crate::format::roster::Roster;
use crate::format::tombstone::Tombstone;
use crate::id::{ActorId, ObjectId, RepositoryId};
use crate::replica::error::{ReplicaError, at};
use crate::repo::history::History;
use crate::repo::open::{Repository, replica_mark};
use crate::store::{Entry, Store, StoreError};

/// The target of a copy.
pub(super) struct Target<'a> {
    pub store: &'a dyn Store,
    pub place: String,
    /// All objects.
    pub stored: HashMap<String, Entry>,
    /// Texts of an older generation that are in the way of those of the source.
    pub in_the_way: Vec<String>,
}

impl<'a> Target<'a> {
    /// Lists the target and looks whether it can be a copy of the source.
    pub(super) fn read(
        source: &Repository,
        history: &History,
        store: &'a dyn Store,
    ) -> Result<Self, ReplicaError> {
        let place = store.location();
        if place == source.store.location() {
            return Err(ReplicaError::SamePlace { place });
        }
        let mut stored = HashMap::new();
        let listed = store.list("", &mut |entry| {
            stored.insert(entry.name.clone(), entry);
        });
        listed.map_err(at(&place))?;
        let mut this = Self { store, place, stored, in_the_way: Vec::new() };
        this.check_identity(source)?;
        let older = this.check_rosters(source)?;
        this.check_mark(source, older)?;
        this.check_logs(source, history, older)?;
        this.check_tombs(source, history, older)?;
        Ok(this)
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, ReplicaError> {
        self.store.get(name, limits::SIGNED_TEXT_BYTES_MAX).map_err(at(&self.place))
    }

    fn check_identity(&self, source: &Repository) -> Result<(), ReplicaError> {
        let has_begun = self.stored.keys().any(|name| name.starts_with("roster/"));
        if self.stored.contains_key("FORMAT") {
            let text = self.get("FORMAT")?;
            let text = String::from_utf8_lossy(&text);
            let found = text.strip_prefix("holdfast 1 ").and_then(|id| id.trim_end().parse().ok());
            return match found {
                Some(found) if found == source.id => Ok(()),
                Some(found) => Err(self.other(source.id, found)),
                None => Err(ReplicaError::Occupied { place: self.place.clone() }),
            };
        }
        if has_begun || self.stored.is_empty() {
            Ok(()) // A copy that was stopped early: its rosters are compared below.
        } else {
            Err(ReplicaError::Occupied { place: self.place.clone() })
        }
    }

    fn other(&self, expected: RepositoryId, found: RepositoryId) -> ReplicaError {
        ReplicaError::OtherRepository { place: self.place.clone(), expected, found }
    }

    fn diverged(&self, object: String) -> ReplicaError {
        ReplicaError::Diverged { place: self.place.clone(), object }
    }

    /// Whether it has become the primary while it was copied to: what was put since does not count.
    pub(super) fn require_generation(&self, source: &Repository) -> Result<(), ReplicaError> {
        let mut newest = 0;
        let listed = self.store.list("roster/", &mut |entry| {
            let seq = entry.name.strip_prefix("roster/").map(|seq| u64::from_str_radix(seq, 16));
            newest = newest.max(seq.and_then(Result::ok).unwrap_or(0));
        });
        listed.map_err(at(&self.place))?;
        if newest <= source.roster.seq {
            return Ok(());
        }
        let source_generation = source.roster.generation.number;
        let roster = Roster::open(&self.get(&Roster::object_name(newest))?, source.id);
        let found = roster.map_or(source_generation, |roster| roster.generation.number);
        if found > source_generation {
            return Err(ReplicaError::Promoted {
                place: self.place.clone(),
                found,
                source_generation,
            });
        }
        Ok(())
    }

    /// The primary does not become a replica of its copy.
    fn check_mark(&self, source: &Repository, is_older: bool) -> Result<(), ReplicaError> {
        let generation = source.roster.generation.number;
        let is_whole = self.stored.contains_key("FORMAT");
        let is_marked = self.stored.contains_key(&replica_mark(generation));
        let is_primary = is_whole && !is_marked && !is_older;
        if is_primary && (source.is_replica || source.state.was_primary(&self.place, generation)?) {
            return Err(ReplicaError::IsPrimary { place: self.place.clone() });
        }
        Ok(())
    }

    /// Whether the target is of an earlier generation than the source.
    fn check_rosters(&mut self, source: &Repository) -> Result<bool, ReplicaError> {
        let seqs = self.stored.keys().filter_map(|name| {
            let seq = u64::from_str_radix(name.strip_prefix("roster/")?, 16).ok()?;
            (Roster::object_name(seq) == *name).then_some(seq)
        });
        let mut seqs: Vec<u64> = seqs.collect();
        seqs.sort_unstable();
        let Some(newest) = seqs.last().copied() else { return Ok(false) };
        let object = Roster::object_name(newest);
        let bytes = self.get(&object)?;
        let roster = Roster::open(&bytes, source.id)
            .map_err(|_| ReplicaError::Occupied { place: self.place.clone() })?;
        let (own, theirs) = (source.roster.generation.number, roster.generation.number);
        if theirs > own {
            return Err(ReplicaError::Promoted {
                place: self.place.clone(),
                found: theirs,
                source_generation: own,
            });
        }
        let is_same = newest <= source.roster.seq && {
            let ours = source.store.get(&object, limits::SIGNED_TEXT_BYTES_MAX);
            ours.map_err(at(&source.store.location()))? == bytes
        };
        if is_same {
            return Ok(theirs < own);
        }
        if theirs == own {
            return Err(if newest > source.roster.seq {
                ReplicaError::Ahead { place: self.place.clone(), object }
            } else {
                self.diverged(object)
            });
        }
        // Rosters that the lost primary made after the promotion.
        for seq in seqs {
            let name = Roster::object_name(seq);
            let ours = source.store.get(&name, limits::SIGNED_TEXT_BYTES_MAX);
            let differs = match ours {
                Ok(ours) => ours != self.get(&name)?,
                Err(StoreError::NotFound { .. }) => true,
                Err(error) => return Err(at(&source.store.location())(error)),
            };
            if differs {
                self.in_the_way.push(name);
            }
        }
        Ok(true)
    }

    fn check_logs(
        &mut self,
        source: &Repository,
        history: &History,
        is_older: bool,
    ) -> Result<(), ReplicaError> {
        let mut logs: HashMap<ActorId, Vec<u64>> = HashMap::new();
        for name in self.stored.keys() {
            let Some((actor, seq)) = name.strip_prefix("log/").and_then(|n| n.split_once('/'))
            else {
                continue;
            };
            let parsed = actor.parse().ok().zip(u64::from_str_radix(seq, 16).ok());
            if let Some((actor, seq)) = parsed.filter(|(a, s)| Commit::object_name(*a, *s) == *name)
            {
                logs.entry(actor).or_default().push(seq);
            }
        }
        for (actor, mut seqs) in logs {
            seqs.sort_unstable();
            let records = history.logs.get(&actor).map(Vec::as_slice).unwrap_or_default();
            let hashes: HashMap<u64, ObjectId> =
                records.iter().map(|record| (record.commit.seq, record.hash)).collect();
            let head = records.last().map_or(0, |record| record.commit.seq);
            // One equal commit vouches for all before it, by the chain.
            for seq in seqs.into_iter().rev() {
                let object = Commit::object_name(actor, seq);
                if seq > head && !is_older {
                    if source.roster.writer(actor).is_some_and(|w| w.revoked_after.is_some()) {
                        continue; // Beyond a revocation: it counts nowhere.
                    }
                    return Err(ReplicaError::Ahead { place: self.place.clone(), object });
                }
                let bytes = self.get(&object)?;
                if hashes.get(&seq) == Some(&object_id(&bytes)) {
                    break;
                }
                if !is_older {
                    return Err(self.diverged(object));
                }
                self.in_the_way.push(object);
            }
        }
        Ok(())
    }

    fn check_tombs(
        &mut self,
        source: &Repository,
        history: &History,
        is_older: bool,
    ) -> Result<(), ReplicaError> {
        let seqs = self.stored.keys().filter_map(|name| {
            let seq = u64::from_str_radix(name.strip_prefix("tomb/")?, 16).ok()?;
            (Tombstone::object_name(seq) == *name).then_some(seq)
        });
        let mut seqs: Vec<u64> = seqs.collect();
        seqs.sort_unstable();
        let head = history.tomb.map_or(0, |(seq, _)| seq);
        for seq in seqs.into_iter().rev() {
            let object = Tombstone::object_name(seq);
            if seq > head && !is_older {
                return Err(ReplicaError::Ahead { place: self.place.clone(), object });
            }
            let is_same = seq <= head && {
                let ours = source.store.get(&object, limits::SIGNED_TEXT_BYTES_MAX);
                ours.map_err(at(&source.store.location()))? == self.get(&object)?
            };
            if is_same {
                break;
            }
            if !is_older {
                return Err(self.diverged(object));
            }
            self.in_the_way.push(object);
        }
        Ok(())
    }
}
