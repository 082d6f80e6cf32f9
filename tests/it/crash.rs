//! A backup or an `init` that stops at any operation of the store costs nothing but its own work.

use std::path::Path;
use std::sync::Arc;

use holdfast::backup::error::BackupError;
use holdfast::backup::run::BackupSummary;
use holdfast::crypto::recipient::ReadIdentity;
use holdfast::repo::create::{CreateOptions, create};
use holdfast::repo::error::RepoError;
use holdfast::repo::history::History;
use holdfast::repo::open::Repository;
use holdfast::store::Store;
use holdfast::store::faulty::{Fault, FaultyStore, Strike};
use holdfast::store::memory::MemoryStore;
use tempfile::TempDir;

use crate::household::{Contents, Household, copy_of, noise, stream, tree};

/// A repository with one snapshot of a tree and a stream, both of which have changed since.
struct World {
    home: Household,
    source: TempDir,
    old: Contents,
    dump: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let home = Household::new();
        let source = tempfile::tempdir().unwrap();
        let path = |name: &str| source.path().join(name);
        std::fs::create_dir(path("sub")).unwrap();
        std::fs::write(path("same"), noise(1, 300_000)).unwrap();
        std::fs::write(path("sub/small"), b"first").unwrap();
        let mut dump = noise(2, 700_000);
        let mut world = Self { home, source, old: Contents::new(), dump: dump.clone() };
        world.backup(world.home.open()).unwrap();
        world.old = world.newest(&world.home.open());
        let path = |name: &str| world.source.path().join(name);
        std::fs::write(path("sub/small"), b"second, longer").unwrap();
        std::fs::write(path("new"), noise(3, 2_600_000)).unwrap();
        dump.splice(100_000..100_000, noise(4, 400_000));
        world.dump = dump;
        world
    }

    fn backup(&self, repository: Repository) -> Result<BackupSummary, BackupError> {
        let dump: Box<_> = Box::new(stream("dump.sql", &self.dump));
        self.home.backup_roots(repository, "host", &[], vec![tree(self.source.path()), dump])
    }

    fn newest(&self, repository: &Repository) -> Contents {
        let history = History::read(repository).unwrap();
        self.home.contents(repository, history.snapshots.last().unwrap())
    }

    /// What a restore of the newest must give.
    fn expected(&self) -> Contents {
        let mut expected = Contents::from([("dump.sql".to_owned(), self.dump.clone())]);
        let below = self.source.path().strip_prefix("/").unwrap();
        for (name, bytes) in crate::household::files_below(self.source.path()) {
            expected.insert(below.join(name).to_str().unwrap().to_owned(), bytes);
        }
        expected
    }

    /// The world after a run that stopped: what was saved is sound, and the next run works.
    fn assert_goes_on(&self, after: &MemoryStore, states: &Path, when: &str) -> u64 {
        let store = Arc::new(after.image());
        let repository = self.home.open_in(store.clone(), states);
        let history = History::read(&repository).unwrap();
        assert!(!history.snapshots.is_empty(), "{when}");
        let old = self.home.contents(&repository, &history.snapshots[0]);
        assert!(old == self.old, "{when}: the older snapshot");
        self.home.assert_sound(&repository, when);
        let before = data_bytes(&store);
        self.backup(repository.clone()).unwrap_or_else(|error| panic!("{when}: {error:?}"));
        let when = format!("{when}, and the next run");
        assert!(self.newest(&repository) == self.expected(), "{when}");
        self.home.assert_sound(&repository, &when);
        data_bytes(&store) - before
    }
}

fn data_bytes(store: &MemoryStore) -> u64 {
    let mut bytes = 0;
    store.list("data/", &mut |entry| bytes += entry.size).unwrap();
    bytes
}

#[test]
fn a_backup_may_stop_at_any_operation() {
    let world = World::new();
    let home = &world.home;
    let begun_with = data_bytes(&home.store);
    let full = world.assert_goes_on(&home.store, copy_of(home.states.path()).path(), "no crash");
    assert!(full > 3_000_000, "{full}");
    let mut taken_over = 0;
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        for nth in 1.. {
            let states = copy_of(home.states.path());
            let strike = Strike { kind: None, nth, fault };
            let faulty = Arc::new(FaultyStore::new(home.store.image(), [strike]));
            let opened = Repository::open(faulty.clone(), states.path(), Some(home.id));
            let is_done = opened.is_ok_and(|repository| world.backup(repository).is_ok());
            let after = faulty.inner().image();
            if !faulty.is_crashed() {
                assert!(is_done, "{fault:?} {nth}");
                assert!(nth > 15, "only {nth} operations");
                break;
            }
            assert!(!is_done, "{fault:?} {nth}: success was reported");
            let left = data_bytes(&after) - begun_with;
            let when = format!("{fault:?} {nth}");
            let stored = world.assert_goes_on(&after, states.path(), &when);
            if left > 2_000_000 {
                // One pack at most was stored without the run having learned it.
                assert!(stored < full - 900_000, "{when}: {left} were left, {stored} stored anew");
                taken_over += 1;
            }
            let lost = home.fresh_states();
            world.assert_goes_on(&after, lost.path(), &format!("{when}, local state lost"));
        }
    }
    assert!(taken_over > 4, "no crash left anything to be taken over");
}

