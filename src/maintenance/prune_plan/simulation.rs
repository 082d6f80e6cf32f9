//! Random histories of backups, forgets, recalls, prunes and crashes, carried out against a plain
//! model of a store in which nothing has content: what a snapshot needs must be there at each step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use crate::id::ActorId;
use crate::maintenance::prune_plan::input::{
    CommitPosition, CommittedObject, OpenIntent, PruneInput, PruneOptions, RunningBackup,
    SnapshotState,
};
use crate::maintenance::prune_plan::repack::{MaxUnused, Repack};
use crate::maintenance::prune_plan::usage::{PackUsage, PackUse, UsedChunks};
use crate::maintenance::prune_plan::{PrunePlan, plan_prune};
use crate::store::Entry;

const GRACE: Duration = Duration::from_hours(72);

#[derive(Debug, Clone)]
enum Step {
    /// A backup begins, puts packs, and means to reuse some of those that are there.
    Begin {
        new_packs: u8,
        reused: Vec<u8>,
        listed: Listed,
    },
    /// The backup that began first puts a checkpoint commit.
    Checkpoint,
    /// The backup that began first looks at the intents and commits.
    Finish,
    /// The backup that began first is killed.
    Kill,
    Forget(u8),
    Recall(u8),
    /// A snapshot's packs are written anew and its refs replaced.
    Relocate(u8),
    /// A prune that dies after so many deletions.
    Prune {
        deletions_max: u8,
    },
    Advance {
        hours: u8,
    },
}

/// Whether the maintainer knows that a backup is running.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Listed {
    Yes,
    No,
}

struct Run {
    began: SystemTime,
    packs: Vec<String>,
    reused: Vec<String>,
    listed: Listed,
}

struct Snapshot {
    state: SnapshotState,
    used: Vec<PackUse>,
    addressed: Vec<String>,
}

struct World {
    now: SystemTime,
    drawn: u64,
    commits: u64,
    stored: BTreeMap<String, SystemTime>,
    committed: Vec<CommittedObject>,
    index_of: BTreeMap<String, String>,
    snapshots: Vec<Snapshot>,
    intents: BTreeMap<String, SystemTime>,
    runs: Vec<Run>,
}

impl World {
    fn new() -> Self {
        Self {
            now: SystemTime::UNIX_EPOCH + Duration::from_hours(1000),
            drawn: 0,
            commits: 0,
            stored: BTreeMap::new(),
            committed: vec![],
            index_of: BTreeMap::new(),
            snapshots: vec![],
            intents: BTreeMap::new(),
            runs: vec![],
        }
    }

    fn put(&mut self, folder: &str) -> String {
        self.drawn += 1;
        let name = format!("{folder}/{:05}", self.drawn);
        self.stored.insert(name.clone(), self.now);
        name
    }

    /// A commit of packs, with their index segment, and of other objects.
    fn commit(&mut self, packs: &[String], others: &[&String]) {
        self.commits += 1;
        let commit = CommitPosition { actor: ActorId([1; 8]), seq: self.commits };
        let mut names: Vec<String> = packs.to_vec();
        if !packs.is_empty() {
            let index = self.put("index/d");
            for pack in packs {
                self.index_of.insert(pack.clone(), index.clone());
            }
            names.push(index);
        }
        names.extend(others.iter().map(|name| (*name).clone()));
        self.committed.extend(names.into_iter().map(|name| CommittedObject { name, commit }));
    }

    fn usable(&self, pack: &str) -> bool {
        let resolves = self.index_of.get(pack).is_none_or(|index| self.usable_object(index));
        self.usable_object(pack) && resolves
    }

    fn usable_object(&self, name: &str) -> bool {
        self.stored.contains_key(name) && !self.intents.contains_key(name)
    }

    fn begin(&mut self, new_packs: u8, reused: &[u8], listed: Listed) {
        let known: Vec<String> = self.index_of.keys().cloned().collect();
        let reused = reused.iter().filter(|_| !known.is_empty());
        let reused: Vec<String> =
            reused.map(|number| known[usize::from(*number) % known.len()].clone()).collect();
        let began = self.now;
        let packs = (0..=new_packs).map(|_| self.put("data/p")).collect();
        self.runs.push(Run { began, packs, reused, listed });
    }

