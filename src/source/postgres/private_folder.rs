//! A folder that only we can enter, for a socket and for what `pg_dump` writes; it goes with the
//! value.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::source::error::SourceError;

/// Tries for a name that nobody has.
const TRIES: u32 = 16;

/// The folder. What cannot be removed at the end stays.
#[derive(Debug)]
pub struct PrivateFolder(PathBuf);

impl PrivateFolder {
    /// Makes one below `parent`, which must be there.
    ///
    /// # Errors
    /// [`SourceError::Io`].
    pub fn create(parent: &Path) -> Result<Self, SourceError> {
        let failed =
            |source| SourceError::Io { action: "make a folder in", path: parent.into(), source };
        let mut tries = 0;
        loop {
            let number = getrandom::u32().map_err(|error| failed(std::io::Error::other(error)))?;
            let path = parent.join(format!("holdfast-{number:08x}"));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error)
                    if error.kind() == std::io::ErrorKind::AlreadyExists && tries < TRIES =>
                {
                    tries += 1;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
