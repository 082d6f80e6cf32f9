//! Forgetting by policy with the maintainer's keys alone.

use holdfast::format::tombstone::Remark;
use holdfast::maintenance::forget::{forget, freed_by, label_snapshots, plan_forget, removed_by};
use holdfast::maintenance::retention::RetentionContext;
use holdfast::maintenance::retention::policy::{KeepCount, Policy};
use holdfast::repo::history::History;
use holdfast::store::faulty::{Fault, FaultyStore, Strike};

use std::sync::Arc;
use std::time::Duration;

use crate::household::{Household, noise};

fn context(home: &Household) -> RetentionContext {
    RetentionContext {
        zone: jiff::tz::TimeZone::UTC,
        now: jiff::Timestamp::try_from(holdfast::clock::Clock::now(&*home.clock)).unwrap(),
        floor_seconds: 0,
        overrides: Vec::new(),
    }
}

#[test]
fn a_policy_works_without_a_read_key() {
    let home = Household::new();
    for day in 0..6 {
        home.backup("shop", if day == 0 { &["keep"] } else { &[] }, &noise(day, 50_000));
        home.backup("etc", &[], &noise(100 + day, 10_000));
        home.wait(Duration::from_hours(24));
    }
    let repository = home.open();
    let history = History::read(&repository).unwrap();
    let identity = [home.maintainer.identity.to_identity()];
    let labelled = label_snapshots(
        &repository,
        &history,
        &identity,
        holdfast::repo::history::SnapshotRecord::is_live,
    );
    assert_eq!(labelled.len(), 12);
    assert!(labelled.iter().all(|one| one.label.as_ref().is_some_and(|l| l.host == "h")));
    let policy = Policy {
        daily: KeepCount::AtMost(2),
        tags: vec![vec!["keep".into()]],
        ..Policy::default()
    };
    let plans = plan_forget(&policy, &labelled, &context(&home)).unwrap();
    let removed = removed_by(&plans);
    assert_eq!((plans.len(), removed.len()), (2, 7), "two groups; the tagged one stays");
    let ids = removed.iter().map(|(name, _)| name.id).collect();
    let freed = freed_by(&repository, &history, &identity, &ids).unwrap();
    assert!(freed.objects >= 7 && freed.bytes > 200_000, "{freed:?}");
    let count = home.maintain(&repository, |m| forget(m, &history, &removed)).unwrap();
    assert_eq!(count, 7);
    let history = History::read(&repository).unwrap();
    assert_eq!(history.live().count(), 5);
    home.assert_sound(&repository, "after forgetting");
}

#[test]
fn forgetting_may_stop_anywhere() {
    let home = Household::new();
    home.backup("a", &[], &noise(1, 50_000));
    home.backup("a", &[], &noise(2, 50_000));
    for nth in 1.. {
        let strike = Strike { kind: None, nth, fault: Fault::CrashAfter };
        let states = tempfile::tempdir().unwrap();
        let faulty = Arc::new(FaultyStore::new(home.store.image(), [strike]));
        let opened =
            holdfast::repo::open::Repository::open(faulty.clone(), states.path(), Some(home.id));
        let result = opened.ok().map(|repository| home.forget(&repository, 0));
        let repository = home.open_in(Arc::new(faulty.inner().image()), states.path());
        home.assert_sound(&repository, &format!("operation {nth}"));
        let history = History::read(&repository).unwrap();
        assert!((1..=2).contains(&history.live().count()));
        home.prune(&repository).unwrap();
        if !faulty.is_crashed() {
            assert!(matches!(result, Some(Ok(1))));
            assert_eq!(history.live().count(), 1);
            return;
        }
    }
}

#[test]
fn several_maintainers_share_one_chain() {
    let home = Household::new();
    for seed in 0..4 {
        home.backup("a", &[], &noise(seed, 20_000));
    }
    let names: Vec<_> =
        History::read(&home.open()).unwrap().snapshots.iter().map(|r| r.name).collect();
    std::thread::scope(|scope| {
        for name in &names[..3] {
            let home = &home;
            scope.spawn(move || {
                // Another host: another state folder, so no common lock.
                let states = tempfile::tempdir().unwrap();
                let repository = home.open_in(home.store.clone(), states.path());
                let history = History::read(&repository).unwrap();
                let list = [(*name, Remark::lossy("one of three"))];
                home.maintain(&repository, |m| forget(m, &history, &list)).unwrap();
            });
        }
    });
    let history = History::read(&home.open()).unwrap();
    assert!(history.findings.is_empty(), "{:?}", history.findings);
    assert_eq!(history.live().count(), 1);
    assert_eq!(history.tomb.map(|tomb| tomb.0), Some(3));
}
