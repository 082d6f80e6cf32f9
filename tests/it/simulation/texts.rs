//! The logs and the chain of tombstones: reading them with the program's own rules, and writing.

use std::collections::BTreeMap;

use holdfast::format::commit::{Commit, ObjectName, PutEntry, SnapshotEntry};
use holdfast::format::signed_text::{NO_PREVIOUS, RosterReference};
use holdfast::format::tombstone::{Declaration, Tombstone};
use holdfast::id::{ActorId, ObjectId, RepositoryId};
use holdfast::repo::history::{CommitRecord, History};
use holdfast::store::Put;

use super::world::{Content, Host, Key, Object, Place, Stop, time};

const REPOSITORY: RepositoryId = RepositoryId([7; 32]);
/// Actors with this first byte are maintainers.
const MAINTAINERS: u8 = 0xaa;

pub fn writer_id(number: usize) -> ActorId {
    ActorId([number as u8 + 1; 8])
}

pub fn maintainer_id(number: usize) -> ActorId {
    let mut id = [MAINTAINERS; 8];
    id[7] = number as u8;
    ActorId(id)
}

/// What a set of objects says; everything but logs and tombstones is passed over.
pub fn history_of(objects: impl Iterator<Item = (Key, Object)>) -> History {
    let mut logs: BTreeMap<ActorId, Vec<CommitRecord>> = BTreeMap::new();
    let mut tombs = Vec::new();
    for (key, object) in objects {
        match (&key, &*object.content) {
            (Key::Log(actor, _), Content::Commit(commit)) => {
                let first_seen = time(object.first_seen);
                let record = CommitRecord { commit: commit.clone(), hash: NO_PREVIOUS, first_seen };
                logs.entry(*actor).or_default().push(record);
            }
            (Key::Tomb(_), Content::Tomb(_)) => tombs.push(object),
            _ => {}
        }
    }
    let tombs: Vec<_> = tombs
        .iter()
        .map(|object| match &*object.content {
            Content::Tomb(tomb) => (tomb, NO_PREVIOUS, time(object.first_seen)),
            _ => unreachable!("only tombstones were taken"),
        })
        .collect();
    History::of_texts(logs, |actor| actor.0[0] == MAINTAINERS, &tombs)
}

fn has_gap(texts: &[(Key, Object)]) -> bool {
    let mut logs: BTreeMap<Option<ActorId>, (u64, u64)> = BTreeMap::new();
    for (key, _) in texts {
        let (chain, seq) = match key {
            Key::Log(actor, seq) => (Some(*actor), *seq),
            Key::Tomb(seq) => (None, *seq),
            Key::Object(_) => continue,
        };
        let (count, last) = logs.entry(chain).or_default();
        (*count, *last) = (*count + 1, seq.max(*last));
    }
    logs.values().any(|(count, last)| count != last)
}

pub fn is_log(key: &Key) -> bool {
    matches!(key, Key::Log(..))
}

pub fn is_tomb(key: &Key) -> bool {
    matches!(key, Key::Tomb(_))
}

impl Host {
    /// Logs first, tombstones after, as the program reads them.
    pub async fn history(&self, place: Place) -> Result<History, Stop> {
        let mut texts = self.list(place, is_log).await?;
        texts.extend(self.list(place, is_tomb).await?);
        // A listing may show the later of two new texts and not the earlier: nobody acts on that.
        if has_gap(&texts) {
            return Err(Stop::Refused("a text is missing"));
        }
        Ok(history_of(texts.into_iter()))
    }

    /// Puts a commit where the log of `actor` ends.
    pub async fn put_commit(
        &self,
        actor: ActorId,
        history: &History,
        puts: Vec<ObjectName>,
        snapshot: Option<SnapshotEntry>,
        relocations: Vec<SnapshotEntry>,
    ) -> Result<Put, Stop> {
        let seq = history.head(actor).map_or(1, |(seq, _)| seq + 1);
        let commit = Commit {
            repository: REPOSITORY,
            writer: actor,
            seq,
            prev: NO_PREVIOUS,
            roster: roster(),
            time: jiff::Timestamp::try_from(self.now()).unwrap(),
            puts: puts.into_iter().map(|name| PutEntry { name, bytes: 300 }).collect(),
            snapshot,
            relocations,
        };
        self.put(Place::Source, Key::Log(actor, seq), Content::Commit(commit)).await
    }

    /// Puts a tombstone after the one with number `after`.
    pub async fn put_tomb(
        &self,
        maintainer: ActorId,
        after: u64,
        declarations: Vec<Declaration>,
    ) -> Result<Put, Stop> {
        let tomb = Tombstone {
            repository: REPOSITORY,
            seq: after + 1,
            prev: NO_PREVIOUS,
            roster: roster(),
            maintainer,
            time: jiff::Timestamp::try_from(self.now()).unwrap(),
            declarations,
        };
        self.put(Place::Source, Key::Tomb(after + 1), Content::Tomb(tomb)).await
    }
}

fn roster() -> RosterReference {
    RosterReference { seq: 1, hash: ObjectId([0; 32]) }
}
