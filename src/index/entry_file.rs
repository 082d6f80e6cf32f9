//! The previous tree of a source whose files come in no order, such as a base backup.
//!
//! One record an entry, in the order in which they came, and found by their paths. As the other
//! [previous tree](crate::index::previous_tree) it is a cache: what cannot be read is not there.
//! File: "HFENTR02", then records: u32 length of the directory, of the name, of the frame and of
//! its content; directory, name; zstd frame of {u32 leaf length, leaf of one entry, fingerprints,
//! 8 bytes of the BLAKE3 of lengths, names and all that stands before}. The last record has neither
//! directory nor name, and all packs that entries refer to instead of an entry.
//! The sums are needed because pages that nobody reads again are taken from here.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::compress::{FrameDecoder, FrameEncoder, Level};
use crate::format::bytes::Fields;
use crate::format::limits;
use crate::format::tree::{EntryKey, LeafBuilder, decode_leaf};
use crate::id::PackHandle;
use crate::index::previous_tree::{PreviousEntry, PreviousTreeError};

const MAGIC: &[u8; 8] = b"HFENTR02";
const HEAD_BYTES: usize = 16;
const SUM_BYTES: usize = 8;
/// No record of our own is longer; a longer one is damage.
const RECORD_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Where a record's frame lies, and how long it and its content are.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    stored: u32,
    raw: u32,
}

/// Writes the entries of a running backup; nothing counts before [`EntryFileWriter::publish`].
pub struct EntryFileWriter {
    file: BufWriter<File>,
    at: u64,
    places: Vec<(EntryKey, Place)>,
    packs: BTreeSet<PackHandle>,
    temporary: PathBuf,
    path: PathBuf,
    /// Files that go into their places together with this one: from, to.
    companions: Vec<(PathBuf, PathBuf)>,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    frame: Vec<u8>,
}

impl EntryFileWriter {
    /// Begins a file that will replace `path`.
    pub fn create(path: &Path, run: &str) -> Result<Self, PreviousTreeError> {
        let temporary = path.with_extension(format!("{run}.tmp"));
        let at = |source| PreviousTreeError { path: temporary.clone(), source };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let mut file = BufWriter::new(options.open(&temporary).map_err(at)?);
        file.write_all(MAGIC).map_err(at)?;
        let zstd = |error| at(std::io::Error::other(error));
        Ok(Self {
            file,
            at: MAGIC.len() as u64,
            places: Vec::new(),
            packs: BTreeSet::new(),
            temporary: temporary.clone(),
            path: path.into(),
            companions: Vec::new(),
            encoder: FrameEncoder::new(Level(1)).map_err(zstd)?,
            decoder: FrameDecoder::new().map_err(|error| at(std::io::Error::other(error)))?,
            frame: Vec::new(),
        })
    }

    fn error(&self, source: std::io::Error) -> PreviousTreeError {
        PreviousTreeError { path: self.temporary.clone(), source }
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: &PreviousEntry) -> Result<(), PreviousTreeError> {
        let mut leaf = LeafBuilder::default();
        leaf.push(&entry.key.dir, &entry.node);
        let leaf = leaf.finish().map(|(leaf, _, _)| leaf).unwrap_or_default();
        let content = [&(leaf.len() as u32).to_le_bytes()[..], &leaf, &entry.fingerprints].concat();
        self.packs.extend(entry.node.content.runs.iter().map(|run| run.pack));
        let place = self.put(&entry.key, &content)?;
        self.places.push((entry.key.clone(), place));
        Ok(())
    }

    fn put(&mut self, key: &EntryKey, content: &[u8]) -> Result<Place, PreviousTreeError> {
        let content = [content, &sum_of(key, content)].concat();
        self.encoder
            .encode(&content, &mut self.frame)
            .map_err(|error| self.error(std::io::Error::other(error)))?;
        let EntryKey { dir, name } = key;
        let lengths = [dir.len(), name.len(), self.frame.len(), content.len()];
        let head = lengths.map(|length| (length as u32).to_le_bytes()).concat();
        let (stored, raw) = (self.frame.len() as u32, content.len() as u32);
        for part in [&head, dir, name, &self.frame] {
            self.file
                .write_all(part)
                .map_err(|source| PreviousTreeError { path: self.temporary.clone(), source })?;
            self.at += part.len() as u64;
        }
        Ok(Place { at: self.at - u64::from(stored), stored, raw })
    }

    /// A file that goes into its place, `path` with that extension, together with this one.
    pub fn companion(&mut self, extension: &str) -> Result<File, PreviousTreeError> {
        let (from, to) = (
            self.temporary.with_extension(format!("{extension}.tmp")),
            self.path.with_extension(extension),
        );
        let created = File::create(&from);
        let file = created.map_err(|source| PreviousTreeError { path: from.clone(), source })?;
        self.companions.push((from, to));
        Ok(file)
    }

