//! Takes items in the order of the tree, stores their chunks, and writes the tree.
//!
//! An entry waits until all its chunks have their places; entries go into the tree in order. What
//! waits is bounded: when it grows, the open frame is closed so that places become known.

use std::collections::{BTreeMap, VecDeque};

use crate::backup::content::ContentBuilder;
use crate::backup::error::BackupError;
use crate::backup::item::{CutBytes, Ended, Entry, Item, KnownContent, Pages, SmallFile, Step};
use crate::backup::page_map::{PageMap, mark_wasteful, mark_wasteful_pieces};
use crate::backup::pieces::{OldContent, Pieces, Span};
use crate::backup::successor::Successor;
use crate::backup::tree_builder::{BuiltTree, TreeBuilder};
use crate::backup::usage::Usage;
use crate::crypto::ids::{ChunkKind, ContentHasher, content_hasher};
use crate::format::node::{Content, Node, NodeKind};
use crate::format::snapshot::Statistics;
use crate::format::tree::EntryKey;
use crate::index::previous_tree::PreviousEntry;
use crate::progress::Progress;
use crate::repo::session::WriteSession;

/// Entries that wait, at most, before the open frame is closed.
const WAITING_ENTRIES_MAX: usize = 8192;
/// References that wait, at most.
const WAITING_PIECES_MAX: usize = 262_144;
/// Changed pages are gathered into chunks of this length.
const GATHERED_BYTES: usize = 64 * 1024;

/// What the fingerprints of a file are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Units {
    /// There are none, or they are those of the previous snapshot.
    None,
    /// Pages of that length in bytes.
    Pages(u32),
    /// Pieces.
    Pieces,
}

struct Waiting {
    /// No chunk of it, or of those behind it, is in a frame before this one without having its place.
    floor: u64,
    entry: Entry,
    content: ContentBuilder,
    fingerprints: Vec<u8>,
    units: Units,
}

struct Current {
    entry: Entry,
    content: ContentBuilder,
    hasher: ContentHasher,
    bytes: u64,
    old_pages: Option<PageMap>,
    old_pieces: Option<OldContent>,
    fingerprints: Vec<u8>,
    units: Units,
    gathering: Vec<u8>,
    gathered: usize,
}

/// What became of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedRoot {
    /// The root's own node: what was pushed with an empty directory and name, or the stream.
    pub node: Node,
    /// The tree below it.
    pub tree: BuiltTree,
    /// Plain bytes of all content.
    pub bytes: u64,
}

/// Writes one root of a snapshot.
pub struct Sequencer<'a> {
    session: &'a mut WriteSession,
    usage: &'a mut Usage,
    statistics: &'a mut Statistics,
    progress: &'a Progress,
    previous: Option<Successor>,
    tree: TreeBuilder,
    root: Option<Node>,
    bytes: u64,
    waiting: VecDeque<Waiting>,
    waiting_pieces: usize,
    current: Option<Box<Current>>,
    /// What has begun in lanes that are not looked at right now.
    lanes: BTreeMap<u32, Box<Current>>,
}

impl<'a> Sequencer<'a> {
    /// Begins a root.
    pub fn new(
        session: &'a mut WriteSession,
        usage: &'a mut Usage,
        statistics: &'a mut Statistics,
        progress: &'a Progress,
        previous: Option<Successor>,
    ) -> Self {
        Self {
            session,
            usage,
            statistics,
            progress,
            previous,
            tree: TreeBuilder::default(),
            root: None,
            bytes: 0,
            waiting: VecDeque::new(),
            waiting_pieces: 0,
            current: None,
            lanes: BTreeMap::new(),
        }
    }

    /// Takes the next item.
    pub fn take(&mut self, item: Item) -> Result<(), BackupError> {
        match item {
            Item::InLane(lane, item) => {
                self.current = self.lanes.remove(&lane);
                let taken = self.take(*item);
                self.lanes.extend(self.current.take().map(|current| (lane, current)));
                return taken;
            }
            Item::Batch(steps) => {
                for step in steps {
                    self.take_step(step)?;
                }
            }
            Item::Begin(entry) => self.begin(*entry),
            Item::PreviousPages(runs) => self.current().old_pages = Some(PageMap::new(runs)),
            Item::PreviousPieces(runs) => {
                let old = OldContent::new(&runs, self.session.chunks.lookup())?;
                self.current().old_pieces = Some(old);
            }
            Item::Data(cut) => self.take_data(&cut)?,
            Item::Pages(pages) => self.take_pages(&pages)?,
            Item::Pieces(pieces) => self.take_pieces(&pieces)?,
            Item::Again => {
                let entry = self.current().entry.clone();
                self.begin(entry);
            }
            Item::End(ended) => self.end(*ended)?,
            Item::Failed(error) => return Err(error),
        }
        self.pump()
    }

