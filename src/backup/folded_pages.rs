//! Puts an increment of a file of pages into the file of the previous snapshot.
//!
//! Only what came is read: where nothing came, the references and fingerprints of before are taken
//! over. The next run compares the file as if it had been read from front to back.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use crate::backup::block::{Block, BlockPool};
use crate::backup::error::BackupError;
use crate::backup::item::{Item, Pages};
use crate::backup::ordered::Giver;
use crate::backup::pages::{FINGERPRINT_BYTES, PageCheck};
use crate::backup::stream::Reading;
use crate::crypto::ids::DomainKeys;
use crate::format::postgres::increment::{FRONT_BYTES, Increment, IncrementError, IncrementFront};
use crate::index::previous_tree::PreviousEntry;

/// Plain bytes of new pages that are one piece of work.
const BATCH_BYTES: usize = 1024 * 1024;
/// Pages of the file, old ones too, that are one piece of work.
const BATCH_PAGES_MAX: u32 = 8192;

/// Why an increment could not be put into the file of before.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// The bytes could not be had.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// They are no increment.
    #[error(transparent)]
    Increment(#[from] IncrementError),
    /// What is remembered of the file does not go together.
    #[error("what is remembered of the file of before is damaged")]
    Remembered,
}

/// An increment, and what it belongs to.
pub struct Fold<'a> {
    /// Length of a page.
    pub page_bytes: u32,
    /// Most pages of a file.
    pub segment_pages: u32,
    /// The file in the previous snapshot.
    pub previous: &'a PreviousEntry,
    /// Looks at the pages that came.
    pub check: PageCheck,
}

