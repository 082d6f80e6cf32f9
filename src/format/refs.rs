//! Refs: which packs a snapshot needs, and which chunks of each; what a prune decides by.
//!
//! Sealed to the maintainers, so that pruning needs no read key, and with the snapshot's label, so
//! that retention needs none either. JSON Lines, one pack a line.
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
    /// A snapshot with too many tags.
    #[error("refs name {0} tags, more than a snapshot may have")]
    Tags(usize),
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

    /// Marks all that the other marks too; everything, where the other is of a pack of another
    /// number of chunks: one of them lies.
    pub fn union(&mut self, other: &Self) {
        if self.chunks != other.chunks {
            return self.insert_run(0, self.chunks);
        }
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

    /// The bits: bit i of byte i/8, from the lowest, is the chunk with ordinal i.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
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

/// What retention goes by: the same as in the snapshot, which a maintainer cannot open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotLabel {
    /// Name by which retention groups the snapshot.
    pub source: String,
    /// Host name, as the writer claims.
    pub host: String,
    /// When the run began, as the writer claims (RFC 3339).
    pub time: String,
    /// Tags.
    pub tags: Vec<String>,
}

/// The packs that a snapshot needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refs {
    /// The repository.
    pub repository: RepositoryId,
    /// Who wrote it: the snapshot's writer, or the maintainer that repacked.
    pub writer: ActorId,
    /// Sequence number of the commit that puts it.
    pub seq: u64,
    /// The snapshot's label; none where its writer gave none.
    pub label: Option<SnapshotLabel>,
    /// The packs, by name.
    pub packs: Vec<PackUse>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    refs: u32,
    repository: RepositoryId,
    writer: ActorId,
    seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
}

impl Header {
    fn new(refs: &Refs) -> Self {
        let Refs { repository, writer, seq, ref label, .. } = *refs;
        let label = label.as_ref();
        Self {
            refs: 1,
            repository,
            writer,
            seq,
            source: label.map(|label| label.source.clone()),
            host: label.map(|label| label.host.clone()),
            time: label.map(|label| label.time.clone()),
            tags: label.map(|label| label.tags.clone()).unwrap_or_default(),
        }
    }

    /// The label, where the source is named; the rest may be missing.
    fn take_label(&mut self) -> Option<SnapshotLabel> {
        Some(SnapshotLabel {
            source: self.source.take()?,
            host: self.host.take().unwrap_or_default(),
            time: self.time.take().unwrap_or_default(),
            tags: std::mem::take(&mut self.tags),
        })
    }
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
        let mut out = json_line(&Header::new(self));
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
        let mut header: Header =
            serde_json::from_slice(first).map_err(|source| RefsError::Line { line: 1, source })?;
        if header.refs != 1 {
            return Err(RefsError::Version(header.refs));
        }
        if header.tags.len() as u64 > limits::TAGS_PER_SNAPSHOT_MAX {
            return Err(RefsError::Tags(header.tags.len()));
        }
        let label = header.take_label();
        let packs = lines.map(|(text, line)| decode_line(text, line)).collect::<Result<_, _>>()?;
        let Header { repository, writer, seq, .. } = header;
        Ok(Self { repository, writer, seq, label, packs })
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
        let label = SnapshotLabel {
            source: "shop".into(),
            host: "db".into(),
            time: "2026-11-23T01:00:00Z".into(),
            tags: vec!["nightly".into()],
        };
        let (repository, writer) = (RepositoryId([1; 32]), ActorId([2; 8]));
        Refs { repository, writer, seq: 7, label: Some(label), packs }
    }

    #[test]
    fn refs_come_back() {
        let refs = sample();
        assert_eq!(refs.packs[0].used.used(), 3);
        assert_eq!(Refs::decode(&refs.encode()).unwrap(), refs);
    }

    #[test]
    fn refs_without_a_label_are_read() {
        let without = Refs { label: None, ..sample() };
        let text = String::from_utf8(without.encode()).unwrap();
        assert!(!text.contains("source"));
        assert_eq!(Refs::decode(text.as_bytes()).unwrap(), without);
        let only_source = text.replace("\"seq\":7", "\"seq\":7,\"source\":\"a\"");
        let label = Refs::decode(only_source.as_bytes()).unwrap().label.unwrap();
        assert_eq!(label, SnapshotLabel { source: "a".into(), ..SnapshotLabel::default() });
    }

    #[test]
    fn lies_are_refused() {
        let mut many = sample();
        many.label.as_mut().unwrap().tags = vec![String::new(); 257];
        assert!(matches!(Refs::decode(&many.encode()), Err(RefsError::Tags(257))));
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
