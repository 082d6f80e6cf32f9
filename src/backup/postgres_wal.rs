//! Files of a write-ahead log as a root, and the run that saves them.
//!
//! A file is saved when [`save_wal`] returns: then its commit is durable. One that is saved
//! already, with the same content, costs nothing; with other content it is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backup::error::BackupError;
use crate::backup::item::{Ended, Entry, Item, KnownContent, Step};
use crate::backup::ordered::Giver;
use crate::backup::previous_files::PreviousFiles;
use crate::backup::run::{BackupSummary, RootSource, SnapshotLabel, run};
use crate::backup::stream::Reading;
use crate::backup::successor::Successor;
use crate::backup::wal_series::{SavedFile, WalSeries};
use crate::chunker::{ChunkSizes, Chunker};
use crate::clock::Clock;
use crate::crypto::ids::{content_hash, content_hasher};
use crate::format::node::{Node, NodeKind, UnixTime};
use crate::format::postgres::facts::{ClusterFacts, PostgresFacts, WAL_SERIES_TAG};
use crate::format::postgres::segment::WalFile;
use crate::format::snapshot::Facts;
use crate::format::tree::EntryKey;
use crate::id::ContentHash;
use crate::index::previous_tree::PreviousEntry;
use crate::progress::Progress;
use crate::repo::open::Repository;
use crate::repo::session::{SessionOptions, WriteSession};
use crate::source::error::SourceError;

/// What the source of a log is called, beside that of its base backups.
#[must_use]
pub fn wal_source(name: &str) -> String {
    format!("{name}.wal")
}

/// A file to be saved.
#[derive(Debug, Clone)]
pub struct WalInput {
    /// Its name in `pg_wal`.
    pub name: String,
    /// Its bytes.
    pub content: WalContent,
}

