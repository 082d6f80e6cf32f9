//! Reads a file of pages: blocks come in the order of their bytes, the workers compare each page
//! with its fingerprint of the previous snapshot, and look at it where that is asked for.

use std::sync::Arc;

use crate::backup::block::Block;
use crate::backup::error::BackupError;
use crate::backup::item::{Item, Pages};
use crate::backup::ordered::Giver;
use crate::backup::stream::Reading;
use crate::crypto::ids::{ContentHasher, DomainKeys};
use crate::index::previous_tree::PreviousEntry;
use crate::source::error::SourceError;

/// Plain bytes of pages that are compared as one piece of work.
const PAGES_BLOCK_BYTES: usize = 1024 * 1024;
/// Length of a page's fingerprint.
pub const FINGERPRINT_BYTES: usize = 16;

/// Called with each whole page and its number in the file, on any thread.
pub type PageCheck = Arc<dyn Fn(&[u8], u32) + Send + Sync>;

/// A file of pages.
pub struct PageFile<'a> {
    /// Length of its pages.
    pub page_bytes: u32,
    /// The file in the previous snapshot, where all its chunks are still there.
    pub previous: Option<&'a PreviousEntry>,
    /// Looks at the pages.
    pub check: Option<PageCheck>,
}

/// Reads the file to its end (`read_full` fills less than it could) and gives its pages; `false`
/// when nobody takes any more.
///
/// # Errors
/// A read error; what was given before it is of no use.
pub fn read_pages(
    read_full: &mut dyn FnMut(&mut [u8]) -> Result<usize, SourceError>,
    file: &PageFile<'_>,
    reading: &Reading,
    items: &mut Giver<Item>,
    hasher: &mut ContentHasher,
) -> Result<bool, SourceError> {
    let previous = file.previous;
    let old: Arc<[u8]> = previous.map_or_else(|| Arc::from([]), |p| Arc::from(&p.fingerprints[..]));
    if let Some(previous) = previous
        && !old.is_empty()
        && !items.give(Item::PreviousPages(previous.node.content.runs.clone()))
    {
        return Ok(false);
    }
    let page_bytes = file.page_bytes;
    let mut first_page = 0;
    loop {
        let mut block = reading.blocks.block(PAGES_BLOCK_BYTES);
        let length = read_full(&mut block)?;
        block.truncate(length);
        if block.is_empty() {
            return Ok(true);
        }
        hasher.update(&block);
        let Some(slot) = items.slot() else { return Ok(false) };
        let (keys, old, check) = (reading.keys.clone(), Arc::clone(&old), file.check.clone());
        let first = first_page;
        reading.workers.submit(move |_| {
            if let Some(check) = check {
                let pages = block.chunks_exact(page_bytes as usize);
                for (page, number) in pages.zip(first as u32..) {
                    check(page, number);
                }
            }
            let old = old.get(first * FINGERPRINT_BYTES..).unwrap_or_default();
            slot.fill(Item::Pages(compare_pages(&keys, block, page_bytes, old)));
        });
        first_page += length.div_ceil(page_bytes as usize);
        if reading.progress.is_cancelled() {
            items.give(Item::Failed(BackupError::Cancelled));
            return Ok(false);
        }
    }
}

/// Fingerprints the pages of a block and moves those that differ from the old ones to its front.
fn compare_pages(keys: &DomainKeys, mut block: Block, page_bytes: u32, old: &[u8]) -> Pages {
    let bytes = block.len() as u64;
    let mut pages = Pages { page_bytes, total_bytes: bytes, read_bytes: bytes, ..Pages::default() };
    let mut old = old.chunks_exact(FINGERPRINT_BYTES);
    let (mut at, mut changed) = (0, 0);
    while at < block.len() {
        let end = block.len().min(at + page_bytes as usize);
        let page = &block[at..end];
        let fingerprint = keys.fingerprint(page);
        // A short last page may have been longer before: only whole pages are kept.
        let is_kept = old.next() == Some(&fingerprint) && page.len() == page_bytes as usize;
        pages.kept.push(is_kept);
        pages.fingerprints.extend_from_slice(&fingerprint);
        if !is_kept {
            block.copy_within(at..end, changed);
            changed += end - at;
        }
        at = end;
    }
    block.truncate(changed);
    pages.changed = block;
    pages
}
