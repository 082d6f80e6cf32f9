//! Contents in their order, fetched and decoded ahead by several threads: for output that cannot
//! be written at offsets.
//!
//! Bounded: the one who reads pushes what comes, and takes out what is due before pushing more.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::format::node::Content;
use crate::repo::chunk_reader::ChunkReader;
use crate::repo::content_reader::ContentRuns;
use crate::repo::read_access::{FrameSpan, ReadAccess, ReadError};
use crate::repo::tree_reader::TreeReadError;
use crate::restore::error::RestoreError;

/// Plain bytes that one thread decodes at a time.
const BATCH_BYTES: usize = 1024 * 1024;
/// Batches on their way, for each thread.
const BATCHES_PER_THREAD: usize = 4;
static ZEROS: [u8; 32 * 1024] = [0; 32 * 1024];

struct Job {
    spans: Vec<FrameSpan>,
    answer: Sender<Data>,
}

/// Some bytes of a content. With an error, lost parts are zeros.
pub(super) struct Data {
    pub bytes: Vec<u8>,
    pub error: Option<ReadError>,
}

/// What comes out, in the order in which it went in.
pub(super) enum Due<M> {
    Mark(M),
    Data(Data),
}

enum Queued<M> {
    Mark(M),
    Data(Receiver<Data>),
}

/// The queue between the one who plans and the threads that decode.
pub(super) struct ReadAhead<M> {
    jobs: Sender<Job>,
    queue: VecDeque<Queued<M>>,
    open: Vec<FrameSpan>,
    open_bytes: usize,
    in_flight: usize,
    in_flight_max: usize,
    chunks: ChunkReader,
}

/// Runs `work` with a queue that `threads` threads serve.
pub(super) fn read_ahead<M, T>(
    access: &Arc<ReadAccess>,
    threads: usize,
    work: impl FnOnce(&mut ReadAhead<M>) -> Result<T, RestoreError>,
) -> Result<T, RestoreError> {
    let (jobs, queue) = unbounded();
    let mut ahead = ReadAhead {
        jobs,
        queue: VecDeque::new(),
        open: Vec::new(),
        open_bytes: 0,
        in_flight: 0,
        in_flight_max: threads * BATCHES_PER_THREAD,
        chunks: access.reader()?,
    };
    let readers: Vec<ChunkReader> =
        (0..threads).map(|_| access.reader()).collect::<Result<_, _>>()?;
    std::thread::scope(|scope| {
        for mut chunks in readers {
            let queue: Receiver<Job> = queue.clone();
            scope.spawn(move || {
                for job in queue {
                    // Nobody waits any more when the output has failed.
                    let _ = job.answer.send(gather(&mut chunks, &job.spans));
                }
            });
        }
        let done = work(&mut ahead);
        drop(ahead);
        done
    })
}

fn gather(chunks: &mut ChunkReader, spans: &[FrameSpan]) -> Data {
    let mut bytes = Vec::with_capacity(spans.iter().map(|span| span.bytes as usize).sum());
    let mut error = None;
    for (index, span) in spans.iter().enumerate() {
        let same_pack = spans[index..].iter().take_while(|next| next.pack == span.pack);
        let last_frame = same_pack.map(|next| next.frame).max().unwrap_or(span.frame);
        match chunks.span(span, last_frame) {
            Ok(part) => bytes.extend_from_slice(part),
            Err(lost) => {
                bytes.resize(bytes.len() + span.bytes as usize, 0);
                error.get_or_insert(lost);
            }
        }
    }
    Data { bytes, error }
}

impl<M> ReadAhead<M> {
    /// Puts a mark behind everything so far.
    pub(super) fn mark(&mut self, mark: M) {
        self.close_batch();
        self.queue.push_back(Queued::Mark(mark));
    }

    /// Puts a content behind everything so far, and calls `take` with what is due meanwhile.
    ///
    /// # Errors
    /// Those of `take`; and [`RestoreError::Tree`] when the references cannot be read, or do not
    /// amount to `stored_bytes`.
    pub(super) fn content(
        &mut self,
        content: &Content,
        stored_bytes: u64,
        take: &mut dyn FnMut(Due<M>) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        let mut runs = ContentRuns::new(content)?;
        let (mut spans, mut total) = (Vec::new(), 0);
        while let Some(run) = runs.next(&mut self.chunks)? {
            self.chunks.access().spans(&run, &mut spans)?;
            for span in spans.drain(..) {
                total += u64::from(span.bytes);
                if total > stored_bytes {
                    return Err(TreeReadError::Shape.into());
                }
                self.open_bytes += span.bytes as usize;
                self.open.push(span);
                if self.open_bytes >= BATCH_BYTES {
                    self.close_batch();
                    self.take_due(take)?;
                }
            }
        }
        if total == stored_bytes { Ok(()) } else { Err(TreeReadError::Shape.into()) }
    }

