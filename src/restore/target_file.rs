//! A regular file of a restore, open: written at offsets from any thread.
//!
//! It has its final size from the start; what is never written is a hole in a new file, and what
//! it was before in one that was there already.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::restore::metadata_object::{Identity, Object};
use crate::restore::target_error::TargetError;
use crate::restore::target_flush::Flusher;
use crate::restore::target_path::TargetPath;

/// Bytes written to a file before they are sent on to the disk.
const FLUSH_BYTES: u64 = 64 * 1024 * 1024;
/// Zeros written at a time where a file system cannot punch holes.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Proof that this run made the object at a path; only such a path may get a second name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub(super) path: TargetPath,
    pub(super) identity: Identity,
}

impl Restored {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &TargetPath {
        &self.path
    }
}

/// An open file below the target.
#[derive(Debug)]
pub struct TargetFile {
    pub(super) file: File,
    pub(super) restored: Restored,
    pub(super) size_bytes: u64,
    pub(super) is_new: bool,
    flusher: Option<Arc<Flusher>>,
    unflushed_bytes: AtomicU64,
}

impl TargetFile {
    /// A file of that size, at its place.
    pub(super) fn new(
        file: File,
        restored: Restored,
        size_bytes: u64,
        is_new: bool,
        flusher: Option<Arc<Flusher>>,
    ) -> Self {
        let unflushed_bytes = AtomicU64::new(0);
        Self { file, restored, size_bytes, is_new, flusher, unflushed_bytes }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &TargetPath {
        &self.restored.path
    }

    /// Whether it was made by this run. If not, what it held before is still there, up to the
    /// smaller of both sizes, for comparison; holes must then be punched.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The proof by which it can be given further names.
    #[must_use]
    pub fn restored(&self) -> Restored {
        self.restored.clone()
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// [`TargetError::TooLong`] beyond the file's size, before anything is written.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.check_range(offset, bytes.len() as u64)?;
        self.file.write_all_at(bytes, offset).map_err(|error| self.failure("write", error))?;
        if let Some(flusher) = &self.flusher {
            let written = bytes.len() as u64;
            if self.unflushed_bytes.fetch_add(written, Relaxed) + written >= FLUSH_BYTES {
                self.unflushed_bytes.store(0, Relaxed);
                flusher.begin(&self.file);
            }
        }
        Ok(())
    }

    /// Makes a range of an existing file read as zeros, without blocks where possible.
    pub fn punch_hole(&self, offset: u64, length: u64) -> Result<(), TargetError> {
        self.check_range(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, hole, offset, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(offset, length),
            done => done.map_err(|error| self.failure("punch", error.into())),
        }
    }

    /// Reads what is there, until the buffer is full or the file ends; returns how much.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, TargetError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failure("read", error)),
            }
        }
        Ok(filled)
    }

    /// Makes the content durable. After an error the file must be taken as lost.
    pub fn sync(&self) -> Result<(), TargetError> {
        self.file.sync_data().map_err(|error| self.failure("sync", error))
    }

    pub(super) fn object(&self) -> Object<'_> {
        Object::Open(self.file.as_fd())
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<(), TargetError> {
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let bytes = (end - at).min(ZEROS.len() as u64);
            self.write_at(at, &ZEROS[..bytes as usize])?;
            at += bytes;
        }
        Ok(())
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<(), TargetError> {
        let end_bytes = offset.saturating_add(length);
        if end_bytes <= self.size_bytes {
            return Ok(());
        }
        let (path, size_bytes) = (self.path().to_string(), self.size_bytes);
        Err(TargetError::TooLong { path, size_bytes, end_bytes })
    }

    fn failure(&self, action: &'static str, error: io::Error) -> TargetError {
        TargetError::io(action, self.path(), error)
    }
}
