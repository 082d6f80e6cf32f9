//! `INCREMENTAL.<file>`: the pages of a file that changed, as `BASE_BACKUP (INCREMENTAL)` sends it.
//!
//! Magic number, count of pages, length up to which the old pages count, numbers of the pages,
//! zeros up to a whole page if there is one, then the pages. Nothing that stands in it is believed
//! before it was checked against the size of the file and of a segment.
//! Source: `backup/basebackup_incremental.h`, `pg_combinebackup`'s `reconstruct.c`.

use crate::format::bytes::Fields;

/// What the name of such a file begins with.
pub const INCREMENT_PREFIX: &[u8] = b"INCREMENTAL.";
/// Bytes before the numbers.
pub const FRONT_BYTES: usize = 12;
const MAGIC: u32 = 0xD3AE_1F0D;
/// No server is built with more pages in a file; one that says so is not believed.
const SEGMENT_PAGES_MAX: u32 = 1 << 24;
/// Bytes of a number.
const NUMBER_BYTES: u64 = 4;

/// Why a file is no increment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IncrementError {
    /// It does not begin as one.
    #[error("it begins with {found:#010x}")]
    Magic {
        /// What it begins with.
        found: u32,
    },
    /// It has more pages than a file can have.
    #[error("it has {count} pages, and a file has {segment_pages} at most")]
    Count {
        /// How many it says.
        count: u32,
        /// Most pages of a file.
        segment_pages: u32,
    },
    /// It is longer or shorter than its pages.
    #[error("it has {actual_bytes} bytes, and should have {expected_bytes}")]
    Size {
        /// What its pages need.
        expected_bytes: u64,
        /// What there is.
        actual_bytes: u64,
    },
    /// Its pages are not in order, or beyond the end of a file.
    #[error("page {page} comes where it cannot")]
    Order {
        /// The first wrong number.
        page: u32,
    },
}

/// The front of an increment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncrementFront {
    /// Pages that it has.
    pub count: u32,
    /// Old pages from this number on count no more.
    pub old_pages_max: u32,
}

/// Which pages changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Increment {
    /// Pages that the file has now.
    pub pages: u32,
    /// Old pages from this number on count no more: where no new one comes, there are zeros.
    pub old_pages_max: u32,
    /// Numbers of the pages that come, ascending.
    pub changed: Vec<u32>,
}

impl Increment {
    /// Old pages below this number are taken over where no new one comes, of a file that had
    /// `old_pages` of them.
    #[must_use]
    pub fn kept_max(&self, old_pages: u32) -> u32 {
        old_pages.min(self.old_pages_max)
    }
}

impl IncrementFront {
    /// Reads the front of a file of `file_bytes` bytes.
    ///
    /// # Errors
    /// [`IncrementError`], but for the order of pages.
    pub fn decode(
        front: &[u8; FRONT_BYTES],
        file_bytes: u64,
        page_bytes: u32,
        segment_pages: u32,
    ) -> Result<Self, IncrementError> {
        let mut fields = Fields::new(front);
        let [found, count, old_pages_max] =
            ["magic", "count", "length"].map(|field| fields.u32(field).unwrap_or_default());
        if found != MAGIC {
            return Err(IncrementError::Magic { found });
        }
        let segment_pages = segment_pages.min(SEGMENT_PAGES_MAX);
        if count > segment_pages {
            return Err(IncrementError::Count { count, segment_pages });
        }
        // Early servers of version 17 say more than a segment where the relation was cut off in a
        // later one; this one was full then.
        let front = Self { count, old_pages_max: old_pages_max.min(segment_pages) };
        let header_bytes = FRONT_BYTES as u64 + front.rest_bytes(page_bytes);
        let expected_bytes = header_bytes + u64::from(count) * u64::from(page_bytes);
        if file_bytes != expected_bytes {
            return Err(IncrementError::Size { expected_bytes, actual_bytes: file_bytes });
        }
        Ok(front)
    }

    /// Bytes between the front and the pages.
    #[must_use]
    pub fn rest_bytes(&self, page_bytes: u32) -> u64 {
        if self.count == 0 {
            return 0;
        }
        let header = FRONT_BYTES as u64 + u64::from(self.count) * NUMBER_BYTES;
        header.next_multiple_of(u64::from(page_bytes)) - FRONT_BYTES as u64
    }

