//! What differs between two snapshots, in time proportional to the difference.
//!
//! Two sorted sequences are merged; parts of the trees that are the same chunk are passed over
//! without being read.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::format::node::Node;
use crate::format::snapshot::{Root, Snapshot};
use crate::format::tree::{EntryKey, join};
use crate::progress::Progress;
use crate::repo::read_access::ReadAccess;
use crate::repo::snapshot_path::normal_path;
use crate::repo::tree_reader::{TreeReadError, TreeReader, is_beneath};
use crate::restore::error::with_causes;

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Only the new snapshot has it.
    Added,
    /// Only the old snapshot has it.
    Removed,
    /// It is of another kind now.
    Kind,
    /// Its content differs (and perhaps its attributes).
    Content,
    /// Only its attributes differ.
    Metadata,
}

/// One entry that differs.
#[derive(Debug, Clone, Copy)]
pub struct Difference<'a> {
    /// Path in the snapshots, beginning with `/`.
    pub path: &'a [u8],
    /// How.
    pub change: Change,
    /// As it was.
    pub old: Option<&'a Node>,
    /// As it is.
    pub new: Option<&'a Node>,
}

/// Counts of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiffTotals {
    /// Entries added.
    pub added: u64,
    /// Entries removed.
    pub removed: u64,
    /// Entries with another content or of another kind.
    pub modified: u64,
    /// Entries with other attributes only.
    pub metadata: u64,
    /// Plain bytes of content that was added, that of modified files in full.
    pub added_bytes: u64,
    /// Plain bytes of content that was removed, that of modified files in full.
    pub removed_bytes: u64,
    /// Entries passed over unread, in parts that both have.
    pub same_unread: u64,
    /// Parts of the trees that could not be read.
    pub lost_parts: u64,
}

/// Visits what differs at `path` and below it (the empty path: everywhere), root by root and in the
/// order of the trees.
pub fn diff(
    access: &Arc<ReadAccess>,
    old: &Snapshot,
    new: &Snapshot,
    path: &[u8],
    visit: &mut dyn FnMut(&Difference<'_>) -> ControlFlow<()>,
    progress: &Progress,
) -> Result<DiffTotals, TreeReadError> {
    let mut comparison = Comparison {
        visit,
        progress,
        wanted: normal_path(path),
        totals: DiffTotals::default(),
        is_over: false,
    };
    for root in &new.roots {
        let before = old.roots.iter().find(|old| normal_path(&old.path) == normal_path(&root.path));
        comparison.roots(access, before, Some(root))?;
    }
    for root in &old.roots {
        let stays = |new: &&Root| normal_path(&new.path) == normal_path(&root.path);
        if !new.roots.iter().any(|new| stays(&new)) {
            comparison.roots(access, Some(root), None)?;
        }
    }
    Ok(comparison.totals)
}

struct Comparison<'a> {
    visit: &'a mut dyn FnMut(&Difference<'_>) -> ControlFlow<()>,
    progress: &'a Progress,
    /// Only what is there or below.
    wanted: Vec<u8>,
    totals: DiffTotals,
    is_over: bool,
}

/// One side of the merge.
struct Side {
    reader: Option<TreeReader>,
    next: Option<(EntryKey, Node)>,
}

impl Side {
    fn open(access: &Arc<ReadAccess>, root: Option<&Root>) -> Result<Self, TreeReadError> {
        let reader = root.map(|root| TreeReader::open(access, root)).transpose()?;
        Ok(Self { reader, next: None })
    }
}

