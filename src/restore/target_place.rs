//! One place in a restore target: an open directory and a name in it.
//!
//! Every call here takes exactly one component and follows no symbolic link, so it stays in the
//! directory whatever is put under the name meanwhile.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::format::node::{NodeKind, UnixTime};
use crate::restore::metadata::permit;
use crate::restore::metadata_object::{Identity, Object};
use crate::restore::target_error::TargetError;
use crate::restore::target_file::Restored;
use crate::restore::target_path::TargetPath;

/// Flags of every descriptor: not inherited, no symbolic link, no wait, no terminal taken.
pub(super) const CLOSED: OFlags =
    OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// What is at a path now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Last modification.
    pub mtime: UnixTime,
    /// Number of names.
    pub links: u64,
}

/// An entry's directory, open, and its name in there.
pub(super) struct Place<'a> {
    pub dir: Arc<OwnedFd>,
    pub name: &'a [u8],
    pub path: &'a TargetPath,
}

impl Place<'_> {
    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        statat(&self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Opens the file that is there if it is a regular one; devices are never opened.
    pub(super) fn open_regular(&self, access: OFlags) -> Result<Option<(File, Stat)>, TargetError> {
        let is_regular = |stat: &Stat| kind_of(stat) == NodeKind::File;
        match self.stat() {
            Ok(stat) if is_regular(&stat) => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.failure("stat", error)),
        }
        let file = match openat(&self.dir, self.name, access | CLOSED, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None), // exchanged
            Err(error) => return Err(self.failure("open", error)),
        };
        let stat = fstat(&file).map_err(|error| self.failure("stat", error))?;
        Ok(is_regular(&stat).then_some((file, stat)))
    }

    /// Opens the file that is there for update: only if no other name leads to it, and if `owner`
    /// or this process has it, lest someone else reads on through a descriptor of his.
    pub(super) fn open_alone(&self, owner: u32) -> Result<Option<File>, TargetError> {
        let own = rustix::process::geteuid().as_raw();
        let is_ours =
            |stat: &Stat| stat.st_nlink == 1 && (stat.st_uid == owner || stat.st_uid == own);
        match self.open_regular(OFlags::RDWR) {
            Ok(Some((file, stat))) if is_ours(&stat) => Ok(Some(file)),
            Ok(_) => Ok(None),
            // Read-only for its owner, or a running program: a new file takes its place.
            Err(TargetError::Io { source, .. })
                if matches!(
                    Errno::from_io_error(&source),
                    Some(Errno::ACCESS | Errno::PERM | Errno::TXTBSY)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes what is there, unless it is a directory with something in it.
    pub(super) fn clear(&self) -> Result<(), TargetError> {
        let removed = match remove_file(&self.dir, self.name) {
            Err(Errno::ISDIR | Errno::PERM) => unlinkat(&self.dir, self.name, AtFlags::REMOVEDIR),
            removed => removed,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                Err(TargetError::NotEmpty { path: self.path.to_string() })
            }
            Err(error) => Err(self.failure("remove", error)),
        }
    }

    /// Proof of what has just been made; its kind is checked, lest it was exchanged already.
    pub(super) fn restored(&self, kind: NodeKind) -> Result<Restored, TargetError> {
        let stat = self.stat().map_err(|error| self.failure("stat", error))?;
        if kind_of(&stat) != kind {
            return Err(TargetError::Exchanged { path: self.path.to_string() });
        }
        Ok(Restored { path: self.path.clone(), identity: Identity::of(&stat) })
    }

    pub(super) fn failure(&self, action: &'static str, error: Errno) -> TargetError {
        match error {
            Errno::EXIST => TargetError::Exists { path: self.path.to_string() },
            _ => TargetError::io(action, self.path, error),
        }
    }
}

/// Removes a name that is no directory's; immutable and append-only flags are taken away first
/// where they refuse it, but never from a file that has other names, perhaps outside.
pub(super) fn remove_file(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let removed = unlinkat(dir, name, AtFlags::empty());
    if removed != Err(Errno::PERM) {
        return removed;
    }
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if kind_of(&stat) != NodeKind::File {
        return removed;
    }
    let file = openat(dir, name, OFlags::RDONLY | CLOSED, Mode::empty())?;
    if fstat(&file)?.st_nlink != 1 {
        return removed;
    }
    permit(Object::Open(file.as_fd()))?;
    unlinkat(dir, name, AtFlags::empty())
}

pub(super) fn kind_of(stat: &Stat) -> NodeKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => NodeKind::Dir,
        FileType::Symlink => NodeKind::Symlink,
        FileType::CharacterDevice => NodeKind::Chardev,
        FileType::BlockDevice => NodeKind::Blockdev,
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::RegularFile | FileType::Unknown => NodeKind::File,
    }
}

pub(super) fn found(stat: &Stat) -> Found {
    Found {
        kind: kind_of(stat),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size.cast_unsigned(),
        mtime: UnixTime(stat.st_mtime, stat.st_mtime_nsec as u32),
        links: stat.st_nlink,
    }
}
