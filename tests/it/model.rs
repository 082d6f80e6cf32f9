//! Any sequence of backups, edits, forgets, prunes, crashes and losses of local state, against a
//! map of what each snapshot must hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast::format::commit::SnapshotName;
use holdfast::repo::history::History;
use holdfast::repo::open::Repository;
use holdfast::store::faulty::{Fault, FaultyStore, Strike};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

use crate::household::{Contents, Household, copy_of, files_below, noise, stream, tree};

#[derive(Debug, Clone)]
enum Step {
    Edit { file: u8, seed: u8, bytes: u32 },
    Remove { file: u8 },
    Backup,
    Forget { which: u8 },
    Prune,
    Wait { hours: u8 },
    CrashBackup { nth: u8, fault: Fault },
    CrashPrune { nth: u8, fault: Fault },
    Restore { which: u8 },
    LoseState,
}

fn step() -> impl Strategy<Value = Step> {
    let fault = || prop_oneof![Just(Fault::CrashBefore), Just(Fault::CrashAfter)];
    prop_oneof![
        4 => (0..4_u8, any::<u8>(), 0..400_000_u32)
            .prop_map(|(file, seed, bytes)| Step::Edit { file, seed, bytes }),
        1 => (0..4_u8).prop_map(|file| Step::Remove { file }),
        4 => Just(Step::Backup),
        2 => any::<u8>().prop_map(|which| Step::Forget { which }),
        2 => Just(Step::Prune),
        2 => (0..90_u8).prop_map(|hours| Step::Wait { hours }),
        2 => (1..30_u8, fault()).prop_map(|(nth, fault)| Step::CrashBackup { nth, fault }),
        2 => (1..30_u8, fault()).prop_map(|(nth, fault)| Step::CrashPrune { nth, fault }),
        2 => any::<u8>().prop_map(|which| Step::Restore { which }),
        1 => Just(Step::LoseState),
    ]
}

struct Model {
    home: Household,
    states: TempDir,
    source: TempDir,
    listed: BTreeMap<SnapshotName, Contents>,
}

impl Model {
    fn new() -> Self {
        let home = Household::new();
        let states = copy_of(home.states.path());
        let source = tempfile::tempdir().unwrap();
        Self { home, states, source, listed: BTreeMap::new() }
    }

    fn open(&self) -> Repository {
        self.home.open_in(self.home.store.clone(), self.states.path())
    }

    fn expected(&self) -> Contents {
        let below = self.source.path().strip_prefix("/").unwrap();
        let mut all: Contents = files_below(self.source.path())
            .into_iter()
            .map(|(name, bytes)| (below.join(name).to_str().unwrap().to_owned(), bytes))
            .collect();
        let sum: Vec<u8> =
            all.values().flat_map(|bytes| bytes.iter().step_by(3).copied()).collect();
        all.insert("dump".to_owned(), sum);
        all
    }

    /// Backs up, with a strike where there is one, and takes over what the logs then say.
    fn backup(&mut self, strike: Option<Strike>) {
        let expected = self.expected();
        let faulty = Arc::new(FaultyStore::new(self.home.store.clone(), strike));
        let dump: Box<_> = Box::new(stream("dump", &expected["dump"]));
        let roots = vec![tree(self.source.path()), dump];
        let opened = Repository::open(faulty.clone(), self.states.path(), Some(self.home.id));
        let done = opened
            .is_ok_and(|repository| self.home.backup_roots(repository, "host", &[], roots).is_ok());
        assert!(done || faulty.is_crashed(), "a backup failed without a crash");
        let history = History::read(&self.open()).unwrap();
        let new: Vec<_> = history.live().filter(|r| !self.listed.contains_key(&r.name)).collect();
        assert!(new.len() == 1 || (!done && new.is_empty()), "{} new snapshots", new.len());
        for record in new {
            self.listed.insert(record.name, expected.clone());
        }
        self.home.wait(Duration::from_mins(1));
    }

    fn prune(&self, strike: Option<Strike>) {
        let faulty = Arc::new(FaultyStore::new(self.home.store.clone(), strike));
        let opened = Repository::open(faulty.clone(), self.states.path(), Some(self.home.id));
        let done = opened.is_ok_and(|repository| self.home.prune(&repository).is_ok());
        assert!(done || faulty.is_crashed(), "a prune failed without a crash");
    }

    fn nth(&self, which: u8) -> Option<SnapshotName> {
        let at = usize::from(which).checked_rem(self.listed.len())?;
        self.listed.keys().nth(at).copied()
    }

    fn forget(&mut self, which: u8) {
        let Some(name) = self.nth(which) else { return };
        let repository = self.open();
        let history = History::read(&repository).unwrap();
        let at = history.snapshots.iter().position(|record| record.name == name).unwrap();
        self.home.forget(&repository, at).unwrap();
        self.listed.remove(&name);
    }

    fn restore(&self, name: SnapshotName) {
        let repository = self.open();
        let history = History::read(&repository).unwrap();
        let record = history.live().find(|record| record.name == name).unwrap();
        assert!(self.home.contents(&repository, record) == self.listed[&name], "other bytes");
    }

    fn take(&mut self, step: &Step) {
        let strike = |nth: u8, fault| Some(Strike { kind: None, nth: nth.into(), fault });
        match *step {
            Step::Edit { file, seed, bytes } => {
                let path = self.source.path().join(format!("file-{file}"));
                std::fs::write(path, noise(seed.into(), bytes as usize)).unwrap();
            }
            Step::Remove { file } => {
                drop(std::fs::remove_file(self.source.path().join(format!("file-{file}"))));
            }
            Step::Backup => self.backup(None),
            Step::Forget { which } => self.forget(which),
            Step::Prune => self.prune(None),
            Step::Wait { hours } => self.home.wait(Duration::from_secs(u64::from(hours) * 3600)),
            Step::CrashBackup { nth, fault } => self.backup(strike(nth, fault)),
            Step::CrashPrune { nth, fault } => self.prune(strike(nth, fault)),
            Step::Restore { which } => {
                if let Some(name) = self.nth(which) {
                    self.restore(name);
                }
            }
            Step::LoseState => self.states = self.home.fresh_states(),
        }
    }

    fn end(&self) {
        let repository = self.open();
        let history = History::read(&repository).unwrap();
        let listed: std::collections::BTreeSet<_> = history.live().map(|r| r.name).collect();
        assert!(listed.iter().eq(self.listed.keys()), "the list of snapshots is another");
        self.home.assert_sound(&repository, "at the end");
        self.listed.keys().for_each(|name| self.restore(*name));
    }
}

#[test]
fn any_sequence_keeps_what_was_saved() {
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    let config = Config {
        cases: if is_ci { 512 } else { 64 },
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    // More cases are a matter of time, never of passing.
    let until = Instant::now() + Duration::from_mins(1);
    let steps = proptest::collection::vec(step(), 1..16);
    let ran = TestRunner::new(config).run(&steps, |steps| {
        if Instant::now() > until {
            return Ok(());
        }
        let mut model = Model::new();
        for step in &steps {
            model.take(step);
        }
        model.end();
        Ok(())
    });
    ran.unwrap();
}
