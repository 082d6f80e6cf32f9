//! The folder of a server of ours within a folder of ours.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use crate::cli::error::CommandError;
use crate::cli::explain::postgres;
use crate::source::postgres::local_server::RunAs;

/// Makes the folder of ours one that the server's user passes through, and in it one that is that
/// user's: no file that we write lies where somebody else can put a link.
///
/// # Errors
/// It cannot be made.
pub fn run_folder(own: &Path, user: Option<RunAs>) -> Result<PathBuf, CommandError> {
    let path = own.join("run");
    let made = DirBuilder::new().mode(0o700).create(&path).and_then(|()| match user {
        Some(RunAs { uid, gid }) => {
            std::fs::set_permissions(own, Permissions::from_mode(0o711))?;
            chown(&path, Some(uid), Some(gid))
        }
        None => Ok(()),
    });
    made.map(|()| path).map_err(|error| {
        CommandError::new(&postgres::LAYER, "cannot make a folder").because(&error)
    })
}
