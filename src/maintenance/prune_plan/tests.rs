//! One small repository, changed in one point at a time.
//!
//! It has two commits of one writer. The first puts packs `a` and `b`, an index segment and the
//! live snapshot 1, which uses `a`; the second puts pack `c`, an index segment and snapshot 2,
//! which uses `b` and `c` and was forgotten longer than the grace time ago.

use std::time::{Duration, SystemTime};

use crate::id::ActorId;
use crate::maintenance::prune_plan::facts::Cause;
use crate::maintenance::prune_plan::input::{
    CommitPosition, CommittedObject, OpenIntent, PruneInput, PruneOptions, RunningBackup,
    SnapshotState,
};
use crate::maintenance::prune_plan::repack::{MaxUnused, Repack};
use crate::maintenance::prune_plan::usage::{PackUsage, PackUse, UsedChunks};
use crate::maintenance::prune_plan::{Amount, PruneError, PrunePlan, plan_prune};
use crate::store::Entry;

const GRACE_HOURS: u64 = 72;
const NOW: u64 = 1000;
const WRITER: ActorId = ActorId([1; 8]);

fn hour(number: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(number)
}

struct Repository {
    now: u64,
    stored: Vec<Entry>,
    committed: Vec<CommittedObject>,
    snapshots: Vec<SnapshotState>,
    intents: Vec<OpenIntent>,
    running: Vec<RunningBackup>,
    unsupported: Vec<String>,
    usage: PackUsage,
    options: PruneOptions,
}

fn pack_use(pack: &str, bits: u8) -> PackUse {
    PackUse { pack: pack.into(), chunks: 8, used: UsedChunks::Bitmap(vec![bits]) }
}

fn snapshot(number: u64, forgotten: Option<u64>) -> SnapshotState {
    SnapshotState {
        name: format!("snap/w/{number}"),
        refs_first: format!("refs/w/{number}"),
        refs_newest: format!("refs/w/{number}"),
        refs_superseded: vec![],
        forgotten: forgotten.map(hour),
    }
}

impl Repository {
    fn new() -> Self {
        let mut new = Self {
            now: NOW,
            stored: vec![],
            committed: vec![],
            snapshots: vec![snapshot(1, None), snapshot(2, Some(900))],
            intents: vec![],
            running: vec![],
            unsupported: vec![],
            usage: PackUsage::default(),
            options: PruneOptions {
                grace: Duration::from_hours(GRACE_HOURS),
                repack: Repack::Off,
                deleted_objects_max: u64::MAX,
                deleted_bytes_max: u64::MAX,
            },
        };
        for name in ["FORMAT", "log/w/1", "log/w/2", "tomb/1", "keys/k.age", "other/x"] {
            new.store(name, 100);
        }
        for name in ["data/a", "data/b", "index/d/1", "snap/w/1", "refs/w/1"] {
            new.commit(name, 1, 100);
        }
        for name in ["data/c", "index/d/2", "snap/w/2", "refs/w/2"] {
            new.commit(name, 2, 200);
        }
        new.usage.add_snapshot("snap/w/1", [pack_use("data/a", 0b1111)], ["data/a".to_owned()]);
        new
    }

    fn store(&mut self, name: &str, first_seen: u64) {
        self.stored.push(Entry { name: name.into(), size: 1000, first_seen: hour(first_seen) });
    }

    fn commit(&mut self, name: &str, seq: u64, first_seen: u64) {
        self.store(name, first_seen);
        let commit = CommitPosition { actor: WRITER, seq };
        self.committed.push(CommittedObject { name: name.into(), commit });
    }

    fn remove(&mut self, name: &str) {
        self.stored.retain(|entry| entry.name != name);
    }

    fn intend(&mut self, name: &str, first_seen: u64) {
        self.intents.push(OpenIntent { name: name.into(), first_seen: hour(first_seen) });
    }

    fn plan(&self) -> Result<PrunePlan, PruneError> {
        plan_prune(&PruneInput {
            now: hour(self.now),
            stored: &self.stored,
            committed: &self.committed,
            snapshots: &self.snapshots,
            usage: &self.usage,
            intents: &self.intents,
            running: &self.running,
            unsupported_commits: &self.unsupported,
            options: self.options,
        })
    }

    fn intents(&self) -> Vec<(String, Cause)> {
        let plan = self.plan().unwrap();
        plan.intents.into_iter().map(|object| (object.name, object.cause)).collect()
    }

    fn intended_names(&self) -> Vec<String> {
        self.intents().into_iter().map(|(name, _)| name).collect()
    }
}

fn names(plan: &PrunePlan) -> Vec<&str> {
    plan.deletions.iter().map(|object| object.name.as_str()).collect()
}

