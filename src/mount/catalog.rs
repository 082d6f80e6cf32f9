//! Which snapshots there are, by source and time; read anew while the file system is mounted.
//!
//! A look at the names of the logs tells whether there is anything new; only then they are read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::crypto::recipient::Identity;
use crate::format::commit::SnapshotName;
use crate::format::snapshot::Snapshot;
use crate::maintenance::listing::read_snapshot;
use crate::mount::frames::Frames;
use crate::mount::names::{source_name, time_name};
use crate::mount::sync::lock;
use crate::progress::Progress;
use crate::repo::error::RepoError;
use crate::repo::history::{History, SnapshotRecord};
use crate::repo::open::Repository;
use crate::repo::reading::read_access;
use crate::repo::unlock::Unlocked;
use crate::restore::error::with_causes;
use crate::store::StoreError;

/// How long a list of snapshots counts as new.
const FRESH: Duration = Duration::from_secs(2);

/// A snapshot of the list.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name.
    pub name: SnapshotName,
    /// Its source.
    pub source: String,
    /// When it was made, as it says.
    pub time: Timestamp,
    record: SnapshotRecord,
}

/// One source.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// Its snapshots by the names of their directories.
    pub snapshots: BTreeMap<String, Arc<Listed>>,
    /// Name of the directory of the one that was committed last; nothing where a newer snapshot cannot
    /// be read, which may be of this source.
    pub latest: Option<String>,
}

/// What became of a snapshot.
enum Label {
    Shown(Arc<Listed>),
    /// It is not wanted.
    Hidden,
    /// Nobody can tell.
    Damaged,
}

#[derive(Default)]
struct State {
    sources: Arc<BTreeMap<String, Source>>,
    known: HashMap<SnapshotName, Label>,
    logs: (u64, u64),
    /// How often the list was made.
    generation: u32,
    stored_bytes: u64,
    trouble: String,
}

/// The list of snapshots.
pub struct Catalog {
    repository: Repository,
    unlocked: Unlocked,
    identities: Vec<Identity>,
    wanted: Vec<String>,
    progress: Arc<Progress>,
    state: Mutex<State>,
    refreshed: Mutex<Instant>,
}

impl Catalog {
    /// The list as `history` has it; of the sources that are `wanted`, or of all.
    ///
    /// Only those keys are kept that reading takes.
    #[must_use]
    pub fn new(
        repository: Repository,
        history: &History,
        mut unlocked: Unlocked,
        wanted: Vec<String>,
        progress: Arc<Progress>,
    ) -> Self {
        unlocked.operator.root = None;
        unlocked.operator.maintainers.clear();
        let this = Self {
            identities: unlocked.read_identities(),
            repository,
            unlocked,
            wanted,
            progress,
            state: Mutex::default(),
            refreshed: Mutex::new(Instant::now()),
        };
        this.take_in(history);
        this
    }

    /// The sources by the names of their directories.
    #[must_use]
    pub fn sources(&self) -> Arc<BTreeMap<String, Source>> {
        self.state().sources.clone()
    }

