//! Tree leaves, index nodes and list chunks: the documents inside packs of kind tree.
//!
//! Entries of a document are in ascending order of (directory component-wise, name), each once.
//! `format-spec/README.md`, section "Tree".

use std::cmp::Ordering;
use std::io::Write;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize};

use crate::format::limits;
use crate::format::node::{Bytes, ChunkRun, Node};
use crate::format::node_json::{
    NodeRecord, PackNumbers, ReferenceError, StoredRun, bytes_from_base64, serialize_bytes,
};
use crate::id::PackHandle;

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A line is no JSON of the expected form.
    #[error("line {line} of a tree document is refused")]
    Line {
        /// Its number, from 1 on.
        line: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// It is of another kind, or newer than this program.
    #[error("a tree document begins with {found:?}")]
    Kind {
        /// The first line, cut.
        found: String,
    },
    /// References that its table does not carry.
    #[error("line {line} of a tree document has a bad reference")]
    Reference {
        /// Its number, from 1 on.
        line: usize,
        /// What is wrong.
        source: ReferenceError,
    },
    /// Entries are out of order or twice, or a name is none.
    #[error("line {line} of a tree document: {problem}")]
    Order {
        /// Its number, from 1 on.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Place of an entry in a tree: its parent directory (components joined by `/`) and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct EntryKey {
    /// Path of the parent below the root; empty for the root itself.
    pub dir: Bytes,
    /// Name within it.
    pub name: Bytes,
}

impl EntryKey {
    /// The entry's path below the root.
    #[must_use]
    pub fn path(&self) -> Bytes {
        join(&self.dir, &self.name)
    }
}

/// A path from a directory (may be empty) and a name.
#[must_use]
pub fn join(dir: &[u8], name: &[u8]) -> Bytes {
    if dir.is_empty() {
        return name.to_vec();
    }
    [dir, b"/", name].concat()
}

impl PartialOrd for EntryKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for EntryKey {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_dirs(&self.dir, &other.dir).then_with(|| self.name.cmp(&other.name))
    }
}

/// Orders directory paths by their components.
///
/// A byte cannot be NUL in a name, so `/` counts as NUL and bytes decide.
#[must_use]
pub fn compare_dirs(a: &[u8], b: &[u8]) -> Ordering {
    let weight = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(weight).cmp(b.iter().map(weight))
}

#[derive(Serialize, Deserialize)]
struct LeafHeader {
    leaf: u8,
    packs: Vec<PackHandle>,
}

#[derive(Serialize, Deserialize)]
struct IndexHeader {
    index: u8,
    packs: Vec<PackHandle>,
}

#[derive(Serialize, Deserialize)]
struct ListDocument {
    list: u8,
    packs: Vec<PackHandle>,
    refs: Vec<StoredRun>,
}

#[derive(Deserialize)]
struct DirLine<'a> {
    #[serde(borrow)]
    dir: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    dir64: Option<std::borrow::Cow<'a, str>>,
}

impl DirLine<'_> {
    fn bytes(self) -> Result<Bytes, serde_json::Error> {
        use serde::de::Error as _;
        match (self.dir, self.dir64) {
            (Some(text), None) => Ok(text.into_owned().into_bytes()),
            (None, Some(text)) => bytes_from_base64(&text, limits::PATH_BYTES_MAX),
            _ => Err(serde_json::Error::custom("either dir or dir64")),
        }
    }
}

struct DirRecord<'a>(&'a [u8]);

impl Serialize for DirRecord<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        serialize_bytes(&mut map, "dir", "dir64", self.0)?;
        map.end()
    }
}

/// Collects entries of one leaf; the order is the caller's duty and is checked.
#[derive(Debug, Default)]
pub struct LeafBuilder {
    packs: PackNumbers,
    body: Vec<u8>,
    dir: Option<Bytes>,
    first: Option<EntryKey>,
    entries: u64,
}