#[test]
fn what_only_a_long_forgotten_snapshot_needs_is_intended() {
    let repository = Repository::new();
    let expected = [
        ("data/b", Cause::Unused),
        ("data/c", Cause::Unused),
        ("refs/w/2", Cause::Forgotten),
        ("snap/w/2", Cause::Forgotten),
    ];
    let expected: Vec<(String, Cause)> = expected.map(|(name, why)| (name.into(), why)).into();
    assert_eq!(repository.intents(), expected);
    let plan = repository.plan().unwrap();
    assert!(plan.deletions.is_empty() && plan.withdrawals.is_empty() && plan.missing.is_empty());
    assert_eq!(plan.totals.waiting, Amount { objects: 4, bytes: 4000 });
    assert_eq!(plan.totals.waiting_until, Some(hour(NOW + GRACE_HOURS)));
    assert_eq!(plan.totals.stored, Amount { objects: 9, bytes: 9000 });
}

#[test]
fn a_snapshot_forgotten_less_than_the_grace_time_ago_keeps_all_it_needs() {
    for (forgotten, expected) in [(NOW - GRACE_HOURS, 4), (NOW - GRACE_HOURS + 1, 0)] {
        let mut repository = Repository::new();
        repository.snapshots[1].forgotten = Some(hour(forgotten));
        let used = [pack_use("data/b", 1), pack_use("data/c", 1)];
        if expected == 0 {
            repository.usage.add_snapshot("snap/w/2", used, []);
        } else {
            repository.usage.add_snapshot("snap/w/1", [], []);
        }
        assert_eq!(repository.intents().len(), expected, "{forgotten}");
    }
}

#[test]
fn an_intent_is_carried_out_after_the_grace_time_and_only_if_still_dead() {
    for (intended, is_due) in [(NOW - GRACE_HOURS, true), (NOW - GRACE_HOURS + 1, false)] {
        let mut repository = Repository::new();
        for name in ["data/b", "data/c", "snap/w/2", "refs/w/2", "data/a"] {
            repository.intend(name, intended);
        }
        let plan = repository.plan().unwrap();
        let due = ["snap/w/2", "refs/w/2", "data/b", "data/c"];
        assert_eq!(names(&plan), if is_due { &due[..] } else { &[] });
        assert_eq!(plan.withdrawals, ["data/a"]);
        assert!(plan.intents.is_empty());
        assert_eq!(plan.totals.deleted_now.objects, if is_due { 4 } else { 0 });
        let until = (!is_due).then(|| hour(intended + GRACE_HOURS));
        assert_eq!(plan.totals.waiting_until, until);
    }
}

#[test]
fn of_two_intents_of_one_object_the_later_counts() {
    let mut repository = Repository::new();
    repository.intend("data/b", NOW - 500);
    repository.intend("data/b", NOW - 1);
    assert_eq!(names(&repository.plan().unwrap()), [""; 0]);
}

#[test]
fn an_index_segment_goes_last_and_only_when_no_reference_leads_through_it() {
    let mut repository = Repository::new();
    for name in ["data/c", "snap/w/2", "refs/w/2"] {
        repository.remove(name);
    }
    assert_eq!(repository.intents()[1], ("index/d/2".into(), Cause::PacksGone));
    // After a repack the newest refs name another pack, the references still carry c's handle.
    repository.usage.add_snapshot("snap/w/1", [], ["data/c".to_owned()]);
    assert_eq!(repository.intended_names(), ["data/b"]);

    let mut one_left = Repository::new();
    one_left.commit("data/d", 2, 200);
    one_left.remove("data/c");
    assert!(!one_left.intended_names().contains(&"index/d/2".to_owned()));

    let mut without_packs = Repository::new();
    without_packs.commit("index/d/3", 3, 200);
    assert!(!without_packs.intended_names().contains(&"index/d/3".to_owned()));
}

#[test]
fn orphans_go_when_they_are_old_and_of_no_running_backup() {
    for (first_seen, running, intended, why) in [
        (NOW - GRACE_HOURS, None, true, "old"),
        (NOW - GRACE_HOURS + 1, None, false, "young"),
        (800, Some(700), false, "of a running backup"),
        (800, Some(801), true, "older than the running backup"),
    ] {
        for name in ["data/orphan", "index/d/orphan", "snap/w/orphan", "refs/w/orphan"] {
            let mut repository = Repository::new();
            repository.store(name, first_seen);
            let writer = WRITER;
            let running = running.map(|began| RunningBackup { writer, began: hour(began) });
            repository.running.extend(running);
            let found = repository.intents().contains(&(name.into(), Cause::Orphan));
            assert_eq!(found, intended, "{name}: {why}");
            let held = repository.plan().unwrap().totals.held.objects;
            assert_eq!(held, u64::from(!intended), "{name}: {why}");
        }
    }
}

#[test]
fn packs_of_a_young_checkpoint_are_held() {
    let mut repository = Repository::new();
    repository.commit("data/checkpoint", 3, NOW - 1);
    assert!(!repository.intended_names().contains(&"data/checkpoint".to_owned()));
    repository.intend("data/checkpoint", NOW - 1);
    assert_eq!(repository.plan().unwrap().withdrawals, ["data/checkpoint"]);
}

