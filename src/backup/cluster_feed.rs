//! The way of a cluster's files from an archive to the writer: nodes, batches of small files, errors.

use std::io::Read;
use std::sync::Arc;

use crate::backup::error::BackupError;
use crate::backup::item::{Entry, Item, KnownContent, Step};
use crate::backup::ordered::Giver;
use crate::backup::stream::Reading;
use crate::chunker::Chunker;
use crate::format::node::{Node, NodeKind, UnixTime};
use crate::source::error::SourceError;
use crate::source::postgres::error::PostgresError;

/// Files up to this length are read as a whole.
pub const SMALL_FILE_BYTES: u64 = 1024 * 1024;

/// Why a base backup ended early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server, or what it sent.
    #[error(transparent)]
    Server(#[from] PostgresError),
    /// A file could not be read to its end.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The archive is none.
    #[error(transparent)]
    Archive(#[from] std::io::Error),
}

/// The error of a file that could not be read to its end.
#[must_use]
pub fn of_stream(path: &[u8], source: std::io::Error) -> SourceError {
    let path = String::from_utf8_lossy(path).into_owned().into();
    SourceError::Io { action: "receive", path, source }
}

/// Fills the buffer as far as there are bytes.
pub fn fill(read: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read.read(&mut buffer[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}

/// The node of a file in an archive, without its name.
pub fn node_of(header: &tar::Header) -> std::io::Result<Node> {
    use tar::EntryType;
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => NodeKind::File,
        EntryType::Directory => NodeKind::Dir,
        EntryType::Symlink => NodeKind::Symlink,
        other => {
            let what = format!("an entry of kind {other:?} in a base backup");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
        }
    };
    let mut node = Node::new(kind, Vec::new());
    node.mode = header.mode()? & 0o7777;
    node.uid = header.uid()? as u32;
    node.gid = header.gid()? as u32;
    node.user = name_of(header.username());
    node.group = name_of(header.groupname());
    node.mtime = UnixTime(header.mtime()?.cast_signed(), 0);
    match kind {
        NodeKind::File => node.size = header.size()?,
        NodeKind::Symlink => {
            node.target = header.link_name_bytes().map(std::borrow::Cow::into_owned);
        }
        _ => {}
    }
    Ok(node)
}

/// The entry of a path below the root.
#[must_use]
pub fn entry_of(path: &[u8], mut node: Node) -> Entry {
    let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    node.name = name.to_vec();
    Entry { dir: Arc::from(dir), node, device: 0, inode: 0, link_group: None }
}

fn name_of(name: Result<Option<&str>, std::str::Utf8Error>) -> Option<String> {
    name.ok().flatten().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Gathers small files into batches, and gives everything in the order of its coming.
pub struct Feed<'a> {
    /// What a reading thread needs.
    pub reading: &'a Reading,
    /// Cuts files that are not made of pages.
    pub chunker: &'a Chunker,
    /// Where everything goes.
    pub items: &'a mut Giver<Item>,
    steps: Vec<Step>,
    bytes: usize,
    /// The first entry: all belong to the user of the server.
    owner: Option<Node>,
}

impl<'a> Feed<'a> {
    /// Nothing gathered yet.
    pub fn new(reading: &'a Reading, chunker: &'a Chunker, items: &'a mut Giver<Item>) -> Self {
        Self { reading, chunker, items, steps: Vec::new(), bytes: 0, owner: None }
    }

    /// Sees an entry of the server; the first one tells whose all are.
    pub fn see(&mut self, node: &Node) {
        self.owner.get_or_insert_with(|| node.clone());
    }

    /// Gives the root itself; as everything here `false` when nobody takes any more.
    pub fn give_root(&mut self) -> bool {
        let node = self.own_folder();
        self.give_known(b"", node)
    }

    /// A folder that the server does not send, but has.
    #[must_use]
    pub fn own_folder(&self) -> Node {
        let mut node = Node::new(NodeKind::Dir, Vec::new());
        node.mode = 0o700;
        if let Some(owner) = &self.owner {
            (node.uid, node.gid) = (owner.uid, owner.gid);
            (node.user, node.group) = (owner.user.clone(), owner.group.clone());
            node.mtime = owner.mtime;
        }
        node
    }

    /// Gives an entry without content.
    pub fn give_known(&mut self, path: &[u8], node: Node) -> bool {
        let entry = entry_of(path, node);
        self.push(Step::Known(entry, KnownContent::None))
    }

    /// Gives an entry that is whole, perhaps later.
    pub fn push(&mut self, step: Step) -> bool {
        if let Step::Small(file) = &step {
            self.bytes += file.cut.bytes.len();
        }
        self.steps.push(step);
        let is_full = self.steps.len() >= 256 || self.bytes as u64 >= SMALL_FILE_BYTES;
        !is_full || self.flush()
    }

    /// Gives what is gathered.
    pub fn flush(&mut self) -> bool {
        self.bytes = 0;
        let steps = std::mem::take(&mut self.steps);
        if self.reading.progress.is_cancelled() {
            self.items.give(Item::Failed(BackupError::Cancelled));
            return false;
        }
        steps.is_empty() || self.items.give(Item::Batch(steps))
    }

    /// Lengths of the chunks of a small file.
    #[must_use]
    pub fn lengths(&self, bytes: &[u8]) -> Vec<u32> {
        let mut lengths = Vec::new();
        let mut at = 0;
        while let Some(length) = self.chunker.cut(&bytes[at..], true) {
            lengths.push(length as u32);
            at += length;
        }
        lengths
    }
}
