//! What `statx` says about one item: for change detection, and for the first part of its node.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, makedev, statx};
use rustix::io::Errno;

use crate::format::node::{Node, NodeKind, UnixTime};

/// Identity and state of an item at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: NodeKind,
    /// Device number of its file system.
    pub dev: u64,
    /// Inode number, unique among the living files of `dev`.
    pub ino: u64,
    /// Names the file has.
    pub nlink: u32,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Last change of the content.
    pub mtime: UnixTime,
    /// Last change of content or attributes.
    pub ctime: UnixTime,
}

impl Stat {
    /// Whether `other` is the same file, changed or not.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.kind, self.dev, self.ino) == (other.kind, other.dev, other.ino)
    }

    /// Whether `other` is the same file and no change shows: neither length nor times differ.
    ///
    /// Times have the resolution of the kernel's tick (up to 10 ms): two writes within one tick
    /// look alike, so a file whose `ctime` is that of the scan itself must not be trusted later.
    #[must_use]
    pub fn is_unchanged(&self, other: &Self) -> bool {
        self.is_same_file(other)
            && (self.size, self.mtime, self.ctime) == (other.size, other.mtime, other.ctime)
    }

    /// Whether it may have holes: fewer blocks are allocated than its length needs.
    #[must_use]
    pub fn may_have_holes(&self) -> bool {
        self.blocks.saturating_mul(512) < self.size
    }

    /// Writes the state into a node: all of it, so that the node is of one moment.
    ///
    /// A newer ctime beside an older mode would hide the change of mode for ever.
    pub fn apply(&self, node: &mut Node) {
        node.mode = self.mode;
        node.uid = self.uid;
        node.gid = self.gid;
        node.mtime = self.mtime;
        node.ctime = self.ctime;
        if self.kind == NodeKind::File {
            node.size = self.size;
        }
    }

    /// The state of an open file (also one opened with `O_PATH`).
    pub fn of_fd(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let raw = statx(fd, c"", AtFlags::EMPTY_PATH, MASK)?;
        let kind = kind_of(&raw).ok_or(Errno::NOTSUP)?;
        Ok(stat_of(&raw, kind))
    }
}

/// Everything but birth time and mount id; atime comes with the basic set at no cost.
const MASK: StatxFlags = StatxFlags::BASIC_STATS;

/// `lstat` of `name` in `directory`, without triggering an automount.
pub(crate) fn lstat(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Statx, Errno> {
    statx(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, MASK)
}

/// The kind of node, or nothing for a type that is none.
pub(crate) fn kind_of(raw: &Statx) -> Option<NodeKind> {
    kind_of_type(FileType::from_raw_mode(u32::from(raw.stx_mode)))
}

/// The kind of node for a file type, or nothing for a type that is none (or not known yet).
pub(crate) fn kind_of_type(file_type: FileType) -> Option<NodeKind> {
    Some(match file_type {
        FileType::RegularFile => NodeKind::File,
        FileType::Directory => NodeKind::Dir,
        FileType::Symlink => NodeKind::Symlink,
        FileType::CharacterDevice => NodeKind::Chardev,
        FileType::BlockDevice => NodeKind::Blockdev,
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::Unknown => return None,
    })
}

/// The part that detects changes.
pub(crate) fn stat_of(raw: &Statx, kind: NodeKind) -> Stat {
    Stat {
        kind,
        dev: makedev(raw.stx_dev_major, raw.stx_dev_minor),
        ino: raw.stx_ino,
        nlink: raw.stx_nlink,
        mode: u32::from(raw.stx_mode) & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        size: raw.stx_size,
        blocks: raw.stx_blocks,
        mtime: UnixTime(raw.stx_mtime.tv_sec, raw.stx_mtime.tv_nsec),
        ctime: UnixTime(raw.stx_ctime.tv_sec, raw.stx_ctime.tv_nsec),
    }
}

/// The node as far as `lstat` can fill it: no owner names, target, attributes, flags or holes.
///
/// `size` is set for regular files only: that of a directory or symlink is the file system's own.
pub(crate) fn node_of(raw: &Statx, kind: NodeKind, name: &[u8]) -> Node {
    let mut node = Node::new(kind, name);
    stat_of(raw, kind).apply(&mut node);
    if matches!(kind, NodeKind::Chardev | NodeKind::Blockdev) {
        node.device = Some((raw.stx_rdev_major, raw.stx_rdev_minor));
    }
    node
}
