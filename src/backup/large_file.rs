//! Reads a large file block by block on the thread that walks: cutting goes in the order of bytes,
//! hashing and comparing pages are done by the workers.

use std::sync::Arc;

use crate::backup::entry_reader::{EntryReader, take_outcome, unreadable};
use crate::backup::item::{Ended, Entry, Item, Step};
use crate::backup::ordered::Giver;
use crate::backup::pages::{PageFile, read_pages};
use crate::backup::stream::Reading;
use crate::backup::tree_root::message;
use crate::crypto::ids::content_hasher;
use crate::index::previous_tree::PreviousEntry;
use crate::source::error::SourceError;
use crate::source::files::content::{FileReader, ReadVerdict};
use crate::source::files::entry::EntryHandle;

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
        let pages = PageFile { page_bytes, previous: file.previous.as_ref(), check: None };
        let mut read = |buffer: &mut [u8]| content.read_full(buffer);
        let goes_on = read_pages(&mut read, &pages, reading, items, &mut hasher)?;
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
