//! A snapshot: the root of one backup, with its named trees and streams.
//!
//! One JSON document. A version that is not 1 is "newer than this program", never "damaged".
//! `format-spec/README.md`, section "Snapshot".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::format::limits;
use crate::format::node::{Bytes, ChunkRun, Node};
use crate::format::node_json::{
    NodeRecord, PackNumbers, ReferenceError, StoredRun, bytes_from_base64,
};
use crate::id::{ActorId, DomainId, PackHandle, RepositoryId};

/// Why a snapshot is refused.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is no JSON of the expected form.
    #[error("the snapshot cannot be read")]
    Json(#[source] serde_json::Error),
    /// It is newer than this program; it is shown as such and never touched.
    #[error("the snapshot has version {0}, this program knows 1")]
    Unsupported(u64),
    /// A reference that its table does not carry.
    #[error("the snapshot has a bad reference")]
    Reference(#[from] ReferenceError),
    /// A count is beyond its limit, or a value is none.
    #[error("the snapshot has {what}")]
    Value {
        /// What is wrong.
        what: String,
    },
}

/// Counts of one run, as its summary shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Statistics {
    /// Files that the previous snapshot of the source did not have.
    pub files_new: u64,
    /// Files that differ from the previous snapshot.
    pub files_changed: u64,
    /// Files taken over without being read.
    pub files_unmodified: u64,
    /// Directories.
    pub directories: u64,
    /// Other entries: links, devices, pipes.
    pub others: u64,
    /// Items that could not be read and are missing.
    pub errors: u64,
    /// Files that changed while they were read, twice.
    pub changed_while_read: u64,
    /// Plain bytes of all content, holes left out.
    pub content_bytes: u64,
    /// Plain bytes that were read.
    pub read_bytes: u64,
    /// Plain bytes of chunks that the repository did not have.
    pub new_bytes: u64,
    /// Bytes of objects stored by the run.
    pub stored_bytes: u64,
    /// Chunks that the repository did not have.
    pub new_chunks: u64,
    /// Chunks that it had.
    pub known_chunks: u64,
}

/// A named root: a tree, a single file, or a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// `tree:/etc`, `stream:shop.sql`.
    pub name: String,
    /// Absolute path of a tree at its source; a stream's file name.
    pub path: Bytes,
    /// The root itself: a directory, a file, a stream.
    pub node: Node,
    /// Top chunk of its tree; none for a file, a stream or an empty directory.
    pub tree: Option<ChunkRun>,
    /// Index levels above the leaves; 0 where the top chunk is a leaf.
    pub levels: u8,
    /// Entries below the root.
    pub entries: u64,
    /// Plain bytes of all content.
    pub bytes: u64,
    /// How its content was cut.
    pub chunker: String,
    /// What the source says about it, by `kind`; kept as it is where it is not known.
    pub facts: Option<Facts>,
}

/// What a root says about itself: a JSON object with a `kind`.
pub type Facts = serde_json::Map<String, serde_json::Value>;

/// The root of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The repository.
    pub repository: RepositoryId,
    /// Who wrote it.
    pub writer: ActorId,
    /// Sequence number of its commit.
    pub seq: u64,
    /// The writer's domain.
    pub domain: DomainId,
    /// Epoch whose read recipient its objects are sealed to.
    pub epoch: u32,
    /// Name by which retention groups it.
    pub source: String,
    /// Host name, as the writer claims.
    pub host: String,
    /// User name, as the writer claims.
    pub user: String,
    /// When the run began, as the writer claims (RFC 3339).
    pub time: String,
    /// When it ended, as the writer claims (RFC 3339).
    pub ended: String,
    /// Free labels.
    pub tags: Vec<String>,
    /// Program and version.
    pub program: String,
    /// Trees and streams.
    pub roots: Vec<Root>,
    /// Some items could not be read and are missing.
    pub partial: bool,
    /// Counts of the run.
    pub statistics: Statistics,
}

