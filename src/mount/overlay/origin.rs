//! Where blocks come from that are not there yet.

use std::io;
use std::sync::Arc;

use crate::format::commit::SnapshotName;
use crate::mount::error::VfsError;
use crate::mount::file_system::{Above, FileSystem};
use crate::mount::inode::Ino;
use crate::mount::open_file::OpenFile;
use crate::mount::overlay::blocks::OriginName;

/// Opens contents.
pub trait Origin: Send + Sync {
    /// Opens one for reading.
    ///
    /// # Errors
    /// It cannot be read now, or is damaged.
    fn open(&self, name: &OriginName) -> io::Result<Box<dyn OriginFile>>;
}

/// An open content.
pub trait OriginFile: Send + Sync {
    /// Appends exactly `length` bytes from `offset` on.
    ///
    /// # Errors
    /// They cannot be read now, are damaged, or are not so many.
    fn read(&self, offset: u64, length: u64, out: &mut Vec<u8>) -> io::Result<()>;
}

/// The files of some snapshots.
pub struct SnapshotOrigin {
    file_system: Arc<FileSystem>,
    snapshots: Vec<SnapshotName>,
}

impl SnapshotOrigin {
    /// Of the snapshots in that order.
    #[must_use]
    pub fn new(file_system: Arc<FileSystem>, snapshots: Vec<SnapshotName>) -> Self {
        Self { file_system, snapshots }
    }

    /// The file system that they are read through.
    #[must_use]
    pub fn file_system(&self) -> &Arc<FileSystem> {
        &self.file_system
    }

    /// The inode of a path.
    pub fn find(&self, name: &OriginName) -> Result<Ino, VfsError> {
        let snapshot = self.snapshots.get(usize::from(name.snapshot)).ok_or(VfsError::NotFound)?;
        let mut ino = self.file_system.number_of(Above::Between(*snapshot, Vec::new()));
        for part in name.path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            ino = self.file_system.lookup(ino, part)?;
        }
        Ok(ino)
    }
}

impl Origin for SnapshotOrigin {
    fn open(&self, name: &OriginName) -> io::Result<Box<dyn OriginFile>> {
        let ino = self.find(name).map_err(io::Error::other)?;
        let file = self.file_system.open(ino).map_err(io::Error::other)?;
        Ok(Box::new(SnapshotFile { file_system: Arc::clone(&self.file_system), ino, file }))
    }
}

struct SnapshotFile {
    file_system: Arc<FileSystem>,
    ino: Ino,
    file: OpenFile,
}

impl OriginFile for SnapshotFile {
    fn read(&self, offset: u64, length: u64, out: &mut Vec<u8>) -> io::Result<()> {
        let before = out.len() as u64;
        self.file_system
            .read(self.ino, &self.file, offset, length, out)
            .map_err(io::Error::other)?;
        let is_all = out.len() as u64 - before == length;
        is_all.then_some(()).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        self.file_system.close(&self.file);
    }
}