    fn take_step(&mut self, step: Step) -> Result<(), BackupError> {
        match step {
            Step::Known(entry, content) => {
                self.take_known(entry, content);
                Ok(())
            }
            Step::Small(file) => self.take_small(file),
            Step::Unreadable(message) => {
                self.statistics.errors += 1;
                self.progress.warn(message);
                Ok(())
            }
            Step::Warning(message) => {
                self.progress.warn(message);
                Ok(())
            }
        }
    }

    fn take_known(&mut self, entry: Entry, content: KnownContent) {
        let (content, fingerprints) = match content {
            KnownContent::None => (ContentBuilder::default(), Vec::new()),
            KnownContent::Same { runs, fingerprints } => {
                let mut content = ContentBuilder::default();
                for run in runs {
                    content.push_run(run);
                }
                (content, fingerprints)
            }
        };
        match entry.node.kind {
            NodeKind::File => self.statistics.files_unmodified += 1,
            NodeKind::Dir => self.statistics.directories += 1,
            _ => self.statistics.others += 1,
        }
        self.wait_for(entry, content, fingerprints, Units::None);
    }

    fn take_small(&mut self, file: SmallFile) -> Result<(), BackupError> {
        let mut content = ContentBuilder::default();
        self.put(&file.cut, &mut content)?;
        Progress::add(&self.progress.bytes_done, file.cut.bytes.len() as u64);
        self.statistics.read_bytes += file.cut.bytes.len() as u64;
        self.count_file(&file.entry.node, file.is_known);
        self.wait_for(file.entry, content, Vec::new(), Units::None);
        Ok(())
    }

    fn count_file(&mut self, node: &Node, is_known: bool) {
        let counter = match (node.kind, is_known) {
            (NodeKind::Dir, _) => &mut self.statistics.directories,
            (NodeKind::File | NodeKind::Stream, false) => &mut self.statistics.files_new,
            (NodeKind::File | NodeKind::Stream, true) => &mut self.statistics.files_changed,
            _ => &mut self.statistics.others,
        };
        *counter += 1;
        self.statistics.changed_while_read += u64::from(node.changed_while_read);
    }

    fn put(&mut self, cut: &CutBytes, content: &mut ContentBuilder) -> Result<(), BackupError> {
        let mut rest = &cut.bytes[..];
        for (id, length) in &cut.chunks {
            let (chunk, after) = rest.split_at(*length as usize);
            rest = after;
            content.push(self.session.chunks.put_data(*id, chunk)?);
        }
        Ok(())
    }

    fn begin(&mut self, entry: Entry) {
        let is_stream = entry.node.kind == NodeKind::Stream;
        let content = if is_stream { ContentBuilder::endless() } else { ContentBuilder::default() };
        self.progress.set_current(&String::from_utf8_lossy(&entry.node.name));
        self.current = Some(Box::new(Current {
            entry,
            content,
            hasher: content_hasher(),
            bytes: 0,
            old_pages: None,
            old_pieces: None,
            fingerprints: Vec::new(),
            units: Units::None,
            gathering: Vec::new(),
            gathered: 0,
        }));
    }

    fn current(&mut self) -> &mut Current {
        self.current.as_mut().expect("data belongs to a file that has begun")
    }

    fn take_data(&mut self, cut: &CutBytes) -> Result<(), BackupError> {
        let mut current = self.current.take().expect("data belongs to a file that has begun");
        current.hasher.update(&cut.bytes);
        current.bytes += cut.bytes.len() as u64;
        self.statistics.read_bytes += cut.bytes.len() as u64;
        Progress::add(&self.progress.bytes_done, cut.bytes.len() as u64);
        self.put(cut, &mut current.content)?;
        current.content.resolve(&mut self.session.chunks, self.usage)?;
        self.current = Some(current);
        Ok(())
    }