impl Comparison<'_> {
    fn roots(
        &mut self,
        access: &Arc<ReadAccess>,
        old: Option<&Root>,
        new: Option<&Root>,
    ) -> Result<(), TreeReadError> {
        if self.is_over {
            return Ok(());
        }
        let Some(root) = new.or(old) else { return Ok(()) };
        let root_path = normal_path(&root.path);
        if !is_beneath(&root_path, &self.wanted) && !is_beneath(&self.wanted, &root_path) {
            return Ok(());
        }
        let path = [b"/", &root_path[..]].concat();
        self.compare(&path, old.map(|root| &root.node), new.map(|root| &root.node));
        let mut sides = [Side::open(access, old)?, Side::open(access, new)?];
        while !self.is_over && !self.progress.is_cancelled() {
            self.pass_same(&mut sides);
            for side in &mut sides {
                self.advance(side);
            }
            let [old, new] = &mut sides;
            let order = match (&old.next, &new.next) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            let before = if order.is_le() { old.next.take() } else { None };
            let after = if order.is_ge() { new.next.take() } else { None };
            let Some((key, _)) = before.as_ref().or(after.as_ref()) else { break };
            let below = key.path();
            let path = if path == b"/" { [b"/", &below[..]].concat() } else { join(&path, &below) };
            self.compare(&path, before.as_ref().map(|e| &e.1), after.as_ref().map(|e| &e.1));
        }
        Ok(())
    }

    /// Passes over nodes that both trees have at this place.
    fn pass_same(&mut self, sides: &mut [Side; 2]) {
        let [old, new] = sides;
        if old.next.is_some() || new.next.is_some() {
            return;
        }
        let (Some(old), Some(new)) = (&mut old.reader, &mut new.reader) else { return };
        while let (Some(before), Some(after)) = (old.pending(), new.pending()) {
            if before.level == after.level && before.chunk == after.chunk {
                self.totals.same_unread += after.entries;
                old.skip_pending();
                new.skip_pending();
                continue;
            }
            // The higher one is opened, so that both reach the level where they have parts in
            // common; leaves are left to the merge.
            if before.level == 0 && after.level == 0 {
                return;
            }
            if before.level >= after.level {
                self.note(old.open_pending());
            }
            if after.level >= before.level {
                self.note(new.open_pending());
            }
        }
    }

    fn note(&mut self, opened: Result<(), TreeReadError>) {
        if let Err(error) = opened {
            self.totals.lost_parts += 1;
            self.progress.warn(with_causes(&error));
        }
    }

    fn advance(&mut self, side: &mut Side) {
        while side.next.is_none()
            && let Some(entry) = side.reader.as_mut().and_then(Iterator::next)
        {
            match entry {
                Ok(entry) => side.next = Some(entry),
                Err(error) => self.note(Err(error)),
            }
        }
    }

    fn compare(&mut self, path: &[u8], old: Option<&Node>, new: Option<&Node>) {
        if !is_beneath(&path[1..], &self.wanted) {
            return;
        }
        let Some(change) = change_of(old, new) else { return };
        match change {
            Change::Added => self.totals.added += 1,
            Change::Removed => self.totals.removed += 1,
            Change::Kind | Change::Content => self.totals.modified += 1,
            Change::Metadata => self.totals.metadata += 1,
        }
        if change != Change::Metadata {
            let totals = &mut self.totals;
            let (removed, added) =
                (old.map_or(0, Node::stored_bytes), new.map_or(0, Node::stored_bytes));
            totals.removed_bytes = totals.removed_bytes.saturating_add(removed);
            totals.added_bytes = totals.added_bytes.saturating_add(added);
        }
        if (self.visit)(&Difference { path, change, old, new }).is_break() {
            self.is_over = true;
        }
    }
}

/// How two nodes at one path differ; `None` if they do not.
fn change_of(old: Option<&Node>, new: Option<&Node>) -> Option<Change> {
    match (old, new) {
        (None, None) => None,
        (None, Some(_)) => Some(Change::Added),
        (Some(_), None) => Some(Change::Removed),
        (Some(old), Some(new)) if old.kind != new.kind => Some(Change::Kind),
        (Some(old), Some(new)) if !has_same_content(old, new) => Some(Change::Content),
        (Some(old), Some(new)) => (!has_same_metadata(old, new)).then_some(Change::Metadata),
    }
}

fn has_same_content(old: &Node, new: &Node) -> bool {
    let is_same = match (old.hash, new.hash) {
        (Some(old), Some(new)) => old == new,
        _ => old.content == new.content,
    };
    is_same && (old.size, &old.holes, &old.target) == (new.size, &new.holes, &new.target)
}

fn has_same_metadata(old: &Node, new: &Node) -> bool {
    (old.mode, old.uid, old.gid, old.mtime, old.flags, old.device)
        == (new.mode, new.uid, new.gid, new.mtime, new.flags, new.device)
        && (&old.user, &old.group, &old.xattrs) == (&new.user, &new.group, &new.xattrs)
}
