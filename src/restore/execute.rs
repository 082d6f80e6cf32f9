//! A restore into a directory: entries in the order of the tree, content by all cores.
//!
//! Running it again continues: a file gets its modification time last, so one that has size and
//! time of its node is complete (`restore --overwrite always` looks at its content nevertheless).
//! After a power loss that is not certain until [`Target::sync`], which a restore ends with.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::format::node::{Node, NodeKind};
use crate::format::redis::facts::RecordFacts;
use crate::format::snapshot::{Root, Snapshot};
use crate::progress::Progress;
use crate::repo::chunk_reader::ChunkReader;
use crate::repo::content_reader::ContentRuns;
use crate::repo::read_access::{FrameSpan, ReadAccess};
use crate::repo::tree_reader::TreeReadError;
use crate::restore::crew::{Job, Running, Shared};
use crate::restore::error::{RestoreError, with_causes};
use crate::restore::extra::ExtraNames;
use crate::restore::file_state::FileState;
use crate::restore::filter::Filters;
use crate::restore::hard_links::{LinkContents, Names};
use crate::restore::plan::{DataMap, Window, WindowBounds};
use crate::restore::redis_dump::{dump_facts, read_dump};
use crate::restore::selection::{SelectedEntries, SelectedEntry};
use crate::restore::target::Target;
use crate::restore::target_error::TargetError;
use crate::restore::target_file::Restored;
use crate::restore::target_path::{TargetPath, escape};
use crate::restore::target_place::Found;

/// What happens to files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// Those with the size and modification time of their node are taken as complete; the others
    /// are compared chunk by chunk, and what differs is written.
    #[default]
    IfChanged,
    /// All are compared chunk by chunk, and what differs is written.
    Always,
    /// Whatever is there stays.
    Never,
}

/// How a restore goes.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// What happens to files that are there already. The target must have been opened with its
    /// `overwrite` option for anything but [`Overwrite::Never`].
    pub overwrite: Overwrite,
    /// Removes what the snapshot does not have, in directories that it has.
    pub delete: bool,
    /// Only counts; nothing is created, changed or removed.
    pub dry_run: bool,
    /// Which entries are wanted.
    pub filters: Filters,
    /// Worker threads; 0 for one a core.
    pub threads: usize,
}

/// What a restore did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Files and streams that are complete, those that were so before not counted.
    pub files: u64,
    /// Files that were there already, or were to be left as they are.
    pub unchanged: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links, devices, pipes, sockets, further names of files.
    pub others: u64,
    /// Plain bytes of the files in `files`, holes left out.
    pub bytes: u64,
    /// Entries removed by `delete`.
    pub removed: u64,
    /// Files of which some content is lost.
    pub damaged: u64,
    /// Entries that could not be restored at all, and parts of the tree that could not be read.
    pub errors: u64,
    /// Chunks that were damaged in one pack and intact in another.
    pub healed_chunks: u64,
}

impl RestoreReport {
    /// Whether everything wanted is in the target.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.damaged == 0 && self.errors == 0
    }
}

/// Restores what is at `path` in the snapshot (empty: everything) into the target.
///
/// Troubles of single entries are reported to `progress` and counted in the report.
///
/// # Errors
/// What ends the restore; what is complete by then stays.
pub fn restore(
    access: &Arc<ReadAccess>,
    snapshot: &Snapshot,
    path: &[u8],
    target: &Target,
    options: &RestoreOptions,
    progress: &Progress,
) -> Result<RestoreReport, RestoreError> {
    let entries = SelectedEntries::open(access, snapshot, path, &options.filters)?;
    let entries = entries.ok_or_else(|| RestoreError::NotFound { path: escape(path) })?;
    announce(snapshot, path, options, progress);
    let shared = Shared::new(access, target, progress);
    let (jobs, queue) = unbounded();
    let report = std::thread::scope(|scope| {
        for _ in 0..threads_of(options.threads, access) {
            let (queue, shared) = (queue.clone(), &shared);
            scope.spawn(move || shared.work(&queue));
        }
        drop(queue);
        Director::new(&shared, options, jobs)?.run(entries)
    })?;
    shared.verdict()?;
    Ok(RestoreReport {
        files: report.files + shared.complete.load(Relaxed),
        damaged: shared.damaged.load(Relaxed),
        errors: report.errors + shared.failed.load(Relaxed),
        healed_chunks: shared.healed_chunks.load(Relaxed),
        ..report
    })
}