    fn take_pages(&mut self, pages: &Pages) -> Result<(), BackupError> {
        let mut current = self.current.take().expect("pages belong to a file that has begun");
        current.units = Units::Pages(pages.page_bytes);
        current.fingerprints.extend_from_slice(&pages.fingerprints);
        current.bytes += pages.total_bytes;
        self.statistics.read_bytes += pages.read_bytes;
        Progress::add(&self.progress.bytes_done, pages.total_bytes);
        let mut changed = &pages.changed[..];
        let mut left = pages.total_bytes;
        for group in pages.kept.chunk_by(|a, b| a == b) {
            let bytes = (group.len() as u64 * u64::from(pages.page_bytes)).min(left);
            left -= bytes;
            let old = match &mut current.old_pages {
                Some(map) => map.advance(bytes, self.session.chunks.lookup())?,
                None => None,
            };
            if group[0] {
                let runs = old.ok_or(BackupError::ThreadLost)?;
                for run in runs {
                    current.content.push_run(run);
                }
            } else {
                let (new, rest) = changed.split_at(bytes as usize);
                changed = rest;
                self.gather(&mut current, new)?;
            }
        }
        current.content.resolve(&mut self.session.chunks, self.usage)?;
        self.current = Some(current);
        Ok(())
    }

    fn take_pieces(&mut self, pieces: &Pieces) -> Result<(), BackupError> {
        let mut current = self.current.take().expect("pieces belong to a file that has begun");
        current.units = Units::Pieces;
        current.fingerprints.extend_from_slice(&pieces.state);
        current.bytes += pieces.total_bytes;
        self.statistics.read_bytes += pieces.total_bytes;
        let mut new = &pieces.new[..];
        for span in &pieces.spans {
            match span {
                Span::Kept { offset, bytes } => {
                    let old = current.old_pieces.as_ref();
                    let runs = old.and_then(|old| old.slices(*offset, *bytes));
                    for run in runs.ok_or(BackupError::ThreadLost)? {
                        current.content.push_run(run);
                    }
                }
                Span::New(bytes) => {
                    let (now, rest) = new.split_at(*bytes as usize);
                    new = rest;
                    self.gather(&mut current, now)?;
                }
            }
        }
        current.content.resolve(&mut self.session.chunks, self.usage)?;
        self.current = Some(current);
        Ok(())
    }

