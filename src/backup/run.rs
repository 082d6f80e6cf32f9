//! The whole run: begin a session, take every root in turn, commit the snapshot.
//!
//! Nothing is saved unless every stream ended well and everything is durable.

use std::sync::Arc;

use crate::backup::block::BlockPool;
use crate::backup::error::BackupError;
use crate::backup::item::Item;
use crate::backup::ordered::{Giver, ordered};
use crate::backup::sequencer::{FinishedRoot, Sequencer};
use crate::backup::stream::Reading;
use crate::backup::successor::Successor;
use crate::backup::usage::Usage;
use crate::chunker::{ChunkSizes, Chunker, GearTable};
use crate::clock::Clock;
use crate::format::commit::ObjectName;
use crate::format::snapshot::{Facts, Root, Snapshot, Statistics};
use crate::id::PackHandle;
use crate::progress::Progress;
use crate::repo::error::RepoError;
use crate::repo::open::Repository;
use crate::repo::session::{Committed, SessionOptions, WriteSession};
use crate::repo::write_counts::WriteCounts;

/// Pieces of work between the readers and the writer of a run, for each worker.
const WINDOW_PER_THREAD: usize = 6;

/// What a snapshot says about itself.
#[derive(Debug, Clone)]
pub struct SnapshotLabel {
    /// Name by which retention groups it.
    pub source: String,
    /// Host name.
    pub host: String,
    /// User name.
    pub user: String,
    /// When it is said to have been made.
    pub time: jiff::Timestamp,
    /// Free labels.
    pub tags: Vec<String>,
}

/// What is read for one root.
pub trait RootSource: Send {
    /// Name of the root: `tree:/etc`, `stream:shop.sql`.
    fn name(&self) -> String;
    /// Its path at the source, or the stream's name.
    fn path(&self) -> Vec<u8>;
    /// How its content is cut.
    fn chunk_sizes(&self) -> ChunkSizes;
    /// Opens what change detection compares with, and begins its successor; nothing where everything
    /// is read each time.
    fn previous(
        &mut self,
        session: &mut WriteSession,
        label: &SnapshotLabel,
    ) -> Result<Option<Successor>, BackupError> {
        let _ = (session, label);
        Ok(None)
    }
    /// What the source says about itself; asked for when everything was read.
    fn facts(&self) -> Option<Facts> {
        None
    }
    /// Tags that the snapshot gets beside those that it was given; asked for when everything was read.
    fn tags(&self) -> Vec<String> {
        Vec::new()
    }
    /// Reads everything, in order. Runs in a thread of its own.
    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>);
}

/// What a run has done.
#[derive(Debug, Clone)]
pub struct BackupSummary {
    /// The snapshot, unless it was a trial.
    pub committed: Option<Committed>,
    /// Counts.
    pub statistics: Statistics,
    /// Some items could not be read and are missing.
    pub is_partial: bool,
    /// The packs that the snapshot needs, old ones too.
    pub packs: Vec<ObjectName>,
    /// What the roots say about themselves.
    pub facts: Vec<Facts>,
}

/// Makes one snapshot of all `roots`.
///
/// # Errors
/// Nothing is saved; what was stored can be taken over by the next run of this host.
#[allow(clippy::needless_pass_by_value, reason = "a run keeps its clock to its end")]
pub fn run(
    repository: Repository,
    clock: Arc<dyn Clock>,
    options: SessionOptions,
    label: &SnapshotLabel,
    mut roots: Vec<Box<dyn RootSource>>,
    progress: &Arc<Progress>,
) -> Result<BackupSummary, BackupError> {
    refuse_twice(&roots)?;
    let mut session = WriteSession::begin(repository, Arc::clone(&clock), options)?;
    let gear = GearTable::new(&session.domain.gear_table());
    let reading = Reading {
        keys: session.domain.clone(),
        workers: session.chunks.workers().submitter(),
        blocks: BlockPool::default(),
        progress: Arc::clone(progress),
    };
    let mut usage = Usage::default();
    let mut statistics = Statistics::default();
    let mut written = Vec::new();
    let mut trees = Vec::new();
    for source in &mut roots {
        let previous = source.previous(&mut session, label)?;
        let chunker = Chunker::new(gear.clone(), source.chunk_sizes());
        let (root, previous) = run_root(
            &mut session,
            &mut **source,
            (&reading, &chunker),
            (&mut usage, &mut statistics),
            previous,
            options.threads,
        )?;
        trees.extend(previous);
        written.push(snapshot_root(&**source, root, &chunker));
    }
    session.chunks.finish().map_err(RepoError::from)?;
    let counts = session.chunks.counts();
    let facts = written.iter().filter_map(|root| root.facts.clone()).collect();
    let mut label = label.clone();
    label.tags.extend(roots.iter().flat_map(|root| root.tags()));
    let (committed, packs) =
        commit(session, &*clock, &label, written, &usage, &mut statistics, counts)?;
    // The snapshot is there, whatever becomes of the cache that the next run compares with.
    for error in trees.into_iter().filter_map(|tree| tree.publish().err()) {
        progress.warn(format!("{error}: {}", error.source));
    }
    let is_partial = statistics.errors > 0;
    Ok(BackupSummary { committed: Some(committed), statistics, is_partial, packs, facts })
}

