//! Copies in other places: made, healed from, promoted; stopped anywhere; never ahead in silence.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use holdfast::clock::Clock;
use holdfast::format::commit::ObjectName;
use holdfast::format::signed_text::NO_PREVIOUS;
use holdfast::format::tombstone::{Declaration, Tombstone};
use holdfast::maintenance::finding::Problem;
use holdfast::progress::Progress;
use holdfast::replica::copy::{CopyOptions, CopyReport, copy};
use holdfast::replica::error::ReplicaError;
use holdfast::replica::promote::promote;
use holdfast::replica::scrub::scrub;
use holdfast::repo::error::RepoError;
use holdfast::repo::history::History;
use holdfast::repo::open::Repository;
use holdfast::repo::unlock::Unlocked;
use holdfast::store::Store;
use holdfast::store::faulty::{Fault, FaultyStore, Strike};
use holdfast::store::memory::MemoryStore;
use holdfast::store::recording::{OperationKind, RecordingStore};
use holdfast::units::Part;
use tempfile::TempDir;

use crate::healing::flip;
use crate::hooked::Hooked;
use crate::household::{GRACE, Household, Keys, noise, stream};

/// A store at another place than the household's.
pub fn elsewhere(home: &Household) -> Arc<MemoryStore> {
    Arc::new(MemoryStore::at("memory:west", home.clock.clone()))
}

pub fn copy_to(home: &Household, target: &dyn Store) -> Result<CopyReport, ReplicaError> {
    let options = CopyOptions::default();
    copy(&home.open(), target, options, home.clock.now(), &Progress::default())
}

pub fn open_at(home: &Household, store: Arc<dyn Store>) -> (Repository, TempDir) {
    let states = home.fresh_states();
    (Repository::open(store, states.path(), Some(home.id)).unwrap(), states)
}

/// Every snapshot of the place, read in full.
pub fn contents(home: &Household, repository: &Repository) -> Vec<Vec<u8>> {
    let history = History::read(repository).unwrap();
    assert!(history.findings.is_empty(), "{:?}", history.findings);
    history.live().map(|record| home.read(repository, record)).collect()
}

pub fn world() -> (Household, Vec<Vec<u8>>) {
    let home = Household::new();
    let mut data = noise(1, 2_500_000);
    let mut all = Vec::new();
    for round in 0..3 {
        data.splice(round * 1000..round * 1000, noise(round as u64 + 7, 300_000));
        home.backup("db", &[], &data);
        all.push(data.clone());
    }
    (home, all)
}

#[test]
fn a_replica_is_a_whole_repository() {
    let (home, all) = world();
    let west = elsewhere(&home);
    let report = copy_to(&home, &*west).unwrap();
    assert_eq!((report.commits, report.snapshots, report.findings.len()), (3, 3, 0));
    let (replica, _states) = open_at(&home, west.clone());
    assert!(replica.is_replica);
    assert_eq!(contents(&home, &replica), all);
    home.assert_sound(&replica, "a fresh replica");
    assert!(home.check(&replica, Keys::None).findings.is_empty());
    // Byte for byte, and nothing else but the mark.
    for name in west.names() {
        if !name.starts_with("roster/replica-") {
            let theirs = home.store.get(&name, u64::MAX).unwrap();
            assert!(west.get(&name, u64::MAX).unwrap() == theirs, "{name} differs");
        }
    }
    assert_eq!(west.names().len(), home.store.names().len() + 1);
}

#[test]
fn only_what_is_missing_is_moved() {
    let (home, _) = world();
    let west = RecordingStore::new(elsewhere(&home));
    copy_to(&home, &west).unwrap();
    west.take_operations();
    let again = copy_to(&home, &west).unwrap();
    assert_eq!((again.copied.objects, again.commits), (0, 0));
    assert_eq!(west.count(OperationKind::Put), 0);
    home.backup("other", &[], &noise(99, 50_000));
    let more = copy_to(&home, &west).unwrap();
    assert_eq!((more.commits, more.snapshots), (1, 1));
    let puts = west.take_operations();
    let puts = puts.iter().filter(|operation| operation.kind == OperationKind::Put).count() as u64;
    assert_eq!(puts, more.copied.objects + 1, "its objects and its commit");
}

