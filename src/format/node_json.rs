//! Nodes and references as JSON, the form they have in leaves and snapshots.
//!
//! Encoding is canonical: one node has one text, so equal leaves are equal chunks. Keys and their
//! meaning: `format-spec/README.md`, section "Tree".

use std::collections::HashMap;
use std::fmt;

use data_encoding::BASE64;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::format::limits;
use crate::format::node::{Bytes, ChunkRun, Content, Node, NodeKind, UnixTime};
use crate::id::{ContentHash, PackHandle};

/// A reference as stored: the pack is an index into the `packs` table of its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRun {
    /// Index into the table.
    pub pack: u32,
    /// First ordinal.
    pub first: u32,
    /// Chunks.
    pub count: u32,
    /// Offset and length within the one chunk.
    pub slice: Option<(u32, u32)>,
}

/// Why references or names in a document are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The table of packs is shorter.
    #[error("reference to pack {index} of a table of {packs}")]
    NoSuchPack {
        /// What the reference says.
        index: u32,
        /// Packs in the table.
        packs: usize,
    },
    /// A run of no chunks, or one that ends beyond any pack, or a slice of several chunks or of no
    /// bytes.
    #[error("reference to {count} chunks from {first} on is none a pack can have")]
    BadRun {
        /// First ordinal.
        first: u32,
        /// Chunks.
        count: u32,
    },
}

/// The `packs` table of a document while it is written.
#[derive(Debug, Default, Clone)]
pub struct PackNumbers {
    handles: Vec<PackHandle>,
    numbers: HashMap<PackHandle, u32>,
}

impl PackNumbers {
    /// The pack's index, new or known.
    pub fn number(&mut self, handle: PackHandle) -> u32 {
        *self.numbers.entry(handle).or_insert_with(|| {
            self.handles.push(handle);
            (self.handles.len() - 1) as u32
        })
    }

    /// The table so far.
    #[must_use]
    pub fn handles(&self) -> &[PackHandle] {
        &self.handles
    }

    /// The run with its pack as an index.
    pub fn stored(&mut self, run: &ChunkRun) -> StoredRun {
        StoredRun {
            pack: self.number(run.pack),
            first: run.first,
            count: run.count,
            slice: run.slice,
        }
    }
}

impl StoredRun {
    /// The run with its pack taken from the table.
    pub fn resolve(&self, packs: &[PackHandle]) -> Result<ChunkRun, ReferenceError> {
        let pack = *packs
            .get(self.pack as usize)
            .ok_or(ReferenceError::NoSuchPack { index: self.pack, packs: packs.len() })?;
        let end = u64::from(self.first) + u64::from(self.count);
        if self.count == 0
            || end > limits::CHUNKS_PER_PACK_MAX
            || self.slice.is_some_and(|(_, length)| self.count != 1 || length == 0)
        {
            return Err(ReferenceError::BadRun { first: self.first, count: self.count });
        }
        Ok(ChunkRun { pack, first: self.first, count: self.count, slice: self.slice })
    }
}

impl Serialize for StoredRun {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(None)?;
        for value in [self.pack, self.first, self.count] {
            seq.serialize_element(&value)?;
        }
        if let Some((offset, length)) = self.slice {
            seq.serialize_element(&offset)?;
            seq.serialize_element(&length)?;
        }
        seq.end()
    }
}

impl<'de> Deserialize<'de> for StoredRun {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RunVisitor;
        impl<'de> Visitor<'de> for RunVisitor {
            type Value = StoredRun;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[pack, first, count] or [pack, ordinal, 1, offset, length]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<StoredRun, A::Error> {
                let mut numbers = [0_u32; 5];
                let mut length = 0;
                while let Some(number) = seq.next_element::<u32>()? {
                    *numbers.get_mut(length).ok_or_else(|| A::Error::invalid_length(6, &self))? =
                        number;
                    length += 1;
                }
                let [pack, first, count, offset, bytes] = numbers;
                match length {
                    3 => Ok(StoredRun { pack, first, count, slice: None }),
                    5 => Ok(StoredRun { pack, first, count, slice: Some((offset, bytes)) }),
                    other => Err(A::Error::invalid_length(other, &self)),
                }
            }
        }
        deserializer.deserialize_seq(RunVisitor)
    }
}

/// A node together with its references as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node; its content is empty.
    node: Node,
    depth: u8,
    refs: Vec<StoredRun>,
}

