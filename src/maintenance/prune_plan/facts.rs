//! Who needs what: the fate of each stored object, from everything that is known.
//!
//! Doubt is need: an object goes only when it is certain that nothing leads to it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use crate::maintenance::prune_plan::input::{CommitPosition, PrunableKind, PruneInput, is_older};
use crate::maintenance::prune_plan::usage::PackUsage;
use crate::store::Entry;

/// Why an object goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No valid commit names it.
    Orphan,
    /// A pack that no needed snapshot uses.
    Unused,
    /// Snapshot or refs of a snapshot forgotten longer than the grace time ago, or refs that newer
    /// ones replaced.
    Forgotten,
    /// An index segment whose packs are gone and whose handles no needed snapshot refers to.
    PacksGone,
}

/// What becomes of a stored object.
pub enum Fate {
    /// Stays.
    Needed,
    /// No one needs it yet: too young, or perhaps of a running backup.
    Held,
    /// Goes.
    Dead(Cause),
}

/// The input, turned for looking things up.
pub struct Facts<'a> {
    now: SystemTime,
    grace: Duration,
    /// Everything first seen since then may be of a running backup.
    running_since: Option<SystemTime>,
    usage: &'a PackUsage,
    stored: HashSet<&'a str>,
    /// Objects that valid commits put, each with the commits that do.
    commits_of: HashMap<&'a str, Vec<CommitPosition>>,
    packs_of: HashMap<CommitPosition, Vec<&'a str>>,
    /// Snapshot and refs objects of needed snapshots.
    needed: HashSet<&'a str>,
    /// Snapshot and refs objects known to be needed by no one, unless `needed` has them.
    forgotten: HashSet<&'a str>,
}

impl<'a> Facts<'a> {
    /// Reads everything once.
    pub fn new(input: &PruneInput<'a>) -> Self {
        let mut facts = Self {
            now: input.now,
            grace: input.options.grace,
            running_since: input.running.iter().map(|run| run.began).min(),
            usage: input.usage,
            stored: input.stored.iter().map(|entry| entry.name.as_str()).collect(),
            commits_of: HashMap::new(),
            packs_of: HashMap::new(),
            needed: HashSet::new(),
            forgotten: HashSet::new(),
        };
        for object in input.committed {
            facts.commits_of.entry(&object.name).or_default().push(object.commit);
            if PrunableKind::of(&object.name) == Some(PrunableKind::Pack) {
                facts.packs_of.entry(object.commit).or_default().push(&object.name);
            }
        }
        for snapshot in input.snapshots {
            let objects = [&snapshot.name, &snapshot.refs_first, &snapshot.refs_newest];
            let objects = objects.into_iter().map(String::as_str);
            if snapshot.is_needed(facts.now, facts.grace) {
                facts.needed.extend(objects);
            } else {
                facts.forgotten.extend(objects);
            }
            facts.forgotten.extend(snapshot.refs_superseded.iter().map(String::as_str));
        }
        facts
    }

    /// What becomes of a stored object of this kind.
    #[must_use]
    pub fn fate(&self, kind: PrunableKind, entry: &Entry) -> Fate {
        let Some(cause) = self.cause(kind, &entry.name) else {
            return Fate::Needed;
        };
        let may_be_running = self.running_since.is_some_and(|since| entry.first_seen >= since);
        if may_be_running || !is_older(self.now, entry.first_seen, self.grace) {
            return Fate::Held;
        }
        Fate::Dead(cause)
    }

    /// Why no snapshot needs the object, if none does.
    fn cause(&self, kind: PrunableKind, name: &str) -> Option<Cause> {
        // Use comes before everything: refs may name what a commit no longer counted did put.
        if self.needed.contains(name) || self.usage.uses(name) {
            return None;
        }
        let Some(commits) = self.commits_of.get(name) else {
            return Some(Cause::Orphan);
        };
        match kind {
            PrunableKind::Pack => Some(Cause::Unused),
            PrunableKind::Snapshot | PrunableKind::Refs => {
                self.forgotten.contains(name).then_some(Cause::Forgotten)
            }
            PrunableKind::Index => {
                commits.iter().all(|commit| self.are_gone(*commit)).then_some(Cause::PacksGone)
            }
        }
    }

    /// Whether no pack of the commit is stored or addressed. A commit without packs says nothing
    /// about what its index segment covers; then the segment stays.
    fn are_gone(&self, commit: CommitPosition) -> bool {
        self.packs_of.get(&commit).is_some_and(|packs| {
            packs.iter().all(|pack| !self.stored.contains(pack) && !self.usage.addresses(pack))
        })
    }

    /// What needed snapshots need and the store has not, sorted.
    pub fn missing(&self, input: &PruneInput<'_>) -> Vec<String> {
        let needed = self.needed.iter().copied().chain(self.usage.used_packs());
        let index = input.committed.iter().filter(|object| {
            PrunableKind::of(&object.name) == Some(PrunableKind::Index)
                && self.packs_of.get(&object.commit).is_some_and(|packs| {
                    packs.iter().any(|pack| self.usage.addresses(pack) || self.usage.uses(pack))
                })
        });
        let needed = needed.chain(index.map(|object| object.name.as_str()));
        let mut missing: Vec<String> =
            needed.filter(|name| !self.stored.contains(name)).map(str::to_owned).collect();
        missing.sort();
        missing.dedup();
        missing
    }
}