#[test]
fn nobody_writes_to_a_replica() {
    let (home, _) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    let (replica, _states) = open_at(&home, west);
    let root = Box::new(stream("db", b"x"));
    let refused = home.backup_roots(replica.clone(), "db", &[], vec![root]).unwrap_err();
    assert!(holdfast::restore::error::with_causes(&refused).contains("is a replica"), "{refused}");
    assert!(home.prune(&replica).is_err());
    assert!(home.forget(&replica, 0).is_err());
}

#[test]
fn a_copy_may_stop_anywhere() {
    let (home, all) = world();
    home.forget(&home.open(), 0).unwrap();
    home.wait(GRACE + Duration::from_secs(1));
    let operations = {
        let counting = FaultyStore::new(elsewhere(&home), []);
        copy_to(&home, &counting).unwrap();
        counting.operations()
    };
    assert!(operations > 20, "{operations}");
    for nth in 1..=operations {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let west = elsewhere(&home);
            let faulty = FaultyStore::new(west.clone(), [Strike { kind: None, nth, fault }]);
            let stopped = copy_to(&home, &faulty);
            assert!(stopped.is_err() || fault == Fault::CrashAfter, "{nth} {fault:?}");
            // What is there is complete, whatever is there.
            if west.stat("FORMAT").is_ok() || west.stat("roster/0000000000000001").is_ok() {
                // FORMAT goes last: until then help and keys may be missing.
                let is_done = west.stat("FORMAT").is_ok();
                west.put("FORMAT", format!("holdfast 1 {}\n", home.id).as_bytes()).unwrap();
                let (part, _states) = open_at(&home, west.clone());
                let report = home.check(&part, Keys::None);
                let late = ["recovery/", "RECOVERY.md", "keys/"];
                let harmless =
                    |name: &str| !is_done && late.iter().any(|start| name.starts_with(start));
                let bad = report.findings.iter().filter(|finding| !harmless(&finding.object));
                assert_eq!(bad.count(), 0, "{nth} {fault:?}: {:?}", report.findings);
            }
            // The next run moves what is missing, once.
            let before: Vec<String> = west.names();
            let recording = RecordingStore::new(west.clone());
            copy_to(&home, &recording).unwrap();
            for operation in recording.take_operations() {
                let again =
                    operation.kind == OperationKind::Put && before.contains(&operation.name);
                assert!(!again, "{nth} {fault:?}: {} is moved twice", operation.name);
            }
            let (whole, _states) = open_at(&home, west);
            assert_eq!(contents(&home, &whole), all[1..], "{nth} {fault:?}");
        }
    }
}

#[test]
fn young_tombstones_wait_and_nothing_is_deleted_unasked() {
    let (home, all) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    home.forget(&home.open(), 0).unwrap();
    let report = copy_to(&home, &*west).unwrap();
    assert_eq!(report.young_tombs, 1);
    let (replica, _states) = open_at(&home, west.clone());
    assert_eq!(contents(&home, &replica), all, "what was just forgotten is still listed there");
    home.wait(GRACE);
    assert_eq!(copy_to(&home, &*west).unwrap().young_tombs, 0);
    assert_eq!(contents(&home, &replica), all[1..]);
    // Pruned here, kept there; deleted there only when asked, and only after the time asked for.
    home.prune_fully();
    home.wait(GRACE);
    let objects = west.names().len();
    copy_to(&home, &*west).unwrap();
    assert!(west.names().len() >= objects);
    let delete = |after| {
        let options = CopyOptions { delete_after: Some(after), ..CopyOptions::default() };
        copy(&home.open(), &*west, options, home.clock.now(), &Progress::default()).unwrap()
    };
    assert_eq!(delete(Duration::from_hours(10)).deleted.objects, 0);
    home.wait(Duration::from_hours(11));
    let deleted = delete(Duration::from_hours(10)).deleted.objects;
    assert!(deleted > 0);
    assert_eq!(contents(&home, &replica), all[1..]);
    home.assert_sound(&replica, "after a deletion at the replica");
}

#[test]
fn a_rollback_is_not_passed_on() {
    let (home, _) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    let newest = home.store.names().into_iter().rfind(|name| name.starts_with("log/")).unwrap();
    home.store.delete(&newest).unwrap();
    let states = home.fresh_states();
    let source = Repository::open(home.store.clone(), states.path(), Some(home.id)).unwrap();
    let now = home.clock.now();
    let refused = copy(&source, &*west, CopyOptions::default(), now, &Progress::default());
    assert!(matches!(refused, Err(ReplicaError::Ahead { .. })), "{refused:?}");
}

