//! What a restore fetches, and in which order: pure, it reads and writes nothing.
//!
//! Entries come in the order of the tree and collect in a window. Within a window the references
//! of all files are grouped by pack and frame, so that each frame is fetched and decoded once and
//! packs are read from front to back. A window is bounded in references, in files, and in files
//! that need several frames: those are open at the same time.

use std::collections::HashMap;
use std::ops::Range;

use crate::id::PackHandle;
use crate::repo::read_access::FrameSpan;

/// Bounds of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowBounds {
    /// Files.
    pub files: usize,
    /// References.
    pub pieces: usize,
    /// Files with more than one piece.
    pub spanning_files: usize,
}

impl Default for WindowBounds {
    fn default() -> Self {
        Self { files: 20_000, pieces: 250_000, spanning_files: 200 }
    }
}

impl WindowBounds {
    /// Of the first window: the workers wait for it.
    pub const FIRST: Self = Self { files: 1_000, pieces: 10_000, spanning_files: 50 };
}

/// Plain bytes of one batch, about.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// Pieces of one batch: with small files each costs some system calls.
const BATCH_PIECES: usize = 256;
/// Pieces after which even one frame is left to several workers, each of which decodes it.
const BATCH_PIECES_MAX: usize = 4096;

/// Part of a file that lies in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Number of the file in the window.
    pub file: u32,
    /// Where its bytes begin among the stored bytes of the file (holes do not count).
    pub stored_offset: u64,
    /// Where the bytes are.
    pub span: FrameSpan,
}

/// The references of some files in a row.
#[derive(Debug)]
pub struct Window {
    bounds: WindowBounds,
    pieces: Vec<Piece>,
    files: u32,
    spanning_files: usize,
    last_pieces: usize,
}

/// Pieces that one worker handles in a row: neighbouring frames of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which of the ordered pieces.
    pub pieces: Range<usize>,
    /// Its last frame.
    pub last_frame: u32,
}

impl Window {
    /// An empty window.
    #[must_use]
    pub fn new(bounds: WindowBounds) -> Self {
        Self { bounds, pieces: Vec::new(), files: 0, spanning_files: 0, last_pieces: 0 }
    }

    /// Enters a file; gives its number. Its pieces follow before the next file's.
    pub fn add_file(&mut self) -> u32 {
        self.files += 1;
        self.last_pieces = 0;
        self.files - 1
    }

    /// Enters a piece of the file that was entered last. Spans that continue the last piece in its
    /// frame become part of it; says whether the piece is one of its own.
    pub fn add_piece(&mut self, stored_offset: u64, span: FrameSpan) -> bool {
        let file = self.files - 1;
        if self.last_pieces > 0
            && let Some(last) = self.pieces.last_mut()
            && continues(&last.span, &span)
        {
            last.span.count += span.count;
            last.span.bytes += span.bytes;
            return false;
        }
        self.pieces.push(Piece { file, stored_offset, span });
        self.last_pieces += 1;
        self.spanning_files += usize::from(self.last_pieces == 2);
        true
    }

    /// Whether no more should be entered, not even of the same file.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.files as usize >= self.bounds.files
            || self.pieces.len() >= self.bounds.pieces
            || self.spanning_files >= self.bounds.spanning_files
    }

    /// Whether nothing has to be fetched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// All pieces, pack by pack in the order of first use and frame by frame, and the batches.
    #[must_use]
    pub fn into_batches(self) -> (Vec<Piece>, Vec<Batch>) {
        let mut pieces = self.pieces;
        let mut ranks: HashMap<PackHandle, usize> = HashMap::new();
        for piece in &pieces {
            let next = ranks.len();
            ranks.entry(piece.span.pack).or_insert(next);
        }
        // Stable: pieces of one frame stay in the order of the tree.
        pieces.sort_by_key(|piece| (ranks[&piece.span.pack], piece.span.frame));
        let batches = batches(&pieces);
        (pieces, batches)
    }
}

fn continues(last: &FrameSpan, next: &FrameSpan) -> bool {
    (last.pack, last.frame) == (next.pack, next.frame)
        && last.first + last.count == next.first
        && last.slice.is_none()
        && next.slice.is_none()
}

fn batches(pieces: &[Piece]) -> Vec<Batch> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, piece) in pieces.iter().enumerate() {
        bytes += u64::from(piece.span.bytes);
        let next = pieces.get(index + 1).map(|next| &next.span);
        let ends_pack = next.is_none_or(|next| next.pack != piece.span.pack);
        let ends_frame = next.is_none_or(|next| next.frame != piece.span.frame);
        let length = index + 1 - start;
        let is_long = bytes >= BATCH_BYTES || length >= BATCH_PIECES;
        if ends_pack || (ends_frame && is_long) || length >= BATCH_PIECES_MAX {
            batches.push(Batch { pieces: start..index + 1, last_frame: piece.span.frame });
            (start, bytes) = (index + 1, 0);
        }
    }
    batches
}

/// Where the stored bytes of a file lie in it: its data ranges, holes left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataMap {
    /// (offset among the stored bytes, offset in the file, length), ascending; `None` without holes.
    ranges: Option<Vec<(u64, u64, u64)>>,
}