    /// Grows with each change of the list.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.state().generation
    }

    /// Bytes of all objects.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.state().stored_bytes
    }

    /// A snapshot that is or was in the list.
    #[must_use]
    pub fn snapshot(&self, name: SnapshotName) -> Option<Arc<Listed>> {
        match self.state().known.get(&name) {
            Some(Label::Shown(listed)) => Some(listed.clone()),
            _ => None,
        }
    }

    /// Reads a snapshot.
    pub fn read(&self, listed: &Listed) -> Result<Snapshot, RepoError> {
        read_snapshot(&self.repository, &listed.record, &self.identities)
    }

    /// Looks whether there is anything new, unless that was done a moment ago; while one thread
    /// does it, the others go on with what is known. Whether there was.
    pub fn refresh(&self, frames: &Frames) -> bool {
        let Ok(mut refreshed) = self.refreshed.try_lock() else { return false };
        if refreshed.elapsed() < FRESH {
            return false;
        }
        let result = self.read_anew(frames);
        *refreshed = Instant::now();
        match result {
            Ok(is_new) => {
                self.state().trouble.clear();
                is_new
            }
            Err(error) => {
                self.report(format!(
                    "the list of snapshots cannot be read: {}",
                    with_causes(&error)
                ));
                false
            }
        }
    }

    /// Reports a trouble, once until it is over or another.
    fn report(&self, trouble: String) {
        let mut state = self.state();
        if state.trouble != trouble {
            state.trouble.clone_from(&trouble);
            drop(state);
            self.progress.warn(trouble);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn read_anew(&self, frames: &Frames) -> Result<bool, RepoError> {
        let logs = self.names_of_logs()?;
        if self.state().logs == logs {
            return Ok(false);
        }
        let history = History::read(&self.repository)?;
        let (access, _) = read_access(&self.repository, &history, &self.unlocked)?;
        frames.set_access(access);
        if self.take_in(&history) {
            self.state().logs = logs;
        }
        Ok(true)
    }

    /// Count and sum of hashes of the names under which commits and tombstones stand.
    fn names_of_logs(&self) -> Result<(u64, u64), StoreError> {
        let (mut count, mut sum) = (0, 0_u64);
        for prefix in ["log/", "tomb/"] {
            self.repository.store.list(prefix, &mut |entry| {
                let hash = blake3::hash(entry.name.as_bytes());
                let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("32 bytes");
                count += 1;
                sum = sum.wrapping_add(u64::from_le_bytes(*first));
            })?;
        }
        Ok((count, sum))
    }

    /// Makes the list anew; whether all of it could be fetched.
    fn take_in(&self, history: &History) -> bool {
        let unknown: Vec<&SnapshotRecord> = {
            let state = self.state();
            history.live().filter(|record| !state.known.contains_key(&record.name)).collect()
        };
        let fetched = |record: &&SnapshotRecord| Some((record.name, self.label(record)?));
        let read: Vec<_> = unknown.par_iter().filter_map(fetched).collect();
        let is_all = read.len() == unknown.len();
        let puts = history.logs.values().flatten().flat_map(|record| &record.commit.puts);
        let there = puts.filter(|put| !history.deleted.contains(&put.name));
        let stored_bytes = there.fold(0, |sum: u64, put| sum.saturating_add(put.bytes));
        let mut state = self.state();
        state.known.extend(read);
        state.stored_bytes = stored_bytes;
        state.generation += 1;
        let mut live: Vec<&SnapshotRecord> = history.live().collect();
        live.sort_by_key(|record| (record.time, record.seq, record.name));
        let mut sources = BTreeMap::<String, Source>::new();
        for record in live {
            let listed = match state.known.get(&record.name) {
                Some(Label::Shown(listed)) => listed,
                Some(Label::Hidden) => continue,
                Some(Label::Damaged) | None => {
                    for source in sources.values_mut() {
                        source.latest = None;
                    }
                    continue;
                }
            };
            let source = sources.entry(source_name(&listed.source)).or_default();
            let mut name = time_name(listed.time);
            if source.snapshots.contains_key(&name) {
                let id = listed.name.id.to_string();
                name = format!("{name}-{}", &id[..8]);
            }
            source.latest = Some(name.clone());
            source.snapshots.insert(name, listed.clone());
        }
        state.sources = Arc::new(sources);
        is_all
    }

    /// What the list says of a snapshot; `None` where it could not be fetched, which may go better
    /// the next time.
    fn label(&self, record: &SnapshotRecord) -> Option<Label> {
        let snapshot = match read_snapshot(&self.repository, record, &self.identities) {
            Ok(snapshot) => snapshot,
            Err(RepoError::Store(error)) if !matches!(error, StoreError::NotFound { .. }) => {
                self.report(format!("a snapshot cannot be fetched: {}", with_causes(&error)));
                return None;
            }
            Err(error) => {
                self.progress.warn(with_causes(&error));
                return Some(Label::Damaged);
            }
        };
        let is_wanted = self.wanted.is_empty() || self.wanted.contains(&snapshot.source);
        if !is_wanted {
            return Some(Label::Hidden);
        }
        Some(Label::Shown(Arc::new(Listed {
            name: record.name,
            time: snapshot.time.parse().unwrap_or(record.time),
            source: snapshot.source,
            record: record.clone(),
        })))
    }
}
