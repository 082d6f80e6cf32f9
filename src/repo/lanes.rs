//! Entries sorted into lanes, in memory while they are few, then in a file that nobody else can read.
//!
//! The file has no name and is sealed to a key that exists in this process only: what a killed run
//! leaves is gone, and what reaches the disk cannot be read. Memory: a given number of bytes.

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

/// What a lane gets at first, so that not all of them grow in small steps.
const OPEN_BYTES_FIRST: usize = 16 * 1024;

#[derive(Debug, Default)]
struct Lane {
    /// Place and length of each sealed block.
    blocks: Vec<(u64, usize)>,
    open: Vec<u8>,
    bytes: u64,
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
    open_bytes: usize,
    open_bytes_max: usize,
    overflow: Option<Overflow>,
}

impl Lanes {
    /// So many empty lanes. What is more than `open_bytes_max` goes into a file in `folder`.
    #[must_use]
    pub fn new(count: usize, folder: &Path, open_bytes_max: usize) -> Self {
        Self {
            each: std::iter::repeat_with(Lane::default).take(count).collect(),
            folder: folder.to_owned(),
            open_bytes: 0,
            open_bytes_max,
            overflow: None,
        }
    }

    /// Appends an entry to a lane.
    pub fn push(&mut self, lane: usize, entry: &[u8]) -> Result<(), LaneError> {
        let place = &mut self.each[lane];
        if place.open.capacity() == 0 {
            place.open.reserve(OPEN_BYTES_FIRST.max(entry.len()));
        }
        place.open.extend_from_slice(entry);
        place.bytes += entry.len() as u64;
        self.open_bytes += entry.len();
        if self.open_bytes > self.open_bytes_max { self.flush() } else { Ok(()) }
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
        let Some(overflow) = &mut self.overflow else { return Ok(()) };
        for lane in self.each.iter_mut().filter(|lane| !lane.open.is_empty()) {
            let spare = std::mem::take(&mut overflow.spare);
            let mut sealer = Sealer::begin(&[&overflow.recipient], spare, ObjectSize::Free)?;
            sealer.write(&std::mem::take(&mut lane.open))?;
            let sealed = sealer.finish();
            overflow.file.write_all_at(&sealed, overflow.end).map_err(&failed)?;
            lane.blocks.push((overflow.end, sealed.len()));
            overflow.end += sealed.len() as u64;
            overflow.spare = sealed;
        }
        self.open_bytes = 0;
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

    /// The entries of a lane, a block of whole entries at a time.
    pub fn each_block(
        &self,
        lane: usize,
        take: &mut dyn FnMut(&[u8]) -> Result<(), LaneError>,
    ) -> Result<(), LaneError> {
        let mut reader = self.reader(lane);
        while let Some(block) = reader.next_block()? {
            take(block)?;
        }
        Ok(())
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
            let is_open = number == self.lane.blocks.len() && !self.lane.open.is_empty();
            return Ok(is_open.then_some(&self.lane.open[..]));
        };
        let mut sealed = vec![0; *length];
        overflow.file.read_exact_at(&mut sealed, *at).map_err(self.lanes.failed("read"))?;
        open_whole(&[&overflow.identity], &sealed, &mut self.block)?;
        Ok(Some(&self.block))
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
                let mut found = Vec::new();
                lanes
                    .each_block(lane, &mut |block| {
                        found.extend_from_slice(block);
                        Ok(())
                    })
                    .unwrap();
                let numbers = (0..2000_u32).filter(|number| *number as usize % 5 == lane);
                let expected: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
                assert_eq!(found, expected);
                assert_eq!(lanes.bytes(lane), expected.len() as u64);
            }
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
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
