//! The previous tree of a source, kept locally: what change detection compares with.
//!
//! A host that writes cannot read its own snapshots back, so it keeps what it wrote: nodes with
//! all their references, device and inode numbers, and fingerprints of pages. One file a root,
//! read once in the order of the tree and written anew beside it. It is a cache: without it a run
//! reads everything again and still stores only what the repository does not have.
//! File: "HFPREV02", `begun` (seconds i64, nanoseconds u32), then records: u32 length, zstd frame of
//! {u32 leaf length, leaf, (u64 device, u64 inode) for each entry, (u32 entry, u32 length, bytes)…}.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::compress::{FrameDecoder, FrameEncoder, Level};
use crate::format::bytes::Fields;
use crate::format::node::{Node, UnixTime};
use crate::format::tree::{EntryKey, LeafBuilder, decode_leaf};

const MAGIC: &[u8; 8] = b"HFPREV02";
/// A record is closed when it has at least this many bytes.
const RECORD_BYTES: usize = 128 * 1024;
/// No record of our own is longer; a longer one is damage.
const RECORD_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Why the previous tree could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the local file {path} could not be written")]
pub struct PreviousTreeError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

/// An entry as it was in the previous snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousEntry {
    /// Its place.
    pub key: EntryKey,
    /// The node with all references, none out of line.
    pub node: Node,
    /// Device number of its filesystem.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// 16 bytes for each page, empty for files that are not cut in pages.
    pub fingerprints: Vec<u8>,
}

/// Writes the tree of a running backup; nothing of it counts before [`PreviousTreeWriter::publish`].
pub struct PreviousTreeWriter {
    file: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    leaf: LeafBuilder,
    inodes: Vec<u8>,
    fingerprints: Vec<u8>,
    entries: u32,
    encoder: FrameEncoder,
    frame: Vec<u8>,
}

impl PreviousTreeWriter {
    /// Begins a file that will replace `path`. `begun` is when the run began to look at files.
    pub fn create(path: &Path, run: &str, begun: UnixTime) -> Result<Self, PreviousTreeError> {
        let temporary = path.with_extension(format!("{run}.tmp"));
        let at = |source| PreviousTreeError { path: temporary.clone(), source };
        let mut file = BufWriter::new(File::create(&temporary).map_err(at)?);
        let head = [&MAGIC[..], &begun.0.to_le_bytes(), &begun.1.to_le_bytes()].concat();
        file.write_all(&head).map_err(at)?;
        let encoder =
            FrameEncoder::new(Level(1)).map_err(|error| at(std::io::Error::other(error)))?;
        Ok(Self {
            file,
            temporary: temporary.clone(),
            path: path.into(),
            leaf: LeafBuilder::default(),
            inodes: Vec::new(),
            fingerprints: Vec::new(),
            entries: 0,
            encoder,
            frame: Vec::new(),
        })
    }

    /// Appends an entry; they come in the order of the tree.
    pub fn push(&mut self, entry: &PreviousEntry) -> Result<(), PreviousTreeError> {
        self.leaf.push(&entry.key.dir, &entry.node);
        self.inodes.extend_from_slice(&entry.device.to_le_bytes());
        self.inodes.extend_from_slice(&entry.inode.to_le_bytes());
        if !entry.fingerprints.is_empty() {
            self.fingerprints.extend_from_slice(&self.entries.to_le_bytes());
            self.fingerprints.extend_from_slice(&(entry.fingerprints.len() as u32).to_le_bytes());
            self.fingerprints.extend_from_slice(&entry.fingerprints);
        }
        self.entries += 1;
        if self.leaf.len() + self.fingerprints.len() >= RECORD_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), PreviousTreeError> {
        let Some((leaf, _, _)) = self.leaf.finish() else { return Ok(()) };
        let mut record = (leaf.len() as u32).to_le_bytes().to_vec();
        for part in [&leaf, &self.inodes, &self.fingerprints] {
            record.extend_from_slice(part);
        }
        self.inodes.clear();
        self.fingerprints.clear();
        self.entries = 0;
        let at = |source| PreviousTreeError { path: self.temporary.clone(), source };
        self.encoder
            .encode(&record, &mut self.frame)
            .map_err(|error| at(std::io::Error::other(error)))?;
        let lengths = [self.frame.len() as u32, record.len() as u32].map(u32::to_le_bytes).concat();
        self.file.write_all(&lengths).and_then(|()| self.file.write_all(&self.frame)).map_err(at)
    }

    /// Puts the file in its place: the run that it belongs to has been committed.
    pub fn publish(mut self) -> Result<(), PreviousTreeError> {
        self.flush()?;
        let at = |source| PreviousTreeError { path: self.path.clone(), source };
        self.file.flush().map_err(at)?;
        std::fs::rename(&self.temporary, &self.path).map_err(at)
    }
}

impl Drop for PreviousTreeWriter {
    fn drop(&mut self) {
        // After publish() there is nothing of that name; before it, the file is of no use.
        drop(std::fs::remove_file(&self.temporary));
    }
}

/// Reads the tree of the previous run. What cannot be read counts as not there.
pub struct PreviousTree {
    file: Option<BufReader<File>>,
    begun: UnixTime,
    decoder: FrameDecoder,
    record: Vec<u8>,
    entries: std::vec::IntoIter<PreviousEntry>,
    next: Option<PreviousEntry>,
}

