//! Refs: which packs a snapshot needs, and which chunks of each; what a prune decides by.
//!
//! Sealed to the maintainers, so that pruning needs no read key. JSON Lines, one pack a line.
//! `format-spec/README.md`, section "Refs".

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::format::limits;
use crate::id::{ActorId, ObjectId, RepositoryId};

/// Why a refs object is refused.
#[derive(Debug, thiserror::Error)]
pub enum RefsError {
    /// A line is no JSON of the expected form.
    #[error("line {line} of a refs object is refused")]
    Line {
        /// Its number, from 1 on.
        line: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// It is of another version.
    #[error("refs of version {0} are not known to this program")]
    Version(u32),
    /// Counts and bitmap do not agree.
    #[error("line {line} of a refs object has a bitmap that does not fit its counts")]
    Bitmap {
        /// Its number, from 1 on.
        line: usize,
    },
}

/// One bit for each chunk of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkBitmap {
    bytes: Vec<u8>,
    chunks: u32,
}

impl ChunkBitmap {
    /// No chunk of a pack of that many.
    #[must_use]
    pub fn new(chunks: u32) -> Self {
        Self { bytes: vec![0; chunks.div_ceil(8) as usize], chunks }
    }

    /// Marks `count` chunks from `first` on; those beyond the pack are left out.
    pub fn insert_run(&mut self, first: u32, count: u32) {
        for ordinal in first..first.saturating_add(count).min(self.chunks) {
            self.bytes[ordinal as usize / 8] |= 1 << (ordinal % 8);
        }
    }

    /// Whether the chunk is marked.
    #[must_use]
    pub fn contains(&self, ordinal: u32) -> bool {
        ordinal < self.chunks && self.bytes[ordinal as usize / 8] & 1 << (ordinal % 8) != 0
    }

    /// Marks all that the other marks too.
    pub fn union(&mut self, other: &Self) {
        for (mine, theirs) in self.bytes.iter_mut().zip(&other.bytes) {
            *mine |= theirs;
        }
    }

    /// Number of marked chunks.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.bytes.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Number of chunks, marked or not.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.chunks
    }
}

/// What a snapshot needs of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackUse {
    /// Name of the pack object.
    pub pack: ObjectId,
    /// The chunks of it that are referenced.
    pub used: ChunkBitmap,
}

/// The packs that a snapshot needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refs {
    /// The repository.
    pub repository: RepositoryId,
    /// Who wrote it.
    pub writer: ActorId,
    /// Sequence number of its commit.
    pub seq: u64,
    /// The packs, by name.
    pub packs: Vec<PackUse>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    refs: u32,
    repository: RepositoryId,
    writer: ActorId,
    seq: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    pack: ObjectId,
    chunks: u32,
    used: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    bitmap: Option<String>,
}

impl Refs {
    /// The object's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let header =
            Header { refs: 1, repository: self.repository, writer: self.writer, seq: self.seq };
        let mut out = json_line(&header);
        for pack in &self.packs {
            let used = pack.used.used();
            let bitmap = (used != pack.used.chunks).then(|| BASE64.encode(&pack.used.bytes));
            out.extend(json_line(&Line {
                pack: pack.pack,
                chunks: pack.used.chunks,
                used,
                bitmap,
            }));
        }
        out
    }

    /// Takes the content apart.
    pub fn decode(bytes: &[u8]) -> Result<Self, RefsError> {
        let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut lines = body.split(|byte| *byte == b'\n').zip(1..);
        let (first, _) = lines.next().unwrap_or((b"", 1));
        let header: Header =
            serde_json::from_slice(first).map_err(|source| RefsError::Line { line: 1, source })?;
        if header.refs != 1 {
            return Err(RefsError::Version(header.refs));
        }
        let packs = lines.map(|(text, line)| decode_line(text, line)).collect::<Result<_, _>>()?;
        Ok(Self { repository: header.repository, writer: header.writer, seq: header.seq, packs })
    }
}

fn json_line(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).expect("writing JSON to memory cannot fail");
    text.push(b'\n');
    text
}

fn decode_line(text: &[u8], line: usize) -> Result<PackUse, RefsError> {
    let read: Line =
        serde_json::from_slice(text).map_err(|source| RefsError::Line { line, source })?;
    let wrong = || RefsError::Bitmap { line };
    if u64::from(read.chunks) > limits::CHUNKS_PER_PACK_MAX {
        return Err(wrong());
    }
    let mut used = ChunkBitmap::new(read.chunks);
    match read.bitmap {
        None => used.insert_run(0, read.chunks),
        Some(text) => {
            let bytes = BASE64.decode(text.as_bytes()).map_err(|_| wrong())?;
            if bytes.len() != used.bytes.len() {
                return Err(wrong());
            }
            used.bytes = bytes;
        }
    }
    let spare = used.bytes.len() as u32 * 8 - read.chunks;
    let beyond = used.bytes.last().is_some_and(|last| last.leading_zeros() < spare);
    if used.used() != read.used || beyond {
        return Err(wrong());
    }
    Ok(PackUse { pack: read.pack, used })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Refs {
        let mut some = ChunkBitmap::new(11);
        some.insert_run(3, 2);
        some.insert_run(10, 5);
        let mut all = ChunkBitmap::new(9);
        all.insert_run(0, 9);
        let packs = [some, all, ChunkBitmap::new(0)]
            .into_iter()
            .enumerate()
            .map(|(i, used)| PackUse { pack: ObjectId([i as u8; 32]), used })
            .collect();
        Refs { repository: RepositoryId([1; 32]), writer: ActorId([2; 8]), seq: 7, packs }
    }

    #[test]
    fn refs_come_back() {
        let refs = sample();
        assert_eq!(refs.packs[0].used.used(), 3);
        assert_eq!(Refs::decode(&refs.encode()).unwrap(), refs);
    }

    #[test]
    fn lies_are_refused() {
        let text = String::from_utf8(sample().encode()).unwrap();
        for (from, to) in [
            ("\"refs\":1", "\"refs\":2"),
            ("\"used\":3", "\"used\":4"),
            ("\"chunks\":11", "\"chunks\":90"),
            ("\"chunks\":11", "\"chunks\":10"),
            ("\"chunks\":9", "\"chunks\":4294967295"),
            ("\"chunks\":9,", ""),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            assert!(Refs::decode(changed.as_bytes()).is_err(), "{to}");
        }
    }
}