impl LeafBuilder {
    /// Appends an entry.
    pub fn push(&mut self, dir: &[u8], node: &Node) {
        if self.dir.as_deref() != Some(dir) {
            write_line(&mut self.body, &DirRecord(dir));
            self.dir = Some(dir.to_vec());
        }
        write_line(&mut self.body, &NodeRecord::new(node, &mut self.packs));
        if self.first.is_none() {
            self.first = Some(EntryKey { dir: dir.to_vec(), name: node.name.clone() });
        }
        self.entries += 1;
    }

    /// Bytes so far, without the header line.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The leaf's bytes, the key of its first entry and the number of entries; begins anew.
    pub fn finish(&mut self) -> Option<(Vec<u8>, EntryKey, u64)> {
        let first = self.first.take()?;
        let mut out = Vec::with_capacity(self.body.len() + 64);
        write_line(&mut out, &LeafHeader { leaf: 1, packs: self.packs.handles().to_vec() });
        out.extend_from_slice(&self.body);
        let entries = self.entries;
        *self = Self::default();
        Some((out, first, entries))
    }
}

fn write_line(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(&mut *out, value).expect("writing JSON to memory cannot fail");
    out.write_all(b"\n").expect("writing to memory cannot fail");
}

/// A leaf's entries, each with its directory, in order.
pub fn decode_leaf(bytes: &[u8]) -> Result<Vec<(EntryKey, Node)>, TreeError> {
    let mut lines = lines_of(bytes);
    let header: LeafHeader = header_of(&mut lines, |header: &LeafHeader| header.leaf == 1)?;
    let mut entries: Vec<(EntryKey, Node)> = Vec::new();
    let mut dir: Option<Bytes> = None;
    for (line, text) in lines {
        if text.starts_with(b"{\"dir") {
            let record: DirLine<'_> = parse(line, text)?;
            dir = Some(record.bytes().map_err(|source| TreeError::Line { line, source })?);
            continue;
        }
        let record: NodeRecord = parse(line, text)?;
        let node = record
            .into_node(&header.packs)
            .map_err(|source| TreeError::Reference { line, source })?;
        let dir = dir.clone().ok_or(TreeError::Order { line, problem: "no directory yet" })?;
        let key = EntryKey { dir, name: node.name.clone() };
        check_key(&key, entries.last().map(|(last, _)| last), line)?;
        entries.push((key, node));
    }
    Ok(entries)
}

fn check_key(key: &EntryKey, last: Option<&EntryKey>, line: usize) -> Result<(), TreeError> {
    let depth = key.dir.split(|byte| *byte == b'/').count() as u64;
    if key.dir.len() as u64 > limits::PATH_BYTES_MAX * 16 || depth > limits::TREE_DEPTH_MAX {
        return Err(TreeError::Order { line, problem: "the path is too long" });
    }
    if !is_name(&key.name) {
        return Err(TreeError::Order { line, problem: "the name is none a file can have" });
    }
    if !key.dir.is_empty() && !key.dir.split(|byte| *byte == b'/').all(is_name) {
        return Err(TreeError::Order { line, problem: "the directory is no path below the root" });
    }
    if last.is_some_and(|last| last >= key) {
        return Err(TreeError::Order { line, problem: "entries are out of order" });
    }
    Ok(())
}

/// Whether bytes can be the name of a directory entry: not empty, `.`, `..`, no `/`, no NUL.
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && name.len() as u64 <= limits::NAME_BYTES_MAX
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

/// A child of an index node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexChild {
    /// Key of the first entry below it.
    pub first: EntryKey,
    /// The chunk that holds it.
    pub chunk: ChunkRun,
    /// Entries below it.
    pub entries: u64,
}

#[derive(Deserialize)]
struct ChildLine<'a> {
    #[serde(borrow)]
    dir: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    dir64: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    name64: Option<std::borrow::Cow<'a, str>>,
    #[serde(rename = "ref")]
    chunk: StoredRun,
    entries: u64,
}

struct ChildRecord<'a>(&'a IndexChild, StoredRun);

impl Serialize for ChildRecord<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        serialize_bytes(&mut map, "dir", "dir64", &self.0.first.dir)?;
        serialize_bytes(&mut map, "name", "name64", &self.0.first.name)?;
        map.serialize_entry("ref", &self.1)?;
        map.serialize_entry("entries", &self.0.entries)?;
        map.end()
    }
}