/// Most threads that read from a store far away: each holds a few megabytes.
const READERS_MAX: usize = 8;

/// The number of threads that 0 stands for.
pub(super) fn threads_of(asked: usize, access: &ReadAccess) -> usize {
    match asked {
        // Where the way is long, threads wait more than they work.
        0 => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            cores.max(access.read_slots().min(READERS_MAX))
        }
        given => given,
    }
}

fn announce(snapshot: &Snapshot, path: &[u8], options: &RestoreOptions, progress: &Progress) {
    if path.is_empty() && options.filters.is_empty() {
        // Claims of the writer, which may add up to anything.
        let total =
            |count: fn(&Root) -> u64| snapshot.roots.iter().map(count).fold(0, u64::saturating_add);
        progress.items_total.store(total(|root| root.entries.saturating_add(1)), Relaxed);
        progress.bytes_total.store(total(|root| root.bytes), Relaxed);
    }
}

/// The one thread that reads the tree, plans, and makes everything that has no content.
struct Director<'a> {
    shared: &'a Shared<'a>,
    options: &'a RestoreOptions,
    jobs: Sender<Job>,
    chunks: ChunkReader,
    window: Window,
    files: Vec<Arc<FileState>>,
    running: Option<Receiver<()>>,
    names: Names,
    contents: LinkContents<'a>,
    extra: ExtraNames<'a>,
    spans: Vec<FrameSpan>,
    report: RestoreReport,
}

impl<'a> Director<'a> {
    fn new(
        shared: &'a Shared<'a>,
        options: &'a RestoreOptions,
        jobs: Sender<Job>,
    ) -> Result<Self, RestoreError> {
        Ok(Self {
            shared,
            options,
            jobs,
            chunks: shared.access.reader()?,
            window: Window::new(WindowBounds::FIRST),
            files: Vec::new(),
            running: None,
            names: Names::default(),
            contents: LinkContents::new(shared.access),
            extra: ExtraNames::new(shared.target, &options.filters, shared.progress),
            spans: Vec::new(),
            report: RestoreReport::default(),
        })
    }

    fn run(mut self, entries: SelectedEntries<'a>) -> Result<RestoreReport, RestoreError> {
        let deletes = self.options.delete && !self.options.dry_run;
        if !deletes {
            self.extra.disable();
        } else if let Some(source_path) = entries.filled_from() {
            self.extra.add_dir(&TargetPath::root(), &source_path);
        }
        for entry in entries {
            if self.shared.is_over() {
                break;
            }
            match entry {
                Ok(entry) => self.take(entry),
                Err(error) => self.lost_entries(&error),
            }
            if self.window.is_full() {
                self.submit();
            }
        }
        self.submit();
        self.wait();
        if !self.shared.is_over() {
            self.names.link_all(self.shared);
            self.extra.finish();
        }
        self.report.removed = self.extra.removed();
        if !self.shared.is_over() && !self.options.dry_run {
            self.shared.target.finish_directories(self.shared.progress)?;
            self.shared.target.sync()?;
        }
        self.shared.healed_chunks.fetch_add(self.chunks.healed_chunks(), Relaxed);
        Ok(self.report)
    }

    fn lost_entries(&mut self, error: &TreeReadError) {
        self.report.errors += 1;
        self.extra.disable();
        self.shared.progress.warn(with_causes(error));
    }

    fn take(&mut self, entry: SelectedEntry<'a>) {
        let path = match TargetPath::parse(&entry.path) {
            Ok(path) => path,
            Err(error) => return self.shared.trouble(error.into()),
        };
        if !entry.is_late {
            self.extra.see(&path);
        }
        if !entry.is_wanted {
            return;
        }
        self.shared.progress.set_current(&path.to_string());
        let taken = match entry.node.kind {
            NodeKind::Dir => self.directory(&path, &entry),
            NodeKind::File | NodeKind::Stream => self.file(path, entry),
            _ => self.other(&path, &entry),
        };
        if let Err(error) = taken {
            self.shared.trouble(error);
        }
    }

