//! The references of one content in order, those in list chunks resolved one list at a time.

use std::collections::VecDeque;

use crate::format::limits;
use crate::format::node::{ChunkRun, Content};
use crate::format::tree::decode_list;
use crate::repo::chunk_reader::ChunkReader;
use crate::repo::tree_reader::TreeReadError;

/// The data runs of a content. Holds one list of each depth.
#[derive(Debug)]
pub struct ContentRuns {
    lists: Vec<(u8, VecDeque<ChunkRun>)>,
}

impl ContentRuns {
    /// Begins at the first byte.
    ///
    /// # Errors
    /// [`TreeReadError::Shape`] for more depth than the format allows.
    pub fn new(content: &Content) -> Result<Self, TreeReadError> {
        if u64::from(content.depth) > limits::LIST_LEVELS_MAX {
            return Err(TreeReadError::Shape);
        }
        Ok(Self { lists: vec![(content.depth, content.runs.iter().copied().collect())] })
    }

    /// The next run of data; `None` at the end.
    ///
    /// # Errors
    /// When a list cannot be read: nothing after it can be placed then.
    pub fn next(&mut self, chunks: &mut ChunkReader) -> Result<Option<ChunkRun>, TreeReadError> {
        while let Some((depth, runs)) = self.lists.last_mut() {
            let Some(run) = runs.pop_front() else {
                self.lists.pop();
                continue;
            };
            if *depth == 0 {
                return Ok(Some(run));
            }
            if run.slice.is_some() || run.count == 0 {
                return Err(TreeReadError::Shape);
            }
            if run.count > 1 {
                let first = run.first.checked_add(1).ok_or(TreeReadError::Shape)?;
                runs.push_front(ChunkRun { first, count: run.count - 1, ..run });
            }
            let below = *depth - 1;
            let (pack, ordinal) = (run.pack, run.first);
            let bytes = chunks.chunk(&pack, ordinal)?;
            let list = decode_list(bytes, below).map_err(|source| TreeReadError::Document {
                pack,
                ordinal,
                source,
            })?;
            self.lists.push((below, list.into()));
        }
        Ok(None)
    }
}