/// Another maintainer may be deleting it by now; who relies on it must see the intent.
#[test]
fn an_old_intent_on_what_is_only_held_stands() {
    let mut repository = Repository::new();
    repository.commit("data/checkpoint", 3, NOW - 1);
    repository.intend("data/checkpoint", NOW - GRACE_HOURS / 2);
    let plan = repository.plan().unwrap();
    assert_eq!(plan.withdrawals, [""; 0]);
    assert!(plan.deletions.iter().all(|dead| dead.name != "data/checkpoint"));
}

#[test]
fn superseded_refs_go_and_the_first_and_the_newest_stay() {
    let mut repository = Repository::new();
    for name in ["refs/m/1", "refs/m/2"] {
        repository.commit(name, 9, 300);
    }
    repository.snapshots[0].refs_superseded = vec!["refs/m/1".into()];
    repository.snapshots[0].refs_newest = "refs/m/2".into();
    let names = repository.intended_names();
    assert!(names.contains(&"refs/m/1".to_owned()));
    assert!(!names.contains(&"refs/m/2".to_owned()) && !names.contains(&"refs/w/1".to_owned()));
}

#[test]
fn committed_refs_of_no_known_snapshot_stay() {
    let mut repository = Repository::new();
    repository.commit("refs/w/unknown", 3, 300);
    assert!(!repository.intended_names().contains(&"refs/w/unknown".to_owned()));
}

#[test]
fn a_pack_in_use_stays_though_no_commit_names_it() {
    let mut repository = Repository::new();
    repository.store("data/x", 100);
    repository.usage.add_snapshot("snap/w/1", [pack_use("data/x", 1)], []);
    assert!(!repository.intended_names().contains(&"data/x".to_owned()));
}

#[test]
fn an_intended_object_that_is_gone_is_done() {
    let mut repository = Repository::new();
    repository.intend("data/gone", NOW - 1);
    assert_eq!(repository.plan().unwrap().done, ["data/gone"]);
}

#[test]
fn what_is_needed_and_not_there_is_reported() {
    let mut repository = Repository::new();
    for name in ["data/a", "index/d/1", "refs/w/1"] {
        repository.remove(name);
    }
    assert_eq!(repository.plan().unwrap().missing, ["data/a", "index/d/1", "refs/w/1"]);
}

#[test]
fn nothing_is_planned_on_doubt() {
    let behind =
        |name: &str, behind_seconds| PruneError::ClockBehind { name: name.into(), behind_seconds };
    let mut stored = Repository::new();
    stored.store("keys/new.age", NOW + 1);
    assert_eq!(stored.plan(), Err(behind("keys/new.age", 3600)));

    let mut intent = Repository::new();
    intent.intend("data/b", NOW + 2);
    assert_eq!(intent.plan(), Err(behind("data/b", 7200)));

    let mut forgotten = Repository::new();
    forgotten.snapshots[1].forgotten = Some(hour(NOW + 1));
    assert_eq!(forgotten.plan(), Err(behind("snap/w/2", 3600)));

    let mut within = Repository::new();
    let first_seen = hour(NOW) + Duration::from_mins(1);
    within.stored.push(Entry { name: "log/w/3".into(), size: 1, first_seen });
    assert!(within.plan().is_ok());

    let mut refs = Repository::new();
    refs.usage = PackUsage::default();
    assert_eq!(refs.plan(), Err(PruneError::RefsUnknown { snapshot: "snap/w/1".into() }));

    let mut unknown = Repository::new();
    unknown.snapshots.pop();
    assert_eq!(unknown.plan(), Err(PruneError::SnapshotUnknown { snapshot: "snap/w/2".into() }));

    let mut newer = Repository::new();
    newer.unsupported.push("log/w/3".into());
    assert_eq!(newer.plan(), Err(PruneError::UnsupportedCommit { commit: "log/w/3".into() }));
}

#[test]
fn one_run_deletes_no_more_than_it_may() {
    for (objects_max, bytes_max, deleted) in
        [(u64::MAX, u64::MAX, 4), (3, u64::MAX, 3), (u64::MAX, 2999, 2), (0, 9, 0)]
    {
        let mut repository = Repository::new();
        for name in ["data/b", "data/c", "snap/w/2", "refs/w/2"] {
            repository.intend(name, 500);
        }
        repository.options.deleted_objects_max = objects_max;
        repository.options.deleted_bytes_max = bytes_max;
        let totals = repository.plan().unwrap().totals;
        assert_eq!((totals.deleted_now.objects, totals.deferred.objects), (deleted, 4 - deleted));
    }
}

#[test]
fn packs_in_use_are_repacked_when_too_much_of_them_is_unused() {
    let mut repository = Repository::new();
    repository.usage.add_snapshot("snap/w/1", [pack_use("data/b", 1)], []);
    let plan = repository.plan().unwrap();
    assert_eq!((plan.totals.unused_bytes, plan.repack.len()), (500 + 875, 0));
    let max_unused = MaxUnused::Bytes(500);
    repository.options.repack = Repack::Allowed { max_unused, pack_bytes_max: u64::MAX };
    let plan = repository.plan().unwrap();
    assert_eq!(plan.repack[0].pack, "data/b");
    assert_eq!((plan.repack.len(), plan.totals.repack_freed_bytes), (1, 875));
}