impl DataMap {
    /// Of a file of `size` bytes with these holes; `None` where they overlap or lie outside.
    #[must_use]
    pub fn new(size: u64, holes: &[(u64, u64)]) -> Option<Self> {
        let mut ranges = Vec::new();
        let (mut stored, mut at) = (0, 0);
        for (offset, length) in holes.iter().copied().chain([(size, 0)]) {
            let data = offset.checked_sub(at)?;
            if data > 0 {
                ranges.push((stored, at, data));
            }
            stored += data;
            at = offset.checked_add(length)?;
        }
        (at <= size).then_some(Self { ranges: (!holes.is_empty()).then_some(ranges) })
    }

    /// Parts (offset in the file, length) of `length` stored bytes from `stored_offset` on; what
    /// is beyond the last data range is left out.
    pub fn parts(&self, stored_offset: u64, length: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let whole = self.ranges.is_none().then_some((stored_offset, length));
        let ranges = self.ranges.as_deref().unwrap_or_default();
        let end = stored_offset + length;
        let first = ranges.partition_point(|(stored, _, data)| stored + data <= stored_offset);
        let ranges = ranges[first..].iter().take_while(move |(stored, ..)| *stored < end);
        let parts = ranges.map(move |(stored, at, data)| {
            let from = stored_offset.max(*stored);
            let to = end.min(stored + data);
            (at + (from - stored), to - from)
        });
        whole.into_iter().chain(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(pack: u8, frame: u32, first: u32, bytes: u32) -> FrameSpan {
        FrameSpan { pack: PackHandle([pack; 16]), frame, first, count: 1, slice: None, bytes }
    }

    #[test]
    fn each_frame_is_fetched_once_and_packs_front_to_back() {
        let mut window = Window::new(WindowBounds::default());
        let spans = [(2, 5, 50), (1, 0, 0), (2, 3, 30), (2, 5, 51), (1, 0, 1), (1, 9, 90)];
        for (pack, frame, first) in spans {
            window.add_file();
            assert!(window.add_piece(0, span(pack, frame, first, 100)));
        }
        let (pieces, batches) = window.into_batches();
        let order: Vec<_> =
            pieces.iter().map(|p| (p.span.pack.0[0], p.span.frame, p.file)).collect();
        assert_eq!(order, [(2, 3, 2), (2, 5, 0), (2, 5, 3), (1, 0, 1), (1, 0, 4), (1, 9, 5)]);
        let expected =
            [Batch { pieces: 0..3, last_frame: 5 }, Batch { pieces: 3..6, last_frame: 9 }];
        assert_eq!(batches, expected);
    }

    #[test]
    fn neighbouring_chunks_of_a_file_are_one_piece() {
        let mut window = Window::new(WindowBounds::default());
        window.add_file();
        assert!(window.add_piece(0, span(1, 0, 0, 10)));
        assert!(!window.add_piece(10, span(1, 0, 1, 20)));
        assert!(window.add_piece(30, span(1, 0, 3, 5)));
        window.add_file();
        assert!(window.add_piece(0, span(1, 0, 4, 5)), "another file's");
        let (pieces, _) = window.into_batches();
        let lengths: Vec<_> = pieces.iter().map(|p| (p.span.count, p.span.bytes)).collect();
        assert_eq!(lengths, [(2, 30), (1, 5), (1, 5)]);
    }

    #[test]
    fn windows_and_batches_are_bounded() {
        let bounds = WindowBounds { files: 3, pieces: 10, spanning_files: 2 };
        let full_after = |pieces_each: u32| {
            let mut window = Window::new(bounds);
            let mut files = 0;
            while !window.is_full() {
                files += 1;
                window.add_file();
                for n in 0..pieces_each {
                    window.add_piece(0, span(1, n, n * 10, 1));
                }
            }
            files
        };
        assert_eq!([full_after(1), full_after(2), full_after(20)], [3, 2, 1]);
        let mut window = Window::new(WindowBounds::default());
        window.add_file();
        for frame in 0..100 {
            window.add_piece(0, span(1, frame, frame, 512 * 1024));
        }
        let (pieces, batches) = window.into_batches();
        assert_eq!((pieces.len(), batches.len()), (100, 13));
    }

    #[test]
    fn stored_bytes_lie_between_the_holes() {
        let map = DataMap::new(100, &[(0, 10), (20, 30), (90, 10)]).unwrap();
        let parts = |offset, length| map.parts(offset, length).collect::<Vec<_>>();
        assert_eq!(parts(0, 50), [(10, 10), (50, 40)]);
        assert_eq!(parts(5, 10), [(15, 5), (50, 5)]);
        assert_eq!(parts(10, 40), [(50, 40)]);
        assert_eq!(parts(49, 20), [(89, 1)]);
        assert_eq!(DataMap::new(9, &[]).unwrap().parts(3, 4).collect::<Vec<_>>(), [(3, 4)]);
        assert_eq!(DataMap::new(9, &[(0, 9)]).unwrap().parts(0, 4).count(), 0);
        for bad in [&[(5, 10), (10, 5)][..], &[(95, 10)], &[(u64::MAX, 2)], &[(200, 0)]] {
            assert_eq!(DataMap::new(100, bad), None, "{bad:?}");
        }
    }
}
