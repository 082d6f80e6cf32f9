//! The local index and the previous tree at the size of a large repository, from made-up contents.
//!
//! `cargo bench --bench scale -- [CHUNKS] [FILES] [FOLDER]`: 40 million chunks, 10 million files and
//! a folder below the system's temporary one, if nothing else is said. Each part runs in a process
//! of its own, so that the peak of its memory is its own; times are of one run.

#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use holdfast::crypto::ids::content_hash;
use holdfast::format::index_segment::IndexedPack;
use holdfast::format::node::{ChunkRun, Content, Node, NodeKind, UnixTime};
use holdfast::format::pack::{FrameEntry, PackKind, PackTable};
use holdfast::format::tree::EntryKey;
use holdfast::id::{ChunkId, ObjectId, PackHandle};
use holdfast::index::database::IndexDatabase;
use holdfast::index::lookup::ChunkLookup;
use holdfast::index::previous_tree::{PreviousEntry, PreviousTree, PreviousTreeWriter};

const CHUNKS_PER_FRAME: u32 = 64;
const FRAMES_PER_PACK: u32 = 32;
const CHUNKS_PER_PACK: u64 = (CHUNKS_PER_FRAME * FRAMES_PER_PACK) as u64;
const CHUNK_BYTES: u32 = 16 * 1024;
const FILES_PER_DIR: u64 = 100;
const LOOKUPS: u64 = 2_000_000;

