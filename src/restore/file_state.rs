//! One file while it is restored: created by its first piece, finished by its last.
//!
//! A file gets its attributes, the modification time last, only when all of its content is in
//! place. One with a lost chunk keeps what could be read, zeros elsewhere (or, in a file that was
//! there before, what was there), and never gets its time: the next run takes it up again.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::AcqRel, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::format::node::Node;
use crate::progress::Progress;
use crate::repo::chunk_reader::ChunkReader;
use crate::repo::pack_map::PackMap;
use crate::restore::error::with_causes;
use crate::restore::plan::{DataMap, Piece};
use crate::restore::target::Target;
use crate::restore::target_error::TargetError;
use crate::restore::target_file::{Restored, TargetFile};
use crate::restore::target_path::TargetPath;

enum Slot {
    Unopened,
    Open(Arc<TargetFile>),
    Closed,
}

/// How a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it is in place.
    Complete,
    /// Some of its content is lost.
    Damaged,
    /// It could not be made or written.
    Failed,
}

/// A file of the restore. Its node has no references any more.
pub(super) struct FileState {
    pub path: TargetPath,
    pub node: Node,
    map: DataMap,
    /// Pieces that are not done, and one more while there may come others.
    left: AtomicU32,
    slot: Mutex<Slot>,
    restored: OnceLock<Restored>,
    is_damaged: AtomicBool,
    is_failed: AtomicBool,
}

impl FileState {
    pub(super) fn new(path: TargetPath, node: Node, map: DataMap) -> Self {
        Self {
            path,
            node,
            map,
            left: AtomicU32::new(1),
            slot: Mutex::new(Slot::Unopened),
            restored: OnceLock::new(),
            is_damaged: AtomicBool::new(false),
            is_failed: AtomicBool::new(false),
        }
    }

    /// Announces one more piece.
    pub(super) fn expect_piece(&self) {
        self.left.fetch_add(1, Relaxed);
    }

    /// One piece is done, or no more will come; says whether all is done now.
    pub(super) fn release(&self) -> bool {
        self.left.fetch_sub(1, AcqRel) == 1
    }

    /// Proof that it was made, once it was.
    pub(super) fn restored(&self) -> Option<&Restored> {
        self.restored.get()
    }

    /// Says that some of its content is lost, the first time in a message.
    pub(super) fn damage(&self, error: &dyn std::error::Error, progress: &Progress) {
        if !self.is_damaged.swap(true, Relaxed) {
            progress.warn(format!("{} is damaged: {}", self.path, with_causes(error)));
        }
    }

    fn fail(&self, error: &TargetError, progress: &Progress) {
        if !self.is_failed.swap(true, Relaxed) {
            progress.warn(with_causes(error));
        }
    }

    fn open(&self, target: &Target) -> Result<Option<Arc<TargetFile>>, TargetError> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Slot::Open(file) => return Ok(Some(file.clone())),
            Slot::Closed => return Ok(None),
            Slot::Unopened => {}
        }
        *slot = Slot::Closed;
        let file = Arc::new(target.create_file(&self.path, &self.node)?);
        if !file.is_new() {
            for (offset, length) in &self.node.holes {
                file.punch_hole(*offset, *length)?;
            }
        }
        // Set once: the slot was Unopened until now.
        let _ = self.restored.set(file.restored());
        *slot = Slot::Open(file.clone());
        Ok(Some(file))
    }

    /// Brings one piece into place; returns the error after which nothing can be written any more.
    pub(super) fn write_piece(
        &self,
        piece: &Piece,
        last_frame: u32,
        chunks: &mut ChunkReader,
        target: &Target,
        progress: &Progress,
    ) -> Result<(), TargetError> {
        let written = match self.open(target) {
            Ok(None) => Ok(()),
            Ok(Some(file)) => self.write_into(&file, piece, last_frame, chunks, progress),
            Err(error) => Err(error),
        };
        match written {
            Err(error) if error.is_fatal() => Err(error),
            Err(error) => {
                self.fail(&error, progress);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn write_into(
        &self,
        file: &TargetFile,
        piece: &Piece,
        last_frame: u32,
        chunks: &mut ChunkReader,
        progress: &Progress,
    ) -> Result<(), TargetError> {
        let is_old = !file.is_new();
        if is_old && self.has_already(file, piece, chunks)? {
            Progress::add(&progress.bytes_done, piece.span.bytes.into());
            return Ok(());
        }
        let bytes = match chunks.span(&piece.span, last_frame) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.damage(&error, progress);
                return Ok(());
            }
        };
        let mut rest = bytes;
        for (offset, length) in self.map.parts(piece.stored_offset, bytes.len() as u64) {
            let (part, after) = rest.split_at(length as usize);
            if !(is_old && is_same(file, offset, part)?) {
                file.write_at(offset, part)?;
            }
            rest = after;
        }
        Progress::add(&progress.bytes_done, bytes.len() as u64);
        Ok(())
    }

    /// Whether the file that was there has the chunks of a piece already, by their ids.
    fn has_already(
        &self,
        file: &TargetFile,
        piece: &Piece,
        chunks: &ChunkReader,
    ) -> Result<bool, TargetError> {
        if piece.span.slice.is_some() {
            return Ok(false);
        }
        let Ok(pack) = chunks.access().pack(&piece.span.pack) else { return Ok(false) };
        let mut found = vec![0; piece.span.bytes as usize];
        let mut filled = 0;
        for (offset, length) in self.map.parts(piece.stored_offset, found.len() as u64) {
            let end = filled + length as usize;
            if file.read_at(offset, &mut found[filled..end])? < end - filled {
                return Ok(false);
            }
            filled = end;
        }
        Ok(filled == found.len() && has_ids(&pack, piece.span.first, &found))
    }

    /// Sets the attributes of a file whose pieces are all done, and closes it.
    pub(super) fn finish(
        &self,
        target: &Target,
        progress: &Progress,
    ) -> Result<Outcome, TargetError> {
        let opened = self.open(target);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                self.fail(&error, progress);
                None
            }
        };
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Closed;
        let Some(file) = file.filter(|_| !self.is_failed.load(Relaxed)) else {
            return Ok(Outcome::Failed);
        };
        if self.is_damaged.load(Relaxed) {
            return Ok(Outcome::Damaged);
        }
        match target.apply_file_metadata(&file, &self.node, progress) {
            Ok(()) => Ok(Outcome::Complete),
            Err(error) if error.is_fatal() => Err(error),
            Err(error) => {
                self.fail(&error, progress);
                Ok(Outcome::Failed)
            }
        }
    }
}

fn is_same(file: &TargetFile, offset: u64, bytes: &[u8]) -> Result<bool, TargetError> {
    let mut found = vec![0; bytes.len()];
    Ok(file.read_at(offset, &mut found)? == bytes.len() && found == bytes)
}

/// Whether bytes are the chunks of a pack from `first` on, one after another.
pub(super) fn has_ids(pack: &PackMap, first: u32, bytes: &[u8]) -> bool {
    let (mut ordinal, mut rest) = (first, bytes);
    while !rest.is_empty() {
        let Some(length) = pack.chunk_bytes(ordinal).map(|length| length as usize) else {
            return false;
        };
        let Some((chunk, after)) = rest.split_at_checked(length) else { return false };
        if pack.id(ordinal) != Some(&pack.id_of(chunk)) {
            return false;
        }
        (ordinal, rest) = (ordinal + 1, after);
    }
    true
}
