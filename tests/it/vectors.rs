//! The golden vectors of the format: small files that any implementation can read.
//!
//! A file has header lines `key: value`, an empty line, and the payload: as it is, or in base64
//! where the header says `encoding: base64`. `expect: ok` means that the payload decodes, and that
//! encoding it again gives the same bytes; `expect: refused`, that no reader may accept it.
//! `rewrite_vectors` (ignored) makes them all; a change of a file is a change of the format.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display, Write};
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use holdfast::chunker::{ChunkSizes, Chunker, GearTable};
use holdfast::crypto::ids::{ChunkKind, DomainKeys, content_hash, object_id, repository_id};
use holdfast::crypto::recipient::ReadIdentity;
use holdfast::crypto::sealed_size::padme;
use holdfast::crypto::secret::Secret32;
use holdfast::crypto::signature::{SigningKey, VerifyingKey};
use holdfast::format::attestation::Attestation;
use holdfast::format::commit::{Commit, ObjectName, PutEntry, SnapshotEntry, SnapshotName};
use holdfast::format::index_segment::{IndexSegment, IndexedPack};
use holdfast::format::node::{ChunkRun, Content, Node, NodeKind, UnixTime};
use holdfast::format::pack::{FrameEntry, PackKind, PackOwner, PackTable};
use holdfast::format::refs::{ChunkBitmap, PackUse, Refs};
use holdfast::format::roster::{Epoch, MaintainerEntry, RecoveryFile, Roster, VerifierEntry};
use holdfast::format::roster::{Generation, WriterEntry};
use holdfast::format::signed_text::{NO_PREVIOUS, RosterReference};
use holdfast::format::snapshot::{Root, Snapshot, Statistics};
use holdfast::format::tombstone::{Declaration, Remark, Tombstone};
use holdfast::format::tree::{
    EntryKey, IndexChild, LeafBuilder, decode_index, decode_leaf, decode_list, encode_index,
    encode_list,
};
use holdfast::id::{ActorId, ChunkId, DomainId, ObjectId, PackHandle, RepositoryId};
use secrecy::ExposeSecret;

use crate::redis_hostile;
use crate::redis_vectors::{self, PartHeaders};

/// One file.
#[derive(Clone)]
struct Vector {
    name: String,
    headers: BTreeMap<String, String>,
    payload: Vec<u8>,
}

impl Vector {
    fn new(object: &str, name: &str, payload: impl Into<Vec<u8>>) -> Self {
        let headers = [("object", object), ("expect", "ok")];
        let headers = headers.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Self { name: format!("{object}-{name}"), headers, payload: payload.into() }
    }

    fn with(mut self, key: &str, value: impl Display) -> Self {
        self.headers.insert(key.to_owned(), value.to_string());
        self
    }

    /// A copy that must be refused.
    fn refused(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut copy = self.clone().with("expect", "refused");
        copy.name = format!("{}-{name}", self.header("object"));
        change(&mut copy.payload);
        assert!(copy.payload != self.payload, "{} is unchanged", copy.name);
        copy
    }

    fn replaced(&self, name: &str, from: &str, to: &str) -> Self {
        self.refused(name, |payload| {
            *payload = std::str::from_utf8(payload).unwrap().replace(from, to).into_bytes();
        })
    }

    fn header(&self, key: &str) -> &str {
        self.headers.get(key).unwrap_or_else(|| panic!("{} has no header {key}", self.name))
    }

    fn parse(path: &Path) -> Self {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(path).unwrap();
        let end = bytes.windows(2).position(|two| two == b"\n\n").expect("an empty line");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let headers: BTreeMap<_, _> = head
            .lines()
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{name}: {line}")))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let mut payload = bytes[end + 2..].to_vec();
        if headers.get("encoding").is_some_and(|encoding| encoding == "base64") {
            payload.retain(|byte| *byte != b'\n');
            payload = BASE64.decode(&payload).unwrap();
        }
        Self { name, headers, payload }
    }

