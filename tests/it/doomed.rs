//! What a backup must not rely on: packs that a prune has announced, whoever stored them, and
//! whatever this host's clock says.

use std::io::{Error, Read};
use std::sync::Arc;
use std::time::Duration;

use holdfast::backup::error::BackupError;
use holdfast::backup::run::{RootSource, SnapshotLabel, run};
use holdfast::backup::stream::StreamRoot;
use holdfast::clock::{Clock, ManualClock};
use holdfast::compress::Level;
use holdfast::format::commit::ObjectName;
use holdfast::format::tombstone::Declaration;
use holdfast::progress::Progress;
use holdfast::repo::error::RepoError;
use holdfast::repo::history::History;
use holdfast::repo::session::SessionOptions;
use holdfast::source::stream::ReaderStream;

use crate::household::{GRACE, Household, noise, stream};

const HOUR: Duration = Duration::from_hours(1);

/// Gives its data, calls `at_end`, and ends or fails as that says.
struct Ending<F>(std::io::Cursor<Vec<u8>>, F);

impl<F: FnMut() -> std::io::Result<usize>> Read for Ending<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => (self.1)(),
            read => Ok(read),
        }
    }
}

fn root(
    data: &[u8],
    at_end: impl FnMut() -> std::io::Result<usize> + Send + 'static,
) -> StreamRoot {
    let reader = Ending(std::io::Cursor::new(data.to_vec()), at_end);
    let open = || Ok(Box::new(ReaderStream::new("dump", reader)) as _);
    StreamRoot::new("dump".into(), Box::new(open))
}

#[test]
fn an_intended_pack_of_a_killed_run_is_not_taken_for_committed() {
    let home = Household::new();
    home.backup("small", &[], b"first");
    let data = noise(5, 6 << 20);
    let broken = root(&data, || Err(Error::other("broken off")));
    home.backup_roots(home.open(), "dump", &[], vec![Box::new(broken)]).unwrap_err();
    home.wait(GRACE + HOUR);
    home.prune(&home.open()).unwrap();
    let intended: Vec<ObjectName> =
        History::read(&home.open()).unwrap().intents.into_keys().collect();
    assert!(intended.len() > 1, "{intended:?}");
    // It sees the intents and leaves these packs alone.
    home.backup("small", &[], b"second");
    let repository = home.open();
    let withdrawn: Vec<_> = intended.into_iter().map(Declaration::Withdraw).collect();
    home.maintain(&repository, |m| m.declare(&withdrawn)).unwrap();
    let whole = vec![Box::new(stream("dump", &data)) as Box<dyn RootSource>];
    home.backup_roots(home.open(), "dump", &[], whole).unwrap();
    home.assert_sound(&home.open(), "with packs of the killed run");
    let history = History::read(&home.open()).unwrap();
    let contents = home.contents(&home.open(), history.snapshots.last().unwrap());
    assert!(contents.values().any(|bytes| *bytes == data));
}

/// Begins a backup that reuses the only snapshot's packs, and while it reads lets them be forgotten
/// and intended; commits when the intents are that old, by the store, on a host that is behind.
fn backup_over_intents(age: Duration, behind: Duration) -> Result<(), BackupError> {
    let home = Arc::new(Household::new());
    let data = noise(6, 4 << 20);
    home.backup("dump", &[], &data);
    home.wait(GRACE + HOUR);
    let clock = Arc::new(ManualClock::new(home.clock.now() - behind));
    let (world, host) = (home.clone(), clock.clone());
    let mut ended = false;
    let at_end = move || {
        if !std::mem::replace(&mut ended, true) {
            let repository = world.open();
            world.forget(&repository, 0).unwrap();
            world.wait(GRACE + HOUR);
            world.prune(&repository).unwrap();
            world.wait(age);
            host.set(world.clock.now() - behind);
        }
        Ok(0)
    };
    let label = SnapshotLabel {
        source: "dump".into(),
        host: "h".into(),
        user: "u".into(),
        time: jiff::Timestamp::UNIX_EPOCH,
        tags: vec![],
    };
    let roots: Vec<Box<dyn RootSource>> = vec![Box::new(root(&data, at_end))];
    let options = SessionOptions { threads: 1, level: Level(1) };
    let progress = Arc::new(Progress::default());
    run(home.open(), clock, options, &label, roots, &progress).map(drop)
}

#[test]
fn the_store_and_not_the_host_says_how_old_an_intent_is() {
    for behind in [Duration::ZERO, 60 * HOUR] {
        let refused = backup_over_intents(71 * HOUR, behind);
        let is_refused =
            matches!(&refused, Err(BackupError::Repo(RepoError::PacksIntended { packs: 1.. })));
        assert!(is_refused, "{behind:?} behind: {refused:?}");
        backup_over_intents(2 * HOUR, behind).unwrap();
    }
}
