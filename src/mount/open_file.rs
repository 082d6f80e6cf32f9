//! A file that is open: its bytes at any offset, and what is fetched ahead of its readers.

use std::sync::{Mutex, MutexGuard};

use crate::format::node::Node;
use crate::mount::frames::Frames;
use crate::mount::layout::Layout;
use crate::mount::prefetch::{Batch, Prefetch};
use crate::mount::sync::lock;
use crate::repo::tree_reader::TreeReadError;

/// How far a read may be from the end of the one before, and still be in order: the kernel sends
/// several at once.
const ORDER_BYTES: u64 = 1024 * 1024;
/// Plain bytes that are fetched ahead at first, and at least at a time.
const AHEAD_BYTES_MIN: u64 = 1024 * 1024;
/// Plain bytes of one batch.
const BATCH_BYTES: u64 = 2 * 1024 * 1024;

struct Hole {
    start: u64,
    end: u64,
    /// Bytes of all holes before it.
    before: u64,
}

/// What the next readers of a file will ask for.
#[derive(Default)]
struct Ahead {
    /// Stored offset at which an orderly reader reads on.
    expected: u64,
    /// How far ahead to fetch; 0 for a reader that jumps.
    window: u64,
    /// Stored offset up to which frames were asked for.
    sent: u64,
}

/// Where a read is answered from.
pub struct Sources<'a> {
    /// Decoded frames.
    pub frames: &'a Frames,
    /// Threads that read ahead.
    pub prefetch: &'a Prefetch,
    /// Plain bytes that one file may be fetched ahead.
    pub window_max: u64,
}

/// An open file.
pub struct OpenFile {
    size: u64,
    stored_bytes: u64,
    holes: Vec<Hole>,
    layout: Mutex<Layout>,
    ahead: Mutex<Ahead>,
}

impl OpenFile {
    /// Opens a file or stream.
    pub fn new(node: &Node) -> Result<Self, TreeReadError> {
        let mut before = 0;
        let holes = node.holes.iter().map(|(start, length)| {
            let hole = Hole { start: *start, end: start.saturating_add(*length), before };
            before += length;
            hole
        });
        Ok(Self {
            size: node.size,
            stored_bytes: node.stored_bytes(),
            holes: holes.collect(),
            layout: Mutex::new(Layout::new(&node.content, node.stored_bytes())?),
            ahead: Mutex::default(),
        })
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends up to `length` bytes from `offset` on: fewer only at the end of the file.
    pub fn read(
        &self,
        sources: &Sources<'_>,
        offset: u64,
        length: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), TreeReadError> {
        let end = offset.saturating_add(length).min(self.size);
        let mut at = offset;
        while at < end {
            let index = self.holes.partition_point(|hole| hole.end <= at);
            let hole = self.holes.get(index);
            if let Some(hole) = hole.filter(|hole| hole.start <= at) {
                let stop = hole.end.min(end);
                out.resize(out.len() + (stop - at) as usize, 0);
                at = stop;
                continue;
            }
            let stop = hole.map_or(end, |hole| hole.start.min(end));
            let skipped = self.hole_bytes_before(index);
            self.read_stored(sources, at - skipped, stop - skipped, out)?;
            at = stop;
        }
        Ok(())
    }

    fn hole_bytes_before(&self, index: usize) -> u64 {
        let last = index.checked_sub(1).map(|last| &self.holes[last]);
        last.map_or(0, |hole| hole.before + (hole.end - hole.start))
    }

    /// The first offset from `offset` on that is, or is not, in a hole; nothing behind the end. The
    /// end of the file counts as a hole.
    #[must_use]
    pub fn seek(&self, offset: u64, to_hole: bool) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let index = self.holes.partition_point(|hole| hole.end <= offset);
        let hole = self.holes.get(index);
        let is_inside = hole.is_some_and(|hole| hole.start <= offset);
        match (to_hole, is_inside) {
            (true, true) | (false, false) => Some(offset),
            (true, false) => Some(hole.map_or(self.size, |hole| hole.start.min(self.size))),
            (false, true) => hole.map(|hole| hole.end).filter(|end| *end < self.size),
        }
    }

