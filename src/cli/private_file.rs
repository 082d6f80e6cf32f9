//! New files that hold secrets: identities, bundles, recovery kits.
//!
//! They are readable by their owner only from the moment they have a name, never replace a file,
//! and are durable when they are acknowledged.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::cli::error::CommandError;
use crate::cli::explain::usage;

/// Creates a file with mode 0600 that must not exist; missing folders are made with 0700.
///
/// # Errors
/// `HF-USE-006`; then there is no file, unless there was one before.
pub fn create(path: &Path, content: impl AsRef<[u8]>) -> Result<(), CommandError> {
    write_new(path, content.as_ref()).map_err(|source| {
        let exists = source.kind() == io::ErrorKind::AlreadyExists;
        let error = CreateError { path: path.into(), source };
        let this = CommandError::classify(&error, &usage::OUTPUT);
        if exists { this.hint("name a file that does not exist") } else { this }
    })
}

#[derive(Debug, thiserror::Error)]
#[error("cannot create {path}")]
struct CreateError {
    path: PathBuf,
    source: io::Error,
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(folder)?.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_private_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder/secret");
        create(&path, "one").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let error = create(&path, "two").unwrap_err();
        assert_eq!(error.id(), "HF-USE-006");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
    }
}
