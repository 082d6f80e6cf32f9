//! A host that copies to a second store, and one that restores.

use std::collections::BTreeSet;

use holdfast::format::commit::ObjectName;
use holdfast::id::ActorId;
use holdfast::repo::history::{CommitRecord, History, SnapshotRecord};

use super::Flaw;
use super::world::{Content, GRACE, HOUR, Host, Key, Place, Stop};

pub struct Replicator {
    pub host: Host,
    pub flaw: Flaw,
    pub copies: u64,
    /// Deletes there what carried-over tombstones say is deleted.
    pub deletes: bool,
}

type Present = BTreeSet<Key>;

impl Replicator {
    pub async fn run(self) {
        for _ in 0..self.copies {
            self.host.pause(HOUR, 2 * GRACE).await;
            match self.copy().await {
                Ok(()) => self.host.count("copy"),
                Err(Stop::Refused(why)) => {
                    self.host.count(why);
                    self.host.note(|| format!("gives up: {why}"));
                }
                Err(_) => {}
            }
        }
    }

    async fn copy(&self) -> Result<(), Stop> {
        // All ages are told from before anything is read.
        let began = self.host.true_now();
        let history = self.host.history(Place::Source).await?;
        let present = self.host.list(Place::Replica, |_| true).await?;
        let mut present: Present = present.into_iter().map(|(key, _)| key).collect();
        if self.flaw != Flaw::CopyTombsLast {
            self.copy_tombs(&history, began, &mut present).await?;
        }
        let carried = self.host.history(Place::Replica).await?;
        // Maintainers' logs first: what they relocate must be known before the packs are missed.
        let mut logs: Vec<(&ActorId, &Vec<CommitRecord>)> = history.logs.iter().collect();
        if self.flaw != Flaw::CopyTombsLast {
            logs.reverse();
        }
        for (actor, records) in logs {
            self.host.sleep_at_times(150).await;
            for record in records {
                let commit = Key::Log(*actor, record.commit.seq);
                if present.contains(&commit) {
                    continue;
                }
                if self.flaw == Flaw::CopyCommitFirst {
                    self.transfer(commit, &mut present).await?;
                }
                self.copy_objects(&carried, began, record, &mut present).await?;
                if self.flaw != Flaw::CopyCommitFirst {
                    self.transfer(commit, &mut present).await?;
                }
            }
        }
        if self.flaw == Flaw::CopyTombsLast {
            self.copy_tombs(&history, began, &mut present).await?;
        }
        if self.deletes { self.delete_done(&present).await } else { Ok(()) }
    }

    /// Copies one object; whether the source had it.
    async fn transfer(&self, key: Key, present: &mut Present) -> Result<bool, Stop> {
        if present.contains(&key) {
            return Ok(true);
        }
        let Some(object) = self.host.get(Place::Source, key).await? else { return Ok(false) };
        self.host.put_shared(Place::Replica, key, object.content).await?;
        present.insert(key);
        Ok(true)
    }

    /// What the source has no more is passed over where the tombstones that were carried over say
    /// so: with them comes why nobody needs it. Where only newer ones do, the copy begins anew.
    async fn copy_objects(
        &self,
        carried: &History,
        began: u64,
        record: &CommitRecord,
        present: &mut Present,
    ) -> Result<(), Stop> {
        for put in &record.commit.puts {
            if self.transfer(Key::Object(put.name), present).await? {
                continue;
            }
            let newer = self.host.history(Place::Source).await?;
            if !is_said(&newer, &put.name) {
                return Err(Stop::Refused("copy: an object is missing"));
            }
            let is_stale = self.host.true_now() >= began + GRACE || !is_said(carried, &put.name);
            if self.flaw != Flaw::CopyTombsLast && is_stale {
                return Err(Stop::Refused("copy: begins anew"));
            }
            self.host.count("copy: skipped");
        }
        Ok(())
    }

    /// The prefix of the chain that was older than the grace time when the copy began.
    async fn copy_tombs(
        &self,
        history: &History,
        began: u64,
        present: &mut Present,
    ) -> Result<(), Stop> {
        let last = history.tomb.map_or(0, |(seq, _)| seq);
        for seq in 1..=last {
            let key = Key::Tomb(seq);
            let Some(tomb) = self.host.get(Place::Source, key).await? else { break };
            let is_young = began.saturating_sub(tomb.first_seen) < GRACE;
            if is_young && self.flaw != Flaw::CopyYoungTombs {
                break;
            }
            self.transfer(key, present).await?;
        }
        Ok(())
    }

    async fn delete_done(&self, present: &Present) -> Result<(), Stop> {
        let carried = self.host.history(Place::Replica).await?;
        for key in present {
            if let Key::Object(name) = key
                && carried.deleted.contains(name)
            {
                self.host.delete(Place::Replica, *key).await?;
            }
        }
        Ok(())
    }
}

/// Whether tombstones say that the object is gone, or may be.
fn is_said(history: &History, name: &ObjectName) -> bool {
    history.deleted.contains(name) || history.intents.contains_key(name)
}

/// Restores live snapshots while everything goes on.
pub struct Reader {
    pub host: Host,
    pub restores: u64,
}

impl Reader {
    pub async fn run(self) {
        for _ in 0..self.restores {
            self.host.pause(HOUR, 3 * GRACE).await;
            match self.restore().await {
                Ok(()) => self.host.count("restore"),
                Err(Stop::Refused(what)) => {
                    self.host.world.borrow_mut().violate(format!("a restore lacks {what}"));
                }
                Err(_) => {}
            }
        }
    }

    /// Commits before the index, the index before the packs.
    async fn restore(&self) -> Result<(), Stop> {
        let history = match self.host.history(Place::Source).await {
            Err(Stop::Refused(_)) => return Ok(()),
            other => other?,
        };
        // From forget to deletion: a restore of what is live now has that long.
        self.host.hurry(Some(GRACE));
        let live: Vec<&SnapshotRecord> = history.live().collect();
        let number = self.host.below(live.len() as u64) as usize;
        let Some(record) = live.get(number) else { return Ok(()) };
        let object = self.host.get(Place::Source, Key::Object(record.name.object_name())).await?;
        let Some(Content::Snapshot(chunks)) = object.as_ref().map(|object| &*object.content) else {
            return Err(Stop::Refused("its snapshot"));
        };
        let mut packs = Vec::new();
        let puts = history.logs.values().flatten().flat_map(|record| &record.commit.puts);
        for put in puts.filter(|put| matches!(put.name, ObjectName::Index(..))) {
            let object = self.host.get(Place::Source, Key::Object(put.name)).await?;
            if let Some(Content::Index(more)) = object.as_ref().map(|object| &*object.content) {
                packs.extend(more.iter().cloned());
            }
        }
        for chunk in chunks {
            let mut is_found = false;
            for (pack, _) in packs.iter().filter(|(_, chunks)| chunks.contains(chunk)) {
                let pack = Key::Object(ObjectName::Data(*pack));
                is_found = is_found || self.host.get(Place::Source, pack).await?.is_some();
            }
            if !is_found {
                return Err(Stop::Refused("a chunk"));
            }
        }
        Ok(())
    }
}
