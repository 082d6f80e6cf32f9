//! References to the content of one file or stream, in the order of its bytes.
//!
//! Chunks that are not sealed yet are pending; they turn into runs as soon as their frames are.
//! Runs that follow one another in a pack are one. Long lists go out of line, level by level, so
//! that a stream of any length costs bounded memory.

use std::collections::VecDeque;

use crate::format::node::{ChunkRun, Content};
use crate::format::tree::encode_list;
use crate::repo::chunk_writer::{ChunkPlace, ChunkWriter, WriteError};

use crate::backup::usage::Usage;

/// Runs that a node carries itself; more go into list chunks.
const INLINE_RUNS_MAX: usize = 256;
/// Runs of one list chunk.
const LIST_RUNS: usize = 4096;

#[derive(Debug, Clone, Copy)]
enum Piece {
    Run(ChunkRun),
    Pending {
        frame: u64,
        index: u32,
        count: u32,
        slice: Option<(u32, u32)>,
    },
    /// Part of a chunk that is still being gathered: its number, offset, length.
    Gathering {
        chunk: usize,
        offset: u32,
        length: u32,
    },
}

/// Collects the references of one content.
#[derive(Debug, Default)]
pub struct ContentBuilder {
    pieces: VecDeque<Piece>,
    runs: Vec<ChunkRun>,
    /// Levels of list references, lowest first; used only when lists are written on the way.
    levels: Vec<Vec<ChunkRun>>,
    gathered: Vec<Option<(ChunkPlace, u32)>>,
    is_endless: bool,
}

/// The references of a finished content.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FinishedContent {
    /// As the node carries them.
    pub content: Content,
    /// All of them, none out of line; empty for a stream that was too long to keep them.
    pub all_runs: Vec<ChunkRun>,
}

impl ContentBuilder {
    /// For a stream of unknown length: lists are written on the way, and not kept.
    #[must_use]
    pub fn endless() -> Self {
        Self { is_endless: true, ..Self::default() }
    }

    /// Content that is there already.
    #[must_use]
    pub fn of_runs(runs: Vec<ChunkRun>) -> Self {
        Self { runs, ..Self::default() }
    }

    /// Appends a whole chunk.
    pub fn push(&mut self, place: ChunkPlace) {
        self.push_piece(piece(place, None));
    }

    /// Appends a run that is there already.
    pub fn push_run(&mut self, run: ChunkRun) {
        self.push_piece(Piece::Run(run));
    }

    /// Appends part of a chunk that is being gathered; [`ContentBuilder::gathered`] completes it.
    pub fn push_gathering(&mut self, chunk: usize, offset: u32, length: u32) {
        if self.gathered.len() <= chunk {
            self.gathered.resize(chunk + 1, None);
        }
        if let Some(Piece::Gathering { chunk: last, offset: start, length: bytes }) =
            self.pieces.back_mut()
            && *last == chunk
            && *start + *bytes == offset
        {
            *bytes += length;
            return;
        }
        self.pieces.push_back(Piece::Gathering { chunk, offset, length });
    }

    /// Says where gathered chunk number `chunk` is, and how long it became.
    pub fn gathered(&mut self, chunk: usize, place: ChunkPlace, length: u32) {
        self.gathered[chunk] = Some((place, length));
    }

    fn push_piece(&mut self, next: Piece) {
        let last = self.pieces.back_mut();
        let merged = match (last, next) {
            (Some(Piece::Run(run)), Piece::Run(next)) => extend(run, &next),
            (
                Some(Piece::Pending { frame, index, count, slice: None }),
                Piece::Pending { frame: next_frame, index: next_index, slice: None, .. },
            ) if *frame == next_frame && *index + *count == next_index => {
                *count += 1;
                true
            }
            _ => false,
        };
        if !merged {
            self.pieces.push_back(next);
        }
    }

    /// Number of the earliest frame that any piece waits for.
    #[must_use]
    pub fn min_pending(&self) -> Option<u64> {
        let frame_of = |piece: &Piece| match piece {
            Piece::Pending { frame, .. } => Some(*frame),
            Piece::Gathering { chunk, .. } => match self.gathered[*chunk] {
                Some((ChunkPlace::Pending { frame, .. }, _)) => Some(frame),
                _ => None,
            },
            Piece::Run(_) => None,
        };
        self.pieces.iter().filter_map(frame_of).min()
    }

