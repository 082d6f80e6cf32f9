//! A repository in memory with a clock that tests set, its keys, and streams as backups.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast::backup::error::BackupError;
use holdfast::backup::run::{BackupSummary, RootSource, SnapshotLabel, run};
use holdfast::backup::stream::StreamRoot;
use holdfast::backup::tree_root::TreeRoot;
use holdfast::clock::{Clock, ManualClock};
use holdfast::compress::Level;
use holdfast::crypto::ids::DomainKeys;
use holdfast::crypto::recipient::{Identity, ReadIdentity, Recipient};
use holdfast::crypto::small::open_text;
use holdfast::format::keyfile::{DomainFile, MaintainerKeys, OperatorKeys};
use holdfast::format::node::UnixTime;
use holdfast::format::tombstone::Remark;
use holdfast::id::{DomainId, RepositoryId};
use holdfast::index::database::IndexDatabase;
use holdfast::maintenance::check::{CheckKeys, CheckOptions, CheckReport, check};
use holdfast::maintenance::error::MaintenanceError;
use holdfast::maintenance::forget::forget;
use holdfast::maintenance::listing::read_snapshot;
use holdfast::maintenance::prune::{Prune, PruneReport};
use holdfast::maintenance::prune_plan::input::PruneOptions;
use holdfast::maintenance::prune_plan::repack::{MaxUnused, Repack};
use holdfast::maintenance::tombs::Maintainer;
use holdfast::progress::Progress;
use holdfast::repo::content_reader::ContentRuns;
use holdfast::repo::create::{CreateOptions, create};
use holdfast::repo::domain_index;
use holdfast::repo::history::{History, SnapshotRecord};
use holdfast::repo::open::Repository;
use holdfast::repo::read_access::ReadAccess;
use holdfast::repo::session::SessionOptions;
use holdfast::restore::error::with_causes;
use holdfast::restore::execute::{RestoreOptions, RestoreReport, restore};
use holdfast::restore::target::Target;
use holdfast::restore::target_options::Options as TargetOptions;
use holdfast::source::files::exclude::{ExcludeOptions, ExcludeRules};
use holdfast::source::stream::ReaderStream;
use holdfast::store::Store;
use holdfast::store::memory::MemoryStore;
use holdfast::units::Part;
use tempfile::TempDir;

/// The grace time of the repository.
pub const GRACE: Duration = Duration::from_hours(72);
/// Small packs, so that little data makes several.
const PACK_BYTES: u64 = 1 << 20;

/// A stream of these bytes.
pub fn stream(name: &str, data: &[u8]) -> StreamRoot {
    let reader = ReaderStream::new(name, Cursor::new(data.to_vec()));
    StreamRoot::new(name.to_owned(), Box::new(|| Ok(Box::new(reader))))
}

/// All that one owner has.
pub struct Household {
    pub store: Arc<MemoryStore>,
    pub clock: Arc<ManualClock>,
    pub states: TempDir,
    pub id: RepositoryId,
    pub owner: Identity,
    pub maintainer: MaintainerKeys,
    pub reads: Vec<Identity>,
    pub recipient: Recipient,
    pub domains: Vec<(DomainId, DomainKeys)>,
}