    fn read_stored(
        &self,
        sources: &Sources<'_>,
        from: u64,
        to: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), TreeReadError> {
        self.read_ahead(sources, from, to)?;
        let mut spans = self.layout().spans(sources.frames, from)?;
        let mut at = from;
        while at < to {
            if at >= spans.end() {
                spans = self.layout().spans(sources.frames, at)?;
            }
            let (start, span) = spans.find(at).ok_or(TreeReadError::Shape)?;
            let stop = (to - start).min(u64::from(span.bytes));
            let part = (at - start) as u32..stop as u32;
            sources.frames.append(span, part, span.frame, out)?;
            at = start + stop;
        }
        Ok(())
    }

    fn layout(&self) -> MutexGuard<'_, Layout> {
        lock(&self.layout)
    }

    /// Sees whether the file is read in order, and asks for what comes next.
    fn read_ahead(&self, sources: &Sources<'_>, from: u64, to: u64) -> Result<(), TreeReadError> {
        let mut ahead = lock(&self.ahead);
        if from.abs_diff(ahead.expected) > ORDER_BYTES {
            *ahead = Ahead { expected: to, ..Ahead::default() };
            return Ok(());
        }
        ahead.expected = ahead.expected.max(to);
        let grown = (ahead.window * 2).clamp(AHEAD_BYTES_MIN, sources.window_max);
        let begin = ahead.sent.max(to);
        let end = ahead.expected.saturating_add(grown).min(self.stored_bytes);
        let is_worth_it = end.saturating_sub(begin) >= AHEAD_BYTES_MIN || end == self.stored_bytes;
        if begin < end && is_worth_it && self.ask_for(sources, begin, end)? {
            ahead.sent = end;
            ahead.window = grown;
        }
        Ok(())
    }

    /// Asks for all frames of a part; whether there was room in the queue.
    fn ask_for(&self, sources: &Sources<'_>, from: u64, to: u64) -> Result<bool, TreeReadError> {
        let mut at = from;
        while at < to {
            let spans = self.layout().spans(sources.frames, at)?;
            let mut batch: Option<(Batch, u64)> = None;
            for span in spans.within(at, to) {
                let fits =
                    |(batch, bytes): &(Batch, u64)| batch.pack == span.pack && *bytes < BATCH_BYTES;
                if batch.as_ref().is_some_and(|batch| !fits(batch))
                    && let Some((full, _)) = batch.take()
                    && !sources.prefetch.push(full)
                {
                    return Ok(false);
                }
                let empty = || (Batch { pack: span.pack, frames: Vec::new() }, 0);
                let (batch, bytes) = batch.get_or_insert_with(empty);
                if batch.frames.last() != Some(&span.frame) {
                    batch.frames.push(span.frame);
                }
                *bytes += u64::from(span.bytes);
            }
            if batch.is_some_and(|(batch, _)| !sources.prefetch.push(batch)) {
                return Ok(false);
            }
            at = spans.end();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::NodeKind;

    #[test]
    fn holes_and_data_are_found() {
        let mut node = Node::new(NodeKind::File, "sparse");
        node.size = 100;
        node.holes = vec![(0, 10), (40, 20), (90, 10)];
        let file = OpenFile::new(&node).unwrap();
        let cases = [
            (0, true, Some(0)),
            (0, false, Some(10)),
            (10, true, Some(40)),
            (10, false, Some(10)),
            (59, false, Some(60)),
            (60, true, Some(90)),
            (95, false, None),
            (100, true, None),
        ];
        for (offset, to_hole, expected) in cases {
            assert_eq!(file.seek(offset, to_hole), expected, "{offset} {to_hole}");
        }
        node.holes.clear();
        assert_eq!(OpenFile::new(&node).unwrap().seek(5, true), Some(100));
        assert_eq!(file.hole_bytes_before(0), 0);
        assert_eq!(file.hole_bytes_before(2), 30);
    }
}
