//! A host that copies to a second store, and one that restores.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast::format::commit::ObjectName;
use holdfast::id::ActorId;
use holdfast::maintenance::prune_plan::input::is_older;
use holdfast::repo::history::{CommitRecord, History, SnapshotRecord};

use super::Flaw;
use super::world::{Content, GRACE, HOUR, Host, Key, Place, Stop, time};

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
        let history = self.host.history(Place::Source).await?;
        let present = self.host.list(Place::Replica, |_| true).await?;
        let mut present: Present = present.into_iter().map(|(key, _)| key).collect();
        if self.flaw != Flaw::CopyTombsLast {
            self.copy_tombs(&history, &mut present).await?;
        }
        // Maintainers' logs first: what they relocate must be known before the packs are missed.
        let mut logs: Vec<(&ActorId, &Vec<CommitRecord>)> = history.logs.iter().collect();
        if self.flaw != Flaw::CopyTombsLast {
            logs.reverse();
        }
        for (actor, records) in logs {
            for record in records {
                let commit = Key::Log(*actor, record.commit.seq);
                if present.contains(&commit) {
                    continue;
                }
                if self.flaw == Flaw::CopyCommitFirst {
                    self.transfer(commit, &mut present).await?;
                }
                self.copy_objects(&history, record, &mut present).await?;
                if self.flaw != Flaw::CopyCommitFirst {
                    self.transfer(commit, &mut present).await?;
                }
            }
        }
        if self.flaw == Flaw::CopyTombsLast {
            self.copy_tombs(&history, &mut present).await?;
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

    async fn copy_objects(
        &self,
        history: &History,
        record: &CommitRecord,
        present: &mut Present,
    ) -> Result<(), Stop> {
        for put in &record.commit.puts {
            if self.transfer(Key::Object(put.name), present).await? {
                continue;
            }
            let newer = self.host.history(Place::Source).await?;
            if !self.is_gone(&newer, &put.name) {
                return Err(Stop::Refused("copy: an object is missing"));
            }
            self.host.count("copy: skipped");
            if self.flaw != Flaw::CopyTombsLast && !self.is_gone(history, &put.name) {
                // It went while this copy ran: what its deletion rests on is not copied yet.
                return Err(Stop::Refused("copy: begins anew"));
            }
        }
        Ok(())
    }

    fn is_gone(&self, history: &History, name: &ObjectName) -> bool {
        let (now, grace) = (time(self.host.true_now()), Duration::from_secs(GRACE));
        let is_past = |since: &std::time::SystemTime| is_older(now, *since, grace);
        history.deleted.contains(name) || history.intents.get(name).is_some_and(is_past)
    }

    /// The prefix of the chain that is older than the grace time.
    async fn copy_tombs(&self, history: &History, present: &mut Present) -> Result<(), Stop> {
        let last = history.tomb.map_or(0, |(seq, _)| seq);
        for seq in 1..=last {
            let key = Key::Tomb(seq);
            let Some(tomb) = self.host.get(Place::Source, key).await? else { break };
            let age = self.host.true_now().saturating_sub(tomb.first_seen);
            if age < GRACE && self.flaw != Flaw::CopyYoungTombs {
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
