//! Prune, repack, recover: nothing that is needed goes, what is not needed goes in the end, and a
//! run may stop at any operation of the store.

use std::sync::Arc;
use std::time::Duration;

use holdfast::maintenance::error::MaintenanceError;
use holdfast::maintenance::prune::Prune;
use holdfast::maintenance::prune_plan::repack::Repack;
use holdfast::maintenance::recover::recall;
use holdfast::maintenance::repack::{RepackKeys, RepackReport, repack};
use holdfast::progress::Progress;
use holdfast::repo::history::History;
use holdfast::repo::open::Repository;
use holdfast::store::Store;
use holdfast::store::faulty::{Fault, FaultyStore, Strike};
use holdfast::store::memory::MemoryStore;
use holdfast::store::recording::{OperationKind, RecordingStore};

use crate::household::{GRACE, Household, noise, options, repack_all};

fn data_objects(store: &MemoryStore) -> usize {
    store.names().iter().filter(|name| name.starts_with("data/")).count()
}

pub fn repack_now(
    home: &Household,
    repository: &Repository,
) -> Result<RepackReport, MaintenanceError> {
    let access = home.try_access(repository)?;
    let progress = Progress::default();
    home.maintain(repository, |maintainer| {
        let options = options(repack_all());
        let prune = Prune { maintainer, identities: &home.reads, options, progress: &progress };
        let (state, plan) = prune.plan(maintainer.clock.now())?;
        let keys = RepackKeys {
            access: &access,
            domains: &home.domains,
            recipient: &home.recipient,
            refs: &home.reads,
        };
        repack(maintainer, &keys, &state, &plan.repack, GRACE, &progress)
    })
}

#[test]
fn what_nothing_needs_goes_after_two_grace_times() {
    let home = Household::new();
    let (old, new) = (noise(1, 3 << 20), noise(2, 3 << 20));
    home.backup("a", &[], &old);
    home.backup("a", &[], &new);
    let all = data_objects(&home.store);
    let repository = home.open();
    home.forget(&repository, 0).unwrap();
    let report = home.prune(&repository).unwrap();
    assert_eq!((report.plan.intents.len(), report.deleted.objects), (0, 0), "just forgotten");
    home.wait(GRACE);
    let report = home.prune(&repository).unwrap();
    assert!(report.plan.intents.len() >= 5, "{:?}", report.plan.intents);
    assert_eq!(report.deleted.objects, 0, "only announced");
    assert_eq!(data_objects(&home.store), all);
    home.wait(GRACE.checked_sub(Duration::from_secs(1)).unwrap());
    assert_eq!(home.prune(&repository).unwrap().deleted.objects, 0, "a second too early");
    home.wait(Duration::from_secs(1));
    let report = home.prune(&repository).unwrap();
    assert!(report.deleted.bytes > 3 << 20, "{:?}", report.deleted);
    assert!(data_objects(&home.store) < all);
    home.assert_sound(&repository, "after all");
    let history = History::read(&repository).unwrap();
    let live: Vec<_> = history.live().collect();
    assert_eq!(live.len(), 1);
    assert_eq!(home.read(&repository, live[0]), new);
    home.prune_fully();
    let last = home.prune(&repository).unwrap();
    assert_eq!((last.plan.intents.len(), last.plan.totals.waiting.objects), (0, 0));
}

#[test]
fn a_forgotten_snapshot_comes_back_until_its_packs_are_gone() {
    for (waits, comes_back) in [(0, true), (1, true), (2, true), (3, false)] {
        let home = Household::new();
        let old = noise(3, 1 << 20);
        home.backup("a", &[], &old);
        home.backup("a", &[], &noise(4, 1 << 20));
        let repository = home.open();
        home.forget(&repository, 0).unwrap();
        for _ in 0..waits {
            home.prune(&repository).unwrap();
            home.wait(GRACE);
        }
        if waits == 3 {
            home.prune(&repository).unwrap();
        }
        let history = History::read(&repository).unwrap();
        let record = &history.snapshots[0];
        let result = home.maintain(&repository, |m| recall(m, &history, &home.reads, record));
        assert_eq!(result.is_ok(), comes_back, "{waits} waits: {result:?}");
        if comes_back {
            home.prune_fully();
            let history = History::read(&repository).unwrap();
            assert_eq!(home.read(&repository, &history.snapshots[0]), old, "{waits} waits");
            home.assert_sound(&repository, "recalled");
        }
    }
}

#[test]
fn a_repack_moves_what_is_used_and_the_old_packs_go() {
    let home = Household::new();
    let used = noise(5, 500_000);
    let both = [used.clone(), noise(6, 400_000)].concat();
    home.backup("a", &[], &both);
    home.backup("a", &[], &used);
    let repository = home.open();
    home.forget(&repository, 0).unwrap();
    home.wait(GRACE);
    let report = repack_now(&home, &repository).unwrap();
    assert!(report.old.objects >= 1 && report.new.objects >= 1, "{report:?}");
    assert_eq!(report.snapshots, 1);
    home.assert_sound(&repository, "after the repack");
    let stored = |home: &Household| {
        let mut bytes = 0;
        home.store.list("data/", &mut |entry| bytes += entry.size).unwrap();
        bytes
    };
    let before = stored(&home);
    home.prune_fully();
    assert!(stored(&home) < before - 700_000, "{} of {before} are left", stored(&home));
    home.assert_sound(&repository, "after the old packs have gone");
    let history = History::read(&repository).unwrap();
    let live: Vec<_> = history.live().collect();
    assert_eq!(home.read(&repository, live[0]), used);
    assert_eq!(repack_now(&home, &repository).unwrap(), RepackReport::default());
}