    fn print(&self) -> Vec<u8> {
        let is_text = std::str::from_utf8(&self.payload)
            .is_ok_and(|text| !text.contains(|c: char| c.is_control() && c != '\n'));
        let mut out = format!("expect: {}\n", self.header("expect"));
        for (key, value) in self.headers.iter().filter(|(key, _)| *key != "expect") {
            let _ = writeln!(out, "{key}: {value}");
        }
        out += if is_text { "\n" } else { "encoding: base64\n\n" };
        let mut out = out.into_bytes();
        if is_text {
            out.extend_from_slice(&self.payload);
        } else {
            for line in BASE64.encode(&self.payload).as_bytes().chunks(76) {
                out.extend_from_slice(line);
                out.push(b'\n');
            }
        }
        out
    }

    /// What encoding the decoded payload gives.
    fn reencoded(&self) -> Result<Vec<u8>, String> {
        let bytes = &self.payload[..];
        let number = |key| self.header(key).parse::<u8>().unwrap();
        match self.header("object") {
            "index" => IndexSegment::decode(bytes).map(|segment| segment.encode()).or_else(fail),
            "pack-footer" => PackTable::decode_footer(bytes).map(encode_footer).or_else(fail),
            "leaf" => decode_leaf(bytes).map(|entries| encode_leaf(&entries)).or_else(fail),
            "index-node" => decode_index(bytes, number("level"))
                .map(|children| encode_index(number("level"), &children))
                .or_else(fail),
            "list" => decode_list(bytes, number("depth"))
                .map(|runs| encode_list(number("depth"), &runs))
                .or_else(fail),
            "refs" => Refs::decode(bytes).map(|refs| refs.encode()).or_else(fail),
            "snapshot" => Snapshot::decode(bytes).map(|snapshot| snapshot.encode()).or_else(fail),
            "roster" | "commit" | "tombstone" | "attestation" => self.signed_again(),
            "padme" => Ok(padme_text(&self.column(0))),
            "chunk-ids" => Ok(chunk_ids_text(&self.word("secret"), &self.word("plaintext"))),
            "gear" => Ok(gear_text(&self.word("secret"))),
            "cut-points" => {
                Ok(cut_points_text(&self.word("secret"), &self.word("bytes"), &self.word("sizes")))
            }
            "redis-order" => redis_vectors::order_again(bytes, number("bits").into()),
            "redis-dump" => redis_hostile::put_together(|name| self.header(name).to_owned()),
            "redis-part" => redis_vectors::part_again(
                bytes,
                &PartHeaders {
                    dialect: self.header("dialect").into(),
                    salt: self.header("salt").into(),
                    made: self.header("made").into(),
                    column: self.header("column").into(),
                    atoms: self.header("atoms").into(),
                },
            ),
            other => panic!("{}: no such object: {other}", self.name),
        }
    }

    fn signed_again(&self) -> Result<Vec<u8>, String> {
        let bytes = &self.payload[..];
        let signer = signing_key(self.header("seed"));
        let key: VerifyingKey = self.header("key").parse().unwrap();
        let repository: RepositoryId = self.header("repository").parse().unwrap();
        let again = match self.header("object") {
            "roster" => Roster::open(bytes, repository).map(|text| text.encode_and_sign(&signer)),
            "commit" => {
                Commit::open(bytes, &key, repository).map(|text| text.encode_and_sign(&signer))
            }
            "tombstone" => {
                Tombstone::open(bytes, &key, repository).map(|text| text.encode_and_sign(&signer))
            }
            _ => {
                Attestation::open(bytes, &key, repository).map(|text| text.encode_and_sign(&signer))
            }
        };
        again.or_else(fail)?.or_else(fail)
    }

    /// The rest of the only line that begins with `key`.
    fn word(&self, key: &str) -> String {
        let text = std::str::from_utf8(&self.payload).unwrap();
        let mut values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        values.next().unwrap_or_else(|| panic!("{} has no line {key}", self.name)).to_owned()
    }

