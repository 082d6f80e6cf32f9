//! Reading back what a restore has written: `restore --verify`.
//!
//! Every wanted file is read from the target and its hash compared with that of the snapshot;
//! where the snapshot has none, chunk by chunk with the ids.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_channel::bounded;

use crate::crypto::ids::content_hasher;
use crate::format::node::{Node, NodeKind};
use crate::format::snapshot::Snapshot;
use crate::progress::Progress;
use crate::repo::chunk_reader::ChunkReader;
use crate::repo::content_reader::ContentRuns;
use crate::repo::read_access::ReadAccess;
use crate::repo::tree_reader::TreeReadError;
use crate::restore::error::{RestoreError, with_causes};
use crate::restore::execute::threads_of;
use crate::restore::file_state::has_ids;
use crate::restore::filter::Filters;
use crate::restore::hard_links::LinkContents;
use crate::restore::plan::DataMap;
use crate::restore::selection::SelectedEntries;
use crate::restore::target::Target;
use crate::restore::target_error::TargetError;
use crate::restore::target_file::TargetFile;
use crate::restore::target_path::{TargetPath, escape};

const READ_BYTES: usize = 256 * 1024;

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Files that are as in the snapshot.
    pub good: u64,
    /// Files that differ, are missing, or could not be read.
    pub bad: u64,
}

/// Compares the files of the target with what is at `path` in the snapshot. Each one that differs
/// is reported to `progress`.
pub fn verify(
    access: &Arc<ReadAccess>,
    snapshot: &Snapshot,
    path: &[u8],
    target: &Target,
    filters: &Filters,
    threads: usize,
    progress: &Progress,
) -> Result<VerifyReport, RestoreError> {
    let entries = SelectedEntries::open(access, snapshot, path, filters)?;
    let entries = entries.ok_or_else(|| RestoreError::NotFound { path: escape(path) })?;
    let (good, bad) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut contents = LinkContents::new(access);
    let (jobs, queue) = bounded::<(Vec<u8>, Node)>(256);
    std::thread::scope(|scope| {
        for _ in 0..threads_of(threads, access) {
            let (queue, good, bad) = (queue.clone(), &good, &bad);
            let mut chunks = access.reader()?;
            scope.spawn(move || {
                for (path, node) in queue {
                    let counter = match compare(target, &path, &node, &mut chunks) {
                        Ok(()) => good,
                        Err(error) => {
                            progress.warn(format!("{}: {}", escape(&path), with_causes(&error)));
                            bad
                        }
                    };
                    Progress::add(counter, 1);
                    Progress::add(&progress.bytes_done, node.size);
                }
            });
        }
        drop(queue);
        for entry in entries {
            if progress.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let mut entry = entry?;
            if !entry.is_wanted || !matches!(entry.node.kind, NodeKind::File | NodeKind::Stream) {
                continue;
            }
            contents.complete(&mut entry)?;
            jobs.send((entry.path, entry.node)).map_err(|_| RestoreError::WorkerLost)?;
        }
        drop(jobs);
        Ok(())
    })?;
    Ok(VerifyReport { good: good.load(Relaxed), bad: bad.load(Relaxed) })
}

/// Why a file is not as it should be.
#[derive(Debug, thiserror::Error)]
enum Difference {
    #[error("it is not there")]
    Missing,
    #[error("it is not as in the snapshot")]
    Content,
    #[error("it could not be read")]
    Target(#[from] TargetError),
    #[error("its references could not be read")]
    References(#[from] TreeReadError),
}

fn compare(
    target: &Target,
    path: &[u8],
    node: &Node,
    chunks: &mut ChunkReader,
) -> Result<(), Difference> {
    let path = TargetPath::parse(path).map_err(TargetError::from)?;
    let file = target.open_file(&path)?.ok_or(Difference::Missing)?;
    let map = DataMap::new(node.size, &node.holes).ok_or(TreeReadError::Shape)?;
    let is_same = file.size_bytes() == node.size
        && match node.hash {
            Some(hash) => hash == hash_of(&file, node, &map)?,
            None => has_chunks(&file, node, &map, chunks)?,
        };
    if is_same { Ok(()) } else { Err(Difference::Content) }
}

fn hash_of(
    file: &TargetFile,
    node: &Node,
    map: &DataMap,
) -> Result<crate::id::ContentHash, TargetError> {
    let mut hasher = content_hasher();
    let mut buffer = vec![0; READ_BYTES.min(node.size as usize)];
    for (offset, length) in map.parts(0, node.stored_bytes()) {
        let mut at = offset;
        while at < offset + length {
            let part = ((offset + length - at) as usize).min(buffer.len());
            let read = file.read_at(at, &mut buffer[..part])?;
            if read == 0 {
                return Ok(hasher.content_hash()); // it has become shorter: another hash
            }
            hasher.update(&buffer[..read]);
            at += read as u64;
        }
    }
    Ok(hasher.content_hash())
}

fn has_chunks(
    file: &TargetFile,
    node: &Node,
    map: &DataMap,
    chunks: &mut ChunkReader,
) -> Result<bool, Difference> {
    let mut runs = ContentRuns::new(&node.content)?;
    let (mut spans, mut position, mut found) = (Vec::new(), 0, Vec::new());
    while let Some(run) = runs.next(chunks)? {
        chunks.access().spans(&run, &mut spans).map_err(TreeReadError::from)?;
        for span in spans.drain(..) {
            found.clear();
            for (offset, length) in map.parts(position, span.bytes.into()) {
                let start = found.len();
                found.resize(start + length as usize, 0);
                file.read_at(offset, &mut found[start..])?;
            }
            let is_same = if span.slice.is_some() {
                chunks.span(&span, span.frame).map_err(TreeReadError::from)? == found
            } else {
                let pack = chunks.access().pack(&span.pack).map_err(TreeReadError::from)?;
                found.len() == span.bytes as usize && has_ids(&pack, span.first, &found)
            };
            if !is_same {
                return Ok(false);
            }
            position += u64::from(span.bytes);
        }
    }
    Ok(position == node.stored_bytes())
}