    fn checkpoint(&mut self) {
        let Some(run) = self.runs.first() else { return };
        let fresh: Vec<String> =
            run.packs.iter().filter(|pack| !self.index_of.contains_key(*pack)).cloned().collect();
        let fresh: Vec<String> = fresh.into_iter().filter(|pack| self.usable(pack)).collect();
        self.commit(&fresh, &[]);
    }

    /// What the format asks of a writer: whatever is intended or gone is stored anew.
    fn finish(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let run = self.runs.remove(0);
        let (mut used, mut fresh) = (BTreeSet::new(), Vec::new());
        for pack in run.packs.iter().chain(&run.reused) {
            let is_usable = self.usable(pack);
            let pack = if is_usable { pack.clone() } else { self.put("data/p") };
            if !self.index_of.contains_key(&pack) {
                fresh.push(pack.clone());
            }
            used.insert(pack);
        }
        let (name, refs) = (self.put("snap/w"), self.put("refs/w"));
        self.commit(&fresh, &[&name, &refs]);
        let state = SnapshotState {
            name,
            refs_first: refs.clone(),
            refs_newest: refs,
            refs_superseded: vec![],
            forgotten: None,
        };
        let addressed = used.iter().cloned().collect();
        let used = used.into_iter().enumerate().map(|(number, pack)| use_of(pack, number));
        self.snapshots.push(Snapshot { state, used: used.collect(), addressed });
    }

    fn pick(&mut self, number: u8) -> Option<&mut Snapshot> {
        let count = self.snapshots.len();
        self.snapshots.get_mut(usize::from(number).checked_rem(count)?)
    }

    fn forget(&mut self, number: u8) {
        let now = self.now;
        if let Some(snapshot) = self.pick(number) {
            snapshot.state.forgotten.get_or_insert(now);
        }
    }

    /// A snapshot can be recalled while all that it needs is there.
    fn recall(&mut self, number: u8) {
        let Some(snapshot) = self.pick(number) else { return };
        let was = snapshot.state.forgotten.take();
        let number = usize::from(number) % self.snapshots.len();
        if !self.lacks(number).is_empty() {
            self.snapshots[number].state.forgotten = was;
        }
    }

    fn relocate(&mut self, number: u8) {
        let Some(snapshot) = self.pick(number) else { return };
        if snapshot.state.forgotten.is_some() {
            return;
        }
        let (pack, refs) = (self.put("data/p"), self.put("refs/m"));
        self.commit(std::slice::from_ref(&pack), &[&refs]);
        let Some(snapshot) = self.pick(number) else { return };
        let state = &mut snapshot.state;
        let before = std::mem::replace(&mut state.refs_newest, refs);
        if before != state.refs_first {
            state.refs_superseded.push(before);
        }
        snapshot.used = vec![use_of(pack, 0)];
    }

    /// What snapshot `number` needs and the store has not.
    fn lacks(&self, number: usize) -> Vec<&String> {
        let Snapshot { state, used, addressed } = &self.snapshots[number];
        let used = used.iter().map(|line| &line.pack);
        let index = used.clone().chain(addressed).map(|pack| &self.index_of[pack]);
        let needed = [&state.name, &state.refs_first, &state.refs_newest].into_iter();
        let needed = needed.chain(used).chain(index);
        needed.filter(|name| !self.stored.contains_key(*name)).collect()
    }

    fn plan(&self) -> PrunePlan {
        let stored: Vec<Entry> = self
            .stored
            .iter()
            .map(|(name, seen)| Entry { name: name.clone(), size: 10, first_seen: *seen })
            .collect();
        let states: Vec<SnapshotState> =
            self.snapshots.iter().map(|snapshot| snapshot.state.clone()).collect();
        let mut usage = PackUsage::default();
        for snapshot in &self.snapshots {
            if snapshot.state.is_needed(self.now, GRACE) {
                let Snapshot { state, used, addressed } = snapshot;
                usage.add_snapshot(&state.name, used.clone(), addressed.clone());
            }
        }
        let intents = self.intents.iter();
        let intents: Vec<OpenIntent> = intents
            .map(|(name, seen)| OpenIntent { name: name.clone(), first_seen: *seen })
            .collect();
        let running = self.runs.iter().filter(|run| run.listed == Listed::Yes);
        let running: Vec<RunningBackup> = running
            .map(|run| RunningBackup { writer: ActorId([1; 8]), began: run.began })
            .collect();
        let input = PruneInput {
            now: self.now,
            stored: &stored,
            committed: &self.committed,
            snapshots: &states,
            usage: &usage,
            intents: &intents,
            running: &running,
            unsupported_commits: &[],
            options: PruneOptions {
                grace: GRACE,
                repack: Repack::Allowed {
                    max_unused: MaxUnused::Percent(5),
                    pack_bytes_max: u64::MAX,
                },
                deleted_objects_max: u64::MAX,
                deleted_bytes_max: u64::MAX,
            },
        };
        plan_prune(&input).unwrap()
    }