#[derive(Serialize, Deserialize)]
struct Document {
    snapshot: u64,
    repository: RepositoryId,
    writer: ActorId,
    seq: u64,
    domain: DomainId,
    epoch: u32,
    source: String,
    host: String,
    user: String,
    time: String,
    ended: String,
    tags: Vec<String>,
    program: String,
    packs: Vec<PackHandle>,
    roots: Vec<RootRecord>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
    #[serde(default)]
    statistics: Statistics,
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct RootRecord {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path64: Option<String>,
    node: NodeRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tree: Option<StoredRun>,
    levels: u8,
    entries: u64,
    bytes: u64,
    chunker: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    facts: Option<Facts>,
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Version {
    snapshot: u64,
}

impl Snapshot {
    /// The object's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut packs = PackNumbers::default();
        let roots = self.roots.iter().map(|root| root.record(&mut packs)).collect();
        let document = Document {
            snapshot: 1,
            repository: self.repository,
            writer: self.writer,
            seq: self.seq,
            domain: self.domain,
            epoch: self.epoch,
            source: self.source.clone(),
            host: self.host.clone(),
            user: self.user.clone(),
            time: self.time.clone(),
            ended: self.ended.clone(),
            tags: self.tags.clone(),
            program: self.program.clone(),
            packs: packs.handles().to_vec(),
            roots,
            partial: self.partial,
            statistics: self.statistics.clone(),
            unknown: BTreeMap::new(),
        };
        let mut text = serde_json::to_vec(&document).expect("writing JSON to memory cannot fail");
        text.push(b'\n');
        text
    }

    /// Takes the content apart.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let version: Version = serde_json::from_slice(bytes).map_err(SnapshotError::Json)?;
        if version.snapshot != 1 {
            return Err(SnapshotError::Unsupported(version.snapshot));
        }
        let read: Document = serde_json::from_slice(bytes).map_err(SnapshotError::Json)?;
        refuse_critical(&read.unknown)?;
        check("tags", read.tags.len(), limits::TAGS_PER_SNAPSHOT_MAX)?;
        check("roots", read.roots.len(), limits::ROOTS_PER_SNAPSHOT_MAX)?;
        let packs = &read.packs;
        let roots = read
            .roots
            .into_iter()
            .map(|record| Root::from_record(record, packs))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            repository: read.repository,
            writer: read.writer,
            seq: read.seq,
            domain: read.domain,
            epoch: read.epoch,
            source: read.source,
            host: read.host,
            user: read.user,
            time: read.time,
            ended: read.ended,
            tags: read.tags,
            program: read.program,
            roots,
            partial: read.partial,
            statistics: read.statistics,
        })
    }
}

impl Root {
    fn record(&self, packs: &mut PackNumbers) -> RootRecord {
        let text = std::str::from_utf8(&self.path).ok().map(str::to_owned);
        let path64 = text.is_none().then(|| data_encoding::BASE64.encode(&self.path));
        RootRecord {
            name: self.name.clone(),
            path: text,
            path64,
            node: NodeRecord::new(&self.node, packs),
            tree: self.tree.as_ref().map(|run| packs.stored(run)),
            levels: self.levels,
            entries: self.entries,
            bytes: self.bytes,
            chunker: self.chunker.clone(),
            facts: self.facts.clone(),
            unknown: BTreeMap::new(),
        }
    }

