//! A host that forgets, recalls, prunes and repacks: the steps of `maintenance`, with its own
//! planning.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet, btree_map};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use holdfast::format::commit::{ObjectName, SnapshotEntry};
use holdfast::format::refs::PackUse;
use holdfast::format::tombstone::{Declaration, Remark};
use holdfast::id::{ActorId, DomainId, ObjectId};
use holdfast::maintenance::prune::{announcement, declarations};
use holdfast::maintenance::prune_plan::input::{PruneOptions, RunningBackup};
use holdfast::maintenance::prune_plan::repack::{MaxUnused, Repack};
use holdfast::maintenance::prune_plan::usage::PackUsage;
use holdfast::maintenance::prune_plan::{CLOCK_BEHIND_MAX, DeadObject, PrunePlan, plan_prune};
use holdfast::maintenance::prune_state::{PruneState, add_usage, heads};
use holdfast::repo::history::{History, SnapshotRecord};
use holdfast::store::{Entry, Put};

use super::world::{Content, GRACE, HOUR, Host, Key, Object, Place, Stop, time};
use super::writer::{LocalState, pack_use};
use super::{Flaw, Focus};

/// Deletions between two looks at the logs.
const DELETIONS_PER_LOOK: usize = 3;
const ATTEMPTS: usize = 8;

pub struct Maintainer {
    pub host: Host,
    pub id: ActorId,
    /// A writer on the same host: its runs are known to be running.
    pub neighbour: Option<(ActorId, Rc<RefCell<LocalState>>)>,
    /// Only one maintainer should repack.
    pub may_repack: bool,
    pub flaw: Flaw,
    pub focus: Focus,
    pub actions: u64,
}

/// What was read for a plan, with the contents that a plan does not look at.
struct Gathered {
    state: PruneState,
    refs: BTreeMap<ObjectId, Vec<PackUse>>,
}

impl Maintainer {
    pub async fn run(self) {
        for _ in 0..self.actions {
            self.host.pause(4 * HOUR, GRACE).await;
            let ended = match self.host.below(10) {
                0..=1 => self.forget().await,
                2 => self.recall().await,
                3..=5 if self.focus == Focus::Recalls => self.recall().await,
                3..=6 if self.may_repack && self.focus == Focus::Repacks => self.repack().await,
                3 if self.may_repack => self.repack().await,
                _ => self.prune().await,
            };
            self.host.hurry(None);
            if let Err(Stop::Refused(why)) = ended {
                self.host.count(why);
                self.host.note(|| format!("gives up: {why}"));
            }
        }
    }

    fn grace(&self) -> Duration {
        let seconds = if self.flaw == Flaw::NoGrace { 0 } else { GRACE };
        Duration::from_secs(seconds)
    }

