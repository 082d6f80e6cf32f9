//! What `stat` shows of an entry.

use crate::format::node::{Node, NodeKind, UnixTime};
use crate::mount::inode::Ino;

/// Block in which space is counted, as most file systems of hosts do.
const BLOCK_BYTES: u64 = 4096;
/// Unit of [`Attributes::blocks`].
const SECTOR_BYTES: u64 = 512;
/// Mode of directories that no snapshot has.
const DIRECTORY_MODE: u32 = 0o555;
/// Mode of streams: only who mounts reads them.
const STREAM_MODE: u32 = 0o400;

/// Who owns what has no owner in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The attributes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Space without holes, in units of 512 bytes.
    pub blocks: u64,
    /// Last modification.
    pub mtime: UnixTime,
    /// Last change of content or attributes.
    pub ctime: UnixTime,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Names that it has in its snapshot; 1 for directories: not counted.
    pub links: u32,
}

impl Attributes {
    /// Of an entry of a snapshot with one name; what has no owner or time gets the given ones.
    #[must_use]
    pub fn of(ino: Ino, node: &Node, owner: Owner, time: UnixTime) -> Self {
        let is_stream = node.kind == NodeKind::Stream;
        let size = match node.kind {
            NodeKind::File | NodeKind::Stream => node.size,
            NodeKind::Symlink => node.target.as_ref().map_or(0, |target| target.len() as u64),
            NodeKind::Dir => BLOCK_BYTES,
            _ => 0,
        };
        let space = match node.kind {
            NodeKind::File | NodeKind::Stream => node.stored_bytes(),
            NodeKind::Dir => BLOCK_BYTES,
            _ => 0,
        };
        Self {
            ino,
            kind: node.kind,
            mode: match node.kind {
                NodeKind::Stream => STREAM_MODE,
                NodeKind::Symlink => 0o777,
                _ => node.mode & 0o7777,
            },
            uid: if is_stream { owner.uid } else { node.uid },
            gid: if is_stream { owner.gid } else { node.gid },
            size,
            blocks: space.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES / SECTOR_BYTES),
            mtime: if is_stream { time } else { node.mtime },
            ctime: if is_stream { time } else { node.ctime },
            device: node.device.unwrap_or_default(),
            links: 1,
        }
    }

    /// Of a directory that no snapshot has.
    #[must_use]
    pub fn directory(ino: Ino, owner: Owner, time: UnixTime) -> Self {
        let mut node = Node::new(NodeKind::Dir, Vec::new());
        (node.mode, node.uid, node.gid) = (DIRECTORY_MODE, owner.uid, owner.gid);
        (node.mtime, node.ctime) = (time, time);
        Self::of(ino, &node, owner, time)
    }

    /// Of a symbolic link that no snapshot has.
    #[must_use]
    pub fn link(ino: Ino, target_bytes: usize, owner: Owner, time: UnixTime) -> Self {
        let directory = Self::directory(ino, owner, time);
        let size = target_bytes as u64;
        Self { kind: NodeKind::Symlink, mode: 0o777, size, blocks: 0, ..directory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { uid: 7, gid: 8 };

    #[test]
    fn holes_take_no_space() {
        let mut node = Node::new(NodeKind::File, "sparse");
        (node.size, node.mode, node.uid) = (1 << 20, 0o4755, 3);
        node.holes = vec![(0, (1 << 20) - 5000)];
        let shown = Attributes::of(9, &node, OWNER, UnixTime(1, 0));
        assert_eq!((shown.size, shown.blocks, shown.mode, shown.uid), (1 << 20, 16, 0o4755, 3));
    }

    #[test]
    fn streams_belong_to_who_mounts() {
        let mut node = Node::new(NodeKind::Stream, "dump");
        node.size = 10;
        let shown = Attributes::of(9, &node, OWNER, UnixTime(5, 6));
        assert_eq!((shown.uid, shown.gid, shown.mode, shown.blocks), (7, 8, 0o400, 8));
        assert_eq!(shown.mtime, UnixTime(5, 6));
    }
}