/// An index node of `level` (1 above the leaves) over `children`.
#[must_use]
pub fn encode_index(level: u8, children: &[IndexChild]) -> Vec<u8> {
    let mut packs = PackNumbers::default();
    let runs: Vec<StoredRun> = children.iter().map(|child| packs.stored(&child.chunk)).collect();
    let mut out = Vec::new();
    write_line(&mut out, &IndexHeader { index: level, packs: packs.handles().to_vec() });
    for (child, run) in children.iter().zip(runs) {
        write_line(&mut out, &ChildRecord(child, run));
    }
    out
}

/// The children of an index node that must be of `level`.
pub fn decode_index(bytes: &[u8], level: u8) -> Result<Vec<IndexChild>, TreeError> {
    let mut lines = lines_of(bytes);
    let header: IndexHeader = header_of(&mut lines, |header: &IndexHeader| header.index == level)?;
    let mut children: Vec<IndexChild> = Vec::new();
    for (line, text) in lines {
        let record: ChildLine<'_> = parse(line, text)?;
        let key = |text, base64| {
            DirLine { dir: text, dir64: base64 }
                .bytes()
                .map_err(|source| TreeError::Line { line, source })
        };
        let first = EntryKey {
            dir: key(record.dir, record.dir64)?,
            name: key(record.name, record.name64)?,
        };
        check_key(&first, children.last().map(|child| &child.first), line)?;
        let chunk = record
            .chunk
            .resolve(&header.packs)
            .map_err(|source| TreeError::Reference { line, source })?;
        children.push(IndexChild { first, chunk, entries: record.entries });
    }
    Ok(children)
}

/// A list chunk: references that a node has no room for. `depth` 0: they are the data.
#[must_use]
pub fn encode_list(depth: u8, runs: &[ChunkRun]) -> Vec<u8> {
    let mut packs = PackNumbers::default();
    let refs = runs.iter().map(|run| packs.stored(run)).collect();
    let mut out = Vec::new();
    write_line(&mut out, &ListDocument { list: depth, packs: packs.handles().to_vec(), refs });
    out
}

/// The references of a list chunk that must be of `depth`.
pub fn decode_list(bytes: &[u8], depth: u8) -> Result<Vec<ChunkRun>, TreeError> {
    let document: ListDocument = parse(1, bytes)?;
    if document.list != depth {
        return Err(TreeError::Kind { found: format!("list of depth {}", document.list) });
    }
    if document.refs.is_empty() {
        // Lists of nothing, nested, would keep a reader busy for ever.
        return Err(TreeError::Order { line: 1, problem: "the list is empty" });
    }
    let resolve = |run: &StoredRun| {
        run.resolve(&document.packs).map_err(|source| TreeError::Reference { line: 1, source })
    };
    document.refs.iter().map(resolve).collect()
}

fn lines_of(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    body.split(|byte| *byte == b'\n').enumerate().map(|(index, line)| (index + 1, line))
}