#[test]
fn another_repository_is_not_overwritten() {
    let (home, _) = world();
    let (other, _) = world();
    let before = other.store.names();
    let refused = copy_to(&home, &*Arc::new(other.store.image_at("memory:o")));
    assert!(matches!(refused, Err(ReplicaError::OtherRepository { .. })), "{refused:?}");
    assert_eq!(other.store.names(), before);
    let occupied = elsewhere(&home);
    occupied.put("letter", b"dear").unwrap();
    assert!(matches!(copy_to(&home, &*occupied), Err(ReplicaError::Occupied { .. })));
    assert!(matches!(copy_to(&home, &*home.store), Err(ReplicaError::SamePlace { .. })));
}

#[test]
fn damage_in_the_source_does_not_stop_the_rest() {
    let (home, all) = world();
    let pack = home.store.names().into_iter().find(|name| name.starts_with("data/")).unwrap();
    flip(&home.store, &pack);
    let west = elsewhere(&home);
    let report = copy_to(&home, &*west).unwrap();
    assert_eq!(report.commits, 3);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(
        (report.findings[0].object.as_str(), report.findings[0].problem),
        (&*pack, Problem::WrongName)
    );
    assert!(west.stat(&pack).is_err(), "what is damaged is not copied");
    assert_eq!(all.len(), 3);
}

#[test]
fn a_scrub_finds_what_is_not_its_name() {
    let (home, _) = world();
    let look = |part| scrub(&*home.store, part, 2, &Progress::default()).unwrap();
    let sound = look(Part::WHOLE);
    assert!(sound.findings.is_empty());
    let named = home.store.names().iter().filter(|n| n.parse::<ObjectName>().is_ok()).count();
    assert!(sound.read.objects as usize > named, "key files have their hashes in their names too");
    for kind in ["data/", "index/", "snap/", "refs/", "keys/"] {
        let name = home.store.names().into_iter().find(|name| name.starts_with(kind)).unwrap();
        let whole = home.store.get(&name, u64::MAX).unwrap();
        flip(&home.store, &name);
        let parts = (1..=3).flat_map(|number| look(Part { number, of: 3 }).findings);
        let found: Vec<String> = parts.map(|finding| finding.object).collect();
        assert_eq!(found, std::slice::from_ref(&name));
        home.store.overwrite(&name, &whole);
    }
}

#[test]
fn a_promoted_replica_goes_on_and_the_old_primary_is_fenced() {
    let (home, all) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    // The old primary goes on for a while, and nobody copies it.
    home.backup("db", &[], b"written to the old primary only");
    home.forget(&home.open(), 1).unwrap();
    home.backup("db", &[], b"and this");
    let mut replica = Repository::open(west.clone(), home.states.path(), Some(home.id)).unwrap();
    let unlocked = Unlocked::open(&replica, std::slice::from_ref(&home.owner)).unwrap();
    let done = promote(&mut replica, &unlocked).unwrap();
    assert_eq!((done.generation, done.fences.len(), done.fence_tomb), (2, 1, 0));
    assert_eq!(done.fences[0].1, 3);
    let again = promote(&mut replica, &unlocked).unwrap_err();
    assert!(matches!(again, ReplicaError::NotReplica { .. }));
    // The same host, which had seen more of the old primary, writes to the new one.
    let promoted = || Repository::open(west.clone(), home.states.path(), Some(home.id)).unwrap();
    let root = Box::new(stream("db", b"the first in the west"));
    home.backup_roots(promoted(), "db", &[], vec![root]).unwrap();
    let mut expected = all.clone();
    expected.push(b"the first in the west".to_vec());
    assert_eq!(contents(&home, &promoted()), expected);
    home.assert_sound(&promoted(), "after a promotion");
    // The host has seen the new generation: the old primary is older than what it has seen.
    let old = Repository::open(home.store.clone(), home.states.path(), Some(home.id));
    assert!(matches!(old, Err(RepoError::Rollback { .. } | RepoError::Chain { .. })));
    // It becomes a replica; what it had written alone is kept aside.
    let report = copy(
        &promoted(),
        &*home.store,
        CopyOptions::default(),
        home.clock.now(),
        &Progress::default(),
    );
    let report = report.unwrap();
    assert_eq!(report.set_aside.len(), 3, "{:?}", report.set_aside);
    let aside = home.store.names().into_iter().filter(|name| name.starts_with("aside/")).count();
    assert_eq!(aside, 3);
    let (old, _states) = open_at(&home, home.store.clone());
    assert!(old.is_replica);
    assert_eq!(contents(&home, &old), expected);
}

