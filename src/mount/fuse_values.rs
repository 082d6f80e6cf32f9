//! Attributes and errors as the kernel's protocol has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo};

use crate::format::node::{NodeKind, UnixTime};
use crate::mount::attributes::Attributes;
use crate::mount::error::VfsError;

/// Preferred size of a read, in bytes.
pub(super) const READ_BYTES: u32 = 128 * 1024;

pub(super) fn errno(error: VfsError) -> Errno {
    match error {
        VfsError::NotFound => Errno::ENOENT,
        VfsError::NotDirectory => Errno::ENOTDIR,
        VfsError::IsDirectory => Errno::EISDIR,
        VfsError::WrongKind => Errno::EINVAL,
        VfsError::Damaged => Errno::EIO,
        VfsError::TooMany => Errno::EOVERFLOW,
    }
}

pub(super) fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File | NodeKind::Stream => FileType::RegularFile,
        NodeKind::Dir => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Chardev => FileType::CharDevice,
        NodeKind::Blockdev => FileType::BlockDevice,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
    }
}

pub(super) fn attr(found: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(found.ino),
        size: found.size,
        blocks: found.blocks,
        atime: system_time(found.mtime),
        mtime: system_time(found.mtime),
        ctime: system_time(found.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(found.kind),
        perm: found.mode as u16,
        nlink: found.links,
        uid: found.uid,
        gid: found.gid,
        rdev: device_number(found.device),
        blksize: READ_BYTES,
        flags: 0,
    }
}

/// A device as the kernel's protocol has it: 12 bits of the major number, 20 of the minor.
fn device_number((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// A time; one that the system cannot hold becomes 1970.
fn system_time(time: UnixTime) -> SystemTime {
    let seconds = Duration::from_secs(time.0.unsigned_abs());
    let whole =
        if time.0 < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    let nanoseconds = Duration::from_nanos(time.1.into());
    whole.and_then(|whole| whole.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_as_the_system_has_them() {
        for (major, minor) in [(1, 3), (8, 17), (259, 65_537)] {
            let number = u64::from(device_number((major, minor)));
            // The encoding of stat() is the same for numbers of this size.
            let expected = rustix::fs::makedev(major, minor);
            assert_eq!(number & 0xffff_ffff, expected & 0xffff_ffff, "{major}:{minor}");
        }
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let time = system_time(UnixTime(-2, 250_000_000));
        assert_eq!(UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(1750));
        let last = system_time(UnixTime(i64::MAX, 0));
        assert_eq!(last.duration_since(UNIX_EPOCH).unwrap().as_secs(), i64::MAX as u64);
    }
}
