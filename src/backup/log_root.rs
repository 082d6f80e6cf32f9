//! Files of a log as a root, and the run that saves them: those that are new are read, those of the
//! snapshot before are carried on.
//!
//! What is remembered of the snapshots is a cache. It is marked as open before a run begins: where
//! it may be behind the repository, the next run begins a new series.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::backup::error::BackupError;
use crate::backup::item::{Ended, Entry, Item, KnownContent, Step};
use crate::backup::ordered::Giver;
use crate::backup::previous_files::PreviousFiles;
use crate::backup::run::{BackupSummary, RootSource, SnapshotLabel, run};
use crate::backup::stream::Reading;
use crate::backup::successor::Successor;
use crate::chunker::{ChunkSizes, Chunker};
use crate::clock::Clock;
use crate::crypto::ids::{content_hash, content_hasher};
use crate::crypto::secret::random_bytes;
use crate::format::node::{Node, NodeKind, UnixTime};
use crate::format::postgres::facts::WAL_SERIES_TAG;
use crate::format::snapshot::Facts;
use crate::format::tree::EntryKey;
use crate::id::ContentHash;
use crate::index::previous_tree::PreviousEntry;
use crate::progress::Progress;
use crate::repo::error::RepoError;
use crate::repo::open::Repository;
use crate::repo::session::{SessionOptions, WriteSession};
use crate::repo::state::{StateDir, write_json};
use crate::source::error::SourceError;

/// A file to be saved.
#[derive(Debug, Clone)]
pub struct LogInput {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub content: LogContent,
}

impl LogInput {
    /// Its length.
    pub fn bytes(&self) -> Result<u64, BackupError> {
        match &self.content {
            LogContent::Bytes(bytes) => Ok(bytes.len() as u64),
            LogContent::Front { bytes, .. } => Ok(*bytes),
            LogContent::File { path, .. } => match std::fs::metadata(path) {
                Ok(metadata) => Ok(metadata.len()),
                Err(error) => {
                    let (name, source) = (self.name.clone(), unreadable(path, error));
                    Err(BackupError::Source { name, source })
                }
            },
        }
    }
}

/// Where the bytes of a file are.
#[derive(Debug, Clone)]
pub enum LogContent {
    /// In a file; `stamp` is that file as the system knew it before it was read.
    File {
        /// Where.
        path: PathBuf,
        /// The file as the system knew it, where that tells its content.
        stamp: Option<String>,
    },
    /// The front of a file that grows.
    Front {
        /// Where.
        path: PathBuf,
        /// Bytes of it.
        bytes: u64,
    },
    /// Here.
    Bytes(Arc<[u8]>),
}

/// A file that is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFile {
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its content.
    pub hash: ContentHash,
    /// The file as the system knew it, so that it need not be read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<String>,
    /// It is in the newest snapshot.
    pub is_carried: bool,
}

/// What this host remembers of a log that it saves. Snapshots of one series build upon each other:
/// the newest of them holds all files of the others.
pub trait LogSeries: Clone + Serialize + Send {
    /// Name of the series.
    fn series(&self) -> &str;
    /// Says whether a run has begun that may or may not have committed.
    fn set_open(&mut self, is_open: bool);
    /// Begins a series that has none of the files so far.
    fn begin_anew(&mut self) -> Result<(), RepoError>;
    /// Names of the files in the newest snapshot.
    fn carried(&self) -> Vec<String>;
    /// Whether a file takes the place of an older one.
    fn replaces(&self, new: &str, old: &str) -> bool;
    /// Whether the content of a file, a small one, is wanted.
    fn wants_content(&self, name: &str) -> bool;
    /// Takes a file that is in the next snapshot.
    fn take_saved(&mut self, name: &str, file: SavedFile, content: Option<Vec<u8>>);
    /// What the snapshot says about itself.
    fn facts(&self) -> Facts;
}

/// A name for a series.
pub fn new_series() -> Result<String, RepoError> {
    Ok(data_encoding::HEXLOWER.encode(&random_bytes::<8>()?))
}

/// Where what is remembered of the log of a source stands.
#[must_use]
pub fn series_path(state: &StateDir, source: &str) -> PathBuf {
    state.tree_path(source, b"").with_extension("wal")
}