impl NodeRecord {
    /// The node in stored form, its packs entered into the table.
    pub fn new(node: &Node, packs: &mut PackNumbers) -> Self {
        let refs = node.content.runs.iter().map(|run| packs.stored(run)).collect();
        let mut bare = node.clone();
        bare.content = Content::default();
        Self { node: bare, depth: node.content.depth, refs }
    }

    /// The node with its references resolved.
    pub fn into_node(mut self, packs: &[PackHandle]) -> Result<Node, ReferenceError> {
        self.node.content = Content {
            depth: self.depth,
            runs: self.refs.iter().map(|run| run.resolve(packs)).collect::<Result<_, _>>()?,
        };
        Ok(self.node)
    }
}

impl Serialize for NodeRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_node(&self.node, self.depth, &self.refs, serializer)
    }
}

fn serialize_node<S: Serializer>(
    node: &Node,
    depth: u8,
    refs: &[StoredRun],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    serialize_bytes(&mut map, "name", "name64", &node.name)?;
    map.serialize_entry("type", &node.kind)?;
    serialize_attributes(&mut map, node)?;
    if let Some(target) = &node.target {
        serialize_bytes(&mut map, "target", "target64", target)?;
    }
    if let Some(device) = node.device {
        map.serialize_entry("device", &device)?;
    }
    serialize_xattrs(&mut map, node)?;
    if node.flags != 0 {
        map.serialize_entry("flags", &node.flags)?;
    }
    if !node.holes.is_empty() {
        map.serialize_entry("holes", &node.holes)?;
    }
    if let Some(hash) = &node.hash {
        map.serialize_entry("hash", hash)?;
    }
    if depth != 0 {
        map.serialize_entry("depth", &depth)?;
    }
    if !refs.is_empty() {
        map.serialize_entry("refs", refs)?;
    }
    if node.changed_while_read {
        map.serialize_entry("changed", &true)?;
    }
    map.end()
}

fn serialize_attributes<M: SerializeMap>(map: &mut M, node: &Node) -> Result<(), M::Error> {
    if node.mode != 0 {
        map.serialize_entry("mode", &node.mode)?;
    }
    for (key, value) in [("uid", node.uid), ("gid", node.gid)] {
        if value != 0 {
            map.serialize_entry(key, &value)?;
        }
    }
    for (key, value) in [("user", &node.user), ("group", &node.group)] {
        if let Some(value) = value {
            map.serialize_entry(key, value)?;
        }
    }
    for (key, value) in [("mtime", node.mtime), ("ctime", node.ctime)] {
        if value != UnixTime::default() {
            map.serialize_entry(key, &value)?;
        }
    }
    if node.size != 0 {
        map.serialize_entry("size", &node.size)?;
    }
    if let Some(group) = node.link_group {
        map.serialize_entry("link", &group)?;
    }
    Ok(())
}

fn serialize_xattrs<M: SerializeMap>(map: &mut M, node: &Node) -> Result<(), M::Error> {
    let (text, other): (Vec<_>, Vec<_>) =
        node.xattrs.iter().partition(|(name, _)| std::str::from_utf8(name).is_ok());
    if !text.is_empty() {
        let named: std::collections::BTreeMap<_, _> = text
            .into_iter()
            .map(|(name, value)| (String::from_utf8_lossy(name), BASE64.encode(value)))
            .collect();
        map.serialize_entry("xattrs", &named)?;
    }
    if !other.is_empty() {
        let named: std::collections::BTreeMap<_, _> = other
            .into_iter()
            .map(|(name, value)| (BASE64.encode(name), BASE64.encode(value)))
            .collect();
        map.serialize_entry("xattrs64", &named)?;
    }
    Ok(())
}

/// Writes bytes as text where they are UTF-8, as base64 under the other key else.
pub fn serialize_bytes<M: SerializeMap>(
    map: &mut M,
    text_key: &'static str,
    base64_key: &'static str,
    bytes: &[u8],
) -> Result<(), M::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => map.serialize_entry(text_key, text),
        Err(_) => map.serialize_entry(base64_key, &BASE64.encode(bytes)),
    }
}

/// Bytes out of base64, with a bound.
pub fn bytes_from_base64<E: serde::de::Error>(text: &str, bytes_max: u64) -> Result<Bytes, E> {
    if text.len() as u64 > bytes_max / 3 * 4 + 4 {
        return Err(E::custom(format_args!("base64 text of {} bytes is too long", text.len())));
    }
    BASE64.decode(text.as_bytes()).map_err(E::custom)
}

