//! The bytes of one content in order, a piece at a time, by one thread.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::format::node::Content;
use crate::repo::chunk_reader::ChunkReader;
use crate::repo::content_reader::ContentRuns;
use crate::repo::read_access::{FrameSpan, ReadAccess};
use crate::repo::tree_reader::TreeReadError;

/// Reads one content from its first byte on.
pub struct ContentBytes {
    chunks: ChunkReader,
    runs: ContentRuns,
    spans: VecDeque<FrameSpan>,
}

impl ContentBytes {
    /// Begins at the first byte.
    pub fn open(access: &Arc<ReadAccess>, content: &Content) -> Result<Self, TreeReadError> {
        let (chunks, runs) = (access.reader()?, ContentRuns::new(content)?);
        Ok(Self { chunks, runs, spans: VecDeque::new() })
    }

    /// The next bytes; nothing at the end.
    ///
    /// # Errors
    /// A chunk that is nowhere to be had; nothing behind it can be asked for.
    pub fn next_bytes(&mut self) -> Result<Option<&[u8]>, TreeReadError> {
        while self.spans.is_empty() {
            let Some(run) = self.runs.next(&mut self.chunks)? else { return Ok(None) };
            let mut spans = Vec::new();
            self.chunks.access().spans(&run, &mut spans)?;
            self.spans.extend(spans);
        }
        let Some(span) = self.spans.pop_front() else { return Ok(None) };
        let same_pack = self.spans.iter().take_while(|next| next.pack == span.pack);
        let last_frame = same_pack.map(|next| next.frame).fold(span.frame, u32::max);
        Ok(Some(self.chunks.span(&span, last_frame)?))
    }

    /// All bytes of a content of at most `bytes_max`.
    ///
    /// # Errors
    /// Also [`TreeReadError::Shape`] for more.
    pub fn read_all(
        access: &Arc<ReadAccess>,
        content: &Content,
        bytes_max: u64,
    ) -> Result<Vec<u8>, TreeReadError> {
        let mut reader = Self::open(access, content)?;
        let mut all = Vec::new();
        while let Some(bytes) = reader.next_bytes()? {
            if (all.len() + bytes.len()) as u64 > bytes_max {
                return Err(TreeReadError::Shape);
            }
            all.extend_from_slice(bytes);
        }
        Ok(all)
    }
}