fn header_of<'a, H: Deserialize<'a>>(
    lines: &mut impl Iterator<Item = (usize, &'a [u8])>,
    is_right: impl Fn(&H) -> bool,
) -> Result<H, TreeError> {
    let (line, text) = lines.next().unwrap_or((1, b""));
    let kind = || TreeError::Kind {
        found: String::from_utf8_lossy(&text[..text.len().min(40)]).into_owned(),
    };
    let header: H = parse(line, text).map_err(|_| kind())?;
    if is_right(&header) { Ok(header) } else { Err(kind()) }
}

fn parse<'a, T: Deserialize<'a>>(line: usize, text: &'a [u8]) -> Result<T, TreeError> {
    serde_json::from_slice(text).map_err(|source| TreeError::Line { line, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::{Content, NodeKind};

    fn run(byte: u8, first: u32) -> ChunkRun {
        ChunkRun { pack: PackHandle([byte; 16]), first, count: 1, slice: None }
    }

    fn file(name: &[u8], byte: u8) -> Node {
        let mut node = Node::new(NodeKind::File, name);
        node.content = Content { depth: 0, runs: vec![run(byte, 3)] };
        node
    }

    #[test]
    fn directories_are_ordered_by_component() {
        let order: &[&[u8]] = &[b"", b"a", b"a/b", b"a/b/c", b"a/c", b"a-b", b"a.b", b"ab", b"b"];
        for (i, a) in order.iter().enumerate() {
            for (j, b) in order.iter().enumerate() {
                assert_eq!(compare_dirs(a, b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn leaf_comes_back() {
        let mut builder = LeafBuilder::default();
        let entries: &[(&[u8], &[u8])] =
            &[(b"", b"a"), (b"", b"z\xff"), (b"a", b"x"), (b"a/\xfe", b"y"), (b"a-", b"y")];
        for (number, (dir, name)) in entries.iter().enumerate() {
            builder.push(dir, &file(name, number as u8 % 2));
        }
        let (bytes, first, count) = builder.finish().unwrap();
        assert_eq!((first, count), (EntryKey { dir: vec![], name: b"a".to_vec() }, 5));
        let back = decode_leaf(&bytes).unwrap();
        for (number, ((key, node), (dir, name))) in back.iter().zip(entries).enumerate() {
            assert_eq!((&key.dir[..], &key.name[..]), (*dir, *name));
            assert_eq!(node, &file(name, number as u8 % 2));
        }
        assert!(builder.finish().is_none());
    }

    #[test]
    fn hostile_leaves_are_refused() {
        let head = r#"{"leaf":1,"packs":[]}"#;
        let a = r#"{"name":"a","type":"dir"}"#;
        let b = r#"{"name":"b","type":"dir"}"#;
        let root = r#"{"dir":""}"#;
        let lines = |list: &[&str]| list.join("\n").into_bytes();
        assert_eq!(decode_leaf(&lines(&[head, root, a, b])).unwrap().len(), 2);
        for wrong in [
            lines(&[]),
            lines(&[r#"{"leaf":2,"packs":[]}"#, root, a]),
            lines(&[r#"{"index":1,"packs":[]}"#, root, a]),
            lines(&[head, a]),
            lines(&[head, root, b, a]),
            lines(&[head, root, a, a]),
            lines(&[head, r#"{"dir":"b"}"#, a, r#"{"dir":"a"}"#, a]),
            lines(&[head, r#"{"dir":".."}"#, a]),
            lines(&[head, r#"{"dir":"a//b"}"#, a]),
            lines(&[head, r#"{"dir":"/a"}"#, a]),
            lines(&[head, root, r#"{"name":"..","type":"dir"}"#]),
            lines(&[head, root, r#"{"name":"","type":"dir"}"#]),
            lines(&[head, root, r#"{"name":"a/b","type":"dir"}"#]),
            lines(&[head, root, "{\"name\":\"a\\u0000\",\"type\":\"dir\"}"]),
            lines(&[head, root, r#"{"name":"a","type":"file","refs":[[0,0,1]]}"#]),
            lines(&[head, root, "not json"]),
        ] {
            assert!(decode_leaf(&wrong).is_err(), "{}", String::from_utf8_lossy(&wrong));
        }
        let deep = format!(r#"{{"dir":"{}"}}"#, vec!["d"; 5000].join("/"));
        assert!(decode_leaf(&lines(&[head, &deep, a])).is_err());
    }

    #[test]
    fn index_nodes_and_lists_come_back() {
        let child = |name: &[u8], byte| IndexChild {
            first: EntryKey { dir: b"d\xff".to_vec(), name: name.to_vec() },
            chunk: run(byte, 9),
            entries: 100,
        };
        let children = vec![child(b"a", 1), child(b"b", 2), child(b"\xff", 1)];
        let bytes = encode_index(2, &children);
        assert_eq!(decode_index(&bytes, 2).unwrap(), children);
        assert!(decode_index(&bytes, 1).is_err());
        let runs = vec![run(1, 0), ChunkRun { slice: Some((1, 2)), ..run(2, 7) }, run(1, 5)];
        let bytes = encode_list(1, &runs);
        assert_eq!(decode_list(&bytes, 1).unwrap(), runs);
        assert!(decode_list(&bytes, 0).is_err());
    }
}