    /// Puts the entries into the order of the tree; [`EntryFileWriter::read`] gives each.
    pub fn sort(&mut self) -> Result<usize, PreviousTreeError> {
        self.file.flush().map_err(|source| self.error(source))?;
        self.places.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(self.places.len())
    }

    /// The entry at a place of the sorted order.
    pub fn read(&mut self, number: usize) -> Result<PreviousEntry, PreviousTreeError> {
        let (key, place) = &self.places[number];
        let found = read_place(self.file.get_ref(), *place, key, &mut self.decoder);
        found.ok_or_else(|| self.error(std::io::ErrorKind::InvalidData.into()))
    }

    /// Puts the file in its place: the run that it belongs to has been committed.
    pub fn publish(mut self) -> Result<(), PreviousTreeError> {
        let packs: Vec<u8> = self.packs.iter().flat_map(|pack| *pack.as_bytes()).collect();
        self.put(&pack_list(), &packs)?;
        let at = |source| PreviousTreeError { path: self.path.clone(), source };
        self.file.flush().map_err(at)?;
        std::fs::rename(&self.temporary, &self.path).map_err(at)?;
        for (from, to) in &self.companions {
            let at = |source| PreviousTreeError { path: to.clone(), source };
            std::fs::rename(from, to).map_err(at)?;
        }
        Ok(())
    }
}

impl Drop for EntryFileWriter {
    fn drop(&mut self) {
        // After publish() there is nothing of that name; before it, the file is of no use.
        drop(std::fs::remove_file(&self.temporary));
        for (from, _) in &self.companions {
            drop(std::fs::remove_file(from));
        }
    }
}

/// The key of the list of packs; no entry has it.
fn pack_list() -> EntryKey {
    EntryKey { dir: Vec::new(), name: Vec::new() }
}

/// Finds entries of the previous run by their paths.
pub struct EntryFile {
    file: File,
    places: HashMap<EntryKey, Place>,
    packs: Option<Place>,
    decoder: FrameDecoder,
}

impl EntryFile {
    /// Opens the file; `None` when there is none, or none that this program can read.
    #[must_use]
    pub fn open(path: &Path) -> Option<Self> {
        let mut file = BufReader::new(File::open(path).ok()?);
        let mut magic = [0; 8];
        file.read_exact(&mut magic).ok()?;
        if &magic != MAGIC {
            return None;
        }
        let mut places = HashMap::new();
        while let Some((key, place)) = next_place(&mut file) {
            places.insert(key, place);
        }
        let packs = places.remove(&pack_list());
        Some(Self { file: file.into_inner(), places, packs, decoder: FrameDecoder::new().ok()? })
    }

    /// The packs that the entries refer to; `None` where the file is not whole.
    pub fn packs(&mut self) -> Option<Vec<PackHandle>> {
        let bytes = read_frame(&self.file, self.packs?, &pack_list(), &mut self.decoder)?;
        bytes.chunks(PackHandle::BYTES).map(PackHandle::from_slice).collect()
    }

    /// The entry of that path, if there was one.
    pub fn find(&mut self, key: &EntryKey) -> Option<PreviousEntry> {
        let place = *self.places.get(key)?;
        read_place(&self.file, place, key, &mut self.decoder)
    }

    /// Whether there was an entry of that path.
    #[must_use]
    pub fn has(&self, key: &EntryKey) -> bool {
        self.places.contains_key(key)
    }

    /// Every path, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &EntryKey> {
        self.places.keys()
    }
}

fn next_place(file: &mut BufReader<File>) -> Option<(EntryKey, Place)> {
    let mut head = [0; HEAD_BYTES];
    file.read_exact(&mut head).ok()?;
    let mut fields = Fields::new(&head);
    let [dir, name, stored, raw] =
        ["directory", "name", "stored", "raw"].map(|what| fields.u32(what));
    let (dir, name, stored, raw) = (dir.ok()?, name.ok()?, stored.ok()?, raw.ok()?);
    let is_sane = u64::from(dir) <= limits::PATH_BYTES_MAX
        && u64::from(name) <= limits::NAME_BYTES_MAX
        && (stored as usize) <= RECORD_BYTES_MAX
        && (raw as usize) <= RECORD_BYTES_MAX;
    if !is_sane {
        return None;
    }
    let mut key = vec![0; (dir + name) as usize];
    file.read_exact(&mut key).ok()?;
    let name = key.split_off(dir as usize);
    let at = file.stream_position().ok()?;
    file.seek_relative(i64::from(stored)).ok()?;
    Some((EntryKey { dir: key, name }, Place { at, stored, raw }))
}

