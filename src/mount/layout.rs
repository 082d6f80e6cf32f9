//! Where the stored bytes of an open file are, worked out as far as they were asked for.
//!
//! Of a content with lists only the place and the beginning of each list is kept, and the newest
//! few of them in full, so a file of any length and any number of pieces takes little memory.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::format::limits;
use crate::format::node::{ChunkRun, Content};
use crate::format::tree::decode_list;
use crate::id::PackHandle;
use crate::mount::frames::Frames;
use crate::repo::read_access::FrameSpan;
use crate::repo::tree_reader::TreeReadError;

/// Lists that are kept in full.
const KEPT_LISTS: usize = 3;

/// The spans of one list.
#[derive(Debug, Default)]
pub struct Spans {
    /// Stored offset at which each begins.
    starts: Vec<u64>,
    list: Vec<FrameSpan>,
    end: u64,
}

impl Spans {
    /// The span with a stored offset in it, and where it begins.
    #[must_use]
    pub fn find(&self, offset: u64) -> Option<(u64, &FrameSpan)> {
        if offset >= self.end {
            return None;
        }
        let index = self.starts.partition_point(|start| *start <= offset).checked_sub(1)?;
        Some((self.starts[index], &self.list[index]))
    }

    /// The spans that lie in some part, in order.
    pub fn within(&self, from: u64, to: u64) -> impl Iterator<Item = &FrameSpan> {
        let first = self.starts.partition_point(|start| *start <= from).saturating_sub(1);
        let last = self.starts.partition_point(|start| *start < to);
        self.list.get(first..last.max(first)).unwrap_or_default().iter()
    }

    /// Stored offset behind the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }
}

/// Where the runs of a part stand.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// In the node itself.
    Inline,
    /// In a list chunk of depth 0.
    List(PackHandle, u32),
}

/// The layout of one content.
#[derive(Debug)]
pub struct Layout {
    inline: Vec<ChunkRun>,
    /// Lists on the way to those of depth 0, not opened yet; with their depth.
    lists: Vec<(u8, VecDeque<ChunkRun>)>,
    has_inline: bool,
    /// Parts that are known, with the stored offset at which they begin.
    parts: Vec<(u64, Source)>,
    /// Stored offset behind the last of them.
    known: u64,
    stored_bytes: u64,
    kept: VecDeque<(usize, Arc<Spans>)>,
}

impl Layout {
    /// Of a content that amounts to `stored_bytes`.
    pub fn new(content: &Content, stored_bytes: u64) -> Result<Self, TreeReadError> {
        if u64::from(content.depth) > limits::LIST_LEVELS_MAX {
            return Err(TreeReadError::Shape);
        }
        let has_inline = content.depth == 0;
        Ok(Self {
            inline: if has_inline { content.runs.clone() } else { Vec::new() },
            lists: vec![(content.depth, content.runs.iter().copied().collect())],
            has_inline,
            parts: Vec::new(),
            known: 0,
            stored_bytes,
            kept: VecDeque::new(),
        })
    }

    /// The spans around a stored offset.
    ///
    /// # Errors
    /// When a list cannot be read, or the content does not reach that far or too far.
    pub fn spans(&mut self, frames: &Frames, offset: u64) -> Result<Arc<Spans>, TreeReadError> {
        while offset >= self.known {
            let source = self.next_source(frames)?.ok_or(TreeReadError::Shape)?;
            let spans = self.resolve(frames, source, self.known)?;
            // A list of nothing would keep a reader busy for ever.
            if spans.end > self.stored_bytes || spans.end == self.known {
                return Err(TreeReadError::Shape);
            }
            self.parts.push((self.known, source));
            self.known = spans.end;
            self.keep(self.parts.len() - 1, Arc::new(spans));
        }
        let index = self.parts.partition_point(|(start, _)| *start <= offset) - 1;
        if let Some((_, spans)) = self.kept.iter().find(|(kept, _)| *kept == index) {
            return Ok(spans.clone());
        }
        let (start, source) = self.parts[index];
        let spans = Arc::new(self.resolve(frames, source, start)?);
        self.keep(index, spans.clone());
        Ok(spans)
    }

    fn keep(&mut self, index: usize, spans: Arc<Spans>) {
        self.kept.push_back((index, spans));
        if self.kept.len() > KEPT_LISTS {
            self.kept.pop_front();
        }
    }

    fn resolve(&self, frames: &Frames, source: Source, start: u64) -> Result<Spans, TreeReadError> {
        let access = frames.access();
        let list;
        let runs = match source {
            Source::Inline => &self.inline,
            Source::List(pack, ordinal) => {
                list = read_list(frames, pack, ordinal, 0)?;
                &list
            }
        };
        let mut spans = Spans { end: start, ..Spans::default() };
        for run in runs {
            access.spans(run, &mut spans.list)?;
        }
        for span in &spans.list {
            spans.starts.push(spans.end);
            spans.end = spans.end.saturating_add(u64::from(span.bytes));
        }
        Ok(spans)
    }

    /// The next part behind those that are known.
    fn next_source(&mut self, frames: &Frames) -> Result<Option<Source>, TreeReadError> {
        if self.has_inline {
            return Ok(self.parts.is_empty().then_some(Source::Inline));
        }
        while let Some((depth, runs)) = self.lists.last_mut() {
            let Some(run) = runs.pop_front() else {
                self.lists.pop();
                continue;
            };
            if run.slice.is_some() || run.count == 0 {
                return Err(TreeReadError::Shape);
            }
            if run.count > 1 {
                let first = run.first.checked_add(1).ok_or(TreeReadError::Shape)?;
                runs.push_front(ChunkRun { first, count: run.count - 1, ..run });
            }
            if *depth == 1 {
                return Ok(Some(Source::List(run.pack, run.first)));
            }
            let below = *depth - 1;
            let list = read_list(frames, run.pack, run.first, below)?;
            self.lists.push((below, list.into()));
        }
        Ok(None)
    }
}

fn read_list(
    frames: &Frames,
    pack: PackHandle,
    ordinal: u32,
    depth: u8,
) -> Result<Vec<ChunkRun>, TreeReadError> {
    let bytes = frames.chunk(&pack, ordinal)?;
    decode_list(&bytes, depth).map_err(|source| TreeReadError::Document { pack, ordinal, source })
}
