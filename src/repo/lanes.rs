//! Entries sorted into lanes, in memory while they are few, then in a file that nobody else can read.
//!
//! The file has no name and is sealed to a key that exists in this process only: what a killed run
//! leaves is gone, and what reaches the disk cannot be read. Memory: a given number of bytes, which is
//! given back at once: blocks of one piece of memory, so that no lane grows on its own.

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::crypto::recipient::{Identity, ReadIdentity, Recipient};
use crate::crypto::seal::{ObjectSize, SealError, Sealer};
use crate::crypto::secret::RandomnessError;
use crate::crypto::unseal::{OpenError, open_whole};

/// Why entries could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The system refused or failed.
    #[error("the temporary file in {} could not be {action}", path.display())]
    Io {
        /// `made`, `written`, `read`.
        action: &'static str,
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No key could be drawn.
    #[error("no key for a temporary file")]
    Randomness(#[from] RandomnessError),
    /// It could not be sealed.
    #[error("a temporary file could not be sealed")]
    Seal(#[from] SealError),
    /// What was read back is not what was written.
    #[error("a temporary file has changed")]
    Open(#[from] OpenError),
}

/// Largest block of a lane in memory.
const BLOCK_BYTES_MAX: usize = 16 * 1024;
/// Smallest.
const BLOCK_BYTES_MIN: usize = 64;
/// Blocks that each lane has on average before anything goes into the file.
const BLOCKS_A_LANE: usize = 4;

/// Sealing less at once takes long.
const SEALED_BYTES_MIN: usize = 64 * 1024;
/// Sealing more at once does not take less.
const SEALED_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, Default)]
struct Lane {
    /// Place and length of each sealed block.
    blocks: Vec<(u64, usize)>,
    open: Vec<Open>,
    bytes: u64,
}

/// Whole entries in memory.
#[derive(Debug)]
enum Open {
    /// A block of the memory of all lanes: its number, and bytes that are used.
    Block(usize, usize),
    /// An entry that is longer than a block.
    Own(Vec<u8>),
}

struct Overflow {
    file: File,
    end: u64,
    recipient: Recipient,
    identity: Identity,
    spare: Vec<u8>,
}

/// Entries in lanes: within a lane they keep their order.
pub struct Lanes {
    each: Vec<Lane>,
    folder: PathBuf,
    /// The memory of all blocks, made when it is needed.
    memory: Vec<u8>,
    block_bytes: usize,
    blocks_used: usize,
    own_bytes: usize,
    open_bytes_max: usize,
    /// Bytes of what is sealed at once: a reader of all lanes holds so many of each.
    sealed_bytes: usize,
    overflow: Option<Overflow>,
}

impl Lanes {
    /// So many empty lanes. What is more than `open_bytes_max` goes into a file in `folder`.
    #[must_use]
    pub fn new(count: usize, folder: &Path, open_bytes_max: usize) -> Self {
        let share = open_bytes_max / count.max(1) / BLOCKS_A_LANE;
        Self {
            each: std::iter::repeat_with(Lane::default).take(count).collect(),
            folder: folder.to_owned(),
            memory: Vec::new(),
            block_bytes: share.clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX),
            blocks_used: 0,
            own_bytes: 0,
            open_bytes_max,
            sealed_bytes: (2 * open_bytes_max / count.max(1))
                .clamp(SEALED_BYTES_MIN, SEALED_BYTES_MAX),
            overflow: None,
        }
    }

    /// Appends an entry to a lane.
    pub fn push(&mut self, lane: usize, entry: &[u8]) -> Result<(), LaneError> {
        if entry.len() > self.block_bytes {
            self.own_bytes += entry.len();
            self.each[lane].open.push(Open::Own(entry.to_vec()));
        } else {
            let (start, used) = self.room(lane, entry.len())?;
            self.memory[start..used].copy_from_slice(entry);
        }
        self.each[lane].bytes += entry.len() as u64;
        let open_bytes = self.blocks_used * self.block_bytes + self.own_bytes;
        if open_bytes > self.open_bytes_max { self.flush() } else { Ok(()) }
    }

    /// Where in the memory the next bytes of a lane go.
    fn room(&mut self, lane: usize, bytes: usize) -> Result<(usize, usize), LaneError> {
        if let Some(Open::Block(number, used)) = self.each[lane].open.last_mut()
            && *used + bytes <= self.block_bytes
        {
            let start = *number * self.block_bytes + *used;
            *used += bytes;
            return Ok((start, start + bytes));
        }
        let blocks_max = (self.open_bytes_max / self.block_bytes).max(1);
        if self.memory.is_empty() {
            // Zeroed by the system, and only where it is used.
            self.memory = vec![0; blocks_max * self.block_bytes];
        }
        if self.blocks_used == blocks_max {
            self.flush()?;
        }
        let number = self.blocks_used;
        self.blocks_used += 1;
        self.each[lane].open.push(Open::Block(number, bytes));
        let start = number * self.block_bytes;
        Ok((start, start + bytes))
    }

    /// The entries of a block.
    fn opened<'a>(&'a self, open: &'a Open) -> &'a [u8] {
        match open {
            Open::Block(number, used) => &self.memory[number * self.block_bytes..][..*used],
            Open::Own(entry) => entry,
        }
    }

    /// Where there is a file, all goes into it, and the memory is given back.
    pub fn settle(&mut self) -> Result<(), LaneError> {
        if self.overflow.is_some() {
            self.flush()?;
            self.memory = Vec::new();
        }
        Ok(())
    }

    /// Bytes of a lane's entries.
    #[must_use]
    pub fn bytes(&self, lane: usize) -> u64 {
        self.each[lane].bytes
    }

    fn failed(&self, action: &'static str) -> impl Fn(std::io::Error) -> LaneError + use<> {
        let path = self.folder.clone();
        move |source| LaneError::Io { action, path: path.clone(), source }
    }

    fn flush(&mut self) -> Result<(), LaneError> {
        if self.overflow.is_none() {
            self.overflow = Some(self.make_file()?);
        }
        let failed = self.failed("written");
        let Some(mut overflow) = self.overflow.take() else { return Ok(()) };
        for lane in 0..self.each.len() {
            let open = std::mem::take(&mut self.each[lane].open);
            let mut rest = open.iter().map(|open| self.opened(open)).peekable();
            let mut sealed_blocks = Vec::new();
            while rest.peek().is_some() {
                let spare = std::mem::take(&mut overflow.spare);
                let mut sealer = Sealer::begin(&[&overflow.recipient], spare, ObjectSize::Free)?;
                let mut left = self.sealed_bytes;
                while let Some(entries) =
                    rest.next_if(|entries| left >= entries.len().min(self.sealed_bytes))
                {
                    sealer.write(entries)?;
                    left -= entries.len().min(left);
                }
                let sealed = sealer.finish();
                overflow.file.write_all_at(&sealed, overflow.end).map_err(&failed)?;
                sealed_blocks.push((overflow.end, sealed.len()));
                overflow.end += sealed.len() as u64;
                overflow.spare = sealed;
            }
            drop(rest);
            self.each[lane].blocks.append(&mut sealed_blocks);
        }
        self.overflow = Some(overflow);
        (self.blocks_used, self.own_bytes) = (0, 0);
        Ok(())
    }

    fn make_file(&self) -> Result<Overflow, LaneError> {
        let failed = self.failed("made");
        let key = ReadIdentity::generate()?;
        let mut digits = [0; 12];
        getrandom::fill(&mut digits).map_err(|error| failed(std::io::Error::other(error)))?;
        let name = format!("lanes-{}.tmp", data_encoding::HEXLOWER.encode(&digits));
        let path = self.folder.join(name);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path).map_err(&failed)?;
        std::fs::remove_file(&path).map_err(&failed)?;
        let (recipient, identity) = (key.recipient().into(), key.to_identity());
        Ok(Overflow { file, end: 0, recipient, identity, spare: Vec::new() })
    }

    /// The entries of a lane, in blocks of whole entries: what is in memory stays where it is.
    pub fn blocks(&self, lane: usize) -> Result<Vec<Cow<'_, [u8]>>, LaneError> {
        let Lane { blocks, open, .. } = &self.each[lane];
        let mut reader = self.reader(lane);
        let mut found = Vec::with_capacity(blocks.len() + open.len());
        for _ in blocks {
            reader.next_block()?;
            found.push(Cow::Owned(std::mem::take(&mut reader.block)));
        }
        found.extend(open.iter().map(|open| Cow::Borrowed(self.opened(open))));
        Ok(found)
    }

    /// Reads a lane from its beginning.
    #[must_use]
    pub fn reader(&self, lane: usize) -> LaneReader<'_> {
        LaneReader { lanes: self, lane: &self.each[lane], next: 0, block: Vec::new() }
    }
}

