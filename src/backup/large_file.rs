//! Reads a large file block by block on the thread that walks: cutting goes in the order of bytes,
//! hashing and comparing pages are done by the workers.

use std::sync::Arc;

use crate::backup::block::Block;
use crate::backup::entry_reader::{EntryReader, take_outcome, unreadable};
use crate::backup::item::{Ended, Entry, Item, Pages, Step};
use crate::backup::ordered::Giver;
use crate::backup::stream::Reading;
use crate::backup::tree_root::message;
use crate::crypto::ids::{DomainKeys, content_hasher};
use crate::index::previous_tree::PreviousEntry;
use crate::source::error::SourceError;
use crate::source::files::content::{FileReader, ReadVerdict};
use crate::source::files::entry::EntryHandle;

/// Plain bytes of pages that are compared as one piece of work.
const PAGES_BLOCK_BYTES: usize = 1024 * 1024;
/// Length of a page's fingerprint.
const FINGERPRINT_BYTES: usize = 16;

/// A file that is read block by block.
pub struct LargeFile {
    /// The entry as the walk saw it.
    pub entry: Entry,
    /// The way to it.
    pub handle: EntryHandle,
    /// Length of its pages, where it is cut in pages.
    pub page_bytes: Option<u32>,
    /// The file in the previous snapshot, where all its chunks are still there.
    pub previous: Option<PreviousEntry>,
    /// Whether the previous snapshot had it.
    pub is_known: bool,
}

/// How one reading of a file ended.
enum Reached {
    /// It is whole, or marked as changed.
    End,
    /// It changed: once more.
    Changed,
    /// Nobody takes any more.
    Nobody,
}

/// Reads the file and gives its items; `false` when nobody takes any more.
pub fn read_large(
    mut file: LargeFile,
    reading: &Reading,
    reader: &Arc<EntryReader>,
    items: &mut Giver<Item>,
) -> bool {
    let mut has_begun = false;
    for is_last in [false, true] {
        match read_once(&mut file, reading, reader, items, &mut has_begun, is_last) {
            Ok(Reached::End) => return true,
            Ok(Reached::Nobody) => return false,
            Ok(Reached::Changed) => {
                if !items.give(Item::Again) {
                    return false;
                }
            }
            Err(error) if has_begun => {
                let discard = Some(message(&error));
                let is_known = file.is_known;
                let ended = Ended { entry: file.entry, hash: None, is_known, discard };
                return items.give(Item::End(Box::new(ended)));
            }
            Err(error) => return items.give(Item::Batch(vec![unreadable(&error)])),
        }
    }
    true
}

fn read_once(
    file: &mut LargeFile,
    reading: &Reading,
    reader: &Arc<EntryReader>,
    items: &mut Giver<Item>,
    has_begun: &mut bool,
    is_last: bool,
) -> Result<Reached, SourceError> {
    let open = file.handle.open()?;
    let mut warnings: Vec<Step> = Vec::new();
    reader.complete_node(&mut file.entry, &file.handle, Some(&open), &mut warnings)?;
    if !*has_begun {
        let begins = items.give(Item::Batch(warnings))
            && items.give(Item::Begin(Box::new(file.entry.clone())));
        if !begins {
            return Ok(Reached::Nobody);
        }
        *has_begun = true;
    }
    let mut content = FileReader::new(open, file.entry.node.holes.clone());
    let mut hash = None;
    let goes_on = if let Some(page_bytes) = file.page_bytes {
        let mut hasher = content_hasher();
        let previous = file.previous.as_ref();
        let goes_on = read_pages(&mut content, page_bytes, previous, reading, items, &mut hasher)?;
        hash = Some(hasher.content_hash());
        goes_on
    } else {
        let mut read = |buffer: &mut [u8]| content.read(buffer);
        reading.cut_all(&mut read, &reader.chunker, items)?
    };
    if !goes_on {
        return Ok(Reached::Nobody);
    }
    let outcome = content.finish()?;
    if outcome.verdict == ReadVerdict::Changed && !is_last {
        return Ok(Reached::Changed);
    }
    take_outcome(&mut file.entry, outcome);
    let is_known = file.is_known;
    let ended = Ended { entry: file.entry.clone(), hash, is_known, discard: None };
    Ok(if items.give(Item::End(Box::new(ended))) { Reached::End } else { Reached::Nobody })
}

fn read_pages(
    content: &mut FileReader,
    page_bytes: u32,
    previous: Option<&PreviousEntry>,
    reading: &Reading,
    items: &mut Giver<Item>,
    hasher: &mut crate::crypto::ids::ContentHasher,
) -> Result<bool, SourceError> {
    let old: Arc<[u8]> = previous.map_or_else(|| Arc::from([]), |p| Arc::from(&p.fingerprints[..]));
    if let Some(previous) = previous
        && !old.is_empty()
        && !items.give(Item::PreviousPages(previous.node.content.runs.clone()))
    {
        return Ok(false);
    }
    let mut first_page = 0;
    loop {
        let mut block = reading.blocks.block(PAGES_BLOCK_BYTES);
        let length = content.read_full(&mut block)?;
        block.truncate(length);
        if block.is_empty() {
            return Ok(true);
        }
        hasher.update(&block);
        let Some(slot) = items.slot() else { return Ok(false) };
        let (keys, old) = (reading.keys.clone(), Arc::clone(&old));
        let at = first_page * FINGERPRINT_BYTES;
        reading.workers.submit(move |_| {
            let old = old.get(at..).unwrap_or_default();
            slot.fill(Item::Pages(compare_pages(&keys, block, page_bytes, old)));
        });
        first_page += length.div_ceil(page_bytes as usize);
        if reading.progress.is_cancelled() {
            items.give(Item::Failed(crate::backup::error::BackupError::Cancelled));
            return Ok(false);
        }
    }
}

/// Fingerprints the pages of a block and moves those that differ from the old ones to its front.
fn compare_pages(keys: &DomainKeys, mut block: Block, page_bytes: u32, old: &[u8]) -> Pages {
    let mut pages = Pages { page_bytes, total_bytes: block.len() as u64, ..Pages::default() };
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
