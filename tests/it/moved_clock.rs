//! Clocks that jump: the order of snapshots stays, nothing is lost, nothing is deleted early.

use std::time::{Duration, SystemTime};

use holdfast::clock::{Clock, ManualClock};
use holdfast::maintenance::error::MaintenanceError;
use holdfast::maintenance::prune::Prune;
use holdfast::maintenance::prune_plan::PruneError;
use holdfast::maintenance::prune_plan::repack::Repack;
use holdfast::maintenance::tombs::Maintainer;
use holdfast::progress::Progress;
use holdfast::repo::history::History;

use crate::household::{GRACE, Household, at, noise, options};

const TIMES: [&str; 4] = [
    "2016-03-01T12:00:00Z",
    "1970-01-01T00:00:01Z",
    "2100-01-01T00:00:00Z",
    "2026-03-01T11:59:00Z",
];

/// Objects deleted by a prune, which may refuse only because the clock is behind the store's.
fn prune_or_refuse(home: &Household) -> u64 {
    match home.prune(&home.open()) {
        Ok(report) => report.deleted.objects,
        Err(MaintenanceError::Prune(PruneError::ClockBehind { .. })) => 0,
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn snapshots_stay_in_the_order_of_their_log() {
    for moved in TIMES {
        let home = Household::new();
        let begun = home.clock.now();
        let contents: Vec<_> = (0..4).map(|seed| noise(seed, 50_000)).collect();
        home.backup("a", &[], &contents[0]);
        home.clock.set(at(moved));
        home.backup("a", &[], &contents[1]);
        home.clock.set(begun + Duration::from_hours(1));
        home.backup("a", &[], &contents[2]);
        home.backup("a", &[], &contents[3]);
        let repository = home.open();
        let history = History::read(&repository).unwrap();
        let order: Vec<_> = history.snapshots.iter().map(|record| record.seq).collect();
        assert_eq!(order, [1, 2, 3, 4], "{moved}");
        for (record, content) in history.snapshots.iter().zip(&contents) {
            assert!(home.read(&repository, record) == *content, "{moved}");
        }
        home.assert_sound(&repository, moved);
        for _ in 0..3 {
            prune_or_refuse(&home);
            home.wait(GRACE);
        }
        home.assert_sound(&repository, &format!("{moved}, after prunes"));
    }
}

/// A prune by a host with another clock than the store's.
fn prune_at(home: &Household, host: SystemTime) -> u64 {
    let repository = home.open();
    let identity = [home.maintainer.identity.to_identity()];
    let host = ManualClock::new(host);
    let maintainer =
        Maintainer { repository: &repository, keys: &home.maintainer, clock: &host, reserve: None };
    let (options, progress) = (options(Repack::Off), Progress::default());
    Prune { maintainer: &maintainer, identities: &identity, options, progress: &progress }
        .run()
        .map_or(0, |report| report.deleted.objects)
}

#[test]
fn a_host_whose_clock_is_wrong_deletes_nothing_early() {
    for moved in TIMES {
        let home = Household::new();
        let kept = noise(2, 100_000);
        home.backup("a", &[], &noise(1, 100_000));
        home.backup("a", &[], &kept);
        home.forget(&home.open(), 0).unwrap();
        home.wait(GRACE);
        let data = |home: &Household| {
            home.store.names().iter().filter(|name| name.starts_with("data/")).count()
        };
        let before = data(&home);
        for _ in 0..3 {
            assert_eq!(prune_at(&home, at(moved)), 0, "{moved}");
            home.wait(Duration::from_secs(1));
        }
        assert_eq!(data(&home), before, "{moved}");
        home.assert_sound(&home.open(), moved);
        // With the right time again it ends as if nothing had been.
        home.prune_fully();
        assert!(data(&home) < before, "{moved}: nothing was ever deleted");
        let repository = home.open();
        let history = History::read(&repository).unwrap();
        let live: Vec<_> = history.live().collect();
        assert!(live.len() == 1 && home.read(&repository, live[0]) == kept, "{moved}");
    }
}

#[test]
fn a_store_whose_clock_went_back_deletes_nothing_early() {
    let home = Household::new();
    home.backup("a", &[], &noise(1, 100_000));
    home.backup("a", &[], &noise(2, 100_000));
    home.forget(&home.open(), 0).unwrap();
    home.wait(GRACE);
    home.prune(&home.open()).unwrap();
    for moved in ["2016-03-01T12:00:00Z", "1970-01-01T00:00:01Z"] {
        home.clock.set(at(moved));
        for _ in 0..2 {
            assert_eq!(prune_or_refuse(&home), 0, "{moved}");
            home.wait(Duration::from_mins(1));
        }
        home.assert_sound(&home.open(), moved);
    }
}