impl Household {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::new(at("2026-03-01T12:00:00Z")));
        let store = Arc::new(MemoryStore::with_clock(clock.clone()));
        let states = tempfile::tempdir().unwrap();
        let owner = ReadIdentity::generate().unwrap();
        let options = CreateOptions {
            operators: vec![vec![owner.recipient().into()]],
            writer_label: "host".parse().unwrap(),
            pack_bytes: PACK_BYTES,
            grace_seconds: GRACE.as_secs(),
            retention_floor_seconds: 0,
            keep_maintainer: true,
        };
        let dynamic: Arc<dyn Store> = store.clone();
        let id = create(&dynamic, states.path(), &options).unwrap();
        let operator = open_key(&store, "keys/operator-", &owner.to_identity());
        let operator = OperatorKeys::parse(&operator).unwrap();
        let read = &operator.reads[0].identity;
        let domain = open_key(&store, "keys/domain-", &read.to_identity());
        let domain = DomainFile::parse(&domain).unwrap();
        Self {
            store,
            clock,
            states,
            id,
            owner: owner.to_identity(),
            maintainer: operator.maintainers[0].clone(),
            reads: vec![read.to_identity()],
            recipient: read.recipient().into(),
            domains: vec![(domain.domain, DomainKeys::derive(&domain.secret))],
        }
    }

    pub fn open(&self) -> Repository {
        self.open_in(self.store.clone(), self.states.path())
    }

    pub fn open_in(&self, store: Arc<dyn Store>, states: &Path) -> Repository {
        Repository::open(store, states, Some(self.id)).unwrap()
    }

    /// Backs a stream up.
    pub fn backup(&self, source: &str, tags: &[&str], data: &[u8]) {
        self.backup_roots(self.open(), source, tags, vec![Box::new(stream(source, data))]).unwrap();
        self.clock.advance(Duration::from_mins(1));
    }

    /// Backs up whatever, wherever; the clock stands still.
    pub fn backup_roots(
        &self,
        repository: Repository,
        source: &str,
        tags: &[&str],
        roots: Vec<Box<dyn RootSource>>,
    ) -> Result<BackupSummary, BackupError> {
        let label = SnapshotLabel {
            source: source.to_owned(),
            host: "h".to_owned(),
            user: "u".to_owned(),
            time: jiff::Timestamp::try_from(self.clock.now()).unwrap(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        };
        let options = SessionOptions { threads: 1, level: Level(1) };
        let progress = Arc::new(Progress::default());
        run(repository, self.clock.clone(), options, &label, roots, &progress)
    }

    /// A state folder that knows this host's keys and nothing else.
    pub fn fresh_states(&self) -> TempDir {
        let states = tempfile::tempdir().unwrap();
        let folder = states.path().join(self.id.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        for key in ["writer.key", "maintainer.key"] {
            let from = self.states.path().join(self.id.to_string()).join(key);
            std::fs::copy(from, folder.join(key)).unwrap();
        }
        states
    }

    /// All files of a snapshot by their paths, as a restore makes them.
    pub fn contents(&self, repository: &Repository, record: &SnapshotRecord) -> Contents {
        let target = tempfile::tempdir().unwrap();
        self.try_restore(repository, record, target.path()).unwrap();
        files_below(target.path())
    }

    /// Restores a snapshot; an incomplete restore is an error too.
    pub fn try_restore(
        &self,
        repository: &Repository,
        record: &SnapshotRecord,
        target: &Path,
    ) -> Result<RestoreReport, String> {
        let text = |error: &dyn std::error::Error| with_causes(error);
        let access = self.try_access(repository).map_err(|e| text(&e))?;
        let snapshot = read_snapshot(repository, record, &self.reads).map_err(|e| text(&e))?;
        let target = Target::open(target, TargetOptions::default()).map_err(|e| text(&e))?;
        let options = RestoreOptions { threads: 1, ..RestoreOptions::default() };
        let progress = Progress::default();
        let report =
            restore(&access, &snapshot, b"", &target, &options, &progress).map_err(|e| text(&e))?;
        if report.is_complete() { Ok(report) } else { Err(format!("{report:?}")) }
    }

    pub fn wait(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// Does something as the maintainer.
    pub fn maintain<T>(
        &self,
        repository: &Repository,
        work: impl FnOnce(&Maintainer<'_>) -> T,
    ) -> T {
        work(&Maintainer { repository, keys: &self.maintainer, clock: &*self.clock, reserve: None })
    }

    /// Forgets the nth snapshot.
    pub fn forget(&self, repository: &Repository, nth: usize) -> Result<usize, MaintenanceError> {
        let history = History::read(repository)?;
        let name = history.snapshots[nth].name;
        self.maintain(repository, |m| forget(m, &history, &[(name, Remark::lossy("test"))]))
    }

    pub fn prune(&self, repository: &Repository) -> Result<PruneReport, MaintenanceError> {
        let identity = [self.maintainer.identity.to_identity()];
        let progress = Progress::default();
        let options = options(Repack::Off);
        self.maintain(repository, |maintainer| {
            Prune { maintainer, identities: &identity, options, progress: &progress }.run()
        })
    }

    /// Prunes until everything that is due has gone.
    pub fn prune_fully(&self) {
        for _ in 0..3 {
            self.prune(&self.open()).unwrap();
            self.wait(GRACE);
        }
    }

    /// Reads back through an index that is made for this.
    pub fn access(&self, repository: &Repository) -> Arc<ReadAccess> {
        self.try_access(repository).unwrap()
    }

    pub fn try_access(&self, repository: &Repository) -> Result<Arc<ReadAccess>, MaintenanceError> {
        let history = History::read(repository)?;
        let mut domains = Vec::new();
        for (domain, keys) in &self.domains {
            let path = repository.state.path().join(format!("reading-{domain}.sqlite"));
            let database = IndexDatabase::open(&path)?;
            let identity = keys.index_identity();
            domain_index::update(repository, &history, *domain, &identity, &database, |_| true)?;
            domains.push((*domain, keys.clone(), database));
        }
        let store = repository.store.clone();
        Ok(Arc::new(ReadAccess::new(store, repository.id, self.reads.clone(), domains)))
    }

    /// The content of a snapshot of one stream.
    pub fn read(&self, repository: &Repository, record: &SnapshotRecord) -> Vec<u8> {
        let access = self.access(repository);
        let snapshot = read_snapshot(repository, record, &self.reads).unwrap();
        let mut reader = access.reader().unwrap();
        let mut runs = ContentRuns::new(&snapshot.roots[0].node.content).unwrap();
        let mut content = Vec::new();
        while let Some(run) = runs.next(&mut reader).unwrap() {
            let mut spans = Vec::new();
            access.spans(&run, &mut spans).unwrap();
            for span in spans {
                content.extend_from_slice(reader.span(&span, span.frame).unwrap());
            }
        }
        content
    }

    /// Checks everything, with all keys or with none.
    pub fn check(&self, repository: &Repository, keys: Keys) -> CheckReport {
        let access = self.access(repository);
        let keys = match keys {
            Keys::All => {
                CheckKeys { access: Some(&access), domains: &self.domains, refs: &self.reads }
            }
            Keys::None => CheckKeys::default(),
        };
        let options = CheckOptions { read_data: Some(Part::WHOLE), threads: 2 };
        check(repository, &*self.clock, keys, options, &Progress::default()).unwrap()
    }

    /// Everything is sound; the findings are the message where it is not.
    #[track_caller]
    pub fn assert_sound(&self, repository: &Repository, when: &str) {
        let report = self.check(repository, Keys::All);
        assert!(report.findings.is_empty(), "{when}: {:#?}", report.findings);
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Keys {
    All,
    None,
}

/// Paths to contents.
pub type Contents = BTreeMap<String, Vec<u8>>;

/// All regular files below a folder.
pub fn files_below(folder: &Path) -> Contents {
    let mut found = Contents::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(dir) = folders.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// A file tree as a root.
pub fn tree(path: &Path) -> Box<dyn RootSource> {
    let rules = Arc::new(ExcludeRules::new(ExcludeOptions::default()).unwrap());
    let now = jiff::Timestamp::now();
    let begun = UnixTime(now.as_second(), now.subsec_nanosecond().unsigned_abs());
    Box::new(TreeRoot::open(path, rules, false, begun).unwrap())
}

/// A copy of a folder.
pub fn copy_of(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut folders = vec![std::path::PathBuf::new()];
    while let Some(dir) = folders.pop() {
        for entry in std::fs::read_dir(folder.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let name = dir.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir(copy.path().join(&name)).unwrap();
                folders.push(name);
            } else {
                std::fs::copy(entry.path(), copy.path().join(&name)).unwrap();
            }
        }
    }
    copy
}

pub fn options(repack: Repack) -> PruneOptions {
    PruneOptions {
        grace: Duration::ZERO,
        repack,
        deleted_objects_max: 1000,
        deleted_bytes_max: u64::MAX,
    }
}

pub fn repack_all() -> Repack {
    Repack::Allowed { max_unused: MaxUnused::Bytes(0), pack_bytes_max: u64::MAX }
}

fn open_key(store: &MemoryStore, prefix: &str, identity: &Identity) -> secrecy::SecretString {
    let name = store.names().into_iter().find(|name| name.starts_with(prefix)).unwrap();
    open_text(&[identity], &store.get(&name, 1 << 16).unwrap(), 1 << 16).unwrap()
}

pub fn at(text: &str) -> SystemTime {
    text.parse::<jiff::Timestamp>().unwrap().into()
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}
