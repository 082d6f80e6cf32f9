//! A node: one entry of a tree, and the references to its content.
//!
//! Nodes are JSON objects, one a line, inside tree leaves (`format-spec/tree.md`). Names, symlink
//! targets and attribute names are bytes: text where they are UTF-8, base64 under another key else.
//! Key names that begin with `!` are critical: a reader that does not know one refuses the node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{ContentHash, PackHandle};

/// Bytes that are usually UTF-8: a file name, a symlink target, a path.
pub type Bytes = Vec<u8>;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Character device.
    Chardev,
    /// Block device.
    Blockdev,
    /// Named pipe.
    Fifo,
    /// Unix socket (recorded; restored as an empty socket node only when asked).
    Socket,
    /// Byte stream without file attributes (standard input, output of a command).
    Stream,
}

/// A moment: seconds since 1970-01-01 UTC (negative before) and nanoseconds `0..1_000_000_000`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct UnixTime(pub i64, pub u32);

/// A run of chunks, or a slice of one: the unit in which content is referenced.
///
/// `count` chunks of the pack, beginning with ordinal `first`. With `slice = Some((offset,
/// length))` the count is 1 and only that part of the chunk's plaintext is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRun {
    /// The pack in which the chunks were first stored; it stays their name after a repack.
    pub pack: PackHandle,
    /// Ordinal of the first chunk in that pack.
    pub first: u32,
    /// Number of consecutive chunks, at least 1.
    pub count: u32,
    /// Part of the chunk's plaintext (offset, length in bytes), where not all of it is meant.
    pub slice: Option<(u32, u32)>,
}

/// Where the bytes of a file or stream are.
///
/// The bytes are the runs' plaintexts one after another; for a file with `holes` they are its
/// data ranges only. With `depth > 0` the runs name list chunks of depth `depth - 1` instead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Levels of list chunks between these runs and the data; 0 where the runs are the data.
    pub depth: u8,
    /// The runs in order.
    pub runs: Vec<ChunkRun>,
}

/// One entry of a tree, without its place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Last path component; empty only for the root of a tree.
    pub name: Bytes,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Owner's name, where the host knew one.
    pub user: Option<String>,
    /// Group's name, where the host knew one.
    pub group: Option<String>,
    /// Last modification of the content.
    pub mtime: UnixTime,
    /// Last change of content or attributes, as the source's kernel had it; never restored.
    pub ctime: UnixTime,
    /// Length in bytes (files, streams).
    pub size: u64,
    /// Same number in two nodes of one snapshot root: the same file under two names.
    pub link_group: Option<u64>,
    /// Target of a symbolic link.
    pub target: Option<Bytes>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Extended attributes, ACLs and capabilities among them, by name.
    pub xattrs: BTreeMap<Bytes, Bytes>,
    /// Attribute flags as `chattr` sets them (`FS_IOC_GETFLAGS`), only those that can be set.
    pub flags: u32,
    /// Holes of a sparse file: (offset, length), ascending, not touching each other.
    pub holes: Vec<(u64, u64)>,
    /// Where the bytes are.
    pub content: Content,
    /// BLAKE3 of the stored bytes (for a file without holes what `b3sum` prints).
    pub hash: Option<ContentHash>,
    /// The file changed while it was read, twice: the bytes may be of no single moment.
    pub changed_while_read: bool,
}

impl Node {
    /// A node of `kind` with nothing in it but its name.
    #[must_use]
    pub fn new(kind: NodeKind, name: impl Into<Bytes>) -> Self {
        Self {
            name: name.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: UnixTime::default(),
            ctime: UnixTime::default(),
            size: 0,
            link_group: None,
            target: None,
            device: None,
            xattrs: BTreeMap::new(),
            flags: 0,
            holes: Vec::new(),
            content: Content::default(),
            hash: None,
            changed_while_read: false,
        }
    }

    /// Whether entries can lie below it.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == NodeKind::Dir
    }

    /// Bytes that its content references amount to: the size less the holes.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let holes: u64 = self.holes.iter().map(|(_, length)| length).sum();
        self.size.saturating_sub(holes)
    }
}