type Failure = Box<dyn std::error::Error>;
/// One part: how many, and the folder of its files.
type Part = fn(u64, &Path) -> Result<(), Failure>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [part, count, folder] = &arguments[..]
        && let Some(run) = part_of(part)
    {
        return run(count.parse()?, Path::new(folder));
    }
    let number = |index: usize, default: u64| {
        arguments.get(index).map_or(Ok(default), |text| text.parse::<u64>())
    };
    let (chunks, files) = (number(0, 40_000_000)?, number(1, 10_000_000)?);
    let folder = arguments.get(2).map_or_else(std::env::temp_dir, Into::into);
    let folder = folder.join(format!("holdfast-scale-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let parts = [
        ("index-write", chunks),
        ("index-known", chunks),
        ("index-new", chunks),
        ("index-random", chunks),
        ("tree-write", files),
        ("tree-read", files),
    ];
    for (part, count) in parts {
        let mut child = Command::new(std::env::current_exe()?);
        let status = child.arg(part).arg(count.to_string()).arg(&folder).status()?;
        if !status.success() {
            return Err(format!("{part} ended with {status}").into());
        }
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn part_of(name: &str) -> Option<Part> {
    Some(match name {
        "index-write" => index_write,
        "index-known" => index_known,
        "index-new" => index_new,
        "index-random" => index_random,
        "tree-write" => tree_write,
        "tree-read" => tree_read,
        _ => return None,
    })
}

fn report(what: &str, count: u64, begun: Instant, stored: &Path) -> Result<(), Failure> {
    let seconds = begun.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?").trim();
    let stored_mb = std::fs::metadata(stored).map_or(0, |file| file.len()) / 1_000_000;
    println!(
        "{what:13} {count:>10} in {seconds:7.1} s, {:>9.0} a second, peak {peak}, file {stored_mb} MB",
        count as f64 / seconds
    );
    Ok(())
}

fn id(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn handle(pack: u64) -> PackHandle {
    let mut handle = [0; 16];
    handle[..8].copy_from_slice(&pack.to_le_bytes());
    PackHandle(handle)
}

fn pack(number: u64) -> IndexedPack {
    let mut table = PackTable::new(handle(number), PackKind::Data);
    let raw_bytes = CHUNKS_PER_FRAME * CHUNK_BYTES;
    let frame = FrameEntry { stored_bytes: raw_bytes / 3, raw_bytes, chunks: CHUNKS_PER_FRAME };
    table.frames = vec![frame; FRAMES_PER_PACK as usize];
    table.chunk_bytes = vec![CHUNK_BYTES; CHUNKS_PER_PACK as usize];
    let first = number * CHUNKS_PER_PACK;
    let ids = (first..first + CHUNKS_PER_PACK).map(id).collect();
    IndexedPack { name: ObjectId(id(u64::MAX - number).0), size: 32 << 20, table, ids }
}

fn lookup(folder: &Path) -> Result<ChunkLookup, Failure> {
    Ok(ChunkLookup::open(IndexDatabase::open(&folder.join("index"))?, "run")?)
}

fn index_write(chunks: u64, folder: &Path) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut lookup = lookup(folder)?;
    for number in 0..chunks.div_ceil(CHUNKS_PER_PACK) {
        lookup.add_stored(&pack(number))?;
    }
    lookup.commit(&[])?;
    lookup.flush()?;
    report("index write", chunks, begun, &folder.join("index"))
}

/// Looks `LOOKUPS` chunks up and checks that just those below `chunks` are found.
fn find_all(
    what: &str,
    chunks: u64,
    folder: &Path,
    number: impl Fn(u64) -> u64,
) -> Result<(), Failure> {
    let mut lookup = lookup(folder)?;
    let begun = Instant::now();
    for index in 0..LOOKUPS {
        let number = number(index);
        let found = lookup.find(&id(number), PackKind::Data)?;
        let expected = (number < chunks).then(|| handle(number / CHUNKS_PER_PACK));
        if found.map(|location| location.pack) != expected {
            return Err(format!("chunk {number} is found at {found:?}").into());
        }
    }
    report(what, LOOKUPS, begun, &folder.join("index"))
}

/// A stream that was backed up before, every sixteenth chunk changed.
fn index_known(chunks: u64, folder: &Path) -> Result<(), Failure> {
    let first = chunks / 3;
    find_all("stream order", chunks, folder, |index| {
        if index % 16 == 7 { (1 << 40) + index } else { (first + index) % chunks }
    })
}

/// A stream of which nothing is there.
fn index_new(chunks: u64, folder: &Path) -> Result<(), Failure> {
    find_all("all new", chunks, folder, |index| (1 << 40) + index)
}

/// The worst: known chunks in no order.
fn index_random(chunks: u64, folder: &Path) -> Result<(), Failure> {
    find_all("no order", chunks, folder, |index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15) % chunks)
}

fn entry(number: u64) -> PreviousEntry {
    let mut node = Node::new(NodeKind::File, format!("file-{:02}.jpeg", number % FILES_PER_DIR));
    (node.mode, node.uid, node.gid) = (0o644, 1000, 1000);
    node.mtime = UnixTime(1_700_000_000 + number.cast_signed(), 123_456_789);
    node.ctime = node.mtime;
    node.size = 20_000;
    let first = (number % CHUNKS_PER_PACK) as u32;
    let run = ChunkRun { pack: handle(number / CHUNKS_PER_PACK), first, count: 1, slice: None };
    node.content = Content { depth: 0, runs: vec![run] };
    node.hash = Some(content_hash(&number.to_le_bytes()));
    let dir = format!("uploads/{:04}/{:04}", number / 1_000_000, number / FILES_PER_DIR % 10_000);
    let key = EntryKey { dir: dir.into_bytes(), name: node.name.clone() };
    PreviousEntry { key, node, device: 1, inode: number, fingerprints: Vec::new() }
}

fn tree_write(files: u64, folder: &Path) -> Result<(), Failure> {
    let begun = Instant::now();
    let path = folder.join("tree");
    let mut writer = PreviousTreeWriter::create(&path, "run", UnixTime(0, 0))?;
    for number in 0..files {
        writer.push(&entry(number))?;
    }
    writer.publish()?;
    report("tree write", files, begun, &path)
}

fn tree_read(files: u64, folder: &Path) -> Result<(), Failure> {
    let begun = Instant::now();
    let path = folder.join("tree");
    let mut tree = PreviousTree::open(&path).ok_or("the tree cannot be read")?;
    for number in 0..files {
        let expected = entry(number);
        if tree.take(&expected.key) != Some(expected) {
            return Err(format!("entry {number} is not there").into());
        }
    }
    report("tree read", files, begun, &path)
}