    fn from_record(record: RootRecord, packs: &[PackHandle]) -> Result<Self, SnapshotError> {
        refuse_critical(&record.unknown)?;
        check("levels of a tree", record.levels.into(), limits::TREE_LEVELS_MAX)?;
        let path = match (record.path, record.path64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => {
                bytes_from_base64(&text, limits::PATH_BYTES_MAX).map_err(SnapshotError::Json)?
            }
            _ => return Err(SnapshotError::Value { what: "a root without one path".into() }),
        };
        check("bytes in a root's path", path.len(), limits::PATH_BYTES_MAX)?;
        let facts_bytes = record
            .facts
            .as_ref()
            .map_or(0, |facts| serde_json::to_string(facts).map_or(usize::MAX, |text| text.len()));
        check("bytes of facts", facts_bytes, limits::FACTS_BYTES_MAX)?;
        Ok(Self {
            name: record.name,
            path,
            node: record.node.into_node(packs)?,
            tree: record.tree.map(|run| run.resolve(packs)).transpose()?,
            levels: record.levels,
            entries: record.entries,
            bytes: record.bytes,
            chunker: record.chunker,
            facts: record.facts,
        })
    }
}

fn refuse_critical(unknown: &BTreeMap<String, serde_json::Value>) -> Result<(), SnapshotError> {
    match unknown.keys().find(|key| key.starts_with('!')) {
        Some(key) => Err(SnapshotError::Value {
            what: format!("a critical key {key:?} that this program does not know"),
        }),
        None => Ok(()),
    }
}

fn check(what: &str, value: usize, limit: u64) -> Result<(), SnapshotError> {
    if value as u64 > limit {
        return Err(SnapshotError::Value { what: format!("{value} {what}, the limit is {limit}") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::{Content, NodeKind};

    pub(crate) fn sample() -> Snapshot {
        let run = ChunkRun { pack: PackHandle([5; 16]), first: 3, count: 1, slice: None };
        let mut stream = Node::new(NodeKind::Stream, *b"shop.sql");
        stream.size = 10;
        stream.content = Content { depth: 0, runs: vec![run] };
        let root = |name: &str, path: &[u8], node, tree| Root {
            name: name.into(),
            path: path.to_vec(),
            node,
            tree,
            levels: 0,
            entries: 1,
            bytes: 10,
            chunker: "fastcdc-k1 4096 16384 65536".into(),
            facts: serde_json::from_str(r#"{"kind":"unheard-of","n":[1]}"#).unwrap(),
        };
        Snapshot {
            repository: RepositoryId([1; 32]),
            writer: ActorId([2; 8]),
            seq: 9,
            domain: DomainId([3; 8]),
            epoch: 1,
            source: "shop".into(),
            host: "db".into(),
            user: "backup".into(),
            time: "2026-11-23T01:00:00Z".into(),
            ended: "2026-11-23T01:01:00Z".into(),
            tags: vec!["nightly".into()],
            program: "holdfast 0.1.0".into(),
            roots: vec![
                root("stream:shop.sql", b"shop.sql", stream, None),
                root("tree:/\u{fffd}", b"/\xff", Node::new(NodeKind::Dir, vec![]), Some(run)),
            ],
            partial: true,
            statistics: Statistics { files_new: 1, ..Statistics::default() },
        }
    }

    #[test]
    fn snapshot_comes_back() {
        let snapshot = sample();
        assert_eq!(Snapshot::decode(&snapshot.encode()).unwrap(), snapshot);
    }

    #[test]
    fn newer_is_not_damaged() {
        let text = String::from_utf8(sample().encode()).unwrap();
        let newer = text.replace("\"snapshot\":1", "\"snapshot\":2");
        assert!(matches!(Snapshot::decode(newer.as_bytes()), Err(SnapshotError::Unsupported(2))));
        let critical = text.replace("\"seq\":9", "\"seq\":9,\"!x\":1");
        assert!(matches!(Snapshot::decode(critical.as_bytes()), Err(SnapshotError::Value { .. })));
        let unknown = text.replace("\"seq\":9", "\"seq\":9,\"x\":1");
        assert!(Snapshot::decode(unknown.as_bytes()).is_ok());
        let bad = text.replace("[0,3,1]", "[1,3,1]");
        assert!(Snapshot::decode(bad.as_bytes()).is_err());
    }
}