/// Stops `work` at every operation of the store, in a copy of `home`'s world.
fn stop_everywhere(home: &Household, what: &str, work: impl Fn(&Repository) -> bool) {
    let kept = History::read(&home.open()).unwrap();
    let kept: Vec<_> = kept.live().cloned().collect();
    let contents: Vec<_> = kept.iter().map(|record| home.read(&home.open(), record)).collect();
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        for nth in 1.. {
            let image = home.store.image();
            let strike = Strike { kind: None, nth, fault };
            let states = tempfile::tempdir().unwrap();
            // Opened before: the strike is for the work alone.
            home.open_in(Arc::new(image.image()), states.path());
            let faulty = Arc::new(FaultyStore::new(image, [strike]));
            let opened = Repository::open(faulty.clone(), states.path(), Some(home.id));
            let is_done = opened.is_ok_and(|repository| work(&repository));
            let was_hit = faulty.is_crashed();
            let after: Arc<dyn Store> = Arc::new(faulty.inner().image());
            let repository = home.open_in(after, states.path());
            let when = format!("{what}, {fault:?} {nth}");
            for (record, content) in kept.iter().zip(&contents) {
                assert_eq!(home.read(&repository, record), *content, "{when}");
            }
            home.assert_sound(&repository, &when);
            home.prune(&repository).unwrap();
            home.assert_sound(&repository, &format!("{when}, and the next prune"));
            if !was_hit {
                assert!(is_done, "{when}");
                break;
            }
        }
    }
}

/// Snapshots of which the first shares half of its data with the last.
fn shared() -> Household {
    let home = Household::new();
    let used = noise(7, 300_000);
    home.backup("a", &[], &[used.clone(), noise(8, 300_000)].concat());
    home.backup("b", &[], &noise(9, 200_000));
    home.backup("a", &[], &used);
    home
}

/// The same, with the first forgotten for so long that it can be announced.
fn forgotten() -> Household {
    let home = shared();
    home.forget(&home.open(), 0).unwrap();
    home.wait(GRACE);
    home
}

#[test]
fn a_prune_of_nothing_may_stop_anywhere() {
    let home = shared();
    stop_everywhere(&home, "prune of nothing", |repository| home.prune(repository).is_ok());
}

#[test]
fn announcing_may_stop_anywhere() {
    let home = forgotten();
    stop_everywhere(&home, "announcing", |repository| home.prune(repository).is_ok());
}

#[test]
fn a_repack_may_stop_anywhere() {
    let home = forgotten();
    stop_everywhere(&home, "repack", |repository| repack_now(&home, repository).is_ok());
}

#[test]
fn deleting_may_stop_anywhere() {
    let home = forgotten();
    repack_now(&home, &home.open()).unwrap();
    home.wait(GRACE);
    home.prune(&home.open()).unwrap();
    home.wait(GRACE);
    stop_everywhere(&home, "deleting", |repository| home.prune(repository).is_ok());
}

#[test]
fn a_repack_reads_each_pack_in_few_requests() {
    let home = forgotten();
    let states = tempfile::tempdir().unwrap();
    home.open_in(Arc::new(home.store.image()), states.path());
    // A store that reads single bytes as readily as many.
    let recording = Arc::new(RecordingStore::new(home.store.image()));
    let repository = Repository::open(recording.clone(), states.path(), Some(home.id)).unwrap();
    let report = repack_now(&home, &repository).unwrap();
    assert_eq!(report.old.objects, 1, "{report:?}");
    let reads = recording.count(OperationKind::ReadAt);
    assert!((1..=8).contains(&reads), "{reads} requests for one pack");
}

#[test]
fn a_clock_that_is_ahead_of_the_store_deletes_nothing_early() {
    let home = Household::new();
    home.backup("a", &[], &noise(10, 100_000));
    home.backup("a", &[], &noise(11, 100_000));
    let repository = home.open();
    home.forget(&repository, 0).unwrap();
    home.wait(GRACE);
    home.prune(&repository).unwrap();
    let count = home.store.names().len();
    // The host believes that a year has passed; the store does not.
    let host = holdfast::clock::ManualClock::new(
        holdfast::clock::Clock::now(&*home.clock) + Duration::from_hours(8760),
    );
    let identity = [home.maintainer.identity.to_identity()];
    let maintainer = holdfast::maintenance::tombs::Maintainer {
        repository: &repository,
        keys: &home.maintainer,
        clock: &host,
        reserve: None,
    };
    let progress = Progress::default();
    let options = options(Repack::Off);
    let prune =
        Prune { maintainer: &maintainer, identities: &identity, options, progress: &progress };
    let report = prune.run().unwrap();
    assert!(!report.plan.deletions.is_empty(), "the host's clock would have deleted");
    assert_eq!(report.deleted.objects, 0);
    assert!(home.store.names().len() >= count);
}
