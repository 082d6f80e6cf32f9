//! Makes the folder: all entries of the snapshot, with files that are holes.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use crate::format::node::NodeKind;
use crate::mount::attributes::Attributes;
use crate::mount::file_system::join_paths;
use crate::mount::inode::Ino;
use crate::mount::overlay::blocks::OriginName;
use crate::mount::overlay::folder::{Folder, Maker};
use crate::mount::overlay::lazy_file::LazyFile;
use crate::mount::overlay::origin::SnapshotOrigin;

/// What was laid out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct LaidOut {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Lays entries out in a folder.
pub struct Layer<'a> {
    /// Where the contents come from.
    pub origin: &'a SnapshotOrigin,
    /// The folder.
    pub base: &'a Path,
    /// Whose everything is.
    pub owner: Maker,
    /// The file at the top that lies under a name of ours.
    pub seal: &'a str,
}

impl Layer<'_> {
    /// Lays out all that lies below `name`, but for the paths below it that are `skipped`.
    ///
    /// # Errors
    /// The snapshot cannot be read, has something other than files and folders, or the system
    /// failed; what was made stays.
    pub fn tree(&self, name: &OriginName, skipped: &[&[u8]]) -> io::Result<LaidOut> {
        let mut laid_out = LaidOut::default();
        let top = self.origin.find(name).map_err(io::Error::other)?;
        let mut folders: Vec<(Ino, Vec<u8>)> = vec![(top, Vec::new())];
        while let Some((ino, below)) = folders.pop() {
            let file_system = self.origin.file_system();
            let directory = file_system.open_directory(ino).map_err(io::Error::other)?;
            let mut failure = Ok(());
            let mut take = |_: u64, entry: &[u8], found: &Attributes| {
                let path = join_paths(&below, entry);
                if skipped.contains(&&path[..]) {
                    return ControlFlow::Continue(());
                }
                let made = match found.kind {
                    NodeKind::Dir => {
                        let made = self.folder(&path, found.mode);
                        folders.push((found.ino, path));
                        made
                    }
                    NodeKind::File => {
                        laid_out.files += 1;
                        laid_out.bytes += found.size;
                        let from = OriginName {
                            snapshot: name.snapshot,
                            path: join_paths(&name.path, &path),
                        };
                        self.file(&path, &from, found.size, found.size, found.mode)
                    }
                    kind => Err(io::Error::other(format!(
                        "{} is a {kind:?}",
                        String::from_utf8_lossy(&path)
                    ))),
                };
                match made {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        failure = Err(error);
                        ControlFlow::Break(())
                    }
                }
            };
            file_system.list(&directory, 0, &mut take).map_err(io::Error::other)?;
            failure?;
        }
        Ok(laid_out)
    }

    /// Lays out a file of `bytes` bytes, the first `origin_bytes` of which come from `name`.
    pub fn file(
        &self,
        path: &[u8],
        name: &OriginName,
        origin_bytes: u64,
        bytes: u64,
        mode: u32,
    ) -> io::Result<()> {
        let path = self.place(path);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path)?;
        if origin_bytes > 0 {
            LazyFile::lay_out(&file, name, origin_bytes)?;
        }
        file.set_len(bytes)?;
        self.give(&file, mode)
    }

    /// Lays out a file in place of what is there: all of `name`, made `filled_to` bytes long where it
    /// is shorter. Its length.
    pub fn again(&self, path: &[u8], name: &OriginName, filled_to: Option<u64>) -> io::Result<u64> {
        let ino = self.origin.find(name).map_err(io::Error::other)?;
        let found = self.origin.file_system().attributes(ino).map_err(io::Error::other)?;
        match std::fs::remove_file(self.place(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let bytes = filled_to.unwrap_or(0).max(found.size);
        self.file(path, name, found.size, bytes, 0o600)?;
        Ok(bytes)
    }

    fn folder(&self, path: &[u8], mode: u32) -> io::Result<()> {
        let path = self.place(path);
        DirBuilder::new().mode(0o700).create(&path)?;
        self.give(&File::open(path)?, mode)
    }

    fn give(&self, file: &File, mode: u32) -> io::Result<()> {
        let is_root = rustix::process::getuid().is_root();
        // What its owner may not write could not be filled.
        let mode = if is_root { mode } else { mode | 0o600 };
        file.set_permissions(Permissions::from_mode(mode & 0o777))?;
        let Maker { uid, gid } = self.owner;
        if is_root {
            std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    fn place(&self, path: &[u8]) -> PathBuf {
        if path == self.seal.as_bytes() {
            return self.base.join(Folder::sealed_name(self.seal));
        }
        self.base.join(std::ffi::OsStr::from_bytes(path))
    }

    /// Makes the top ours alone: what is in it is reached through the mount only.
    pub fn take_top(&self) -> io::Result<()> {
        std::fs::set_permissions(self.base, Permissions::from_mode(0o700))?;
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        chown(self.base, Some(uid.as_raw()), Some(gid.as_raw()))
    }
}
