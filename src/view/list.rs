//! Entries of a snapshot by path (`ls`) and by pattern (`find`), in the order of the tree.
//!
//! Paths begin with `/`, that of a stream too. A part of the tree that cannot be read is reported
//! and counted, and the rest is listed.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::format::node::Node;
use crate::format::snapshot::Snapshot;
use crate::progress::Progress;
use crate::repo::read_access::ReadAccess;
use crate::repo::snapshot_path::{FoundPath, find_path};
use crate::repo::tree_reader::{TreeReadError, TreeReader};
use crate::restore::error::with_causes;
use crate::restore::filter::Patterns;

/// How far a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The entries of the directory itself.
    Children,
    /// All below it.
    All,
}

/// Takes one entry with its path in the snapshot; may end the listing.
pub type Visit<'a> = dyn FnMut(&[u8], &Node) -> ControlFlow<()> + 'a;

/// How a listing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listing {
    /// Entries that were visited.
    pub entries: u64,
    /// Parts of the tree that could not be read.
    pub lost_parts: u64,
    /// Whether the path exists.
    pub is_found: bool,
}

/// Visits what is at `path` in the snapshot: a file or stream itself, the entries of a directory,
/// or the roots below a path above them (the empty path: all roots).
pub fn list(
    access: &Arc<ReadAccess>,
    snapshot: &Snapshot,
    path: &[u8],
    depth: Depth,
    visit: &mut Visit<'_>,
    progress: &Progress,
) -> Result<Listing, TreeReadError> {
    let mut listing = Listing::default();
    for found in find_path(access, snapshot, path)? {
        listing.is_found = true;
        let is_itself = found.is_above || !found.node.is_dir();
        if is_itself {
            listing.entries += 1;
            if visit(&full_path(&found, b""), &found.node).is_break() {
                return Ok(listing);
            }
        }
        let goes_in = found.node.is_dir() && (depth == Depth::All || !is_itself);
        if goes_in && walk(access, &found, depth, visit, progress, &mut listing)?.is_break() {
            return Ok(listing);
        }
    }
    Ok(listing)
}

/// Visits every entry of a snapshot that itself matches one of the patterns.
pub fn find(
    access: &Arc<ReadAccess>,
    snapshot: &Snapshot,
    patterns: &Patterns,
    visit: &mut Visit<'_>,
    progress: &Progress,
) -> Result<Listing, TreeReadError> {
    let mut entries = 0;
    let mut matching = |path: &[u8], node: &Node| {
        if patterns.matches_itself(path) {
            entries += 1;
            return visit(path, node);
        }
        ControlFlow::Continue(())
    };
    let listing = list(access, snapshot, b"", Depth::All, &mut matching, progress)?;
    Ok(Listing { entries, is_found: entries > 0, ..listing })
}

fn walk(
    access: &Arc<ReadAccess>,
    found: &FoundPath<'_>,
    depth: Depth,
    visit: &mut Visit<'_>,
    progress: &Progress,
    listing: &mut Listing,
) -> Result<ControlFlow<()>, TreeReadError> {
    for entry in TreeReader::open_below(access, found.root, &found.below)? {
        if progress.is_cancelled() {
            return Ok(ControlFlow::Break(()));
        }
        let (key, node) = match entry {
            Ok(entry) => entry,
            Err(error) => {
                listing.lost_parts += 1;
                progress.warn(with_causes(&error));
                continue;
            }
        };
        if depth == Depth::Children && key.dir != found.below {
            break;
        }
        listing.entries += 1;
        if visit(&full_path(found, &key.path()), &node).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The path in the snapshot of an entry below a root; of the found one itself if that is empty.
fn full_path(found: &FoundPath<'_>, below_root: &[u8]) -> Vec<u8> {
    let below_root = if below_root.is_empty() { &found.below } else { below_root };
    let parts = [&found.root_path[..], below_root];
    let parts = parts.iter().filter(|part| !part.is_empty());
    let path: Vec<u8> = parts.flat_map(|part| [b"/", *part].concat()).collect();
    if path.is_empty() { b"/".to_vec() } else { path }
}
