//! The workers of a restore: each takes a batch of pieces, fetches, decodes, verifies and writes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use crate::progress::Progress;
use crate::repo::read_access::{ReadAccess, ReadError};
use crate::restore::error::{RestoreError, with_causes};
use crate::restore::file_state::{FileState, Outcome};
use crate::restore::plan::{Batch, Piece};
use crate::restore::target::Target;
use crate::restore::target_error::TargetError;

/// A window whose pieces are being worked on; `_done` closes when the last batch is dropped.
pub(super) struct Running {
    pub files: Vec<Arc<FileState>>,
    pub pieces: Vec<Piece>,
    pub _done: Sender<()>,
}

/// One batch of a window.
pub(super) struct Job {
    pub window: Arc<Running>,
    pub batch: Batch,
}

/// What all threads of a restore share.
pub(super) struct Shared<'a> {
    pub access: &'a Arc<ReadAccess>,
    pub target: &'a Target,
    pub progress: &'a Progress,
    pub complete: AtomicU64,
    pub damaged: AtomicU64,
    pub failed: AtomicU64,
    pub healed_chunks: AtomicU64,
    is_over: AtomicBool,
    fatal: Mutex<Option<RestoreError>>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        access: &'a Arc<ReadAccess>,
        target: &'a Target,
        progress: &'a Progress,
    ) -> Self {
        Self {
            access,
            target,
            progress,
            complete: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            healed_chunks: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            fatal: Mutex::new(None),
        }
    }

    /// Whether nothing more is to be begun.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed) || self.progress.is_cancelled()
    }

    /// Ends the restore; the first reason counts.
    pub(super) fn end(&self, reason: RestoreError) {
        self.is_over.store(true, Relaxed);
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }

    /// Why the restore was ended, if it was.
    pub(super) fn verdict(&self) -> Result<(), RestoreError> {
        match self.fatal.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(reason) => Err(reason),
            None if self.progress.is_cancelled() => Err(RestoreError::Cancelled),
            None => Ok(()),
        }
    }

    /// One trouble of an entry: reported, unless it ends everything.
    pub(super) fn trouble(&self, error: TargetError) {
        if error.is_fatal() {
            self.end(error.into());
        } else {
            Progress::add(&self.failed, 1);
            self.progress.warn(with_causes(&error));
        }
    }

    /// Finishes a file whose pieces are all done.
    pub(super) fn finish(&self, file: &FileState) {
        match file.finish(self.target, self.progress) {
            Ok(Outcome::Complete) => Progress::add(&self.complete, 1),
            Ok(Outcome::Damaged) => Progress::add(&self.damaged, 1),
            Ok(Outcome::Failed) => Progress::add(&self.failed, 1),
            Err(error) => self.end(error.into()),
        }
        Progress::add(&self.progress.items_done, 1);
    }

    /// A worker: takes jobs until there are no more.
    pub(super) fn work(&self, jobs: &Receiver<Job>) {
        if let Err(error) = self.work_on(jobs) {
            self.end(error.into());
            // Whoever waits for a window waits for its jobs: they are taken and dropped.
            jobs.iter().for_each(drop);
        }
    }

    fn work_on(&self, jobs: &Receiver<Job>) -> Result<(), ReadError> {
        let mut chunks = self.access.reader()?;
        for Job { window, batch } in jobs {
            for piece in &window.pieces[batch.pieces] {
                if self.is_over() {
                    break;
                }
                let file = &window.files[piece.file as usize];
                let written = file.write_piece(
                    piece,
                    batch.last_frame,
                    &mut chunks,
                    self.target,
                    self.progress,
                );
                if let Err(error) = written {
                    self.end(error.into());
                    break;
                }
                if file.release() {
                    self.finish(file);
                }
            }
        }
        Progress::add(&self.healed_chunks, chunks.healed_chunks());
        Ok(())
    }
}