impl<'de> Deserialize<'de> for NodeRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = NodeRecord;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a node")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NodeRecord, A::Error> {
                let mut record = NodeRecord {
                    node: Node::new(NodeKind::File, Bytes::new()),
                    depth: 0,
                    refs: Vec::new(),
                };
                let (mut named, mut typed) = (false, false);
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    named |= key == "name" || key == "name64";
                    typed |= key == "type";
                    read_key(&mut record, &key, &mut map)?;
                }
                if !named || !typed {
                    return Err(A::Error::custom("a node needs a name and a type"));
                }
                check_record(&record).map_err(A::Error::custom)?;
                Ok(record)
            }
        }
        deserializer.deserialize_map(NodeVisitor)
    }
}

fn read_key<'de, A: MapAccess<'de>>(
    record: &mut NodeRecord,
    key: &str,
    map: &mut A,
) -> Result<(), A::Error> {
    let node = &mut record.node;
    match key {
        "name" => node.name = map.next_value::<String>()?.into_bytes(),
        "name64" => node.name = base64_value(map, limits::NAME_BYTES_MAX)?,
        "type" => node.kind = map.next_value()?,
        "mode" => node.mode = map.next_value()?,
        "uid" => node.uid = map.next_value()?,
        "gid" => node.gid = map.next_value()?,
        "user" => node.user = Some(map.next_value()?),
        "group" => node.group = Some(map.next_value()?),
        "mtime" => node.mtime = map.next_value()?,
        "ctime" => node.ctime = map.next_value()?,
        "size" => node.size = map.next_value()?,
        "link" => node.link_group = Some(map.next_value()?),
        "target" => node.target = Some(map.next_value::<String>()?.into_bytes()),
        "target64" => node.target = Some(base64_value(map, limits::PATH_BYTES_MAX)?),
        "device" => node.device = Some(map.next_value()?),
        "xattrs" => read_xattrs(node, map, false)?,
        "xattrs64" => read_xattrs(node, map, true)?,
        "flags" => node.flags = map.next_value()?,
        "holes" => node.holes = map.next_value()?,
        "hash" => node.hash = Some(map.next_value::<ContentHash>()?),
        "depth" => record.depth = map.next_value()?,
        "refs" => record.refs = map.next_value()?,
        "changed" => node.changed_while_read = map.next_value()?,
        critical if critical.starts_with('!') => {
            return Err(A::Error::custom(format_args!(
                "key {critical:?} is critical and not known to this program"
            )));
        }
        _ => {
            map.next_value::<IgnoredAny>()?;
        }
    }
    Ok(())
}