    fn column(&self, number: usize) -> Vec<u64> {
        let text = std::str::from_utf8(&self.payload).unwrap();
        text.lines().map(|line| line.split(' ').nth(number).unwrap().parse().unwrap()).collect()
    }
}

fn fail<T, E: Debug>(error: E) -> Result<T, String> {
    Err(format!("{error:?}"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec/vectors")
}

fn stored() -> Vec<Vector> {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths.iter().map(|path| Vector::parse(path)).collect()
}

#[test]
fn every_vector_does_what_it_says() {
    let vectors = stored();
    for vector in &vectors {
        match (vector.header("expect"), vector.reencoded()) {
            ("ok", Ok(bytes)) => assert!(
                bytes == vector.payload,
                "{} is encoded as\n{}",
                vector.name,
                String::from_utf8_lossy(&bytes)
            ),
            ("ok", Err(error)) => panic!("{} is refused: {error}", vector.name),
            ("refused", Ok(_)) => panic!("{} is accepted", vector.name),
            ("refused", Err(_)) => {}
            (other, _) => panic!("{} expects {other}", vector.name),
        }
    }
    assert!(vectors.len() >= samples().len(), "only {} vectors", vectors.len());
}

/// The reader of the specification shares no code with this crate.
#[test]
fn restore_py_agrees_with_the_vectors() {
    let script = folder().with_file_name("restore.py");
    let mut python = std::process::Command::new("python3");
    match python.arg(script).arg("--self-test").arg(folder()).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "python3: {error}"),
    }
}

#[test]
#[ignore = "writes the vectors; a change of one is a change of the format"]
fn rewrite_vectors() {
    std::fs::create_dir_all(folder()).unwrap();
    for vector in samples() {
        std::fs::write(folder().join(format!("{}.txt", vector.name)), vector.print()).unwrap();
    }
}

fn encode_footer((owner, table): (PackOwner, PackTable)) -> Vec<u8> {
    let mut out = Vec::new();
    table.encode_footer(&owner, &mut out);
    out
}

fn encode_leaf(entries: &[(EntryKey, Node)]) -> Vec<u8> {
    let mut builder = LeafBuilder::default();
    for (key, node) in entries {
        builder.push(&key.dir, node);
    }
    builder.finish().unwrap().0
}

fn padme_text(lengths: &[u64]) -> Vec<u8> {
    let lines = lengths.iter().map(|length| format!("{length} {}\n", padme(*length)));
    lines.collect::<String>().into_bytes()
}

fn secret(hex: &str) -> Secret32 {
    Secret32::from_hex(hex).unwrap()
}

fn signing_key(seed: &str) -> SigningKey {
    SigningKey::from_seed(&secret(seed))
}

fn chunk_ids_text(secret_hex: &str, plaintext_hex: &str) -> Vec<u8> {
    let keys = DomainKeys::derive(&secret(secret_hex));
    let plaintext = HEXLOWER.decode(plaintext_hex.as_bytes()).unwrap();
    let identity = keys.index_identity_text();
    let mut out = format!("secret {secret_hex}\nplaintext {plaintext_hex}\n");
    let _ = writeln!(out, "data {}", keys.chunk_id(ChunkKind::Data, &plaintext));
    let _ = writeln!(out, "tree {}", keys.chunk_id(ChunkKind::Tree, &plaintext));
    let _ = writeln!(out, "index-identity {}", identity.expose_secret());
    let _ = writeln!(out, "index-recipient {}", keys.index_recipient());
    let _ = writeln!(out, "plain-blake3 {}", content_hash(&plaintext));
    out.into_bytes()
}

fn gear_text(secret_hex: &str) -> Vec<u8> {
    let table = DomainKeys::derive(&secret(secret_hex)).gear_bytes();
    let mut out = format!("secret {secret_hex}\n");
    for line in table.chunks(32) {
        let _ = writeln!(out, "table {}", HEXLOWER.encode(line));
    }
    out.into_bytes()
}