    /// Reads what stands between the front and the pages.
    ///
    /// # Errors
    /// [`IncrementError::Order`].
    pub fn numbers(&self, rest: &[u8], segment_pages: u32) -> Result<Increment, IncrementError> {
        let numbers = rest.chunks_exact(NUMBER_BYTES as usize).take(self.count as usize);
        let mut changed = Vec::with_capacity(self.count as usize);
        for number in numbers {
            let page = number.iter().rev().fold(0, |page, byte| page << 8 | u32::from(*byte));
            if page >= segment_pages || changed.last().is_some_and(|last| *last >= page) {
                return Err(IncrementError::Order { page });
            }
            changed.push(page);
        }
        let pages = changed.last().map_or(0, |last| last + 1).max(self.old_pages_max);
        Ok(Increment { pages, old_pages_max: self.old_pages_max, changed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_BYTES: u32 = 64;
    const SEGMENT_PAGES: u32 = 100;

    /// A file as the server would write it, whatever it says.
    fn file(magic: u32, count: u32, length: u32, numbers: &[u32]) -> Vec<u8> {
        let head = [magic, count, length].into_iter().chain(numbers.iter().copied());
        let mut bytes: Vec<u8> = head.flat_map(u32::to_le_bytes).collect();
        if !numbers.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES as usize), 0);
        }
        bytes.resize(bytes.len() + numbers.len() * PAGE_BYTES as usize, 7);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Increment, IncrementError> {
        let (front, rest) = bytes.split_first_chunk().unwrap();
        let front = IncrementFront::decode(front, bytes.len() as u64, PAGE_BYTES, SEGMENT_PAGES)?;
        front.numbers(&rest[..front.rest_bytes(PAGE_BYTES) as usize], SEGMENT_PAGES)
    }

    #[test]
    fn length_is_that_of_the_newest_page_or_of_the_old_ones() {
        let many: Vec<u32> = (0..SEGMENT_PAGES).collect();
        let table: &[(u32, &[u32], u32, u32)] = &[
            (0, &[], 0, 0),
            (5, &[], 5, 5),
            (5, &[0, 4], 5, 5),
            (5, &[7], 8, 5),
            (0, &[2], 3, 0),
            (1, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], 15, 1),
            (100, &[99], 100, 100),
            (100, &many, 100, 100),
            (101, &[], 100, 100),
            (u32::MAX, &[3], 100, 100),
        ];
        for (length, numbers, pages, old_pages_max) in table {
            let bytes = file(MAGIC, numbers.len() as u32, *length, numbers);
            let expected = Increment {
                pages: *pages,
                old_pages_max: *old_pages_max,
                changed: numbers.to_vec(),
            };
            assert_eq!(decode(&bytes), Ok(expected), "{length} {numbers:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let size =
            |expected_bytes, actual_bytes| IncrementError::Size { expected_bytes, actual_bytes };
        let table = [
            (file(0x0D1F_AED3, 0, 5, &[]), IncrementError::Magic { found: 0x0D1F_AED3 }),
            (file(0, 1, 5, &[1]), IncrementError::Magic { found: 0 }),
            (
                file(MAGIC, 101, 5, &[1]),
                IncrementError::Count { count: 101, segment_pages: SEGMENT_PAGES },
            ),
            (
                file(MAGIC, u32::MAX, 5, &[1]),
                IncrementError::Count { count: u32::MAX, segment_pages: SEGMENT_PAGES },
            ),
            (file(MAGIC, 2, 5, &[1]), size(64 + 128, 128)),
            (file(MAGIC, 0, 5, &[1]), size(12, 128)),
            (file(MAGIC, 1, 5, &[]), size(128, 12)),
            (file(MAGIC, 2, 5, &[2, 1]), IncrementError::Order { page: 1 }),
            (file(MAGIC, 2, 5, &[2, 2]), IncrementError::Order { page: 2 }),
            (file(MAGIC, 1, 5, &[100]), IncrementError::Order { page: 100 }),
            (file(MAGIC, 2, 5, &[0, u32::MAX]), IncrementError::Order { page: u32::MAX }),
        ];
        for (bytes, expected) in table {
            assert_eq!(decode(&bytes), Err(expected));
        }
        let whole = file(MAGIC, 2, 5, &[1, 3]);
        for length in FRONT_BYTES..whole.len() {
            assert_eq!(decode(&whole[..length]), Err(size(64 + 128, length as u64)));
        }
    }
}
