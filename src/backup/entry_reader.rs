//! Reads whole entries on the workers: metadata, and the content of small files.

use crate::backup::item::{CutBytes, Entry, KnownContent, SmallFile, Step};
use crate::backup::tree_root::message;
use crate::chunker::Chunker;
use crate::crypto::ids::{DomainKeys, content_hash};
use crate::format::node::{Bytes, UnixTime};
use crate::source::error::SourceError;
use crate::source::files::content::{FileReader, ReadOutcome, ReadVerdict};
use crate::source::files::entry::{EntryHandle, OpenFile};
use crate::source::files::metadata::MetadataReader;
use std::sync::Arc;

/// Files up to this length are one chunk, whatever is in them.
const WHOLE_FILE_BYTES: usize = 64 * 1024;

/// What is to be done for one entry of a batch.
pub enum Plan {
    /// Nothing any more.
    Done(Step),
    /// Only its metadata has to be read.
    Complete {
        /// The entry as the walk saw it.
        entry: Entry,
        /// The way to it.
        handle: EntryHandle,
        /// Whether the previous snapshot had it.
        is_known: bool,
    },
    /// Metadata and content have to be read.
    Read {
        /// The entry as the walk saw it.
        entry: Entry,
        /// The way to it.
        handle: EntryHandle,
        /// Whether the previous snapshot had it.
        is_known: bool,
    },
}

impl Plan {
    /// The directory of its entry.
    #[must_use]
    pub fn dir(&self) -> Option<&Arc<[u8]>> {
        match self {
            Self::Done(Step::Known(entry, _))
            | Self::Complete { entry, .. }
            | Self::Read { entry, .. } => Some(&entry.dir),
            Self::Done(_) => None,
        }
    }
}

/// Reads entries; shared by all workers of a root.
pub struct EntryReader {
    /// Keys of the chunk ids.
    pub keys: DomainKeys,
    /// Cuts what is longer than one chunk.
    pub chunker: Chunker,
    /// Reads metadata, and remembers the names of owners.
    pub metadata: MetadataReader,
}

impl EntryReader {
    /// Does what the plans say, in order.
    #[must_use]
    pub fn steps(&self, plans: Vec<Plan>) -> Vec<Step> {
        let mut steps = Vec::with_capacity(plans.len());
        for plan in plans {
            match plan {
                Plan::Done(step) => steps.push(step),
                Plan::Complete { entry, handle, is_known } => {
                    self.complete(entry, &handle, is_known, &mut steps);
                }
                Plan::Read { entry, handle, is_known } => {
                    self.read(&entry, &handle, is_known, &mut steps);
                }
            }
        }
        steps
    }

    fn complete(
        &self,
        mut entry: Entry,
        handle: &EntryHandle,
        is_known: bool,
        steps: &mut Vec<Step>,
    ) {
        match self.complete_node(&mut entry, handle, None, steps) {
            Ok(()) if is_known => steps.push(Step::Known(entry, KnownContent::None)),
            Ok(()) => {
                let cut = CutBytes::default();
                steps.push(Step::Small(SmallFile { entry, cut, is_known }));
            }
            Err(error) => steps.push(unreadable(&error)),
        }
    }

    /// Reads what `lstat` does not say; parts that cannot be read become warnings.
    pub fn complete_node(
        &self,
        entry: &mut Entry,
        handle: &EntryHandle,
        open: Option<&OpenFile>,
        steps: &mut Vec<Step>,
    ) -> Result<(), SourceError> {
        let mut problems = Vec::new();
        self.metadata.complete(&mut entry.node, handle, open, &mut problems)?;
        steps.extend(problems.iter().map(|problem| Step::Warning(message(problem))));
        Ok(())
    }

    fn read(&self, entry: &Entry, handle: &EntryHandle, is_known: bool, steps: &mut Vec<Step>) {
        match self.read_twice(entry, handle, steps) {
            Ok((entry, bytes)) => {
                let cut = self.cut(bytes);
                steps.push(Step::Small(SmallFile { entry, cut, is_known }));
            }
            Err(error) => steps.push(unreadable(&error)),
        }
    }

    /// Reads a file; once more where it changed meanwhile, and then it is marked.
    fn read_twice(
        &self,
        entry: &Entry,
        handle: &EntryHandle,
        steps: &mut Vec<Step>,
    ) -> Result<(Entry, Bytes), SourceError> {
        let mut last = None;
        for _ in 0..2 {
            let mut entry = entry.clone();
            let file = handle.open()?;
            self.complete_node(&mut entry, handle, Some(&file), steps)?;
            let mut reader = FileReader::new(file, entry.node.holes.clone());
            let mut bytes = vec![0; entry.node.stored_bytes() as usize];
            let length = reader.read_full(&mut bytes)?;
            bytes.truncate(length);
            let outcome = reader.finish()?;
            let changed = outcome.verdict == ReadVerdict::Changed;
            take_outcome(&mut entry, outcome);
            entry.node.hash = Some(content_hash(&bytes));
            last = Some((entry, bytes));
            if !changed {
                break;
            }
        }
        Ok(last.expect("a file is read at least once"))
    }

    fn cut(&self, bytes: Bytes) -> CutBytes {
        let mut lengths = Vec::new();
        if bytes.len() <= WHOLE_FILE_BYTES {
            lengths.extend((!bytes.is_empty()).then_some(bytes.len() as u32));
        } else {
            let mut at = 0;
            while let Some(length) = self.chunker.cut(&bytes[at..], true) {
                lengths.push(length as u32);
                at += length;
            }
        }
        CutBytes::hash(&self.keys, bytes.into(), &lengths)
    }
}

/// Size, times and holes as they were for what was read.
pub fn take_outcome(entry: &mut Entry, outcome: ReadOutcome) {
    let UnixTime(seconds, nanoseconds) = outcome.stat.mtime;
    entry.node.size = outcome.size;
    entry.node.holes = outcome.holes;
    entry.node.mtime = UnixTime(seconds, nanoseconds);
    entry.node.ctime = outcome.stat.ctime;
    entry.node.changed_while_read = outcome.verdict == ReadVerdict::Changed;
}

/// The step for an entry that is left out.
#[must_use]
pub fn unreadable(error: &SourceError) -> Step {
    match error {
        SourceError::Vanished { .. } => Step::Warning(message(error)),
        _ => Step::Unreadable(message(error)),
    }
}