/// Cuts the first `bytes` bytes of BLAKE3's output stream for no input.
fn cut_points_text(secret_hex: &str, bytes: &str, sizes: &str) -> Vec<u8> {
    let keys = DomainKeys::derive(&secret(secret_hex));
    let sizes_read: ChunkSizes = sizes.parse().unwrap();
    let chunker = Chunker::new(GearTable::new(&keys.gear_table()), sizes_read);
    let mut input = vec![0; bytes.parse().unwrap()];
    blake3::Hasher::new().finalize_xof().fill(&mut input);
    let mut rest = &input[..];
    let mut out = format!("secret {secret_hex}\nbytes {bytes}\nsizes {sizes}\n");
    while let Some(length) = chunker.cut(rest, true) {
        let _ = writeln!(out, "length {length}");
        rest = &rest[length..];
    }
    out.into_bytes()
}

// What follows makes the vectors.

const ROOT_SEED: u8 = 1;
const WRITER_SEED: u8 = 2;
const MAINTAINER_SEED: u8 = 3;
const VERIFIER_SEED: u8 = 4;
const WRITER: ActorId = ActorId([0x22; 8]);
const MAINTAINER: ActorId = ActorId([0x33; 8]);
const VERIFIER: ActorId = ActorId([0x44; 8]);
const DOMAIN: DomainId = DomainId([0x55; 8]);

fn seed(byte: u8) -> String {
    HEXLOWER.encode(&[byte; 32])
}

fn repository() -> RepositoryId {
    repository_id(&signing_key(&seed(ROOT_SEED)).verifying_key())
}

fn handle(byte: u8) -> PackHandle {
    PackHandle([byte; 16])
}

fn run(pack: u8, first: u32, count: u32, slice: Option<(u32, u32)>) -> ChunkRun {
    ChunkRun { pack: handle(pack), first, count, slice }
}

fn owner() -> PackOwner {
    PackOwner { repository: repository(), writer: WRITER, domain: DOMAIN }
}

fn table(byte: u8, kind: PackKind) -> PackTable {
    PackTable {
        handle: handle(byte),
        kind,
        frames: vec![
            FrameEntry { stored_bytes: 50, raw_bytes: 300, chunks: 2 },
            FrameEntry { stored_bytes: 70_000, raw_bytes: 70_001, chunks: 1 },
        ],
        chunk_bytes: vec![100, 200, 70_001],
    }
}

fn samples() -> Vec<Vector> {
    let parts = [binary_samples(), tree_samples(), document_samples(), signed_samples()];
    parts.into_iter().flatten().chain(number_samples()).chain(redis_samples()).collect()
}

fn binary_samples() -> Vec<Vector> {
    let pack = |byte, kind| IndexedPack {
        name: ObjectId([byte; 32]),
        size: 131_072,
        table: table(byte, kind),
        ids: (0..3).map(|i| ChunkId([16 * byte + i; 32])).collect(),
    };
    let packs = vec![pack(9, PackKind::Data), pack(10, PackKind::Tree)];
    let index = Vector::new("index", "two-packs", IndexSegment { owner: owner(), packs }.encode());
    let empty = IndexSegment { owner: owner(), packs: vec![] }.encode();
    let footer = encode_footer((owner(), table(9, PackKind::Data)));
    let footer = Vector::new("pack-footer", "three-chunks", footer);
    vec![
        index.refused("cut", |bytes| bytes.truncate(bytes.len() - 1)),
        index.refused("trailing-byte", |bytes| bytes.push(0)),
        index.refused("magic", |bytes| bytes[7] = b'2'),
        index.refused("pack-count", |bytes| bytes[56..60].fill(0xff)),
        index.refused("kind", |bytes| bytes[116] = 7),
        index.refused("not-zero", |bytes| bytes[118] = 1),
        index.refused("frame-sums", |bytes| bytes[132] ^= 1),
        index,
        Vector::new("index", "no-packs", empty),
        footer.refused("cut", |bytes| bytes.truncate(100)),
        footer.refused("not-zero", |bytes| bytes[18] = 1),
        footer.refused("end", |bytes| *bytes.last_mut().unwrap() = b'e'),
        footer.refused("magic", |bytes| bytes[8] = b'h'),
        footer.refused("chunk-count", |bytes| bytes[91] = 0xff),
        footer,
    ]
}

