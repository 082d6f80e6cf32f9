//! Paths that people give, looked up in a snapshot with several roots.
//!
//! A tree's root stands at its own path (`/etc`), a stream at its name (`shop.sql`). Leading,
//! trailing and doubled slashes mean nothing. A directory above the roots is all roots below it.

use std::sync::Arc;

use crate::format::node::{Node, NodeKind};
use crate::format::redis::facts::{DumpOrder, RecordFacts};
use crate::format::snapshot::{Root, Snapshot};
use crate::repo::read_access::ReadAccess;
use crate::repo::tree_reader::{TreeReadError, TreeReader, is_beneath};

/// A root, or an entry below one.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundPath<'a> {
    /// The root.
    pub root: &'a Root,
    /// Path of the root in the snapshot, without slashes at its ends.
    pub root_path: Vec<u8>,
    /// Path of the entry below the root; empty for the root itself.
    pub below: Vec<u8>,
    /// The entry.
    pub node: Node,
    /// Whether the path that was asked for lies above the root, so that its own path matters.
    pub is_above: bool,
}

impl FoundPath<'_> {
    /// The entry's last path component; empty for a root at `/`.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let path = if self.below.is_empty() { &self.root_path } else { &self.below };
        path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

/// A path without slashes at its ends, doubled ones and `.` components.
#[must_use]
pub fn normal_path(path: &[u8]) -> Vec<u8> {
    let is_real = |part: &&[u8]| !part.is_empty() && *part != b".";
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(is_real).collect();
    parts.join(&b'/')
}

/// What a snapshot has at a path: one entry, or several roots if the path lies above them (the
/// empty path: all). Empty if there is nothing.
///
/// Where roots lie within each other the innermost one answers.
pub fn find_path<'a>(
    access: &Arc<ReadAccess>,
    snapshot: &'a Snapshot,
    path: &[u8],
) -> Result<Vec<FoundPath<'a>>, TreeReadError> {
    let wanted = normal_path(path);
    let mut innermost: Option<(Vec<u8>, &Root)> = None;
    for root in &snapshot.roots {
        let root_path = normal_path(&root.path);
        let is_longer = innermost.as_ref().is_none_or(|(best, _)| best.len() < root_path.len());
        let holds = is_beneath(&wanted, &root_path) && (root.tree.is_some() || wanted == root_path);
        if !wanted.is_empty() && holds && is_longer {
            innermost = Some((root_path, root));
        }
    }
    if let Some((root_path, root)) = innermost {
        let below = normal_path(&wanted[root_path.len()..]);
        let node = if below.is_empty() {
            Some(node_of(root))
        } else {
            TreeReader::find(access, root, &below)?
        };
        let found = |node| FoundPath { root, root_path, below, node, is_above: false };
        return Ok(node.map(found).into_iter().collect());
    }
    Ok(roots_below(snapshot, &wanted))
}

/// The node of a root; of a dump that is stored as records, that of the dump.
#[must_use]
pub fn node_of(root: &Root) -> Node {
    match RecordFacts::of(root.facts.as_ref()) {
        Ok(Some(facts)) => {
            let name = root.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let mut node = Node::new(NodeKind::Stream, name);
            node.size = facts.bytes;
            node.hash = (facts.order == DumpOrder::Server).then_some(facts.hash);
            node
        }
        _ => root.node.clone(),
    }
}

fn roots_below<'a>(snapshot: &'a Snapshot, dir: &[u8]) -> Vec<FoundPath<'a>> {
    let roots = snapshot.roots.iter().map(|root| (normal_path(&root.path), root));
    roots
        .filter(|(root_path, _)| is_beneath(root_path, dir))
        .map(|(root_path, root)| FoundPath {
            root,
            root_path,
            below: Vec::new(),
            node: node_of(root),
            is_above: true,
        })
        .collect()
}