    fn gather(&mut self, current: &mut Current, mut bytes: &[u8]) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            let room = GATHERED_BYTES - current.gathering.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            let offset = current.gathering.len() as u32;
            current.content.push_gathering(current.gathered, offset, now.len() as u32);
            current.gathering.extend_from_slice(now);
            bytes = rest;
            if current.gathering.len() == GATHERED_BYTES {
                self.finish_gathered(current)?;
            }
        }
        Ok(())
    }

    fn finish_gathered(&mut self, current: &mut Current) -> Result<(), BackupError> {
        if current.gathering.is_empty() {
            return Ok(());
        }
        let id = self.session.domain.chunk_id(ChunkKind::Data, &current.gathering);
        let place = self.session.chunks.put_data(id, &current.gathering)?;
        current.content.gathered(current.gathered, place, current.gathering.len() as u32);
        current.gathered += 1;
        current.gathering.clear();
        Ok(())
    }

    fn end(&mut self, ended: Ended) -> Result<(), BackupError> {
        let mut current = self.current.take().expect("a file ends that has begun");
        self.finish_gathered(&mut current)?;
        if let Some(message) = ended.discard {
            self.statistics.errors += 1;
            self.progress.warn(message);
            return Ok(());
        }
        let mut entry = ended.entry;
        let has_pages = !current.fingerprints.is_empty();
        entry.node.hash =
            ended.hash.or_else(|| (!has_pages).then(|| current.hasher.content_hash()));
        if entry.node.kind == NodeKind::Stream {
            entry.node.size = current.bytes;
        }
        self.count_file(&entry.node, ended.is_known);
        self.wait_for(entry, current.content, current.fingerprints, current.units);
        Ok(())
    }

    fn wait_for(
        &mut self,
        mut entry: Entry,
        content: ContentBuilder,
        fingerprints: Vec<u8>,
        units: Units,
    ) {
        entry.node.link_group = entry.link_group;
        Progress::add(&self.progress.items_done, 1);
        self.bytes += entry.node.stored_bytes();
        self.statistics.content_bytes += entry.node.stored_bytes();
        self.waiting_pieces += content.waiting();
        let floor = content.min_pending().unwrap_or_else(|| self.session.chunks.assigned_frames());
        // A chunk that is known already may be in an earlier frame than those of the entries before.
        for earlier in self.waiting.iter_mut().rev().take_while(|earlier| earlier.floor > floor) {
            earlier.floor = floor;
        }
        self.waiting.push_back(Waiting { floor, entry, content, fingerprints, units });
    }

    /// Moves on whatever has all its places; makes room when too much waits.
    fn pump(&mut self) -> Result<(), BackupError> {
        self.session.checkpoint_if_due()?;
        self.session.chunks.poll()?;
        self.move_on()?;
        if self.is_too_full() {
            self.session.chunks.flush_frame()?;
            while self.is_too_full() && self.waiting.front().is_some_and(has_pending) {
                self.session.chunks.wait()?;
                self.move_on()?;
            }
        }
        let waiting = self.waiting.front().map(|front| front.floor);
        let open = self.lanes.values().chain(&self.current);
        let open = open.filter_map(|current| current.content.min_pending()).min();
        let assigned = self.session.chunks.assigned_frames();
        self.session.chunks.release_before(
            assigned.min(waiting.unwrap_or(u64::MAX)).min(open.unwrap_or(u64::MAX)),
        );
        Ok(())
    }

    fn is_too_full(&self) -> bool {
        self.waiting.len() > WAITING_ENTRIES_MAX || self.waiting_pieces > WAITING_PIECES_MAX
    }

    fn move_on(&mut self) -> Result<(), BackupError> {
        while let Some(front) = self.waiting.front_mut() {
            let before = front.content.waiting();
            let is_ready = front.content.resolve(&mut self.session.chunks, self.usage)?;
            self.waiting_pieces -= before - front.content.waiting();
            if !is_ready {
                return Ok(());
            }
            if let Some(ready) = self.waiting.pop_front() {
                self.write(ready)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, ready: Waiting) -> Result<(), BackupError> {
        let Waiting { mut entry, content, mut fingerprints, units, .. } = ready;
        let lookup = self.session.chunks.lookup();
        match units {
            Units::None => {}
            Units::Pages(bytes) => {
                mark_wasteful(&mut fingerprints, bytes, content.runs(), lookup)?;
            }
            Units::Pieces => mark_wasteful_pieces(&mut fingerprints, content.runs(), lookup)?,
        }
        let is_root = entry.dir.is_empty() && entry.node.name.is_empty();
        if let Some(Successor::AnyOrder(entries)) = &mut self.previous
            && !is_root
        {
            let key = EntryKey { dir: entry.dir.to_vec(), name: entry.node.name.clone() };
            let mut node = entry.node;
            node.content = Content { depth: 0, runs: content.runs().to_vec() };
            let (device, inode) = (entry.device, entry.inode);
            entries.push(&PreviousEntry { key, node, device, inode, fingerprints })?;
            return Ok(());
        }
        let finished = content.finish(&mut self.session.chunks, self.usage)?;
        entry.node.content = finished.content;
        if is_root || entry.node.kind == NodeKind::Stream {
            self.root = Some(entry.node);
            return Ok(());
        }
        self.tree.push(&entry.dir, &entry.node, &mut self.session.chunks, self.usage)?;
        if let Some(Successor::InOrder(previous)) = &mut self.previous {
            let key = EntryKey { dir: entry.dir.to_vec(), name: entry.node.name.clone() };
            let mut node = entry.node;
            node.content = Content { depth: 0, runs: finished.all_runs };
            let (device, inode) = (entry.device, entry.inode);
            previous.push(&PreviousEntry { key, node, device, inode, fingerprints })?;
        }
        Ok(())
    }

    /// Ends the root: everything is in its place, its tree is stored.
    pub fn finish(mut self) -> Result<(FinishedRoot, Option<Successor>), BackupError> {
        self.session.chunks.settle()?;
        self.move_on()?;
        assert!(self.waiting.is_empty(), "after settling nothing waits");
        if let Some(Successor::AnyOrder(entries)) = &mut self.previous {
            let (chunks, usage) = (&mut self.session.chunks, &mut *self.usage);
            for number in 0..entries.sort()? {
                let PreviousEntry { key, mut node, .. } = entries.read(number)?;
                let content = ContentBuilder::of_runs(node.content.runs);
                node.content = content.finish(chunks, usage)?.content;
                self.tree.push(&key.dir, &node, chunks, usage)?;
            }
        }
        let tree = self.tree.finish(&mut self.session.chunks, self.usage)?;
        let node = self.root.ok_or(BackupError::ThreadLost)?;
        Ok((FinishedRoot { node, tree, bytes: self.bytes }, self.previous))
    }
}

fn has_pending(waiting: &Waiting) -> bool {
    waiting.content.min_pending().is_some()
}