fn sum_of(key: &EntryKey, content: &[u8]) -> [u8; SUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    for part in [&key.dir[..], &key.name, content] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let sum = hasher.finalize();
    std::array::from_fn(|at| sum.as_bytes()[at])
}

fn read_frame(
    file: &File,
    place: Place,
    key: &EntryKey,
    decoder: &mut FrameDecoder,
) -> Option<Vec<u8>> {
    let mut frame = vec![0; place.stored as usize];
    file.read_exact_at(&mut frame, place.at).ok()?;
    let mut content = Vec::new();
    decoder.decode(&frame, place.raw as usize, &mut content).ok()?;
    let sum = content.split_off(content.len().checked_sub(SUM_BYTES)?);
    (sum == sum_of(key, &content)).then_some(content)
}

fn read_place(
    file: &File,
    place: Place,
    key: &EntryKey,
    decoder: &mut FrameDecoder,
) -> Option<PreviousEntry> {
    let content = read_frame(file, place, key, decoder)?;
    let mut fields = Fields::new(&content);
    let length = fields.u32("leaf length").ok()? as usize;
    let leaf = fields.take(length, "leaf").ok()?;
    let fingerprints = fields.take(fields.left(), "fingerprints").ok()?.to_vec();
    let (found, node) = decode_leaf(leaf).ok()?.pop()?;
    (found == *key).then_some(PreviousEntry { key: found, node, device: 0, inode: 0, fingerprints })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::{ChunkRun, Node, NodeKind};

    fn entry(dir: &str, name: &str) -> PreviousEntry {
        let mut node = Node::new(NodeKind::File, name.as_bytes());
        node.size = name.len() as u64;
        let pack = PackHandle([name.len() as u8; PackHandle::BYTES]);
        node.content.runs.push(ChunkRun { pack, first: 0, count: 1, slice: None });
        let key = EntryKey { dir: dir.into(), name: name.into() };
        PreviousEntry { key, node, device: 0, inode: 0, fingerprints: vec![7; 16 * name.len()] }
    }

    #[test]
    fn entries_are_sorted_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entries");
        let entries = [entry("base/5", "zz"), entry("", "b"), entry("base", "5"), entry("", "a")];
        let mut writer = EntryFileWriter::create(&path, "run").unwrap();
        for entry in &entries {
            writer.push(entry).unwrap();
        }
        let mut sorted = entries.to_vec();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        let count = writer.sort().unwrap();
        let read: Vec<_> = (0..count).map(|at| writer.read(at).unwrap()).collect();
        assert_eq!(read, sorted);
        assert!(EntryFile::open(&path).is_none());
        writer.publish().unwrap();
        let mut file = EntryFile::open(&path).unwrap();
        for entry in &entries {
            assert_eq!(file.find(&entry.key).as_ref(), Some(entry));
        }
        assert_eq!(file.find(&entry("base", "6").key), None);
        assert_eq!(file.keys().count(), 4);
        let packs = [1, 2].map(|byte| PackHandle([byte; PackHandle::BYTES]));
        assert_eq!(file.packs(), Some(packs.to_vec()));
    }

    #[test]
    fn companions_go_where_the_entries_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree.entries");
        for is_published in [false, true] {
            let mut writer = EntryFileWriter::create(&path, "run").unwrap();
            writer.companion("manifest").unwrap().write_all(b"list").unwrap();
            if is_published {
                writer.publish().unwrap();
            } else {
                drop(writer);
            }
            let count = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(count, if is_published { 2 } else { 0 });
        }
        assert_eq!(std::fs::read(folder.path().join("tree.manifest")).unwrap(), b"list");
    }

    #[test]
    fn damage_counts_as_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entries");
        let mut writer = EntryFileWriter::create(&path, "run").unwrap();
        let only = entry("d", "name");
        writer.push(&only).unwrap();
        writer.publish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x41;
            std::fs::write(&path, &flipped).unwrap();
            if let Some(mut file) = EntryFile::open(&path) {
                let found = file.find(&only.key);
                assert!(found.is_none_or(|found| found == only), "flipped at {at}");
                let packs = file.packs();
                assert!(packs.is_none_or(|packs| packs.len() == 1), "flipped at {at}");
            }
            std::fs::write(&path, &bytes[..at]).unwrap();
            let cut = EntryFile::open(&path);
            let found = cut.and_then(|mut file| file.find(&only.key).zip(file.packs()));
            assert_eq!(found, None, "cut at {at}");
        }
    }
}