fn base64_value<'de, A: MapAccess<'de>>(map: &mut A, bytes_max: u64) -> Result<Bytes, A::Error> {
    bytes_from_base64(&map.next_value::<std::borrow::Cow<'de, str>>()?, bytes_max)
}

fn read_xattrs<'de, A: MapAccess<'de>>(
    node: &mut Node,
    map: &mut A,
    names_are_base64: bool,
) -> Result<(), A::Error> {
    let found: std::collections::BTreeMap<String, String> = map.next_value()?;
    if found.len() as u64 > limits::XATTRS_PER_NODE_MAX {
        return Err(A::Error::custom(format_args!("{} extended attributes", found.len())));
    }
    for (name, value) in found {
        let name = if names_are_base64 {
            bytes_from_base64(&name, limits::NAME_BYTES_MAX)?
        } else {
            name.into_bytes()
        };
        node.xattrs.insert(name, bytes_from_base64(&value, limits::XATTR_BYTES_MAX)?);
    }
    Ok(())
}

fn check_record(record: &NodeRecord) -> Result<(), String> {
    let node = &record.node;
    let name_limit =
        if node.kind == NodeKind::Stream { limits::PATH_BYTES_MAX } else { limits::NAME_BYTES_MAX };
    let target_bytes = node.target.as_ref().map_or(0, Vec::len) as u64;
    for (what, value, limit) in [
        ("name", node.name.len() as u64, name_limit),
        ("target", target_bytes, limits::PATH_BYTES_MAX),
        ("mode", u64::from(node.mode), 0o7777),
        ("nanoseconds", u64::from(node.mtime.1.max(node.ctime.1)), 999_999_999),
        ("depth", u64::from(record.depth), limits::LIST_LEVELS_MAX),
    ] {
        if value > limit {
            return Err(format!("{what} is {value}, the limit is {limit}"));
        }
    }
    check_holes(node)
}

fn check_holes(node: &Node) -> Result<(), String> {
    let mut end = None;
    for (offset, length) in &node.holes {
        let next = offset.checked_add(*length).filter(|next| *next <= node.size);
        if *length == 0 || end.is_some_and(|end| *offset <= end) || next.is_none() {
            return Err(format!("hole at {offset} of {length} bytes is out of order or place"));
        }
        end = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Node {
        let mut node = Node::new(NodeKind::File, *b"n\xff\x1b");
        node.mode = 0o4755;
        (node.uid, node.gid) = (1000, 100);
        (node.user, node.group) = (Some("ada".into()), Some("users".into()));
        (node.mtime, node.ctime) = (UnixTime(-1, 999_999_999), UnixTime(5, 0));
        node.size = 1 << 40;
        node.link_group = Some(u64::MAX);
        node.xattrs = [(b"user.a".to_vec(), vec![0, 1]), (b"user.\xfe".to_vec(), vec![])].into();
        node.flags = 0x40;
        node.holes = vec![(0, 10), (20, 5)];
        node.hash = Some(ContentHash([7; 32]));
        node.changed_while_read = true;
        let run = |first, count, slice| ChunkRun { pack: PackHandle([1; 16]), first, count, slice };
        node.content =
            Content { depth: 1, runs: vec![run(0, 5, None), run(9, 1, Some((100, 200)))] };
        node
    }

    #[test]
    fn every_field_comes_back() {
        let mut link = Node::new(NodeKind::Symlink, *b"l");
        link.target = Some(b"/etc/\xc3(".to_vec());
        let mut device = Node::new(NodeKind::Blockdev, *b"sda");
        device.device = Some((8, 0));
        for node in [full(), link, device, Node::new(NodeKind::Fifo, *b"f")] {
            let mut packs = PackNumbers::default();
            let text = serde_json::to_string(&NodeRecord::new(&node, &mut packs)).unwrap();
            let back: NodeRecord = serde_json::from_str(&text).unwrap();
            assert_eq!(back.into_node(packs.handles()).unwrap(), node, "{text}");
        }
    }

    #[test]
    fn hostile_nodes_are_refused() {
        let long = "x".repeat(256);
        for text in [
            "{}",
            r#"{"name":"a"}"#,
            r#"{"type":"file"}"#,
            r#"{"name":"a","type":"door"}"#,
            r#"{"name":"a","type":"file","!seal":1}"#,
            r#"{"name":"a","type":"file","mode":4096}"#,
            r#"{"name":"a","type":"file","mtime":[0,1000000000]}"#,
            r#"{"name":"a","type":"file","size":10,"holes":[[5,6]]}"#,
            r#"{"name":"a","type":"file","size":10,"holes":[[5,1],[6,1]]}"#,
            r#"{"name":"a","type":"file","size":10,"holes":[[5,0]]}"#,
            r#"{"name":"a","type":"file","depth":5}"#,
            r#"{"name":"a","type":"file","refs":[[0,0]]}"#,
            r#"{"name":"a","type":"file","refs":[[0,0,1,2]]}"#,
            r#"{"name":"a","type":"file","refs":[[0,-1,1]]}"#,
            r#"{"name":"a","type":"file","hash":"00"}"#,
            r#"{"name64":"!","type":"file"}"#,
            &format!(r#"{{"name":"{long}","type":"file"}}"#),
        ] {
            assert!(serde_json::from_str::<NodeRecord>(text).is_err(), "{text}");
        }
        let unknown = r#"{"name":"a","type":"file","later":{"x":[1]}}"#;
        assert!(serde_json::from_str::<NodeRecord>(unknown).is_ok());
    }

    #[test]
    fn runs_are_checked_against_their_table() {
        let packs = [PackHandle([1; 16])];
        let run = |pack, first, count, slice| StoredRun { pack, first, count, slice };
        assert!(run(0, 0, 1, None).resolve(&packs).is_ok());
        for wrong in [
            run(1, 0, 1, None),
            run(0, 0, 0, None),
            run(0, u32::MAX, u32::MAX, None),
            run(0, 0, 2, Some((0, 1))),
        ] {
            assert!(wrong.resolve(&packs).is_err(), "{wrong:?}");
        }
    }
}