#[test]
fn a_lost_answer_costs_no_snapshot() {
    let world = World::new();
    let home = &world.home;
    for fault in [Fault::AnswerLost, Fault::Broken] {
        for nth in 1.. {
            let states = copy_of(home.states.path());
            let strike = Strike { kind: None, nth, fault };
            let faulty = Arc::new(FaultyStore::new(home.store.image(), [strike]));
            let opened = Repository::open(faulty.clone(), states.path(), Some(home.id));
            let ended = opened.map_err(BackupError::from).and_then(|one| world.backup(one));
            if ended.is_ok() {
                let after = Arc::new(faulty.inner().image());
                let repository = home.open_in(after, states.path());
                assert!(world.newest(&repository) == world.expected(), "{fault:?} {nth}");
            }
            let when = format!("{fault:?} {nth}");
            world.assert_goes_on(&faulty.inner().image(), states.path(), &when);
            if faulty.operations() < nth {
                assert!(ended.is_ok());
                break;
            }
        }
    }
}

#[test]
fn an_init_may_stop_at_any_operation() {
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        for nth in 1.. {
            let states = tempfile::tempdir().unwrap();
            let strike = Strike { kind: None, nth, fault };
            let faulty = Arc::new(FaultyStore::new(MemoryStore::new(), [strike]));
            let dynamic: Arc<dyn Store> = faulty.clone();
            let ended = create(&dynamic, states.path(), &options());
            let after = Arc::new(faulty.inner().image());
            if !faulty.is_crashed() {
                Repository::open(after, states.path(), Some(ended.unwrap())).unwrap();
                break;
            }
            assert!(ended.is_err(), "{fault:?} {nth}");
            init_again(after, states.path(), &format!("{fault:?} {nth}"));
        }
    }
}

/// After a stopped `init`: a whole repository, an empty place, or one that says it is unfinished.
fn init_again(store: Arc<MemoryStore>, states: &Path, when: &str) {
    let names = store.names();
    let dynamic: Arc<dyn Store> = store.clone();
    match create(&dynamic, states, &options()) {
        Ok(id) => {
            assert!(names.is_empty(), "{when}: made over {names:?}");
            Repository::open(dynamic, states, Some(id)).unwrap();
        }
        Err(RepoError::Unfinished { .. }) => {
            assert!(!names.contains(&"FORMAT".to_owned()), "{when}");
            assert_eq!(store.names(), names, "{when}: what was there has been touched");
            assert!(matches!(
                Repository::open(dynamic, states, None),
                Err(RepoError::NotThere { .. })
            ));
        }
        Err(RepoError::Exists { .. }) => {
            let repository = Repository::open(dynamic, states, None).unwrap();
            assert!(repository.state.writer().unwrap().is_some(), "{when}: keys are lost");
        }
        Err(error) => panic!("{when}: {error:?}"),
    }
}

fn options() -> CreateOptions {
    CreateOptions {
        operators: vec![vec![ReadIdentity::generate().unwrap().recipient().into()]],
        writer_label: "host".parse().unwrap(),
        pack_bytes: 1 << 20,
        grace_seconds: 3600,
        retention_floor_seconds: 0,
        keep_maintainer: true,
    }
}

/// A stream that breaks off at its end; a quarter of an hour passes when half of it is read.
struct SlowAndBroken {
    clock: Arc<holdfast::clock::ManualClock>,
    data: Vec<u8>,
    at: usize,
}

impl std::io::Read for SlowAndBroken {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.data.len() {
            return Err(std::io::Error::other("broken off"));
        }
        let half = self.data.len() / 2;
        let end = if self.at < half { half } else { self.data.len() };
        let length = buffer.len().min(end - self.at);
        buffer[..length].copy_from_slice(&self.data[self.at..self.at + length]);
        self.at += length;
        if self.at == half {
            self.clock.advance(std::time::Duration::from_mins(16));
        }
        Ok(length)
    }
}

#[test]
fn a_long_run_commits_checkpoints_that_need_no_local_state() {
    use holdfast::backup::stream::StreamRoot;
    use holdfast::source::stream::ReaderStream;
    let home = Household::new();
    home.backup("before", &[], b"small");
    let data = noise(21, 24 << 20);
    let broken = SlowAndBroken { clock: home.clock.clone(), data: data.clone(), at: 0 };
    let open = || Ok(Box::new(ReaderStream::new("dump", broken)) as _);
    let root = StreamRoot::new("dump".into(), Box::new(open));
    assert!(home.backup_roots(home.open(), "dump", &[], vec![Box::new(root)]).is_err());
    let history = History::read(&home.open()).unwrap();
    assert_eq!(history.snapshots.len(), 1, "a stream that broke off saves nothing");
    let log = history.logs.values().next().unwrap();
    assert!(log.len() > 1 && log.last().unwrap().commit.snapshot.is_none(), "no checkpoint");
    let states = home.fresh_states();
    let repository = home.open_in(home.store.clone(), states.path());
    let roots: Vec<Box<dyn holdfast::backup::run::RootSource>> =
        vec![Box::new(stream("dump", &data))];
    let summary = home.backup_roots(repository, "dump", &[], roots).unwrap();
    assert!(summary.statistics.known_chunks > 100, "{:?}", summary.statistics);
}