    fn pick<'h>(
        &self,
        history: &'h History,
        wanted: impl Fn(&SnapshotRecord) -> bool,
    ) -> Option<&'h SnapshotRecord> {
        let all: Vec<_> = history.snapshots.iter().filter(|record| wanted(record)).collect();
        let number = self.host.below(all.len() as u64) as usize;
        all.get(number).copied()
    }

    async fn forget(&self) -> Result<(), Stop> {
        for _ in 0..ATTEMPTS {
            let history = self.host.history(Place::Source).await?;
            let records = [(); 2].map(|()| self.pick(&history, SnapshotRecord::is_live));
            let reason = Remark::lossy("simulated");
            let forget = |record: &SnapshotRecord| Declaration::Forget {
                snapshot: record.name,
                reason: reason.clone(),
            };
            let all: Vec<_> = records.into_iter().flatten().map(forget).collect();
            if self.declare(&history, all).await?.is_some() {
                self.host.count("forget");
                return Ok(());
            }
        }
        Err(Stop::Refused("contended"))
    }

    /// Appends to the chain that `history` has read; nothing where it has grown since: whoever
    /// planned on it plans anew. Without declarations nothing is written.
    async fn declare(
        &self,
        history: &History,
        declarations: Vec<Declaration>,
    ) -> Result<Option<SystemTime>, Stop> {
        if declarations.is_empty() {
            return Ok(Some(SystemTime::UNIX_EPOCH));
        }
        let mut head = history.tomb.map_or(0, |(seq, _)| seq);
        if self.flaw == Flaw::StaleDeclarations {
            head = self.host.history(Place::Source).await?.tomb.map_or(0, |(seq, _)| seq);
        }
        for _ in 0..ATTEMPTS {
            match self.host.put_tomb(self.id, head, declarations.clone()).await? {
                Put::Created => {
                    let tomb = self.host.get(Place::Source, Key::Tomb(head + 1)).await?;
                    return Ok(tomb.map(|tomb| time(tomb.first_seen)));
                }
                Put::Exists if self.flaw == Flaw::StaleDeclarations => {
                    head = self.host.history(Place::Source).await?.tomb.map_or(0, |(seq, _)| seq);
                }
                Put::Exists => break,
            }
        }
        Ok(None)
    }

    async fn read_refs(&self, name: ObjectName) -> Result<Vec<PackUse>, Stop> {
        let object = self.host.get(Place::Source, Key::Object(name)).await?;
        match object.as_ref().map(|object| &*object.content) {
            Some(Content::Refs(lines)) => Ok(lines.clone()),
            _ => Err(Stop::Refused("refs are gone")),
        }
    }

    /// Running backups, the listing, the logs, the refs: in this order.
    async fn gather(&self, now: SystemTime) -> Result<Gathered, Stop> {
        let running = self.neighbour.as_ref().and_then(|(writer, local)| {
            let began = local.borrow().running?.checked_sub(CLOCK_BEHIND_MAX)?;
            Some(RunningBackup { writer: *writer, began })
        });
        let is_object = |key: &Key| matches!(key, Key::Object(_));
        let stored = self.host.list(Place::Source, is_object).await?;
        let entry = |(key, object): &(Key, Object)| match key {
            Key::Object(name) => Some(Entry {
                name: name.to_string(),
                size: 300,
                first_seen: time(object.first_seen),
            }),
            _ => None,
        };
        let stored: Vec<Entry> = stored.iter().filter_map(entry).collect();
        let history = self.host.history(Place::Source).await?;
        // Which refs are needed says the plan's own rule; they are read one after the other.
        let parts = |history, usage| {
            let running = running.into_iter().collect();
            PruneState::of_parts(now, self.grace(), stored, history, running, usage)
        };
        let mut wanted = Vec::new();
        for record in &history.snapshots {
            let since = record.forgotten;
            let is_old =
                |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= self.grace());
            if !since.is_some_and(is_old) && !record.is_deleted {
                wanted.extend([record.refs, record.original]);
            }
        }
        let mut refs = BTreeMap::new();
        for entry in wanted {
            if let btree_map::Entry::Vacant(place) = refs.entry(entry.refs) {
                let name = ObjectName::Refs(entry.refs_actor, entry.refs);
                place.insert(self.read_refs(name).await?);
            }
        }
        let state = parts(
            history,
            |_: &History, needed: &[holdfast::maintenance::prune_state::Needed<'_>]| {
                let mut usage = PackUsage::default();
                for (record, state) in needed {
                    let known = (refs.get(&record.refs.refs), refs.get(&record.original.refs));
                    let (Some(newest), Some(first)) = known else {
                        return Err(Stop::Refused("refs are not known"));
                    };
                    add_usage(&mut usage, state, newest, first);
                }
                Ok(usage)
            },
        )?;
        Ok(Gathered { state, refs })
    }

    fn options(&self) -> PruneOptions {
        PruneOptions {
            grace: self.grace(),
            repack: Repack::Allowed { max_unused: MaxUnused::Percent(0), pack_bytes_max: 600 },
            deleted_objects_max: u64::MAX,
            deleted_bytes_max: u64::MAX,
        }
    }

    async fn plan(&self, now: SystemTime) -> Result<(Gathered, PrunePlan), Stop> {
        let gathered = self.gather(now).await?;
        let plan = plan_prune(&gathered.state.input(self.options()));
        let plan = plan.map_err(|_| Stop::Refused("prune: not sure"))?;
        Ok((gathered, plan))
    }

    async fn prune(&self) -> Result<(), Stop> {
        for _ in 0..ATTEMPTS {
            let now = self.host.now();
            let (gathered, plan) = self.plan(now).await?;
            self.host.note(|| format!("plans {plan:?}"));
            self.host.sleep_at_times(150).await;
            let mut said = announcement(&plan);
            if self.flaw == Flaw::HeldWithdrawn {
                said.extend(self.withdrawn_as_held(&gathered));
            }
            let declared = self.declare(&gathered.state.history, said).await?;
            let Some(store_now) = declared else { continue };
            self.host.count("prune");
            if plan.deletions.is_empty() {
                return Ok(());
            }
            let now = self.host.now().min(store_now);
            return self.delete(plan.deletions, now, gathered).await;
        }
        Err(Stop::Refused("contended"))
    }

    /// What a plan took back before it minded the age of intents.
    fn withdrawn_as_held(&self, gathered: &Gathered) -> Vec<Declaration> {
        let running = self.neighbour.as_ref().and_then(|(_, local)| local.borrow().running);
        let Some(began) = running else { return Vec::new() };
        let history = &gathered.state.history;
        let held = gathered.state.stored.iter().filter(|entry| entry.first_seen >= began);
        let names = held.filter_map(|entry| entry.name.parse::<ObjectName>().ok());
        names.filter(|name| history.intents.contains_key(name)).map(Declaration::Withdraw).collect()
    }

    /// Those of the announced objects that a second reading finds due as well.
    async fn delete(
        &self,
        announced: Vec<DeadObject>,
        now: SystemTime,
        mut read: Gathered,
    ) -> Result<(), Stop> {
        let names: HashSet<String> = announced.iter().map(|dead| dead.name.clone()).collect();
        let mut due = announced;
        if self.flaw != Flaw::NoSecondReading {
            let (gathered, plan) = self.plan(now).await?;
            (read, due) = (gathered, plan.deletions);
            due.retain(|dead| names.contains(&dead.name));
        }
        self.host.sleep_at_times(400).await;
        let mut done = Vec::new();
        while !due.is_empty() {
            let rest = due.split_off(due.len().min(DELETIONS_PER_LOOK));
            for dead in due {
                let name: ObjectName = dead.name.parse().unwrap();
                self.host.delete(Place::Source, Key::Object(name)).await?;
                done.push(dead);
            }
            due = rest;
            if !due.is_empty() && self.flaw != Flaw::NoSecondReading {
                self.look_again(&names, now, &mut read, &mut due).await?;
            }
        }
        self.declare_done(&done).await
    }

    async fn look_again(
        &self,
        names: &HashSet<String>,
        now: SystemTime,
        read: &mut Gathered,
        due: &mut Vec<DeadObject>,
    ) -> Result<(), Stop> {
        let history = self.host.history(Place::Source).await?;
        if heads(&history) != heads(&read.state.history) {
            let (newer, plan) = self.plan(now).await?;
            let still: HashSet<&str> = plan.deletions.iter().map(|dead| &*dead.name).collect();
            due.retain(|dead| still.contains(&*dead.name) && names.contains(&dead.name));
            *read = newer;
        }
        Ok(())
    }

    /// What is gone is gone, whatever was declared meanwhile.
    async fn declare_done(&self, done: &[DeadObject]) -> Result<(), Stop> {
        for _ in 0..ATTEMPTS {
            let history = self.host.history(Place::Source).await?;
            let all = declarations(done, Declaration::Done);
            if self.declare(&history, all).await?.is_some() {
                return Ok(());
            }
        }
        Err(Stop::Refused("contended"))
    }

    /// Lists a snapshot again, where nothing that it needs may be about to go.
    async fn recall(&self) -> Result<(), Stop> {
        for _ in 0..ATTEMPTS {
            self.host.hurry(Some(GRACE / 2 - 1));
            let history = self.host.history(Place::Source).await?;
            let is_recallable =
                |record: &SnapshotRecord| record.forgotten.is_some() && !record.is_deleted;
            let Some(record) = self.pick(&history, is_recallable) else { return Ok(()) };
            let needed = self.needed_objects(&history, record).await?;
            let is_object = |key: &Key| matches!(key, Key::Object(_));
            let stored = self.host.list(Place::Source, is_object).await?;
            let stored: BTreeSet<Key> = stored.into_iter().map(|(key, _)| key).collect();
            if needed.iter().any(|name| !stored.contains(&Key::Object(*name))) {
                return Err(Stop::Refused("recall: gone"));
            }
            let intended: Vec<ObjectName> =
                needed.into_iter().filter(|name| history.intents.contains_key(name)).collect();
            let (now, grace) = (time(self.host.true_now()), Duration::from_secs(GRACE));
            if self.flaw != Flaw::RecallUnchecked
                && intended.iter().any(|name| history.is_doomed(name, now, grace))
            {
                return Err(Stop::Refused("recall: intents are old"));
            }
            let mut all = vec![Declaration::Recall(record.name)];
            all.extend(intended.into_iter().map(Declaration::Withdraw));
            if self.declare(&history, all).await?.is_some() {
                self.host.count("recall");
                return Ok(());
            }
            self.host.hurry(None);
        }
        Err(Stop::Refused("contended"))
    }

    async fn needed_objects(
        &self,
        history: &History,
        record: &SnapshotRecord,
    ) -> Result<BTreeSet<ObjectName>, Stop> {
        let name = |entry: &SnapshotEntry| ObjectName::Refs(entry.refs_actor, entry.refs);
        let (newest, first) = (name(&record.refs), name(&record.original));
        let packs = |lines: &[PackUse]| -> BTreeSet<ObjectName> {
            lines.iter().map(|line| ObjectName::Data(line.pack)).collect()
        };
        let mut objects = packs(&self.read_refs(newest).await?);
        let mut addressed = packs(&self.read_refs(first).await?);
        addressed.extend(&objects);
        objects.extend([record.name.object_name(), newest, first]);
        for commit in history.logs.values().flatten().map(|record| &record.commit) {
            if commit.puts.iter().any(|put| addressed.contains(&put.name)) {
                let names = commit.puts.iter().map(|put| put.name);
                objects.extend(names.filter(|name| matches!(name, ObjectName::Index(..))));
            }
        }
        Ok(objects)
    }

    /// Writes the used chunks of a pack anew, and gives the snapshots that use it newer refs.
    async fn repack(&self) -> Result<(), Stop> {
        let (gathered, plan) = self.plan(self.host.now()).await?;
        let Some(candidate) = plan.repack.first() else { return Ok(()) };
        let old: ObjectName = candidate.pack.parse().unwrap();
        let Some(domain) = domain_of_pack(&gathered.state.history, old) else { return Ok(()) };
        let object = self.host.get(Place::Source, Key::Object(old)).await?;
        let Some(Content::Pack(all)) = object.as_ref().map(|object| &*object.content) else {
            return Err(Stop::Refused("repack: gone"));
        };
        let records: Vec<&SnapshotRecord> = gathered.state.needed(self.grace()).collect();
        let lines = records.iter().filter_map(|record| gathered.refs.get(&record.refs.refs));
        let lines = lines.flatten().filter(|line| line.pack == old.id());
        let used = |chunk: &&u32| {
            let ordinal = all.iter().position(|other| other == *chunk).unwrap_or(0) as u32;
            lines.clone().any(|line| line.used.contains(ordinal))
        };
        let kept: Vec<u32> = all.iter().filter(used).copied().collect();
        let (pack, index) = (self.host.draw_id(), self.host.draw_id());
        let (pack, index) = (ObjectName::Data(pack), ObjectName::Index(domain, index));
        self.host.put(Place::Source, Key::Object(pack), Content::Pack(kept.clone())).await?;
        let content = Content::Index(vec![(pack.id(), kept.clone())]);
        self.host.put(Place::Source, Key::Object(index), content).await?;
        if self.host.chance(400) {
            self.host.pause(GRACE / 2, 6 * GRACE).await;
        }
        self.relocate(&gathered, (old.id(), all), (pack, index, &kept)).await
    }

    async fn relocate(
        &self,
        gathered: &Gathered,
        old: (ObjectId, &[u32]),
        new: (ObjectName, ObjectName, &[u32]),
    ) -> Result<(), Stop> {
        let (pack, index, kept) = new;
        self.host.hurry(Some(GRACE / 2 - 1));
        let history = self.host.history(Place::Source).await?;
        let is_unchanged = |record: &&&SnapshotRecord| {
            let now = history.snapshots.iter().find(|other| other.name == record.name);
            now.is_some_and(|now| now.refs == record.refs && !now.is_deleted)
        };
        let records: Vec<&SnapshotRecord> = gathered.state.needed(self.grace()).collect();
        let mut puts = vec![pack, index];
        let mut relied = vec![pack, index];
        let mut relocations = Vec::new();
        for record in records.iter().filter(is_unchanged) {
            let Some(lines) = gathered.refs.get(&record.refs.refs) else { continue };
            let Some(line) = lines.iter().find(|line| line.pack == old.0) else { continue };
            let chunks: Vec<u32> = (0..old.1.len())
                .filter(|ordinal| line.used.contains(*ordinal as u32))
                .map(|ordinal| old.1[ordinal])
                .collect();
            let mut newer: Vec<PackUse> =
                lines.iter().filter(|line| line.pack != old.0).cloned().collect();
            relied.extend(newer.iter().map(|line| ObjectName::Data(line.pack)));
            newer.push(pack_use(pack.id(), kept, &chunks));
            let refs = self.host.draw_id();
            let name = ObjectName::Refs(self.id, refs);
            self.host.put(Place::Source, Key::Object(name), Content::Refs(newer)).await?;
            puts.push(name);
            let snapshot = record.name;
            relocations.push(SnapshotEntry { snapshot, refs_actor: self.id, refs });
        }
        let (now, grace) = (time(self.host.true_now()), Duration::from_secs(GRACE));
        if self.flaw != Flaw::RepackUnchecked
            && relied.iter().any(|name| history.is_doomed(name, now, grace))
        {
            return Err(Stop::Refused("repack: packs intended"));
        }
        match self.host.put_commit(self.id, &history, puts, None, relocations).await? {
            Put::Created => self.host.count("repack"),
            Put::Exists => self.host.count("repack contended"),
        }
        Ok(())
    }
}

fn domain_of_pack(history: &History, pack: ObjectName) -> Option<DomainId> {
    let commits = history.logs.values().flatten().map(|record| &record.commit);
    let mut commits = commits.filter(|commit| commit.puts.iter().any(|put| put.name == pack));
    let puts = &commits.next()?.puts;
    puts.iter().find_map(|put| match put.name {
        ObjectName::Index(domain, _) => Some(domain),
        _ => None,
    })
}