/// Name of the lock of whoever saves that log.
#[must_use]
pub fn lock_name(source: &str) -> String {
    let hash = blake3::hash(source.as_bytes()).to_hex();
    format!("wal-{}.lock", &hash[..16])
}

/// Where and how files are saved.
pub struct LogRun<'a> {
    /// Name of the root, `postgres:NAME.wal`.
    pub root: String,
    /// The label, but for the tag of the series; its source is the path of the root.
    pub label: SnapshotLabel,
    /// How the run works.
    pub options: SessionOptions,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Where progress goes.
    pub progress: &'a Arc<Progress>,
}

/// Saves files in a snapshot, and what is remembered of them. A new series is begun where the last
/// snapshot cannot be built upon; then the repository is opened once more.
///
/// # Errors
/// Nothing is saved, or what was saved is not known: then the next run begins a new series.
pub fn save_files<S: LogSeries + 'static>(
    of: &LogRun<'_>,
    repository: Repository,
    open: &mut dyn FnMut() -> Result<Repository, BackupError>,
    series: &mut S,
    files: Vec<LogInput>,
) -> Result<BackupSummary, BackupError> {
    match try_save(of, repository, series, files.clone()) {
        Err(BackupError::NothingToBuildOn { .. }) => {
            series.begin_anew()?;
            try_save(of, open()?, series, files)
        }
        other => other,
    }
}

fn try_save<S: LogSeries + 'static>(
    of: &LogRun<'_>,
    repository: Repository,
    series: &mut S,
    files: Vec<LogInput>,
) -> Result<BackupSummary, BackupError> {
    // From here to the end what is remembered is behind, or not: nobody can know.
    series.set_open(true);
    let state = series_path(&repository.state, &of.label.source);
    write_json(&state, series)?;
    let mut label = of.label.clone();
    label.tags.push(format!("{WAL_SERIES_TAG}{}", series.series()));
    let taken = Arc::new(Mutex::new(series.clone()));
    let root = LogRoot {
        name: of.root.clone(),
        source: label.source.clone(),
        files,
        carried: Vec::new(),
        series: Arc::clone(&taken),
    };
    let clock = Arc::clone(&of.clock);
    let roots: Vec<Box<dyn RootSource>> = vec![Box::new(root)];
    let summary = run(repository, clock, of.options, &label, roots, of.progress)?;
    let mut saved = taken.lock().unwrap_or_else(PoisonError::into_inner).clone();
    saved.set_open(false);
    // The snapshot is there: what fails from here on only makes the next one begin a new series.
    if let Err(error) = write_json(&state, &saved) {
        of.progress.warn(error.to_string());
    }
    *series = saved;
    Ok(summary)
}

/// Whether a file is what was saved under its name.
pub fn is_same(input: &LogInput, saved: &SavedFile) -> Result<bool, BackupError> {
    Ok(match &input.content {
        LogContent::Bytes(bytes) => content_hash(bytes) == saved.hash,
        LogContent::Front { .. } => false,
        LogContent::File { stamp: Some(stamp), .. } if saved.stamp.as_ref() == Some(stamp) => true,
        LogContent::File { path, .. } => {
            let source = |source| BackupError::Source { name: input.name.clone(), source };
            let mut file = File::open(path).map_err(|error| source(unreadable(path, error)))?;
            let mut hasher = content_hasher();
            let mut buffer = vec![0; 1 << 20];
            loop {
                let length = file.read(&mut buffer);
                match length.map_err(|error| source(unreadable(path, error)))? {
                    0 => break hasher.content_hash() == saved.hash,
                    length => hasher.update(&buffer[..length]),
                }
            }
        }
    })
}

fn unreadable(path: &Path, source: std::io::Error) -> SourceError {
    SourceError::Io { action: "read", path: path.to_owned(), source }
}

/// The files of a series as a tree.
struct LogRoot<S> {
    name: String,
    source: String,
    files: Vec<LogInput>,
    carried: Vec<PreviousEntry>,
    series: Arc<Mutex<S>>,
}