    fn make_parents(
        &self,
        path: &TargetPath,
        entry: &SelectedEntry<'_>,
    ) -> Result<(), TargetError> {
        if !entry.is_root || self.options.dry_run {
            return Ok(());
        }
        let slashes = path.as_bytes().iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for (end, _) in slashes {
            self.shared.target.make_dir(&TargetPath::parse(&path.as_bytes()[..end])?)?;
        }
        Ok(())
    }

    fn directory(
        &mut self,
        path: &TargetPath,
        entry: &SelectedEntry<'_>,
    ) -> Result<(), TargetError> {
        self.report.directories += 1;
        Progress::add(&self.shared.progress.items_done, 1);
        if self.options.dry_run {
            return Ok(());
        }
        self.extra.add_dir(path, &entry.source_path);
        if path.as_bytes().is_empty() {
            return Ok(()); // the target itself is the user's
        }
        self.make_parents(path, entry)?;
        self.shared.target.make_dir(path)?;
        self.shared.target.schedule_directory(path, &entry.node)
    }

    /// What of an entry is there already, if it is to stay as it is.
    fn stays(&self, path: &TargetPath, node: &Node) -> Result<bool, TargetError> {
        let Some(found) = self.shared.target.find(path)? else { return Ok(false) };
        Ok(match self.options.overwrite {
            Overwrite::Never => true,
            Overwrite::Always => false,
            Overwrite::IfChanged => self.is_unchanged(path, node, &found)?,
        })
    }

    fn is_unchanged(
        &self,
        path: &TargetPath,
        node: &Node,
        found: &Found,
    ) -> Result<bool, TargetError> {
        if found.kind != node.kind || found.mtime != node.mtime {
            return Ok(false);
        }
        Ok(match node.kind {
            NodeKind::File => found.size == node.size,
            NodeKind::Symlink => Some(self.shared.target.read_link(path)?) == node.target,
            _ => false,
        })
    }

    /// A dump that is stored as records: put together by this thread.
    fn dump(&mut self, path: &TargetPath, entry: &SelectedEntry<'a>, facts: &RecordFacts) {
        let shared = self.shared;
        let written = || -> Result<(), RestoreError> {
            let file = shared.target.create_file(path, &entry.node)?;
            let mut offset = 0;
            read_dump(shared.access, entry.root, facts, &mut |bytes| {
                if shared.is_over() {
                    return Err(RestoreError::Cancelled);
                }
                file.write_at(offset, bytes)?;
                offset += bytes.len() as u64;
                Progress::add(&shared.progress.bytes_done, bytes.len() as u64);
                Ok(())
            })?;
            shared.target.apply_file_metadata(&file, &entry.node, shared.progress)?;
            Ok(())
        };
        match written() {
            Ok(()) => self.report.files += 1,
            Err(RestoreError::Target(error)) => shared.trouble(error),
            Err(RestoreError::Cancelled) => {}
            Err(error) => {
                self.report.damaged += 1;
                shared.progress.warn(with_causes(&error));
            }
        }
        Progress::add(&shared.progress.items_done, 1);
    }

    fn file(&mut self, path: TargetPath, mut entry: SelectedEntry<'a>) -> Result<(), TargetError> {
        if self.names.defer(&entry, &path) {
            self.report.others += 1;
            return Ok(());
        }
        self.make_parents(&path, &entry)?;
        if self.stays(&path, &entry.node)? {
            self.report.unchanged += 1;
            Progress::add(&self.shared.progress.items_done, 1);
            if entry.node.link_group.is_some() {
                let file = self.shared.target.open_file(&path)?.filter(|_| !self.options.dry_run);
                self.names.made(&entry, file.map(|file| file.restored()));
            }
            return Ok(());
        }
        self.report.bytes += entry.node.stored_bytes();
        if self.options.dry_run {
            self.report.files += 1;
            self.names.made(&entry, None);
            return Ok(());
        }
        if entry.is_root
            && entry.node.kind == NodeKind::Stream
            && let Ok(Some(facts)) = dump_facts(entry.root)
        {
            self.dump(&path, &entry, &facts);
            return Ok(());
        }
        if let Err(error) = self.contents.complete(&mut entry) {
            self.lost_entries(&error);
        }
        self.plan(path, entry);
        Ok(())
    }

