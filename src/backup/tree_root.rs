//! A file tree as a root: walks it beside the previous tree and reads what has changed.
//!
//! Unchanged entries are taken over as they were, nothing of them is opened. Small files are read
//! and cut by the workers, many at a time; large ones by this thread, block by block.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::backup::entry_reader::{EntryReader, Plan};
use crate::backup::error::BackupError;
use crate::backup::item::{Entry, Item, KnownContent, Step};
use crate::backup::large_file::{LargeFile, read_large};
use crate::backup::ordered::Giver;
use crate::backup::run::{RootSource, SnapshotLabel};
use crate::backup::stream::Reading;
use crate::backup::successor::Successor;
use crate::chunker::{ChunkSizes, Chunker};
use crate::format::node::{Bytes, Node, NodeKind, UnixTime};
use crate::format::tree::EntryKey;
use crate::id::PackHandle;
use crate::index::previous_tree::{PreviousEntry, PreviousTree, PreviousTreeWriter};
use crate::repo::session::WriteSession;
use crate::source::error::SourceError;
use crate::source::files::entry::{self, EntryHandle, Root};
use crate::source::files::exclude::ExcludeRules;
use crate::source::files::hard_link::{HardLinks, Link};
use crate::source::files::metadata::MetadataReader;
use crate::source::files::postgres_directory::{PostgresDirectory, is_page_file};
use crate::source::files::prefetch::PrefetchedWalk;
use crate::source::files::stat::Stat;
use crate::source::files::walk::WalkEvent;

/// Files of at least this length are read block by block.
pub const LARGE_FILE_BYTES: u64 = 1024 * 1024;
/// A batch for the workers is closed at so many entries…
const BATCH_ENTRIES: usize = 256;
/// …or so many bytes to be read.
const BATCH_BYTES: u64 = 1024 * 1024;
/// Files that changed less than this before the previous run began are not trusted: the kernel's
/// times are coarse, and a change in the same tick would not show.
const RACY_SECONDS: i64 = 1;

/// A tree, or a single file.
pub struct TreeRoot {
    root: Root,
    rules: Arc<ExcludeRules>,
    is_forced: bool,
    begun: UnixTime,
    previous: Option<PreviousTree>,
    visible: HashSet<PackHandle>,
    links: HardLinks,
    databases: Databases,
}

impl TreeRoot {
    /// Opens the root. `is_forced` reads all files, also those that look unchanged; `begun` is the
    /// time of the host at the start.
    ///
    /// # Errors
    /// It is not there, or cannot be looked at.
    pub fn open(
        path: &Path,
        rules: Arc<ExcludeRules>,
        is_forced: bool,
        begun: UnixTime,
    ) -> Result<Self, SourceError> {
        Ok(Self {
            root: Root::open(path)?,
            rules,
            is_forced,
            begun,
            previous: None,
            visible: HashSet::new(),
            links: HardLinks::default(),
            databases: Databases::default(),
        })
    }
}

impl RootSource for TreeRoot {
    fn name(&self) -> String {
        format!("tree:{}", self.root.path.display())
    }

    fn path(&self) -> Vec<u8> {
        self.root.path.as_os_str().as_encoded_bytes().to_vec()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::FILES
    }

    fn previous(
        &mut self,
        session: &mut WriteSession,
        label: &SnapshotLabel,
    ) -> Result<Option<Successor>, BackupError> {
        let path = session.repository.state.tree_path(&label.source, &self.path());
        self.visible = session.chunks.lookup().visible_handles();
        if !self.is_forced {
            self.previous = PreviousTree::open(&path).or_else(|| {
                session.repository.state.newest_tree().and_then(|path| PreviousTree::open(&path))
            });
        }
        let begun = UnixTime(self.begun.0 - RACY_SECONDS, self.begun.1);
        let successor = PreviousTreeWriter::create(&path, session.run(), begun)?;
        Ok(Some(Successor::InOrder(successor)))
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        let reader = Arc::new(EntryReader {
            keys: reading.keys.clone(),
            chunker: chunker.clone(),
            metadata: MetadataReader::default(),
        });
        let mut feed = Feed { reading, reader, items, plans: Vec::new(), bytes: 0 };
        let rules = Arc::clone(&self.rules);
        let mut node = self.root.node.clone();
        node.name.clear();
        let stat = self.root.stat;
        let found = Found { dir: Arc::from([]), node, stat, handle: self.root.handle.clone() };
        if !self.take(found, None, &mut feed) || !feed.flush() {
            return;
        }
        let mut walk = match PrefetchedWalk::start(&self.root, rules) {
            Ok(walk) => walk,
            Err(source) => {
                let path = self.root.path.display().to_string();
                items.give(Item::Failed(BackupError::Root { path, source }));
                return;
            }
        };
        while let Some(events) = walk.next_batch() {
            for event in events {
                if !self.take_event(event, &mut feed) {
                    return;
                }
            }
        }
        feed.flush();
    }
}

/// An entry as the walk found it.
struct Found {
    dir: Arc<[u8]>,
    node: Node,
    stat: Stat,
    handle: EntryHandle,
}

impl TreeRoot {
    fn take_event(&mut self, event: WalkEvent, feed: &mut Feed<'_>) -> bool {
        match event {
            WalkEvent::Entry(entry) => {
                let page_bytes = self.databases.page_bytes(&entry);
                let handle = entry.handle();
                let dir = feed.shared_dir(&entry.parent.path);
                let found = Found { dir, node: entry.node, stat: entry.stat, handle };
                self.take(found, page_bytes, feed)
            }
            WalkEvent::Vanished(error) => feed.push(Plan::Done(Step::Warning(message(&error))), 0),
            WalkEvent::Error(error) => feed.push(Plan::Done(Step::Unreadable(message(&error))), 0),
        }
    }