impl<S: LogSeries> RootSource for LogRoot<S> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn path(&self) -> Vec<u8> {
        self.source.clone().into_bytes()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::FILES
    }

    fn previous(
        &mut self,
        session: &mut WriteSession,
        label: &SnapshotLabel,
    ) -> Result<Option<Successor>, BackupError> {
        let (mut previous, successor) = PreviousFiles::open(session, label, &self.path())?;
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for name in series.carried() {
            if self.files.iter().any(|file| series.replaces(&file.name, &name)) {
                continue;
            }
            let key = EntryKey { dir: Vec::new(), name: name.into_bytes() };
            let found = previous.as_mut().and_then(|previous| previous.find(&key));
            let name = || self.source.clone();
            let found = found.ok_or_else(|| BackupError::NothingToBuildOn { name: name() })?;
            self.carried.push(found);
        }
        Ok(Some(successor))
    }

    fn facts(&self) -> Option<Facts> {
        Some(self.series.lock().unwrap_or_else(PoisonError::into_inner).facts())
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        let mut root = Node::new(NodeKind::Dir, Vec::new());
        root.mode = 0o700;
        let mut steps = vec![Step::Known(entry_of(root), KnownContent::None)];
        for carried in self.carried.drain(..) {
            let mut node = carried.node;
            let runs = std::mem::take(&mut node.content.runs);
            let content = KnownContent::Same { runs, fingerprints: Vec::new() };
            steps.push(Step::Known(entry_of(node), content));
        }
        if !items.give(Item::Batch(steps)) {
            return;
        }
        let mut taken = BTreeMap::new();
        for file in std::mem::take(&mut self.files) {
            let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
            let is_kept = series.wants_content(&file.name);
            drop(series);
            match read_file((&file, is_kept), reading, chunker, items) {
                Ok(Some(saved)) => drop(taken.insert(file.name, saved)),
                Ok(None) => return,
                Err(source) => {
                    let failed = BackupError::Source { name: file.name, source };
                    items.give(Item::Failed(failed));
                    return;
                }
            }
        }
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, (saved, content)) in taken {
            series.take_saved(&name, saved, content);
        }
    }
}

fn entry_of(node: Node) -> Entry {
    Entry { dir: Arc::from([]), node, device: 0, inode: 0, link_group: None }
}

type Taken = (SavedFile, Option<Vec<u8>>);

/// Reads one file, and keeps its content where that is wanted; `None` when nobody takes any more.
fn read_file(
    (file, is_kept): (&LogInput, bool),
    reading: &Reading,
    chunker: &Chunker,
    items: &mut Giver<Item>,
) -> Result<Option<Taken>, SourceError> {
    let mut node = Node::new(NodeKind::File, file.name.as_bytes());
    node.mode = 0o600;
    let (mut content, path, stamp): (Box<dyn Read>, _, _) = match &file.content {
        LogContent::Bytes(bytes) => {
            (Box::new(std::io::Cursor::new(Arc::clone(bytes))), PathBuf::new(), None)
        }
        LogContent::File { path, stamp } => {
            let open = File::open(path).map_err(|error| unreadable(path, error))?;
            let modified = open.metadata().and_then(|metadata| metadata.modified());
            let since = modified.map_err(|error| unreadable(path, error))?;
            let since = since.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            node.mtime = UnixTime(since.as_secs().cast_signed(), since.subsec_nanos());
            (Box::new(open), path.clone(), stamp.clone())
        }
        LogContent::Front { path, bytes } => {
            let open = File::open(path).map_err(|error| unreadable(path, error))?;
            (Box::new(open.take(*bytes)), path.clone(), None)
        }
    };
    let mut entry = entry_of(node);
    if !items.give(Item::Begin(Box::new(entry.clone()))) {
        return Ok(None);
    }
    let mut kept = Vec::new();
    let mut hasher = content_hasher();
    let mut bytes = 0;
    let mut read = |buffer: &mut [u8]| {
        let length = content.read(buffer).map_err(|error| unreadable(&path, error))?;
        hasher.update(&buffer[..length]);
        bytes += length as u64;
        if is_kept {
            kept.extend_from_slice(&buffer[..length]);
        }
        Ok(length)
    };
    if !reading.cut_all(&mut read, chunker, items)? {
        return Ok(None);
    }
    let hash: ContentHash = hasher.content_hash();
    entry.node.size = bytes;
    entry.node.hash = Some(hash);
    let ended = Ended { entry, hash: Some(hash), is_known: false, discard: None };
    if !items.give(Item::End(Box::new(ended))) {
        return Ok(None);
    }
    let saved = SavedFile { bytes, hash, stamp, is_carried: true };
    Ok(Some((saved, is_kept.then_some(kept))))
}