fn refuse_twice(roots: &[Box<dyn RootSource>]) -> Result<(), BackupError> {
    let mut names = std::collections::HashSet::new();
    match roots.iter().map(|root| root.name()).find(|name| !names.insert(name.clone())) {
        Some(name) => Err(BackupError::DuplicateRoot { name }),
        None => Ok(()),
    }
}

fn run_root(
    session: &mut WriteSession,
    source: &mut dyn RootSource,
    (reading, chunker): (&Reading, &Chunker),
    (usage, statistics): (&mut Usage, &mut Statistics),
    previous: Option<Successor>,
    threads: usize,
) -> Result<(FinishedRoot, Option<Successor>), BackupError> {
    let (mut giver, taker) = ordered::<Item>(threads * WINDOW_PER_THREAD);
    let progress = Arc::clone(&reading.progress);
    std::thread::scope(|scope| {
        // The giver ends with its thread; when the taker is dropped first, the next gift fails.
        let mut taker = taker;
        let reader = scope.spawn(move || source.read(reading, chunker, &mut giver));
        let mut sequencer = Sequencer::new(session, usage, statistics, &progress, previous);
        while let Some(item) = taker.take() {
            sequencer.take(item)?;
            if progress.is_cancelled() {
                return Err(BackupError::Cancelled);
            }
        }
        let is_broken = taker.is_broken();
        if reader.join().is_err() || is_broken {
            return Err(BackupError::ThreadLost);
        }
        sequencer.finish()
    })
}

fn snapshot_root(source: &dyn RootSource, root: FinishedRoot, chunker: &Chunker) -> Root {
    Root {
        name: source.name(),
        path: source.path(),
        node: root.node,
        tree: root.tree.top,
        levels: root.tree.levels,
        entries: root.tree.entries,
        bytes: root.bytes,
        chunker: chunker.sizes().to_string(),
        facts: source.facts(),
    }
}

fn commit(
    mut session: WriteSession,
    clock: &dyn Clock,
    label: &SnapshotLabel,
    roots: Vec<Root>,
    usage: &Usage,
    statistics: &mut Statistics,
    counts: WriteCounts,
) -> Result<(Committed, Vec<ObjectName>), BackupError> {
    count(statistics, counts);
    let uses = usage
        .pack_uses(session.chunks.lookup())
        .map_err(|handle| RepoError::PackUnknown { handle })?;
    let packs = uses.iter().map(|pack| ObjectName::Data(pack.pack)).collect();
    let handles: Vec<PackHandle> = usage.handles().copied().collect();
    let ended = jiff::Timestamp::try_from(clock.now()).unwrap_or_default();
    let stated = statistics.clone();
    let committed = session.commit(uses, &handles, |seq, session| Snapshot {
        repository: session.repository.id,
        writer: session.keys.id,
        seq,
        domain: session.keys.domain,
        epoch: session.epoch(),
        source: label.source.clone(),
        host: label.host.clone(),
        user: label.user.clone(),
        time: label.time.to_string(),
        ended: ended.to_string(),
        tags: label.tags.clone(),
        program: concat!("holdfast ", env!("CARGO_PKG_VERSION")).into(),
        roots,
        partial: stated.errors > 0,
        statistics: stated,
    })?;
    statistics.stored_bytes += committed.other_bytes;
    Ok((committed, packs))
}

fn count(statistics: &mut Statistics, counts: WriteCounts) {
    statistics.new_bytes = counts.new_bytes;
    statistics.stored_bytes = counts.stored_bytes;
    statistics.new_chunks = counts.new_chunks;
    statistics.known_chunks = counts.known_chunks;
}