    /// Decides what is to be done for one entry; `false` when nobody takes any more.
    fn take(&mut self, found: Found, page_bytes: Option<u32>, feed: &mut Feed<'_>) -> bool {
        let key = EntryKey { dir: found.dir.to_vec(), name: found.node.name.clone() };
        let previous = self.previous.as_mut().and_then(|previous| previous.take(&key));
        let link = self.links.meet(&found.stat);
        let is_first_name = !matches!(link, Link::Again(_));
        let entry = |node| Entry {
            dir: Arc::clone(&found.dir),
            node,
            device: found.stat.dev,
            inode: found.stat.ino,
            link_group: match link {
                Link::Alone => None,
                Link::First(group) | Link::Again(group) => Some(group),
            },
        };
        let is_known = previous.is_some();
        if let Some(previous) = &previous
            && self.is_unchanged(previous, &found.stat, is_first_name)
        {
            let previous = previous.clone();
            let mut node = previous.node;
            let runs = std::mem::take(&mut node.content.runs);
            let content = if is_first_name && !runs.is_empty() {
                KnownContent::Same { runs, fingerprints: previous.fingerprints }
            } else {
                KnownContent::None
            };
            return feed.push(Plan::Done(Step::Known(entry(node), content)), 0);
        }
        let bytes = if found.stat.kind == NodeKind::File { found.stat.size } else { 0 };
        let entry = entry(found.node);
        if !is_first_name || bytes == 0 {
            return feed.push(Plan::Complete { entry, handle: found.handle, is_known }, 0);
        }
        if bytes >= LARGE_FILE_BYTES || page_bytes.is_some() {
            let previous = previous.filter(|previous| self.is_visible(previous));
            let file = LargeFile { entry, handle: found.handle, page_bytes, previous, is_known };
            return feed.flush() && read_large(file, feed.reading, &feed.reader, feed.items);
        }
        feed.push(Plan::Read { entry, handle: found.handle, is_known }, bytes)
    }

    fn is_unchanged(&self, previous: &PreviousEntry, stat: &Stat, is_first_name: bool) -> bool {
        let node = &previous.node;
        let Some(begun) = self.previous.as_ref().map(PreviousTree::begun) else { return false };
        let is_same = (node.kind, previous.inode) == (stat.kind, stat.ino)
            && (node.mtime, node.ctime) == (stat.mtime, stat.ctime)
            && (stat.kind != NodeKind::File || node.size == stat.size);
        let has_content = !is_first_name
            || stat.kind != NodeKind::File
            || node.stored_bytes() == 0
            || !node.content.runs.is_empty();
        is_same
            && has_content
            && stat.ctime < begun
            && !node.changed_while_read
            && self.is_visible(previous)
    }

    fn is_visible(&self, previous: &PreviousEntry) -> bool {
        let mut last = None;
        previous.node.content.runs.iter().all(|run| {
            let is_seen = last == Some(run.pack) || self.visible.contains(&run.pack);
            last = Some(run.pack);
            is_seen
        })
    }
}

/// The PostgreSQL data directories met so far, whose relation files are cut on page boundaries.
#[derive(Default)]
struct Databases(BTreeMap<Bytes, PostgresDirectory>);

impl Databases {
    /// Length of the pages of an entry, where it is cut in pages. Entries come in the order of the
    /// tree, so a directory's `PG_VERSION` comes before anything in its subdirectories.
    fn page_bytes(&mut self, entry: &entry::Entry) -> Option<u32> {
        if entry.stat.kind != NodeKind::File {
            return None;
        }
        let dir = &entry.parent.path;
        if entry.node.name == b"PG_VERSION" {
            if let Some(found) = PostgresDirectory::probe(&entry.parent.directory) {
                self.0.insert(dir.clone(), found);
            }
            return None;
        }
        let path = entry.path();
        let (_, database) = self.0.iter().find(|(root, _)| {
            let below = match &root[..] {
                b"" => Some(&path[..]),
                root => path.strip_prefix(root).and_then(|rest| rest.strip_prefix(b"/")),
            };
            below.is_some_and(is_page_file)
        })?;
        Some(database.page_bytes)
    }
}

/// Gathers entries into batches for the workers.
struct Feed<'a> {
    reading: &'a Reading,
    reader: Arc<EntryReader>,
    items: &'a mut Giver<Item>,
    plans: Vec<Plan>,
    bytes: u64,
}

impl Feed<'_> {
    fn shared_dir(&self, path: &[u8]) -> Arc<[u8]> {
        match self.plans.last().and_then(Plan::dir) {
            Some(dir) if **dir == *path => Arc::clone(dir),
            _ => Arc::from(path),
        }
    }

    fn push(&mut self, plan: Plan, bytes: u64) -> bool {
        self.plans.push(plan);
        self.bytes += bytes;
        let is_full = self.plans.len() >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES;
        !is_full || self.flush()
    }

    fn flush(&mut self) -> bool {
        let plans = std::mem::take(&mut self.plans);
        self.bytes = 0;
        if plans.is_empty() {
            return true;
        }
        if self.reading.progress.is_cancelled() {
            self.items.give(Item::Failed(BackupError::Cancelled));
            return false;
        }
        let Some(slot) = self.items.slot() else { return false };
        if plans.iter().all(|plan| matches!(plan, Plan::Done(_))) {
            return slot.fill(Item::Batch(self.reader.steps(plans)));
        }
        let reader = Arc::clone(&self.reader);
        self.reading.workers.submit(move |_| {
            slot.fill(Item::Batch(reader.steps(plans)));
        });
        true
    }
}

/// A message for people, with its cause.
#[must_use]
pub fn message(error: &SourceError) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