fn redis_samples() -> Vec<Vector> {
    let part_of = |name, (stored, headers): (Vec<u8>, PartHeaders)| {
        Vector::new("redis-part", name, stored)
            .with("dialect", headers.dialect)
            .with("salt", headers.salt)
            .with("made", headers.made)
            .with("column", headers.column)
            .with("atoms", headers.atoms)
    };
    let part = part_of("every-form", redis_vectors::sample());
    let sample = redis_vectors::dump_sample();
    let dump = Vector::new("redis-dump", "by-keys", sample.dump)
        .with("facts", serde_json::to_string(&sample.facts).unwrap())
        .with("frame", BASE64.encode(&sample.frame))
        .with("records", BASE64.encode(&sample.records))
        .with("column", sample.headers.column);
    let order = Vector::new("redis-order", "two-blocks", b"\x02\xbc\x3a\x12\x01\xff\x0f".to_vec());
    let order = order.with("bits", 12);
    vec![
        dump,
        part_of("valkey", redis_vectors::valkey_sample()),
        part_of("old-and-new", redis_vectors::old_and_new_sample()),
        part_of("newest", redis_vectors::newest_sample()),
        part.refused("cut", |bytes| bytes.truncate(bytes.len() - 1)),
        part.refused("another-text", |bytes| bytes[7] ^= 1),
        part,
        order.refused("cut", |bytes| bytes.truncate(bytes.len() - 1)),
        order,
    ]
}

fn file(name: &[u8], runs: Vec<ChunkRun>) -> Node {
    let mut node = Node::new(NodeKind::File, name);
    (node.mode, node.uid, node.gid) = (0o640, 1000, 100);
    (node.user, node.group) = (Some("ann".into()), Some("users".into()));
    node.mtime = UnixTime(1_700_000_000, 123_456_789);
    node.ctime = UnixTime(-5, 999_999_999);
    node.size = 500;
    node.content = Content { depth: 0, runs };
    node.hash = Some(content_hash(b"not that of these chunks"));
    node
}

fn entries() -> Vec<(EntryKey, Node)> {
    let mut sparse = file(b"sparse", vec![run(1, 0, 2, None), run(2, 9, 1, Some((100, 50)))]);
    sparse.holes = vec![(0, 100), (200, 50)];
    sparse.link_group = Some(7);
    sparse.changed_while_read = true;
    sparse.flags = 0x10;
    sparse.xattrs.insert(b"user.comment".to_vec(), b"\x00\xff".to_vec());
    sparse.xattrs.insert(b"user.\xff".to_vec(), b"x".to_vec());
    let mut link = Node::new(NodeKind::Symlink, *b"link");
    link.target = Some(b"../\xfe".to_vec());
    let mut disk = Node::new(NodeKind::Blockdev, *b"disk");
    disk.device = Some((8, 1));
    let mut long = file(b"long", vec![run(3, 4, 2, None)]);
    long.content.depth = 1;
    let dir = |name: &[u8]| Node::new(NodeKind::Dir, name);
    let at =
        |dir: &[u8], node: Node| (EntryKey { dir: dir.to_vec(), name: node.name.clone() }, node);
    vec![
        at(b"", dir(b"a")),
        at(b"", dir(b"a-b")),
        at(b"", dir("ä\"\\\n".as_bytes())),
        at(b"", Node::new(NodeKind::Fifo, *b"\xffpipe")),
        at(b"a", dir(b"b")),
        at(b"a", disk),
        at(b"a", link),
        at(b"a/b", long),
        at(b"a/b", sparse),
        at(b"a-b", Node::new(NodeKind::Socket, *b"s")),
    ]
}