    fn prune(&mut self, deletions_max: usize) {
        let plan = self.plan();
        let needed = self.needed_names();
        for object in plan.deletions.iter().chain(&plan.intents) {
            assert!(!needed.contains(&object.name), "{object:?} is needed");
        }
        for name in plan.withdrawals.iter().chain(&plan.done) {
            assert!(self.intents.remove(name).is_some(), "{name} was not intended");
        }
        for object in &plan.intents {
            self.intents.insert(object.name.clone(), self.now);
        }
        let again = self.plan();
        assert_eq!((again.intents.len(), again.withdrawals.len(), again.done.len()), (0, 0, 0));
        assert_eq!(again.deletions, plan.deletions);
        for object in plan.deletions.iter().take(deletions_max) {
            self.stored.remove(&object.name);
        }
        if plan.deletions.len() <= deletions_max {
            for object in &plan.deletions {
                self.intents.remove(&object.name);
            }
        }
    }

    fn needed_names(&self) -> BTreeSet<String> {
        let needed = self.snapshots.iter();
        let needed = needed.filter(|snapshot| snapshot.state.is_needed(self.now, GRACE));
        needed
            .flat_map(|Snapshot { state, used, addressed }| {
                let used = used.iter().map(|line| &line.pack);
                let index = used.clone().chain(addressed).map(|pack| &self.index_of[pack]);
                let own = [&state.name, &state.refs_first, &state.refs_newest].into_iter();
                own.chain(used).chain(index).cloned().collect::<Vec<String>>()
            })
            .collect()
    }

    fn check(&self) {
        for (number, snapshot) in self.snapshots.iter().enumerate() {
            if snapshot.state.is_needed(self.now, GRACE) {
                assert_eq!(self.lacks(number), [""; 0], "snapshot {number}");
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Begin { new_packs, reused, listed } => {
                self.begin(*new_packs, reused, *listed);
            }
            Step::Checkpoint => self.checkpoint(),
            Step::Finish => self.finish(),
            Step::Kill if self.runs.is_empty() => {}
            Step::Kill => drop(self.runs.remove(0)),
            Step::Forget(number) => self.forget(*number),
            Step::Recall(number) => self.recall(*number),
            Step::Relocate(number) => self.relocate(*number),
            Step::Prune { deletions_max } => self.prune(usize::from(*deletions_max)),
            Step::Advance { hours } => self.now += Duration::from_hours(u64::from(*hours)),
        }
    }
}

fn use_of(pack: String, number: usize) -> PackUse {
    PackUse { pack, chunks: 8, used: UsedChunks::Bitmap(vec![1 << (number % 8)]) }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..3, vec(any::<u8>(), 0..4), prop_oneof![Just(Listed::Yes), Just(Listed::No)])
            .prop_map(|(new_packs, reused, listed)| Step::Begin { new_packs, reused, listed }),
        1 => Just(Step::Checkpoint),
        4 => Just(Step::Finish),
        1 => Just(Step::Kill),
        3 => any::<u8>().prop_map(Step::Forget),
        1 => any::<u8>().prop_map(Step::Recall),
        1 => any::<u8>().prop_map(Step::Relocate),
        4 => prop_oneof![Just(255_u8), 0_u8..5]
            .prop_map(|deletions_max| Step::Prune { deletions_max }),
        5 => (1_u8..80).prop_map(|hours| Step::Advance { hours }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_a_snapshot_needs_is_there_at_every_step(steps in vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
    }

    /// The other direction: what no one needs does go.
    #[test]
    fn a_repository_whose_snapshots_are_all_forgotten_becomes_empty(
        steps in vec(step(), 1..120)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.runs.clear();
        for number in 0..world.snapshots.len() {
            world.forget(number as u8);
        }
        for _ in 0..6 {
            world.now += GRACE;
            world.prune(usize::MAX);
        }
        assert_eq!(world.stored, BTreeMap::new());
    }
}