    fn close_batch(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let spans = std::mem::take(&mut self.open);
        self.open_bytes = 0;
        let (answer, data) = bounded(1);
        // Fails only when all threads have panicked; then the answer is missing too.
        let _ = self.jobs.send(Job { spans, answer });
        self.queue.push_back(Queued::Data(data));
        self.in_flight += 1;
    }

    /// Takes out what must leave before more is pushed.
    pub(super) fn take_due(
        &mut self,
        take: &mut dyn FnMut(Due<M>) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        while self.in_flight >= self.in_flight_max || self.queue.len() > 4096 {
            self.take_one(take)?;
        }
        Ok(())
    }

    /// Takes out everything.
    pub(super) fn take_all(
        &mut self,
        take: &mut dyn FnMut(Due<M>) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        self.close_batch();
        while !self.queue.is_empty() {
            self.take_one(take)?;
        }
        Ok(())
    }

    fn take_one(
        &mut self,
        take: &mut dyn FnMut(Due<M>) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        match self.queue.pop_front() {
            Some(Queued::Mark(mark)) => take(Due::Mark(mark)),
            Some(Queued::Data(data)) => {
                self.in_flight -= 1;
                take(Due::Data(data.recv().map_err(|_| RestoreError::WorkerLost)?))
            }
            None => Ok(()),
        }
    }
}

/// Puts the stored bytes of a file out with zeros where its holes are.
#[derive(Debug, Default)]
pub(super) struct HoleFiller {
    holes: VecDeque<(u64, u64)>,
    size: u64,
    position: u64,
}

impl HoleFiller {
    /// For a file of `size` bytes with these holes, ascending.
    pub(super) fn new(size: u64, holes: &[(u64, u64)]) -> Self {
        Self { holes: holes.iter().copied().collect(), size, position: 0 }
    }

    /// Puts out the next stored bytes, and the holes before them.
    pub(super) fn write(&mut self, out: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.pass_holes(out)?;
            let until = self.holes.front().map_or(self.size, |(offset, _)| *offset);
            let length = (until.saturating_sub(self.position)).min(bytes.len() as u64);
            if length == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let (part, rest) = bytes.split_at(length as usize);
            out.write_all(part)?;
            self.position += length;
            bytes = rest;
        }
        Ok(())
    }

    fn pass_holes(&mut self, out: &mut dyn Write) -> io::Result<()> {
        while let Some((_, length)) = self.holes.pop_front_if(|hole| hole.0 <= self.position) {
            self.zeros(out, length.min(self.size - self.position))?;
        }
        Ok(())
    }

    /// Fills what is missing with zeros; says how much that was beyond the holes.
    pub(super) fn finish(&mut self, out: &mut dyn Write) -> io::Result<u64> {
        self.pass_holes(out)?;
        let mut missing = self.size - self.position;
        missing -= self.holes.iter().map(|(_, length)| length).sum::<u64>().min(missing);
        self.zeros(out, self.size - self.position)?;
        Ok(missing)
    }

    fn zeros(&mut self, out: &mut dyn Write, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let part = left.min(ZEROS.len() as u64);
            out.write_all(&ZEROS[..part as usize])?;
            left -= part;
        }
        self.position += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled() {
        let mut filler = HoleFiller::new(20, &[(0, 2), (5, 5), (18, 2)]);
        let mut out = Vec::new();
        for part in [&b"abc"[..], b"d", b"efghijk"] {
            filler.write(&mut out, part).unwrap();
        }
        assert_eq!(filler.finish(&mut out).unwrap(), 0);
        assert_eq!(out, b"\0\0abc\0\0\0\0\0defghijk\0\0");
        let mut filler = HoleFiller::new(9, &[(4, 2)]);
        filler.write(&mut Vec::new(), b"ab").unwrap();
        assert_eq!(filler.finish(&mut Vec::new()).unwrap(), 5);
        assert!(HoleFiller::new(1, &[]).write(&mut Vec::new(), b"ab").is_err());
    }
}