#[test]
fn a_commit_of_the_old_generation_does_not_count() {
    let (home, all) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    let states = home.fresh_states();
    let mut replica = Repository::open(west.clone(), states.path(), Some(home.id)).unwrap();
    let unlocked = Unlocked::open(&replica, std::slice::from_ref(&home.owner)).unwrap();
    promote(&mut replica, &unlocked).unwrap();
    home.backup("db", &[], b"by a writer who does not know");
    for name in home.store.names() {
        if west.stat(&name).is_err() {
            west.put(&name, &home.store.get(&name, u64::MAX).unwrap()).unwrap();
        }
    }
    let (promoted, _states) = open_at(&home, west);
    let history = History::read(&promoted).unwrap();
    assert_eq!(history.live().count(), all.len());
}

#[test]
fn nothing_is_deleted_there_that_nobody_had_announced() {
    let (home, all) = world();
    let west = elsewhere(&home);
    let pack = home.store.names().into_iter().find(|name| name.starts_with("data/")).unwrap();
    let name: ObjectName = pack.parse().unwrap();
    let repository = home.open();
    let tomb = Tombstone {
        repository: home.id,
        seq: 1,
        prev: NO_PREVIOUS,
        roster: repository.roster_reference(),
        maintainer: home.maintainer.id,
        time: jiff::Timestamp::try_from(home.clock.now()).unwrap(),
        declarations: vec![Declaration::Done(name)],
    };
    let signed = tomb.encode_and_sign(&home.maintainer.key).unwrap();
    home.store.put(&Tombstone::object_name(1), &signed).unwrap();
    home.wait(2 * GRACE);
    copy_to(&home, &*west).unwrap();
    home.wait(2 * GRACE);
    let options = CopyOptions { delete_after: Some(GRACE), ..CopyOptions::default() };
    let report = copy(&home.open(), &*west, options, home.clock.now(), &Progress::default());
    assert_eq!(report.unwrap().deleted.objects, 0);
    let (replica, _states) = open_at(&home, west.clone());
    assert_eq!(contents(&home, &replica), all);
    // Where it is gone, it is missing, whatever somebody has declared.
    west.delete(&pack).unwrap();
    let findings = home.check(&replica, Keys::None).findings;
    assert!(findings.iter().any(|finding| finding.object == pack), "{findings:?}");
}

#[test]
fn a_commit_that_a_promotion_has_fenced_off_does_not_stop_its_writer() {
    let (home, all) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    let mut replica = Repository::open(west.clone(), home.states.path(), Some(home.id)).unwrap();
    let unlocked = Unlocked::open(&replica, std::slice::from_ref(&home.owner)).unwrap();
    home.backup("db", &[], b"to the old primary");
    promote(&mut replica, &unlocked).unwrap();
    // A copy that was still at work brings it, after the promotion.
    for name in home.store.names() {
        if west.stat(&name).is_err() {
            west.put(&name, &home.store.get(&name, u64::MAX).unwrap()).unwrap();
        }
    }
    let promoted = || Repository::open(west.clone(), home.states.path(), Some(home.id)).unwrap();
    let root = Box::new(stream("db", b"to the new one"));
    home.backup_roots(promoted(), "db", &[], vec![root]).unwrap();
    let mut expected = all;
    expected.push(b"to the new one".to_vec());
    assert_eq!(contents(&home, &promoted()), expected);
    assert!(west.names().iter().any(|name| name.starts_with("aside/log/")));
}

#[test]
fn a_copy_to_what_becomes_the_primary_meanwhile_is_no_success() {
    let (home, all) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    home.backup("db", &[], b"copied too late");
    let is_due = AtomicBool::new(true);
    let target = Hooked::new(&west, |kind, name| {
        let is_commit = kind == OperationKind::Put && name.starts_with("log/");
        if is_commit && is_due.swap(false, Relaxed) {
            let (mut replica, _states) = open_at(&home, west.clone());
            let owner = std::slice::from_ref(&home.owner);
            let unlocked = Unlocked::open(&replica, owner).unwrap();
            promote(&mut replica, &unlocked).unwrap();
        }
        Ok(())
    });
    let refused = copy_to(&home, &target).unwrap_err();
    assert!(matches!(refused, ReplicaError::Promoted { found: 2, .. }), "{refused}");
    let (promoted, _states) = open_at(&home, west.clone());
    assert_eq!(contents(&home, &promoted), all);
}