fn tree_samples() -> Vec<Vector> {
    let leaf = Vector::new("leaf", "all-kinds", encode_leaf(&entries()));
    let child = |dir: &[u8], name: &[u8], chunk, entries| IndexChild {
        first: EntryKey { dir: dir.to_vec(), name: name.to_vec() },
        chunk,
        entries,
    };
    let children = [
        child(b"", b"a", run(1, 0, 1, None), 300),
        child(b"a/b", b"\xff", run(1, 1, 1, None), 200),
        child(b"a-b", b"c", run(2, 0, 1, None), 1),
    ];
    let node = Vector::new("index-node", "three-leaves", encode_index(1, &children));
    let runs = [run(1, 0, 4096, None), run(2, 7, 1, Some((16, 32))), run(1, 5000, 1, None)];
    let list = Vector::new("list", "runs-and-slice", encode_list(0, &runs));
    let node = node.with("level", 1);
    let list = list.with("depth", 0);
    vec![
        leaf.replaced("order", r#""name":"a""#, r#""name":"b""#),
        leaf.replaced("name-with-slash", r#""name":"disk""#, r#""name":"x/y""#),
        leaf.replaced("name-dot-dot", r#""name":"disk""#, r#""name":"..""#),
        leaf.replaced("dir-escapes", r#""dir":"a/b""#, r#""dir":"a/..""#),
        leaf.replaced("dir-absolute", r#"{"dir":"a"}"#, r#"{"dir":"/a"}"#),
        leaf.replaced("critical-key", r#""flags":16"#, r#""!sealed":1"#),
        leaf.replaced("no-such-pack", "[2,9,1,100,50]", "[7,9,1,100,50]"),
        leaf.replaced("slice-of-two", "[2,9,1,100,50]", "[1,9,2,100,50]"),
        leaf.replaced("hole-beyond-end", "[200,50]", "[200,301]"),
        leaf.replaced("newer", r#"{"leaf":1"#, r#"{"leaf":2"#),
        leaf,
        node.replaced("level", r#"{"index":1"#, r#"{"index":2"#),
        node.replaced("order", r#"{"dir":"a/b""#, r#"{"dir":"b""#),
        node,
        list.replaced("depth", r#"{"list":0"#, r#"{"list":1"#),
        list.replaced("run-beyond-pack", "4096]", "262145]"),
        list,
    ]
}

fn snapshot() -> Snapshot {
    let root = |name: &str, path: &[u8], node, tree| Root {
        name: name.into(),
        path: path.to_vec(),
        node,
        tree,
        levels: 0,
        entries: 10,
        bytes: 500,
        chunker: ChunkSizes::FILES.to_string(),
        facts: None,
    };
    let mut stream = Node::new(NodeKind::Stream, *b"shop.sql");
    stream.size = 500;
    stream.content.runs = vec![run(1, 0, 2, None)];
    Snapshot {
        repository: repository(),
        writer: WRITER,
        seq: 9,
        domain: DOMAIN,
        epoch: 1,
        source: "shop".into(),
        host: "db".into(),
        user: "backup".into(),
        time: "2026-11-23T01:00:00Z".into(),
        ended: "2026-11-23T01:01:00.5Z".into(),
        tags: vec!["nightly".into()],
        program: "holdfast 0.1.0".into(),
        roots: vec![
            root("stream:shop.sql", b"shop.sql", stream, None),
            root("tree:/srv/\u{fffd}", b"/srv/\xff", Node::new(NodeKind::Dir, *b""), {
                Some(run(2, 3, 1, None))
            }),
        ],
        partial: true,
        statistics: Statistics { files_new: 1, content_bytes: 500, ..Statistics::default() },
    }
}

fn document_samples() -> Vec<Vector> {
    let mut some = ChunkBitmap::new(11);
    some.insert_run(3, 2);
    some.insert_run(10, 1);
    let mut all = ChunkBitmap::new(9);
    all.insert_run(0, 9);
    let packs = [some, all].into_iter().zip(1..);
    let packs = packs.map(|(used, i)| PackUse { pack: ObjectId([i; 32]), used }).collect();
    let refs = Refs { repository: repository(), writer: WRITER, seq: 9, label: None, packs };
    let refs = Vector::new("refs", "some-and-all", refs.encode());
    let snapshot = Vector::new("snapshot", "stream-and-tree", snapshot().encode());
    vec![
        refs.replaced("count", r#""used":3"#, r#""used":4"#),
        refs.replaced("bitmap-length", r#""chunks":11"#, r#""chunks":90"#),
        refs.replaced("bit-beyond-pack", r#""chunks":11"#, r#""chunks":10"#),
        refs.replaced("newer", r#""refs":1"#, r#""refs":2"#),
        refs,
        snapshot.replaced("newer", r#""snapshot":1"#, r#""snapshot":2"#),
        snapshot.replaced("critical-key", r#""seq":9"#, r#""seq":9,"!x":1"#),
        snapshot.replaced("no-such-pack", "[1,3,1]", "[9,3,1]"),
        snapshot,
    ]
}

fn roster() -> Roster {
    let key = |byte| signing_key(&seed(byte)).verifying_key();
    let read = |byte| ReadIdentity::from_secret(&secret(&seed(byte))).recipient();
    Roster {
        repository: repository(),
        seq: 1,
        prev: NO_PREVIOUS,
        root: key(ROOT_SEED),
        pack_bytes: 33_554_432,
        epochs: vec![Epoch::active(1, &read(5))],
        domains: vec![DOMAIN],
        writers: vec![WriterEntry {
            id: WRITER,
            key: key(WRITER_SEED),
            domain: DOMAIN,
            from: 1,
            revoked_after: Some(4411),
        }],
        maintainers: vec![MaintainerEntry {
            id: MAINTAINER,
            key: key(MAINTAINER_SEED),
            recipient: read(6),
        }],
        verifiers: vec![VerifierEntry { id: VERIFIER, key: key(VERIFIER_SEED) }],
        retention_floor_seconds: 604_800,
        grace_seconds: 259_200,
        generation: Generation::default(),
        recovery: vec![RecoveryFile {
            name: "restore.py".parse().unwrap(),
            hash: content_hash(b"restore.py"),
        }],
    }
}

fn reference() -> RosterReference {
    let object = roster().encode_and_sign(&signing_key(&seed(ROOT_SEED))).unwrap();
    RosterReference { seq: 1, hash: object_id(&object) }
}

fn commit() -> Commit {
    let name = SnapshotName { writer: WRITER, id: ObjectId([7; 32]) };
    let refs = ObjectId([8; 32]);
    let put = |name, bytes| PutEntry { name, bytes };
    Commit {
        repository: repository(),
        writer: WRITER,
        seq: 2,
        prev: ObjectId([0x66; 32]),
        roster: reference(),
        time: "2026-11-23T01:01:00Z".parse().unwrap(),
        puts: vec![
            put(ObjectName::Data(ObjectId([5; 32])), 33_554_432),
            put(ObjectName::Index(DOMAIN, ObjectId([6; 32])), 65_536),
            put(name.object_name(), 16_384),
            put(ObjectName::Refs(WRITER, refs), 16_384),
        ],
        snapshot: Some(SnapshotEntry { snapshot: name, refs_actor: WRITER, refs }),
        relocations: vec![],
    }
}

fn tombstone() -> Tombstone {
    let snapshot = SnapshotName { writer: WRITER, id: ObjectId([7; 32]) };
    let pack = ObjectName::Data(ObjectId([5; 32]));
    Tombstone {
        repository: repository(),
        seq: 1,
        prev: NO_PREVIOUS,
        roster: reference(),
        maintainer: MAINTAINER,
        time: "2026-12-01T00:00:00Z".parse().unwrap(),
        declarations: vec![
            Declaration::Forget { snapshot, reason: Remark::lossy("keep-daily 7") },
            Declaration::Recall(snapshot),
            Declaration::Forget { snapshot, reason: Remark::default() },
            Declaration::Intent(pack),
            Declaration::Withdraw(pack),
            Declaration::Done(ObjectName::Data(ObjectId([4; 32]))),
        ],
    }
}

fn signed(object: &str, name: &str, signer: u8, text: Vec<u8>) -> Vector {
    Vector::new(object, name, text)
        .with("seed", seed(signer))
        .with("key", signing_key(&seed(signer)).verifying_key())
        .with("repository", repository())
}

fn signed_samples() -> Vec<Vector> {
    let key = |byte| signing_key(&seed(byte));
    let text = roster().encode_and_sign(&key(ROOT_SEED)).unwrap();
    let roster = signed("roster", "first", ROOT_SEED, text);
    let text = commit().encode_and_sign(&key(WRITER_SEED)).unwrap();
    let commit = signed("commit", "snapshot", WRITER_SEED, text);
    let text = tombstone().encode_and_sign(&key(MAINTAINER_SEED)).unwrap();
    let tombstone = signed("tombstone", "all-declarations", MAINTAINER_SEED, text);
    let attestation = Attestation {
        repository: repository(),
        verifier: VERIFIER,
        roster: reference(),
        time: "2026-12-01T00:00:00Z".parse().unwrap(),
        packs: vec![ObjectId([5; 32]), ObjectId([9; 32])],
    };
    let text = attestation.encode_and_sign(&key(VERIFIER_SEED)).unwrap();
    let attestation = signed("attestation", "two-packs", VERIFIER_SEED, text);
    let signed_anew = |name: &str, from: &str, to: &str| {
        commit.refused(name, |payload| {
            let text = std::str::from_utf8(payload).unwrap();
            let message = text.split("-----BEGIN").next().unwrap().replace(from, to);
            let signature = key(WRITER_SEED).sign("holdfast.commit@v1", message.as_bytes());
            *payload = (message + &signature).into_bytes();
        })
    };
    let wrong_key = signing_key(&seed(MAINTAINER_SEED)).verifying_key();
    vec![
        signed_anew("unknown-critical-line", "time ", "crit later 1\ntime "),
        signed_anew("seq-twice", "seq 2\n", "seq 2\nseq 2\n"),
        signed_anew("leading-zero", "seq 2\n", "seq 02\n"),
        signed_anew("first-with-prev", "seq 2\n", "seq 1\n"),
        signed_anew("name-of-another-folder", "put data/05/", "put data/06/"),
        signed_anew("refs-of-another", "refs/22", "refs/23"),
        commit.replaced("changed-after-signing", "16384", "16385"),
        commit.refused("unsigned", |payload| payload.truncate(300)),
        commit.refused("another-key", |payload| payload.push(b'\n')).with("key", wrong_key),
        commit,
        roster.replaced("changed-after-signing", "active", "retired"),
        roster,
        tombstone.replaced("changed-after-signing", "forget", "recall"),
        tombstone,
        attestation.replaced("as-commit", "holdfast-attestation", "holdfast-commit"),
        attestation,
    ]
}

fn number_samples() -> Vec<Vector> {
    let domain = HEXLOWER.encode(&std::array::from_fn::<u8, 32, _>(|i| i as u8));
    let lengths =
        [0, 1, 16_384, 16_385, 100_000, 1_000_000, 33_554_432, 33_554_433, 68_719_476_737];
    let long = HEXLOWER.encode(&(0..3000_u16).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let cut = |sizes: ChunkSizes| cut_points_text(&domain, "1000000", &sizes.to_string());
    vec![
        Vector::new("padme", "sizes", padme_text(&lengths)),
        Vector::new("chunk-ids", "empty", chunk_ids_text(&domain, "")),
        Vector::new("chunk-ids", "three-kilobytes", chunk_ids_text(&domain, &long)),
        Vector::new("gear", "table", gear_text(&domain)),
        Vector::new("cut-points", "stream", cut(ChunkSizes::STREAM)),
        Vector::new("cut-points", "files", cut(ChunkSizes::FILES)),
    ]
}