/// Reads one lane, block after block.
pub struct LaneReader<'a> {
    lanes: &'a Lanes,
    lane: &'a Lane,
    next: usize,
    block: Vec<u8>,
}

impl LaneReader<'_> {
    /// The next whole entries; `None` at the end.
    pub fn next_block(&mut self) -> Result<Option<&[u8]>, LaneError> {
        let number = self.next;
        self.next += 1;
        let place = self.lane.blocks.get(number);
        let (Some((at, length)), Some(overflow)) = (place, &self.lanes.overflow) else {
            return Ok(self.open_block());
        };
        let mut sealed = vec![0; *length];
        overflow.file.read_exact_at(&mut sealed, *at).map_err(self.lanes.failed("read"))?;
        open_whole(&[&overflow.identity], &sealed, &mut self.block)?;
        Ok(Some(&self.block))
    }

    fn open_block(&self) -> Option<&[u8]> {
        let open = self.next.checked_sub(1 + self.lane.blocks.len())?;
        self.lane.open.get(open).map(|open| self.lanes.opened(open))
    }

    /// The entries that [`Self::next_block`] gave last.
    #[must_use]
    pub fn block(&self) -> &[u8] {
        self.open_block().unwrap_or(if self.next > self.lane.blocks.len() {
            &[]
        } else {
            &self.block
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_keep_their_order_in_memory_and_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        for open_bytes_max in [100, 10_000_000] {
            let mut lanes = Lanes::new(7, folder.path(), open_bytes_max);
            for number in 0..2000_u32 {
                lanes.push(number as usize % 5, &number.to_le_bytes()).unwrap();
            }
            assert_eq!(lanes.overflow.is_some(), open_bytes_max == 100);
            for lane in 0..7 {
                let found = lanes.blocks(lane).unwrap().concat();
                let numbers = (0..2000_u32).filter(|number| *number as usize % 5 == lane);
                let expected: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
                assert_eq!(found, expected);
                assert_eq!(lanes.bytes(lane), expected.len() as u64);
            }
            lanes.settle().unwrap();
            assert_eq!(lanes.memory.is_empty(), open_bytes_max == 100);
            assert_eq!(lanes.blocks(3).unwrap().concat().len(), 2000 / 5 * 4);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn entries_of_any_length_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        for open_bytes_max in [1000, 1 << 20] {
            let mut lanes = Lanes::new(3, folder.path(), open_bytes_max);
            let mut expected = [Vec::new(), Vec::new(), Vec::new()];
            for number in 0..300_usize {
                let entry = vec![number as u8; number * number % 701];
                lanes.push(number % 3, &entry).unwrap();
                expected[number % 3].extend_from_slice(&entry);
            }
            for (lane, expected) in expected.iter().enumerate() {
                let mut found = Vec::new();
                let mut reader = lanes.reader(lane);
                while let Some(block) = reader.next_block().unwrap() {
                    found.extend_from_slice(block);
                }
                assert!(found == *expected, "{lane} of {open_bytes_max}");
            }
        }
    }

    #[test]
    fn nothing_readable_reaches_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut lanes = Lanes::new(1, folder.path(), 10);
        lanes.push(0, b"a secret of some length").unwrap();
        let overflow = lanes.overflow.unwrap();
        let mut bytes = vec![0; overflow.end as usize];
        overflow.file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
    }
}
