//! One file or stream to an output, in order: `cat`.
//!
//! The first byte that cannot be read ends it with an error; never is a wrong byte put out. When
//! all is out its hash is compared with that of the snapshot.

use std::io::Write;
use std::sync::Arc;

use crate::crypto::ids::content_hasher;
use crate::format::node::{Node, NodeKind};
use crate::format::redis::facts::RecordFacts;
use crate::format::snapshot::{Root, Snapshot};
use crate::progress::Progress;
use crate::repo::read_access::ReadAccess;
use crate::repo::snapshot_path::find_path;
use crate::restore::error::RestoreError;
use crate::restore::execute::threads_of;
use crate::restore::hard_links::LinkContents;
use crate::restore::read_ahead::{Due, HoleFiller, read_ahead};
use crate::restore::redis_dump::{dump_facts, read_dump};
use crate::restore::target_path::escape;

/// Puts the content of the file or stream at `path` out; gives its length in bytes.
///
/// `threads` decode ahead; 0 for one a core.
///
/// # Errors
/// Also after part of the content was put out.
pub fn cat(
    access: &Arc<ReadAccess>,
    snapshot: &Snapshot,
    path: &[u8],
    out: &mut dyn Write,
    threads: usize,
    progress: &Progress,
) -> Result<u64, RestoreError> {
    let mut found = find_path(access, snapshot, path)?;
    let found = match (found.pop(), found.pop()) {
        (Some(only), None) => only,
        (None, _) => return Err(RestoreError::NotFound { path: escape(path) }),
        _ => return Err(RestoreError::WrongKind { path: escape(path), wanted: "file or stream" }),
    };
    if !matches!(found.node.kind, NodeKind::File | NodeKind::Stream) {
        return Err(RestoreError::WrongKind { path: escape(path), wanted: "file or stream" });
    }
    cat_node(access, found.root, found.node, path, out, threads, progress)
}

fn cat_dump(
    access: &Arc<ReadAccess>,
    root: &Root,
    facts: &RecordFacts,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<u64, RestoreError> {
    read_dump(access, root, facts, &mut |bytes| {
        if progress.is_cancelled() {
            return Err(RestoreError::Cancelled);
        }
        Progress::add(&progress.bytes_done, bytes.len() as u64);
        out.write_all(bytes).map_err(RestoreError::Output)
    })?;
    out.flush().map_err(RestoreError::Output)?;
    Ok(facts.bytes)
}

fn cat_node(
    access: &Arc<ReadAccess>,
    root: &Root,
    mut node: Node,
    path: &[u8],
    out: &mut dyn Write,
    threads: usize,
    progress: &Progress,
) -> Result<u64, RestoreError> {
    if let (NodeKind::Stream, Some(facts)) = (node.kind, dump_facts(root)?) {
        return cat_dump(access, root, &facts, out, progress);
    }
    LinkContents::new(access).complete_node(root, &mut node)?;
    let mut filler = HoleFiller::new(node.size, &node.holes);
    let mut hasher = content_hasher();
    let mut take = |due: Due<()>| {
        let Due::Data(data) = due else { return Ok(()) };
        if let Some(source) = data.error {
            return Err(RestoreError::Content { path: escape(path), source });
        }
        if progress.is_cancelled() {
            return Err(RestoreError::Cancelled);
        }
        hasher.update(&data.bytes);
        Progress::add(&progress.bytes_done, data.bytes.len() as u64);
        filler.write(out, &data.bytes).map_err(RestoreError::Output)
    };
    read_ahead(access, threads_of(threads, access), |ahead| {
        ahead.content(&node.content, node.stored_bytes(), &mut take)?;
        ahead.take_all(&mut take)
    })?;
    filler.finish(out).map_err(RestoreError::Output)?;
    out.flush().map_err(RestoreError::Output)?;
    match node.hash {
        Some(hash) if hash != hasher.content_hash() => {
            Err(RestoreError::WrongHash { path: escape(path) })
        }
        _ => Ok(node.size),
    }
}