impl Fold<'_> {
    /// Reads which pages of the file came, of an increment of that length.
    ///
    /// # Errors
    /// [`FoldError`]; nothing was given of the file.
    pub fn begin(&self, read: &mut dyn Read, bytes: u64) -> Result<Increment, FoldError> {
        let mut front = [0; FRONT_BYTES];
        if bytes < FRONT_BYTES as u64 {
            let expected_bytes = FRONT_BYTES as u64;
            return Err(IncrementError::Size { expected_bytes, actual_bytes: bytes }.into());
        }
        read.read_exact(&mut front)?;
        let front = IncrementFront::decode(&front, bytes, self.page_bytes, self.segment_pages)?;
        let mut rest = vec![0; front.rest_bytes(self.page_bytes) as usize];
        read.read_exact(&mut rest)?;
        let increment = front.numbers(&rest, self.segment_pages)?;
        let fingerprints = self.previous.node.size.div_ceil(u64::from(self.page_bytes));
        if self.previous.fingerprints.len() as u64 != fingerprints * FINGERPRINT_BYTES as u64 {
            return Err(FoldError::Remembered);
        }
        Ok(increment)
    }

    /// Whether the file is what it was.
    #[must_use]
    pub fn is_same(&self, increment: &Increment) -> bool {
        let bytes = u64::from(increment.pages) * u64::from(self.page_bytes);
        increment.changed.is_empty() && bytes == self.previous.node.size
    }

    /// Reads the pages that came, and gives all pages of the file; `false` when nobody takes any
    /// more.
    ///
    /// # Errors
    /// [`FoldError::Read`]; what was given before it is of no use.
    pub fn give(
        &self,
        read: &mut dyn Read,
        increment: &Increment,
        reading: &Reading,
        items: &mut Giver<Item>,
    ) -> Result<bool, FoldError> {
        let runs = self.previous.node.content.runs.clone();
        if !items.give(Item::PreviousPages(runs)) {
            return Ok(false);
        }
        let old: Arc<[u8]> = Arc::from(&self.previous.fingerprints[..]);
        let old_pages = (self.previous.node.size / u64::from(self.page_bytes)) as u32;
        let mut changed = &increment.changed[..];
        let mut next = 0;
        while next < increment.pages {
            let kept_max = increment.kept_max(old_pages);
            let batch = Batch::cut(next..increment.pages, changed, kept_max, self.page_bytes);
            let (now, later) = changed.split_at(batch.came as usize);
            changed = later;
            next = batch.pages.end;
            let block = batch.read(read, now, self.page_bytes, &reading.blocks)?;
            let Some(slot) = items.slot() else { return Ok(false) };
            let (keys, old, check) = (reading.keys.clone(), Arc::clone(&old), self.check.clone());
            let page_bytes = self.page_bytes;
            reading.workers.submit(move |_| {
                let old = old.get(..old_pages as usize * FINGERPRINT_BYTES).unwrap_or_default();
                slot.fill(Item::Pages(batch.pages(&keys, block, page_bytes, old, &check)));
            });
            if reading.progress.is_cancelled() {
                items.give(Item::Failed(BackupError::Cancelled));
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Pages of the file that follow one another.
struct Batch {
    pages: Range<u32>,
    /// For each whether it is taken over; the others are in the block.
    kept: Vec<bool>,
    /// How many came; the others that are not taken over are zeros.
    came: u32,
}

impl Batch {
    /// The first of those pages that are one piece of work; `changed` are the numbers of what comes.
    fn cut(pages: Range<u32>, changed: &[u32], kept_max: u32, page_bytes: u32) -> Self {
        let new_max = (BATCH_BYTES / page_bytes as usize).max(1);
        let mut batch = Self { pages: pages.start..pages.start, kept: Vec::new(), came: 0 };
        let mut new = 0;
        for page in pages.take(BATCH_PAGES_MAX as usize) {
            let comes = changed.get(batch.came as usize) == Some(&page);
            let is_kept = !comes && page < kept_max;
            if !is_kept && new == new_max {
                break;
            }
            new += usize::from(!is_kept);
            batch.came += u32::from(comes);
            batch.kept.push(is_kept);
            batch.pages.end = page + 1;
        }
        batch
    }

    /// The pages that are not taken over, one after another.
    fn read(
        &self,
        read: &mut dyn Read,
        mut changed: &[u32],
        page_bytes: u32,
        blocks: &BlockPool,
    ) -> std::io::Result<Block> {
        let new = self.kept.iter().filter(|is_kept| !**is_kept).count();
        let mut block = blocks.block(new * page_bytes as usize);
        let mut places = block.chunks_exact_mut(page_bytes as usize);
        for (number, _) in self.pages.clone().zip(&self.kept).filter(|(_, is_kept)| !**is_kept) {
            let Some(page) = places.next() else { break };
            if changed.first() == Some(&number) {
                changed = &changed[1..];
                read.read_exact(page)?;
            } else {
                page.fill(0);
            }
        }
        Ok(block)
    }

    /// Fingerprints the new pages, and moves those that differ from the old ones to the front.
    fn pages(
        &self,
        keys: &DomainKeys,
        mut block: Block,
        page_bytes: u32,
        old: &[u8],
        check: &PageCheck,
    ) -> Pages {
        let length = page_bytes as usize;
        let mut pages = Pages {
            page_bytes,
            total_bytes: self.kept.len() as u64 * u64::from(page_bytes),
            read_bytes: u64::from(self.came) * u64::from(page_bytes),
            ..Pages::default()
        };
        let (mut at, mut changed) = (0, 0);
        for (number, is_kept) in self.pages.clone().zip(&self.kept) {
            let place = number as usize * FINGERPRINT_BYTES;
            let before = old.get(place..place + FINGERPRINT_BYTES);
            if *is_kept {
                pages.fingerprints.extend_from_slice(before.unwrap_or(&[0; FINGERPRINT_BYTES]));
                pages.kept.push(true);
                continue;
            }
            let page = &block[at..at + length];
            check(page, number);
            let fingerprint = keys.fingerprint(page);
            let is_equal = before == Some(&fingerprint);
            pages.fingerprints.extend_from_slice(&fingerprint);
            pages.kept.push(is_equal);
            if !is_equal {
                block.copy_within(at..at + length, changed);
                changed += length;
            }
            at += length;
        }
        block.truncate(changed);
        pages.changed = block;
        pages
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::crypto::secret::Secret32;

    const PAGE_BYTES: u32 = 4096;

    fn page(byte: u8) -> Vec<u8> {
        vec![byte; PAGE_BYTES as usize]
    }

    /// The file that comes out when kept pages are taken from the old one.
    fn folded(old: &[u8], increment: &Increment, news: &BTreeMap<u32, u8>) -> (Vec<u8>, Vec<u32>) {
        let keys = DomainKeys::derive(&Secret32::from_bytes(&[1; 32]));
        let check: PageCheck = Arc::new(|_, _| {});
        let fingerprints: Vec<u8> =
            old.iter().flat_map(|byte| keys.fingerprint(&page(*byte))).collect();
        let sent: Vec<u8> = news.values().flat_map(|byte| page(*byte)).collect();
        let (mut sent, mut changed) = (&sent[..], &increment.changed[..]);
        let (mut file, mut cuts, mut next) = (Vec::new(), Vec::new(), 0);
        while next < increment.pages {
            let kept_max = increment.kept_max(old.len() as u32);
            let batch = Batch::cut(next..increment.pages, changed, kept_max, PAGE_BYTES);
            assert_eq!(batch.pages.start, next);
            let (now, later) = changed.split_at(batch.came as usize);
            (changed, next) = (later, batch.pages.end);
            cuts.push(next);
            let blocks = BlockPool::default();
            let block = batch.read(&mut sent, now, PAGE_BYTES, &blocks).unwrap();
            let pages = batch.pages(&keys, block, PAGE_BYTES, &fingerprints, &check);
            assert_eq!(pages.read_bytes, now.len() as u64 * u64::from(PAGE_BYTES));
            assert_eq!(pages.total_bytes, pages.kept.len() as u64 * u64::from(PAGE_BYTES));
            let mut new = pages.changed.chunks_exact(PAGE_BYTES as usize);
            let sums = pages.fingerprints.chunks_exact(FINGERPRINT_BYTES);
            for ((number, is_kept), sum) in batch.pages.clone().zip(pages.kept).zip(sums) {
                let byte = if is_kept { old[number as usize] } else { new.next().unwrap()[0] };
                assert_eq!(sum, keys.fingerprint(&page(byte)), "{number}");
                file.push(byte);
            }
            assert_eq!(new.next(), None);
        }
        assert!(sent.is_empty());
        (file, cuts)
    }

    #[test]
    fn every_page_is_the_new_one_or_the_old_one_or_zeros() {
        // The old file, how far it counts, what comes, the new file.
        type Row = (&'static [u8], u32, &'static [(u32, u8)], &'static [u8]);
        let table: &[Row] = &[
            (&[1, 2, 3], 3, &[], &[1, 2, 3]),
            (&[1, 2, 3], 3, &[(1, 9)], &[1, 9, 3]),
            (&[1, 2, 3], 3, &[(1, 2)], &[1, 2, 3]),
            (&[1, 2, 3], 1, &[], &[1]),
            (&[1, 2, 3], 0, &[], &[]),
            (&[1, 2, 3], 5, &[], &[1, 2, 3, 0, 0]),
            (&[1, 2, 3], 3, &[(5, 9)], &[1, 2, 3, 0, 0, 9]),
            // Cut off after the first page, and grown again.
            (&[1, 2, 3], 1, &[(2, 9)], &[1, 0, 9]),
            (&[1, 2, 3], 1, &[(1, 8), (2, 3), (3, 9)], &[1, 8, 3, 9]),
            (&[], 2, &[(0, 7)], &[7, 0]),
        ];
        for (old, old_pages_max, news, expected) in table {
            let changed: Vec<u32> = news.iter().map(|(number, _)| *number).collect();
            let pages = changed.last().map_or(0, |last| last + 1).max(*old_pages_max);
            let increment = Increment { pages, old_pages_max: *old_pages_max, changed };
            let news = news.iter().copied().collect();
            assert_eq!(folded(old, &increment, &news).0, *expected, "{old:?} {increment:?}");
        }
    }

    #[test]
    fn pieces_of_work_are_bounded() {
        let old = vec![1; 20_000];
        let changed: Vec<u32> = (9000..10_000).collect();
        let news = changed.iter().map(|number| (*number, (*number % 200) as u8)).collect();
        let increment = Increment { pages: 21_000, old_pages_max: 20_000, changed };
        let (file, cuts) = folded(&old, &increment, &news);
        let expected = |at: u32| match at {
            9000..10_000 => (at % 200) as u8,
            20_000.. => 0,
            _ => 1,
        };
        assert_eq!(file, (0..21_000).map(expected).collect::<Vec<u8>>());
        assert_eq!(cuts, [8192, 9256, 9512, 9768, 17_960, 20_256, 20_512, 20_768, 21_000]);
    }
}