impl WalInput {
    /// Its length.
    fn bytes(&self) -> Result<u64, BackupError> {
        match &self.content {
            WalContent::Bytes(bytes) => Ok(bytes.len() as u64),
            WalContent::File { path, .. } => match std::fs::metadata(path) {
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
pub enum WalContent {
    /// In a file; `stamp` is that file as the system knew it before it was read.
    File {
        /// Where.
        path: PathBuf,
        /// The file as the system knew it, where that tells its content.
        stamp: Option<String>,
    },
    /// Here.
    Bytes(Arc<[u8]>),
}

/// A log that is being saved.
pub struct WalRun<'a> {
    /// Name of the source.
    pub name: &'a str,
    /// Whose log.
    pub cluster: ClusterFacts,
    /// System identifier of the cluster that has the name now, where that is known. A log of
    /// another one that had it before ends, and is kept.
    pub owner: Option<String>,
    /// The label, but for source and tags.
    pub label: SnapshotLabel,
    /// No record is younger than this (RFC 3339).
    pub newest: String,
    /// How the run works.
    pub options: SessionOptions,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Where progress goes.
    pub progress: Arc<Progress>,
}

/// Why files of a log were not saved.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The run failed.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Under this name something else is saved.
    #[error("{file} of {name} was saved before, with other content")]
    Differs {
        /// Name of the source.
        name: String,
        /// The file.
        file: String,
    },
    /// The log is of another cluster than what is saved under the name.
    #[error("this is the log of cluster {found}, and {name} was cluster {expected} so far")]
    OtherCluster {
        /// Name of the source.
        name: String,
        /// System identifier that was saved before.
        expected: String,
        /// System identifier of the log.
        found: String,
    },
}

/// Saves files of a log in one snapshot; `None` when all of them were saved already.
///
/// `open` opens the repository; it is called once more where the newest snapshot cannot be built
/// upon.
///
/// # Errors
/// [`WalError`]. Nothing is saved then.
pub fn save_wal(
    run_of: &WalRun<'_>,
    open: &mut dyn FnMut() -> Result<Repository, BackupError>,
    files: &[WalInput],
) -> Result<Option<BackupSummary>, WalError> {
    let source = wal_source(run_of.name);
    let repository = open()?;
    let lock = repository.state.lock(&lock_name(&source)).map_err(BackupError::from)?;
    let read = WalSeries::read(&repository.state, &source).map_err(BackupError::from)?;
    let is_of_owner = run_of.owner.as_deref() == Some(&*run_of.cluster.system);
    let mut series = match read {
        Some(series) if series.cluster.system == run_of.cluster.system || !is_of_owner => series,
        _ => WalSeries::new(run_of.cluster.clone()).map_err(BackupError::from)?,
    };
    if series.cluster.system != run_of.cluster.system {
        return Err(WalError::OtherCluster {
            name: run_of.name.to_owned(),
            expected: series.cluster.system,
            found: run_of.cluster.system.clone(),
        });
    }
    let fresh = fresh_files(run_of.name, &series, files)?;
    if fresh.is_empty() {
        return Ok(None);
    }
    if series.is_open || series.is_full(fresh.len()) {
        series.begin_anew().map_err(BackupError::from)?;
    }
    if is_later(&run_of.newest, &series.newest) {
        series.newest.clone_from(&run_of.newest);
    }
    let first = try_save(run_of, repository, &source, &mut series, fresh.clone());
    let summary = match first {
        Err(BackupError::NothingToBuildOn { .. }) => {
            series.begin_anew().map_err(BackupError::from)?;
            try_save(run_of, open()?, &source, &mut series, fresh)?
        }
        other => other?,
    };
    drop(lock);
    Ok(Some(summary))
}

/// Whether a time (RFC 3339) is later than another, or the other is none.
fn is_later(time: &str, than: &str) -> bool {
    let (time, than) = (time.parse::<jiff::Timestamp>(), than.parse::<jiff::Timestamp>());
    match (time, than) {
        (Ok(time), Ok(than)) => time > than,
        (Ok(_), Err(_)) => true,
        (Err(_), _) => false,
    }
}

fn lock_name(source: &str) -> String {
    let hash = blake3::hash(source.as_bytes()).to_hex();
    format!("wal-{}.lock", &hash[..16])
}

/// Those that are not saved yet.
fn fresh_files(
    name: &str,
    series: &WalSeries,
    files: &[WalInput],
) -> Result<Vec<WalInput>, WalError> {
    let mut fresh = Vec::new();
    for input in files {
        let Some(saved) = series.files.get(&input.name) else {
            fresh.push(input.clone());
            continue;
        };
        if is_same(input, saved)? {
            continue;
        }
        // A partial one grows, and never gives way to a shorter one.
        if input.name.ends_with(".partial") {
            if input.bytes()? > saved.bytes {
                fresh.push(input.clone());
            }
            continue;
        }
        return Err(WalError::Differs { name: name.to_owned(), file: input.name.clone() });
    }
    Ok(fresh)
}

/// Whether a file is what was saved under its name.
pub fn is_same(input: &WalInput, saved: &SavedFile) -> Result<bool, BackupError> {
    Ok(match &input.content {
        WalContent::Bytes(bytes) => content_hash(bytes) == saved.hash,
        WalContent::File { stamp: Some(stamp), .. } if saved.stamp.as_ref() == Some(stamp) => true,
        WalContent::File { path, .. } => {
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

fn unreadable(path: &std::path::Path, source: std::io::Error) -> SourceError {
    SourceError::Io { action: "read", path: path.to_owned(), source }
}

fn try_save(
    run_of: &WalRun<'_>,
    repository: Repository,
    source: &str,
    series: &mut WalSeries,
    files: Vec<WalInput>,
) -> Result<BackupSummary, BackupError> {
    // From here to the end the file is behind, or not: nobody can know.
    series.is_open = true;
    series.write(&repository, source)?;
    let mut label = run_of.label.clone();
    source.clone_into(&mut label.source);
    label.tags.push(format!("{WAL_SERIES_TAG}{}", series.series));
    let taken = Arc::new(Mutex::new(series.clone()));
    let root = WalRoot {
        name: run_of.name.to_owned(),
        files,
        carried: Vec::new(),
        series: Arc::clone(&taken),
    };
    let state = WalSeries::path(&repository.state, source);
    let (clock, options) = (Arc::clone(&run_of.clock), run_of.options);
    let summary = run(repository, clock, options, &label, vec![Box::new(root)], &run_of.progress)?;
    let mut saved = taken.lock().unwrap_or_else(PoisonError::into_inner).clone();
    saved.is_open = false;
    // The snapshot is there: what fails from here on only makes the next one begin a new series.
    if let Err(error) = crate::repo::state::write_json(&state, &saved) {
        run_of.progress.warn(error.to_string());
    }
    *series = saved;
    Ok(summary)
}

/// The files of a series as a tree.
struct WalRoot {
    name: String,
    files: Vec<WalInput>,
    carried: Vec<PreviousEntry>,
    series: Arc<Mutex<WalSeries>>,
}

impl RootSource for WalRoot {
    fn name(&self) -> String {
        format!("postgres:{}.wal", self.name)
    }

    fn path(&self) -> Vec<u8> {
        wal_source(&self.name).into_bytes()
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
        let replaced = |name: &String| {
            let whole = name.strip_suffix(".partial").unwrap_or(name);
            self.files.iter().any(|file| file.name == *name || file.name == whole)
        };
        for name in series.carried().filter(|name| !replaced(name)) {
            let key = EntryKey { dir: Vec::new(), name: name.clone().into_bytes() };
            let found = previous.as_mut().and_then(|previous| previous.find(&key));
            let name = || self.name.clone();
            let found = found.ok_or_else(|| BackupError::NothingToBuildOn { name: name() })?;
            self.carried.push(found);
        }
        Ok(Some(successor))
    }

    fn facts(&self) -> Option<Facts> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        Some(PostgresFacts::Wal(series.facts()).encode())
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
            match read_file(&file, reading, chunker, items) {
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
        for (name, (saved, history)) in taken {
            let size = series.cluster.segments();
            if let (Some(WalFile::History(timeline)), Some(text)) =
                (WalFile::parse(&name, size), history)
            {
                series.histories.insert(timeline, text);
            }
            series.take(&name, saved);
        }
    }
}

fn entry_of(node: Node) -> Entry {
    Entry { dir: Arc::from([]), node, device: 0, inode: 0, link_group: None }
}

type Taken = (SavedFile, Option<String>);

/// Reads one file; `None` when nobody takes any more.
fn read_file(
    file: &WalInput,
    reading: &Reading,
    chunker: &Chunker,
    items: &mut Giver<Item>,
) -> Result<Option<Taken>, SourceError> {
    let mut node = Node::new(NodeKind::File, file.name.as_bytes());
    node.mode = 0o600;
    let (mut content, path, stamp): (Box<dyn Read>, _, _) = match &file.content {
        WalContent::Bytes(bytes) => {
            (Box::new(std::io::Cursor::new(Arc::clone(bytes))), PathBuf::new(), None)
        }
        WalContent::File { path, stamp } => {
            let open = File::open(path).map_err(|error| unreadable(path, error))?;
            let modified = open.metadata().and_then(|metadata| metadata.modified());
            let since = modified.map_err(|error| unreadable(path, error))?;
            let since = since.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            node.mtime = UnixTime(since.as_secs().cast_signed(), since.subsec_nanos());
            (Box::new(open), path.clone(), stamp.clone())
        }
    };
    let mut entry = entry_of(node);
    if !items.give(Item::Begin(Box::new(entry.clone()))) {
        return Ok(None);
    }
    let is_history = file.name.ends_with(".history");
    let mut history = Vec::new();
    let mut hasher = content_hasher();
    let mut bytes = 0;
    let mut read = |buffer: &mut [u8]| {
        let length = content.read(buffer).map_err(|error| unreadable(&path, error))?;
        hasher.update(&buffer[..length]);
        bytes += length as u64;
        if is_history {
            history.extend_from_slice(&buffer[..length]);
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
    let history = is_history.then(|| String::from_utf8_lossy(&history).into_owned());
    Ok(Some((saved, history)))
}
