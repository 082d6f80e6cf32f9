//! One object of the file system, held by a descriptor, and the calls that set its attributes.
//!
//! Nothing here goes by a name that someone else could exchange: an object that cannot be opened
//! (symbolic link, pipe, device) is held by `O_PATH` and reached through `/proc/self/fd`.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, Gid, IFlags, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, fchmod, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, futimens,
    getxattr, ioctl_getflags, ioctl_setflags, listxattr, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;

use crate::format::node::UnixTime;

/// Longest list of attribute names that Linux gives (`XATTR_LIST_MAX`).
const XATTR_LIST_BYTES_MAX: usize = 64 * 1024;

/// Which object: device and inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub device: u64,
    pub inode: u64,
}

impl Identity {
    /// That of a stat answer.
    pub(super) fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// How an object is held.
#[derive(Clone, Copy)]
pub(super) enum Object<'a> {
    /// Open for reading or writing: file or directory.
    Open(BorrowedFd<'a>),
    /// By `O_PATH`: anything, a symbolic link itself too.
    Path(BorrowedFd<'a>),
}

impl<'a> Object<'a> {
    fn fd(self) -> BorrowedFd<'a> {
        match self {
            Self::Open(fd) | Self::Path(fd) => fd,
        }
    }

    fn link(self) -> String {
        format!("/proc/self/fd/{}", self.fd().as_raw_fd())
    }

    /// What it is and whose.
    pub(super) fn stat(self) -> Result<Stat, Errno> {
        fstat(self.fd())
    }

    /// Sets owner and group, those that are given; the kernel then clears setuid, setgid and
    /// capabilities of files.
    pub(super) fn set_owner(self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        chownat(self.fd(), "", uid, gid, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Sets the permission bits; not for symbolic links, which have none.
    pub(super) fn set_mode(self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Self::Open(fd) => fchmod(fd, mode),
            Self::Path(_) => chmodat(CWD, self.link(), mode, AtFlags::empty()),
        }
    }

    /// Sets the modification time; the access time stays.
    pub(super) fn set_modified(self, time: UnixTime) -> Result<(), Errno> {
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let last_modification = Timespec { tv_sec: time.0, tv_nsec: time.1.into() };
        let times = Timestamps { last_access, last_modification };
        match self {
            Self::Open(fd) => futimens(fd, &times),
            Self::Path(_) => utimensat(CWD, self.link(), &times, AtFlags::empty()),
        }
    }

    /// Names of the extended attributes; none where the file system has none.
    pub(super) fn xattr_names(self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut short = [0; 1024];
        match self.list_xattrs(&mut short) {
            Ok(bytes) => Ok(split_names(&short[..bytes])),
            Err(Errno::RANGE) => {
                let mut long = vec![0; XATTR_LIST_BYTES_MAX];
                let bytes = self.list_xattrs(&mut long)?;
                Ok(split_names(&long[..bytes]))
            }
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn list_xattrs(self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => flistxattr(fd, buffer),
            Self::Path(_) => listxattr(self.link(), buffer),
        }
    }

    /// Whether the attribute has just this value already.
    pub(super) fn has_xattr(self, name: &[u8], value: &[u8]) -> bool {
        let mut found = vec![0; value.len() + 1];
        let length = match self {
            Self::Open(fd) => fgetxattr(fd, name, &mut found[..]),
            Self::Path(_) => getxattr(self.link(), name, &mut found[..]),
        };
        length.is_ok_and(|length| found[..length] == *value)
    }

    /// Creates or replaces one extended attribute.
    pub(super) fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Path(_) => setxattr(self.link(), name, value, XattrFlags::empty()),
        }
    }

    /// Removes one extended attribute; one that is not there is removed already.
    pub(super) fn remove_xattr(self, name: &[u8]) -> Result<(), Errno> {
        let removed = match self {
            Self::Open(fd) => fremovexattr(fd, name),
            Self::Path(_) => removexattr(self.link(), name),
        };
        if removed == Err(Errno::NODATA) { Ok(()) } else { removed }
    }

    /// Sets those attribute flags (`chattr`) that `mask` names, and leaves the others. An object
    /// that can have no flags refuses only if some are wanted.
    pub(super) fn set_flags(self, flags: IFlags, mask: IFlags) -> Result<(), Errno> {
        let fd = match self {
            Self::Open(fd) => fd,
            Self::Path(_) if (flags & mask).is_empty() => return Ok(()),
            Self::Path(_) => return Err(Errno::OPNOTSUPP),
        };
        let current = match ioctl_getflags(fd) {
            Err(Errno::NOTTY | Errno::OPNOTSUPP) if (flags & mask).is_empty() => return Ok(()),
            current => current?,
        };
        let wanted = current.difference(mask).union(flags.intersection(mask));
        if wanted == current { Ok(()) } else { ioctl_setflags(fd, wanted) }
    }
}

fn split_names(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}