    /// Pieces that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pieces.len()
    }

    /// Turns what can be into runs; whether nothing waits any more.
    pub fn resolve(
        &mut self,
        writer: &mut ChunkWriter,
        usage: &mut Usage,
    ) -> Result<bool, WriteError> {
        while let Some(piece) = self.pieces.front().copied() {
            let Some(run) = self.resolved(piece, writer) else { return Ok(false) };
            self.pieces.pop_front();
            usage.add(&run);
            if !self.runs.last_mut().is_some_and(|last| extend(last, &run)) {
                self.runs.push(run);
            }
            if self.is_endless && self.runs.len() > LIST_RUNS {
                let rest = self.runs.split_off(LIST_RUNS);
                let full = std::mem::replace(&mut self.runs, rest);
                self.add_list(0, &full, writer, usage)?;
            }
        }
        Ok(true)
    }

    fn resolved(&self, piece: Piece, writer: &ChunkWriter) -> Option<ChunkRun> {
        match piece {
            Piece::Run(run) => Some(run),
            Piece::Pending { frame, index, count, slice } => {
                let (pack, first) = writer.assignment(frame)?;
                Some(ChunkRun { pack, first: first + index, count, slice })
            }
            Piece::Gathering { chunk, offset, length } => {
                let (place, chunk_bytes) = self.gathered[chunk]?;
                let slice = (length != chunk_bytes).then_some((offset, length));
                self.resolved(self::piece(place, slice), writer)
            }
        }
    }

    fn add_list(
        &mut self,
        level: usize,
        runs: &[ChunkRun],
        writer: &mut ChunkWriter,
        usage: &mut Usage,
    ) -> Result<(), WriteError> {
        let list = writer.put_tree(&encode_list(level as u8, runs))?;
        usage.add(&list);
        if self.levels.len() <= level {
            self.levels.push(Vec::new());
        }
        if !self.levels[level].last_mut().is_some_and(|last| extend(last, &list)) {
            self.levels[level].push(list);
        }
        if self.levels[level].len() > LIST_RUNS {
            let rest = self.levels[level].split_off(LIST_RUNS);
            let full = std::mem::replace(&mut self.levels[level], rest);
            self.add_list(level + 1, &full, writer, usage)?;
        }
        Ok(())
    }

    /// All references, none out of line; empty for an endless stream. Everything must have been
    /// resolved.
    #[must_use]
    pub fn runs(&self) -> &[ChunkRun] {
        assert!(self.pieces.is_empty(), "content is asked for when nothing waits");
        if self.is_endless { &[] } else { &self.runs }
    }

    /// The references; everything must have been resolved.
    pub fn finish(
        mut self,
        writer: &mut ChunkWriter,
        usage: &mut Usage,
    ) -> Result<FinishedContent, WriteError> {
        assert!(self.pieces.is_empty(), "content is finished when nothing waits");
        let all_runs = if self.is_endless { Vec::new() } else { self.runs.clone() };
        if self.levels.is_empty() && self.runs.len() <= INLINE_RUNS_MAX {
            let content = Content { depth: 0, runs: self.runs };
            return Ok(FinishedContent { content, all_runs });
        }
        let runs = std::mem::take(&mut self.runs);
        for part in runs.chunks(LIST_RUNS) {
            self.add_list(0, part, writer, usage)?;
        }
        let mut level = 0;
        while self.levels.len() > level + 1 || self.levels[level].len() > INLINE_RUNS_MAX {
            let rest = std::mem::take(&mut self.levels[level]);
            for part in rest.chunks(LIST_RUNS) {
                self.add_list(level + 1, part, writer, usage)?;
            }
            level += 1;
        }
        let runs = std::mem::take(&mut self.levels[level]);
        let content = Content { depth: level as u8 + 1, runs };
        Ok(FinishedContent { content, all_runs })
    }
}

fn piece(place: ChunkPlace, slice: Option<(u32, u32)>) -> Piece {
    match place {
        ChunkPlace::At { pack, ordinal } => {
            Piece::Run(ChunkRun { pack, first: ordinal, count: 1, slice })
        }
        ChunkPlace::Pending { frame, index } => Piece::Pending { frame, index, count: 1, slice },
    }
}

/// Lengthens `run` by `next` where that follows it; whether it did.
fn extend(run: &mut ChunkRun, next: &ChunkRun) -> bool {
    if run.pack != next.pack {
        return false;
    }
    match (run.slice, next.slice) {
        (None, None) if run.first + run.count == next.first => {
            run.count += next.count;
            true
        }
        (Some((offset, length)), Some((start, bytes)))
            if run.first == next.first && offset + length == start =>
        {
            run.slice = Some((offset, length + bytes));
            true
        }
        _ => false,
    }
}