impl PreviousTree {
    /// Opens the tree; `None` when there is none, or none that this program can read.
    #[must_use]
    pub fn open(path: &Path) -> Option<Self> {
        let mut file = BufReader::new(File::open(path).ok()?);
        let mut head = [0; 20];
        file.read_exact(&mut head).ok()?;
        let mut fields = Fields::new(&head);
        if &fields.array::<8>("magic").ok()? != MAGIC {
            return None;
        }
        let seconds = fields.u64("seconds").ok()?.cast_signed();
        let begun = UnixTime(seconds, fields.u32("nanoseconds").ok()?);
        let mut tree = Self {
            file: Some(file),
            begun,
            decoder: FrameDecoder::new().ok()?,
            record: Vec::new(),
            entries: Vec::new().into_iter(),
            next: None,
        };
        tree.advance();
        Some(tree)
    }

    /// When the run that wrote it began to look at files.
    #[must_use]
    pub fn begun(&self) -> UnixTime {
        self.begun
    }

    /// The entry at `key`, if there is one; entries before it are passed over.
    ///
    /// Keys are asked for in the order of the tree.
    pub fn take(&mut self, key: &EntryKey) -> Option<PreviousEntry> {
        while self.next.as_ref().is_some_and(|next| next.key < *key) {
            self.advance();
        }
        if self.next.as_ref().is_some_and(|next| next.key == *key) {
            let found = self.next.take();
            self.advance();
            return found;
        }
        None
    }

    fn advance(&mut self) {
        self.next = self.entries.next();
        if self.next.is_none() {
            if let Some(entries) = self.read_record() {
                self.entries = entries.into_iter();
                self.next = self.entries.next();
            } else {
                self.file = None;
            }
        }
    }

    fn read_record(&mut self) -> Option<Vec<PreviousEntry>> {
        let file = self.file.as_mut()?;
        let mut lengths = [0; 8];
        file.read_exact(&mut lengths).ok()?;
        let mut fields = Fields::new(&lengths);
        let stored = fields.u32("stored").ok()? as usize;
        let raw = fields.u32("raw").ok()? as usize;
        if stored > RECORD_BYTES_MAX || raw > RECORD_BYTES_MAX {
            return None;
        }
        let mut frame = Vec::new();
        file.take(stored as u64).read_to_end(&mut frame).ok()?;
        self.decoder.decode(&frame, raw, &mut self.record).ok()?;
        decode_record(&self.record)
    }
}

fn decode_record(record: &[u8]) -> Option<Vec<PreviousEntry>> {
    let mut fields = Fields::new(record);
    let leaf = fields.u32("leaf length").ok()? as usize;
    let nodes = decode_leaf(fields.take(leaf, "leaf").ok()?).ok()?;
    let mut entries = Vec::with_capacity(nodes.len());
    for (key, node) in nodes {
        let device = fields.u64("device").ok()?;
        let inode = fields.u64("inode").ok()?;
        entries.push(PreviousEntry { key, node, device, inode, fingerprints: Vec::new() });
    }
    while fields.left() > 0 {
        let entry = fields.u32("entry").ok()? as usize;
        let length = fields.u32("length").ok()? as usize;
        let bytes = fields.take(length, "fingerprints").ok()?;
        entries.get_mut(entry)?.fingerprints = bytes.to_vec();
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::NodeKind;

    fn entry(dir: &str, name: &str, number: u64) -> PreviousEntry {
        let mut node = Node::new(NodeKind::File, name.as_bytes());
        node.size = number;
        let fingerprints =
            if number.is_multiple_of(3) { vec![number as u8; 32] } else { Vec::new() };
        let key = EntryKey { dir: dir.into(), name: name.into() };
        PreviousEntry { key, node, device: 1, inode: number, fingerprints }
    }

    fn write(path: &Path, entries: &[PreviousEntry]) {
        let mut writer = PreviousTreeWriter::create(path, "run", UnixTime(-5, 7)).unwrap();
        for entry in entries {
            writer.push(entry).unwrap();
        }
        writer.publish().unwrap();
    }

    #[test]
    fn entries_are_found_in_order_and_missing_ones_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let entries: Vec<_> = (0..5000)
            .map(|i| entry(&format!("d{}", i / 100 + 10), &format!("f{i:06}"), i))
            .collect();
        write(&path, &entries);
        let mut tree = PreviousTree::open(&path).unwrap();
        assert_eq!(tree.begun(), UnixTime(-5, 7));
        for wanted in entries.iter().filter(|entry| entry.inode % 7 != 0) {
            let mut before = wanted.key.clone();
            before.name.pop();
            assert_eq!(tree.take(&before), None);
            assert_eq!(tree.take(&wanted.key).as_ref(), Some(wanted));
        }
    }

    #[test]
    fn damage_counts_as_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        write(&path, &[entry("", "a", 3)]);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x41;
            std::fs::write(&path, &flipped).unwrap();
            if let Some(mut tree) = PreviousTree::open(&path) {
                drop(tree.take(&entry("", "a", 3).key));
            }
            std::fs::write(&path, &bytes[..at]).unwrap();
            let found = PreviousTree::open(&path).and_then(|mut t| t.take(&entry("", "a", 3).key));
            assert_eq!(found, None, "cut at {at}");
        }
    }

    #[test]
    fn an_unpublished_tree_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        write(&path, &[entry("", "a", 3)]);
        let mut writer = PreviousTreeWriter::create(&path, "other", UnixTime(0, 0)).unwrap();
        writer.push(&entry("", "b", 4)).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(PreviousTree::open(&path).unwrap().take(&entry("", "a", 3).key).is_some());
    }
}