    fn plan(&mut self, path: TargetPath, mut entry: SelectedEntry<'a>) {
        let content = std::mem::take(&mut entry.node.content);
        let map = DataMap::new(entry.node.size, &entry.node.holes);
        let is_sound = map.is_some();
        let file = Arc::new(FileState::new(path, entry.node.clone(), map.unwrap_or_default()));
        self.names.planned(&entry, &file);
        self.window.add_file();
        self.files.push(file.clone());
        let planned = match ContentRuns::new(&content) {
            Ok(runs) if is_sound => self.plan_runs(&file, runs),
            Ok(_) => Err(TreeReadError::Shape),
            Err(error) => Err(error),
        };
        if let Err(error) = planned {
            file.damage(&error, self.shared.progress);
        }
        if !self.shared.is_over() && file.release() {
            self.shared.finish(&file);
        }
    }

    fn plan_runs(
        &mut self,
        file: &Arc<FileState>,
        mut runs: ContentRuns,
    ) -> Result<(), TreeReadError> {
        let stored_bytes = file.node.stored_bytes();
        let mut offset = 0;
        while let Some(run) = runs.next(&mut self.chunks)? {
            let mut spans = std::mem::take(&mut self.spans);
            spans.clear();
            self.shared.access.spans(&run, &mut spans)?;
            for span in &spans {
                if offset + u64::from(span.bytes) > stored_bytes {
                    return Err(TreeReadError::Shape);
                }
                if self.window.is_full() {
                    self.submit();
                    self.window.add_file();
                    self.files.push(file.clone());
                }
                if self.window.add_piece(offset, *span) {
                    file.expect_piece();
                }
                offset += u64::from(span.bytes);
            }
            self.spans = spans;
            if self.shared.is_over() {
                return Ok(());
            }
        }
        if offset == stored_bytes { Ok(()) } else { Err(TreeReadError::Shape) }
    }

    fn other(&mut self, path: &TargetPath, entry: &SelectedEntry<'a>) -> Result<(), TargetError> {
        self.report.others += 1;
        Progress::add(&self.shared.progress.items_done, 1);
        if self.names.defer(entry, path) {
            return Ok(());
        }
        self.make_parents(path, entry)?;
        let restored = if self.stays(path, &entry.node)? || self.options.dry_run {
            None
        } else {
            Some(self.make(path, &entry.node)?)
        };
        self.names.made(entry, restored);
        Ok(())
    }

    fn make(&self, path: &TargetPath, node: &Node) -> Result<Restored, TargetError> {
        let target = self.shared.target;
        let restored = match node.kind {
            NodeKind::Symlink => {
                target.symlink(path, node.target.as_deref().unwrap_or_default())?
            }
            NodeKind::Chardev | NodeKind::Blockdev => target.device(path, node)?,
            NodeKind::Socket => target.socket(path)?,
            _ => target.fifo(path)?,
        };
        target.apply_metadata(&restored, node, self.shared.progress)?;
        Ok(restored)
    }

    /// Gives the window to the workers, and waits until the one before it is done.
    fn submit(&mut self) {
        let window = std::mem::replace(&mut self.window, Window::new(WindowBounds::default()));
        let files = std::mem::take(&mut self.files);
        if window.is_empty() {
            return;
        }
        let (done, finished) = bounded(0);
        let (pieces, batches) = window.into_batches();
        let window = Arc::new(Running { files, pieces, _done: done });
        for batch in batches {
            if self.jobs.send(Job { window: window.clone(), batch }).is_err() {
                self.shared.end(RestoreError::WorkerLost);
            }
        }
        drop(window);
        self.wait();
        self.running = Some(finished);
    }

    /// Waits for the window that runs.
    fn wait(&mut self) {
        if let Some(running) = self.running.take() {
            // Nothing is ever sent: the answer is that the last job has been dropped.
            let _ = running.recv();
            self.names.link_ready(self.shared);
        }
    }
}
