//! What a stolen writer can put into a repository: refused with an error, or contained.
//!
//! The test holds a writer's keys and makes packs, segments, snapshots, refs and commits by hand.
//! Whatever they say, nothing outside of the restore target changes, nothing panics, and the good
//! snapshot of the same writer comes back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use holdfast::crypto::ids::{ChunkKind, DomainKeys, object_id};
use holdfast::crypto::recipient::Recipient;
use holdfast::crypto::seal::{ObjectSize, Sealer};
use holdfast::crypto::small::seal_small;
use holdfast::format::commit::{Commit, ObjectName, PutEntry, SnapshotEntry, SnapshotName};
use holdfast::format::index_segment::IndexSegment;
use holdfast::format::keyfile::WriterFile;
use holdfast::format::node::{ChunkRun, Content, Node, NodeKind};
use holdfast::format::pack::{PackKind, PackOwner};
use holdfast::format::refs::{ChunkBitmap, PackUse, Refs};
use holdfast::format::roster::Roster;
use holdfast::format::signed_text::NO_PREVIOUS;
use holdfast::format::snapshot::{Root, Snapshot, Statistics};
use holdfast::format::tombstone::{Declaration, Remark, Tombstone};
use holdfast::id::{ActorId, DomainId, ObjectId, PackHandle, RepositoryId};
use holdfast::repo::history::History;
use holdfast::repo::open::Repository;
use holdfast::repo::pack_builder::{Frame, PackBuilder, PackSettings, SealedPack};
use holdfast::store::Store;
use holdfast::store::memory::MemoryStore;

use crate::household::{Contents, Household, Keys, copy_of, files_below, noise};

/// What must come of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A typed error or a finding.
    Refused,
    /// Anything that harms nobody.
    Contained,
}
use Expect::{Contained, Refused};

/// A snapshot by hand; each part can be altered after it was made rightly.
struct Draft {
    /// Documents of the tree pack. `DATA` and `TREE` stand for the handles.
    documents: Vec<Vec<u8>>,
    data: Vec<Vec<u8>>,
    /// Which document is the top, and its level.
    top: (u32, u8),
    /// Compressed form of a chunk of data, instead of the right one.
    frame: Option<Vec<u8>>,
    segment: fn(&mut IndexSegment),
    snapshot: fn(&mut Snapshot),
    text: fn(Vec<u8>) -> Vec<u8>,
    sealed: Option<Vec<u8>>,
    refs: fn(&mut Refs),
    commit: fn(&mut Commit),
}

impl Draft {
    fn new(documents: Vec<Vec<u8>>) -> Self {
        Self {
            documents,
            data: vec![vec![b'A'; 1000], vec![b'B'; 500]],
            top: (0, 0),
            frame: None,
            segment: |_| {},
            snapshot: |_| {},
            text: |text| text,
            sealed: None,
            refs: |_| {},
            commit: |_| {},
        }
    }

    /// Of one leaf with one file in it.
    fn plain() -> Self {
        Self::new(vec![leaf(&[FILE])])
    }
}

const FILE: &str = r#"{"name":"f","type":"file","mode":420,"size":1000,"refs":[[0,0,1]]}"#;

/// A leaf whose first directory is the root.
fn leaf(lines: &[&str]) -> Vec<u8> {
    let mut text = "{\"leaf\":1,\"packs\":[\"DATA\",\"TREE\"]}\n{\"dir\":\"\"}\n".to_owned();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text.into_bytes()
}

/// The hostile writer and the world it is in.
struct Forge {
    home: Household,
    writer: WriterFile,
    keys: DomainKeys,
    good: Contents,
}

impl Forge {
    fn new() -> Self {
        let home = Household::new();
        home.backup("good", &[], &noise(1, 200_000));
        let repository = home.open();
        let history = History::read(&repository).unwrap();
        let good = home.contents(&repository, &history.snapshots[0]);
        let writer = repository.state.writer().unwrap().unwrap();
        let keys = DomainKeys::derive(&writer.secret);
        Self { home, writer, keys, good }
    }

    fn owner(&self) -> PackOwner {
        let WriterFile { repository, id, domain, .. } = self.writer;
        PackOwner { repository, writer: id, domain }
    }

    fn read(&self) -> Recipient {
        self.writer.read_recipient.clone().into()
    }

    fn pack(
        &self,
        kind: PackKind,
        frame: Option<Vec<u8>>,
        chunks: impl FnOnce(PackHandle) -> Vec<Vec<u8>>,
    ) -> SealedPack {
        let (owner, recipient) = (self.owner(), self.read());
        let settings = PackSettings { owner, recipient, pack_bytes: 1 << 20 };
        let mut builder = PackBuilder::begin(&settings, kind, Vec::new()).unwrap();
        let of = if kind == PackKind::Data { ChunkKind::Data } else { ChunkKind::Tree };
        let mut frame = frame;
        for chunk in chunks(builder.handle()) {
            let stored = frame.take().unwrap_or_else(|| zstd::bulk::compress(&chunk, 1).unwrap());
            let length = chunk.len() as u32;
            let chunks = vec![(self.keys.chunk_id(of, &chunk), length)];
            builder.push(&Frame { stored, raw_bytes: length, chunks }).unwrap();
        }
        builder.finish_tail().unwrap()
    }

    /// Stores everything and commits it as the second of the log.
    fn publish(&self, store: &MemoryStore, draft: Draft) {
        let data = self.pack(PackKind::Data, draft.frame, |_| draft.data.clone());
        let data_handle = data.entry.table.handle;
        let tree = self.pack(PackKind::Tree, None, |own| {
            let name = |bytes: &Vec<u8>| {
                let bytes = replaced(bytes, b"DATA", data_handle.to_string().as_bytes());
                replaced(&bytes, b"TREE", own.to_string().as_bytes())
            };
            draft.documents.iter().map(name).collect()
        });
        let mut puts = Vec::new();
        let mut put = |name: ObjectName, bytes: &[u8]| {
            store.put(&name.to_string(), bytes).unwrap();
            puts.push(PutEntry { name, bytes: bytes.len() as u64 });
        };
        for pack in [&data, &tree] {
            put(ObjectName::Data(pack.entry.name), &pack.object);
        }
        let packs = vec![data.entry.clone(), tree.entry.clone()];
        let mut segment = IndexSegment { owner: self.owner(), packs };
        (draft.segment)(&mut segment);
        let index: Recipient = self.keys.index_recipient().into();
        let sealed = seal_small(&[&index], &segment.encode(), 1).unwrap();
        put(ObjectName::Index(self.writer.domain, object_id(&sealed)), &sealed);

        let tree_run =
            ChunkRun { pack: tree.entry.table.handle, first: draft.top.0, count: 1, slice: None };
        let mut snapshot = self.snapshot(tree_run, draft.top.1);
        (draft.snapshot)(&mut snapshot);
        let text = (draft.text)(snapshot.encode());
        let sealed = draft.sealed.unwrap_or_else(|| seal_small(&[&self.read()], &text, 1).unwrap());
        let name = SnapshotName { writer: self.writer.id, id: object_id(&sealed) };
        put(name.object_name(), &sealed);
        let packs = [&data, &tree].map(|pack| {
            let mut used = ChunkBitmap::new(pack.entry.ids.len() as u32);
            used.insert_run(0, used.chunks());
            PackUse { pack: pack.entry.name, used }
        });
        let (repository, writer) = (self.writer.repository, self.writer.id);
        let mut refs = Refs { repository, writer, seq: 2, label: None, packs: packs.into() };
        (draft.refs)(&mut refs);
        let maintainer: Recipient = self.home.maintainer.identity.recipient().into();
        let sealed = seal_small(&[&maintainer, &self.read()], &refs.encode(), 1).unwrap();
        let refs = object_id(&sealed);
        put(ObjectName::Refs(writer, refs), &sealed);
        let entry = SnapshotEntry { snapshot: name, refs_actor: writer, refs };
        let mut commit = self.commit(puts, Some(entry));
        (draft.commit)(&mut commit);
        // What no parser would accept cannot be signed either: the writer's own bytes then.
        if let Ok(signed) = commit.encode_and_sign(&self.writer.key) {
            store.put(&Commit::object_name(writer, commit.seq), &signed).unwrap();
        } else {
            store.put(&Commit::object_name(writer, 2), b"no commit").unwrap();
        }
    }

    fn head(&self) -> ObjectId {
        object_id(&self.home.store.get(&Commit::object_name(self.writer.id, 1), 1 << 20).unwrap())
    }

    fn commit(&self, puts: Vec<PutEntry>, snapshot: Option<SnapshotEntry>) -> Commit {
        let repository = self.home.open();
        Commit {
            repository: repository.id,
            writer: self.writer.id,
            seq: 2,
            prev: self.head(),
            roster: repository.roster_reference(),
            time: "2026-03-01T13:00:00Z".parse().unwrap(),
            puts,
            snapshot,
            relocations: Vec::new(),
        }
    }

    fn snapshot(&self, tree: ChunkRun, levels: u8) -> Snapshot {
        let mut node = Node::new(NodeKind::Dir, Vec::new());
        node.mode = 0o755;
        let root = Root {
            name: "tree:/h".into(),
            path: b"/h".to_vec(),
            node,
            tree: Some(tree),
            levels,
            entries: 1,
            bytes: 1000,
            chunker: "x".into(),
            facts: None,
        };
        Snapshot {
            repository: self.writer.repository,
            writer: self.writer.id,
            seq: 2,
            domain: self.writer.domain,
            epoch: 1,
            source: "bad".into(),
            host: "h".into(),
            user: "u".into(),
            time: "2026-03-01T13:00:00Z".into(),
            ended: "2026-03-01T13:00:00Z".into(),
            tags: Vec::new(),
            program: "x".into(),
            roots: vec![root],
            partial: false,
            statistics: Statistics::default(),
        }
    }

    /// Does what a careful owner does with the repository; whether anything was refused.
    fn exercise(&self, store: Arc<MemoryStore>, case: &str) -> bool {
        let home = &self.home;
        let states = copy_of(home.states.path());
        let opened = Repository::open(store, states.path(), Some(home.id));
        let Ok(repository) = opened else { return true };
        let Ok(history) = History::read(&repository) else { return true };
        let mut refused = !history.findings.is_empty();
        assert!(history.snapshots.iter().any(|one| one.seq == 1), "{case}: the good one is gone");
        for record in &history.snapshots {
            let outside = tempfile::tempdir().unwrap();
            std::fs::write(outside.path().join("sentinel"), b"untouched").unwrap();
            std::fs::create_dir(outside.path().join("target")).unwrap();
            let target = outside.path().join("target");
            let restored = home.try_restore(&repository, record, &target);
            assert_contained(outside.path(), case);
            if record.seq == 1 {
                assert!(restored.is_ok(), "{case}: the good one is refused: {restored:?}");
                assert!(files_below(&target) == self.good, "{case}: the good one has other bytes");
            }
            refused |= restored.is_err();
        }
        if home.try_access(&repository).is_err() {
            return true;
        }
        let report = home.check(&repository, Keys::All);
        // Refs made here keep all chunks, also those that a case leaves unused: that is no refusal.
        refused | report.findings.iter().any(|finding| !finding.what.starts_with("they keep"))
    }

    fn try_draft(&self, case: &str, draft: Draft) -> bool {
        let store = Arc::new(self.home.store.image());
        self.publish(&store, draft);
        self.exercise(store, case)
    }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        if rest.starts_with(from) {
            out.extend_from_slice(to);
            rest = &rest[from.len()..];
        } else {
            out.push(rest[0]);
            rest = &rest[1..];
        }
    }
    out
}

/// Nothing beside the target, and no privilege within.
fn assert_contained(outside: &Path, case: &str) {
    let names: Vec<_> =
        std::fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{case}: {names:?}");
    assert_eq!(std::fs::read(outside.join("sentinel")).unwrap(), b"untouched", "{case}");
    assert!(!Path::new("/pwned").exists() && !Path::new("/tmp/pwned").exists(), "{case}");
    let mut folders = vec![outside.join("target")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let found = std::fs::symlink_metadata(&path).unwrap();
            let kind = found.file_type();
            let is_device = kind.is_char_device() || kind.is_block_device();
            assert!(!is_device, "{case}: a device");
            let special = found.permissions().mode() & 0o6000;
            assert!(special == 0 || !kind.is_file(), "{case}: {special:o}");
            if kind.is_dir() {
                folders.push(path);
            }
        }
    }
}

/// Lines of a leaf behind `{"dir":""}`.
fn leaf_cases() -> Vec<(String, Vec<String>, Expect)> {
    let mut cases: Vec<(String, Vec<String>, Expect)> = Vec::new();
    let mut add = |case: &str, lines: &[&str], expect| {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        cases.push((case.to_owned(), lines, expect));
    };
    let named =
        |name: &str| format!(r#"{{"name":{name},"type":"file","size":1000,"refs":[[0,0,1]]}}"#);
    for (name, expect) in [
        (r#""..""#.to_owned(), Refused),
        (r#"".""#.to_owned(), Refused),
        (r#""""#.to_owned(), Refused),
        (r#""/pwned""#.to_owned(), Refused),
        (r#""../pwned""#.to_owned(), Refused),
        (r#""a/b""#.to_owned(), Refused),
        (r#""a\u0000b""#.to_owned(), Refused),
        (r#""../../../../../../tmp/pwned""#.to_owned(), Refused),
        (r#""\u001b[2J""#.to_owned(), Contained),
        (r#""\u202etxt.exe""#.to_owned(), Contained),
        (r#""new\nline""#.to_owned(), Contained),
        (r#""\\..\\pwned""#.to_owned(), Contained),
        (format!("\"{}\"", "n".repeat(255)), Contained),
        (format!("\"{}\"", "n".repeat(256)), Refused),
        (format!("\"{}\"", "n".repeat(300)), Refused),
        (r#""\ud800""#.to_owned(), Refused),
        ("5".to_owned(), Refused),
        ("null".to_owned(), Refused),
    ] {
        add(&format!("name {name}"), &[&named(&name)], expect);
    }
    let kind = |rest: &str| format!(r#"{{"name":"x",{rest}}}"#);
    for (rest, expect) in [
        (r#""name64":"Li4=","type":"file""#, Refused),
        (r#""name64":"!!","type":"file""#, Refused),
        (r#""type":"door""#, Refused),
        (r#""type":"file","!new":1"#, Refused),
        (r#""type":"file","new":1"#, Contained),
        (r#""type":"file","mode":4096"#, Refused),
        (r#""type":"file","mode":3565"#, Contained),
        (r#""type":"file","mode":-1"#, Refused),
        (r#""type":"chardev","device":[1,3],"mode":438"#, Contained),
        (r#""type":"blockdev","device":[8,0],"mode":438"#, Contained),
        (r#""type":"blockdev""#, Contained),
        (r#""type":"chardev","device":[1]"#, Refused),
        (r#""type":"fifo","refs":[[0,0,1]],"size":1000"#, Contained),
        (r#""type":"socket""#, Contained),
        (r#""type":"stream","size":1000,"refs":[[0,0,1]]"#, Contained),
        (r#""type":"dir","size":1000,"refs":[[0,0,1]]"#, Contained),
        (r#""type":"symlink""#, Contained),
        (r#""type":"symlink","target":"""#, Contained),
        (r#""type":"symlink","target":"a\u0000b""#, Contained),
        (r#""type":"symlink","target":"/etc/passwd","mode":511,"uid":0"#, Contained),
        (r#""type":"file","size":9223372036854775808"#, Refused),
        (r#""type":"file","size":9223372036854775807"#, Refused),
        (r#""type":"file","size":18446744073709551615"#, Refused),
        (r#""type":"file","size":18446744073709551616"#, Refused),
        (r#""type":"file","size":-1"#, Refused),
        (r#""type":"file","size":1e3"#, Refused),
        (r#""type":"file","size":999,"refs":[[0,0,1]]"#, Refused),
        (r#""type":"file","size":1001,"refs":[[0,0,1]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[]"#, Refused),
        (r#""type":"file","size":1000,"holes":[[0,600],[500,500]]"#, Refused),
        (r#""type":"file","size":1000,"holes":[[0,600],[600,400]]"#, Refused),
        (r#""type":"file","size":1000,"holes":[[500,500],[0,400]]"#, Refused),
        (r#""type":"file","size":1000,"holes":[[0,1001]]"#, Refused),
        (r#""type":"file","size":1000,"holes":[[0,0]],"refs":[[0,0,1]]"#, Refused),
        (r#""type":"file","size":1000,"holes":[[18446744073709551615,2]]"#, Refused),
        (
            r#""type":"file","size":4611686018427387904,"holes":[[0,4611686018427387904]]"#,
            Contained,
        ),
        (r#""type":"file","size":1000,"refs":[[2,0,1]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[4294967295,0,1]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,2,1]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,262143,1]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,4294967295,1]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,1,4294967295]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,0,0]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,0,3]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,0,1,0,0]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,0,1,1,1000]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,0,1,4294967295,2]]"#, Refused),
        (r#""type":"file","size":1500,"refs":[[0,0,2,0,1500]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,0]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,0,1,0]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[0,0,1,0,1000,7]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[-1,0,1]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[1,0,1]]"#, Refused),
        (r#""type":"file","size":1000,"refs":[[1,5,1]]"#, Refused),
        (r#""type":"file","size":1000,"depth":1,"refs":[[0,0,1]]"#, Refused),
        (r#""type":"file","size":1000,"depth":1,"refs":[[1,0,1]]"#, Refused),
        (r#""type":"file","size":1000,"depth":5,"refs":[[0,0,1]]"#, Refused),
        (r#""type":"file","size":1000,"depth":256,"refs":[[0,0,1]]"#, Refused),
        (r#""type":"file","mtime":[0,1000000000]"#, Refused),
        (r#""type":"file","mtime":[9223372036854775807,999999999]"#, Contained),
        (r#""type":"file","mtime":[-9223372036854775808,0]"#, Contained),
        (r#""type":"file","xattrs":{"user.a":"!!"}"#, Refused),
        (
            r#""type":"file","xattrs":{"security.capability":"AQAAAgAgAAAAAAAAAAAAAAAAAAA="}"#,
            Contained,
        ),
        (r#""type":"file","xattrs":{"":"AA=="}"#, Contained),
        (r#""type":"file","flags":16"#, Contained),
        (r#""type":"file","uid":4294967295,"gid":4294967295"#, Contained),
        (r#""type":"file","user":"\u001b]0;x\u0007","group":"../../x""#, Contained),
        (r#""type":"file","size":1000,"refs":[[0,0,1]],"hash":"00""#, Refused),
        (
            r#""type":"file","size":1000,"refs":[[0,0,1]],"hash":"0000000000000000000000000000000000000000000000000000000000000000""#,
            Contained,
        ),
        (r#""type":"file","link":1,"size":1000"#, Refused),
        (r#""type":"dir","link":1"#, Contained),
        (r#""type":["file"]"#, Refused),
    ] {
        add(&format!("node {rest}"), &[&kind(rest)], expect);
    }
    let long_target =
        format!(r#"{{"name":"x","type":"symlink","target":"{}"}}"#, "t".repeat(70_000));
    add("target too long", &[&long_target], Refused);
    let many: Vec<String> = (0..5000).map(|n| format!(r#""user.{n}":"""#)).collect();
    let many = format!(r#"{{"name":"x","type":"file","xattrs":{{{}}}}}"#, many.join(","));
    add("too many attributes", &[&many], Refused);
    let nested = format!(r#"{{"name":"x","type":"file","new":{}}}"#, "[".repeat(500_000));
    add("nested arrays", &[&nested], Refused);
    add("no name", &[r#"{"type":"file"}"#], Refused);
    add("no type", &[r#"{"name":"x"}"#], Refused);
    add("no JSON", &["x"], Refused);
    add("no object", &["[]"], Refused);
    add("twice", &[FILE, FILE], Refused);
    add("case", &[&named("\"A\""), &named("\"a\"")], Contained);
    add("order", &[&named("\"b\""), &named("\"a\"")], Refused);
    let out = r#"{"name":"out","type":"symlink","target":".."}"#;
    let root = r#"{"name":"out","type":"symlink","target":"/"}"#;
    let inner = named("\"pwned\"");
    let dir = r#"{"name":"d","type":"dir","mode":493}"#;
    for path in ["..", "/", "/tmp", "d/..", "d/../..", "d//d", "d/", "./d", "/d", "d/\\u0000"] {
        let line = format!(r#"{{"dir":"{path}"}}"#);
        add(&format!("below {path}"), &[dir, &line, &inner], Refused);
    }
    add("below base64 of ..", &[dir, r#"{"dir64":"Li4="}"#, &inner], Refused);
    add("below nothing", &[r#"{"dir":"missing"}"#, &inner], Contained);
    add("below a link to the parent", &[out, r#"{"dir":"out"}"#, &inner], Refused);
    add("below a link to the root", &[root, r#"{"dir":"out"}"#, &inner], Refused);
    add("far below a link", &[root, r#"{"dir":"out/tmp"}"#, &inner], Refused);
    add("below a file", &[FILE, r#"{"dir":"f"}"#, &inner], Refused);
    let deep = format!(r#"{{"dir":"{}d"}}"#, "d/".repeat(4096));
    add("too deep", &[dir, &deep, &inner], Refused);
    let linked = |name: &str, rest: &str| format!(r#"{{"name":"{name}","link":7,{rest}}}"#);
    let link_out = linked("a", r#""type":"symlink","target":"../../sentinel""#);
    let second = linked("b", r#""type":"file","mode":511,"size":0"#);
    add("a further name of a link out", &[&link_out, &second], Contained);
    let first = linked("a", r#""type":"dir""#);
    add("a further name of a directory", &[&first, &second], Contained);
    let device = linked("a", r#""type":"blockdev","device":[8,0]"#);
    add("a further name of a device", &[&device, &second], Contained);
    cases
}

#[test]
fn hostile_leaves_are_refused_or_contained() {
    let forge = Forge::new();
    assert!(!forge.try_draft("nothing hostile", Draft::plain()), "the forge makes bad ones only");
    let cases = leaf_cases();
    assert!(cases.len() >= 100, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for (case, lines, expect) in cases {
        let short: String = case.chars().take(150).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let refused = forge.try_draft(&short, Draft::new(vec![leaf(&lines)]));
        if expect == Refused && !refused {
            wrong.push(short);
        }
    }
    assert!(wrong.is_empty(), "taken without a word: {wrong:#?}");
}

fn node_of(level: u8, children: &[(&str, u32)]) -> Vec<u8> {
    let mut text = format!("{{\"index\":{level},\"packs\":[\"TREE\"]}}\n");
    for (name, at) in children {
        let _ =
            writeln!(text, "{{\"dir\":\"\",\"name\":\"{name}\",\"ref\":[0,{at},1],\"entries\":1}}");
    }
    text.into_bytes()
}

#[test]
fn hostile_shapes_of_trees_are_refused() {
    let forge = Forge::new();
    let plain = || leaf(&[FILE]);
    let list = |depth: u8, refs: &str| {
        format!("{{\"list\":{depth},\"packs\":[\"TREE\",\"DATA\"],\"refs\":{refs}}}\n").into_bytes()
    };
    let listed = |depth: u8, at: u32, size: u64| {
        leaf(&[&format!(
            r#"{{"name":"f","type":"file","size":{size},"depth":{depth},"refs":[[1,{at},1]]}}"#
        )])
    };
    let repeated = format!("[{}]", vec!["[0,1,1]"; 50_000].join(","));
    let data = format!("[{}]", vec!["[1,0,1]"; 50_000].join(","));
    let cases: Vec<(&str, Vec<Vec<u8>>, (u32, u8))> = vec![
        ("an index node of itself", vec![node_of(1, &[("f", 0)])], (0, 1)),
        (
            "two index nodes of each other",
            vec![node_of(1, &[("f", 1)]), node_of(2, &[("f", 0)])],
            (1, 2),
        ),
        ("another level", vec![plain(), node_of(2, &[("f", 0)])], (1, 1)),
        ("a leaf where a node is", vec![plain()], (0, 1)),
        ("a node where a leaf is", vec![node_of(1, &[("f", 0)])], (0, 0)),
        ("a leaf twice", vec![plain(), node_of(1, &[("f", 0), ("g", 0)])], (1, 1)),
        ("another first key", vec![plain(), node_of(1, &[("a", 0), ("e", 0)])], (1, 1)),
        ("children out of order", vec![plain(), node_of(1, &[("g", 0), ("f", 0)])], (1, 1)),
        ("a node out of range", vec![plain(), node_of(1, &[("f", 9)])], (1, 1)),
        ("no such top", vec![plain()], (7, 0)),
        ("an empty leaf", vec![leaf(&[])], (0, 0)),
        ("an empty node", vec![node_of(1, &[])], (0, 1)),
        ("an empty document", vec![b"\n".to_vec()], (0, 0)),
        ("no UTF-8", vec![b"{\"leaf\":1,\"packs\":[]}\n{\"dir\":\"\xff\"}\n".to_vec()], (0, 0)),
        ("a leaf of version 2", vec![replaced(&plain(), b"\"leaf\":1", b"\"leaf\":2")], (0, 0)),
        ("a handle that is none", vec![replaced(&plain(), b"DATA", b"zz")], (0, 0)),
        ("a list of itself", vec![listed(1, 1, 1000), list(0, "[[0,1,1]]")], (0, 0)),
        ("a list of another depth", vec![listed(1, 1, 1000), list(1, "[[1,0,1]]")], (0, 0)),
        ("an empty list", vec![listed(1, 1, 1000), list(0, "[]")], (0, 0)),
        ("lists of nothing", vec![listed(2, 2, 1000), list(0, "[]"), list(1, &repeated)], (0, 0)),
        (
            "lists that say too much",
            vec![listed(2, 2, 1000), list(0, &data), list(1, &repeated)],
            (0, 0),
        ),
        (
            "lists of lists of lists",
            vec![
                listed(4, 4, 1000),
                list(0, &data),
                list(1, &repeated),
                list(2, &repeated.replace("[0,1,1]", "[0,2,1]")),
                list(3, &repeated.replace("[0,1,1]", "[0,3,1]")),
            ],
            (0, 0),
        ),
    ];
    for (case, documents, top) in cases {
        let mut draft = Draft::new(documents);
        draft.top = top;
        assert!(forge.try_draft(case, draft), "{case} was taken");
    }
}

#[test]
fn hostile_snapshots_are_refused_or_contained() {
    let forge = Forge::new();
    let cases: Vec<(&str, fn(&mut Snapshot), Expect)> = vec![
        ("of another repository", |s| s.repository = RepositoryId([7; 32]), Refused),
        ("of another writer", |s| s.writer = ActorId([7; 8]), Refused),
        ("of the commit before", |s| s.seq = 1, Refused),
        ("of a commit to come", |s| s.seq = 3, Refused),
        ("of no commit", |s| s.seq = 0, Refused),
        ("of another domain", |s| s.domain = DomainId([7; 8]), Contained),
        ("of another epoch", |s| s.epoch = 99, Contained),
        ("with 17 levels", |s| s.roots[0].levels = 17, Refused),
        ("with 255 levels", |s| s.roots[0].levels = 255, Refused),
        ("with a level too many", |s| s.roots[0].levels = 1, Refused),
        ("with all entries there are", |s| s.roots[0].entries = u64::MAX, Contained),
        ("with all bytes there are", |s| s.roots[0].bytes = u64::MAX, Contained),
        (
            "with more than all",
            |s| {
                (s.roots[0].entries, s.roots[0].bytes) = (u64::MAX, u64::MAX);
                let mut other = s.roots[0].clone();
                (other.name, other.path) = ("tree:/i".into(), b"/i".to_vec());
                s.roots.push(other);
            },
            Contained,
        ),
        ("above the target", |s| s.roots[0].path = b"/../pwned".to_vec(), Refused),
        ("far above the target", |s| s.roots[0].path = b"../../../tmp/pwned".to_vec(), Refused),
        ("with a relative path", |s| s.roots[0].path = b"pwned".to_vec(), Contained),
        ("without a path", |s| s.roots[0].path = Vec::new(), Contained),
        ("with a zero byte", |s| s.roots[0].path = b"/a\0b".to_vec(), Refused),
        ("with a name that is none", |s| s.roots[0].name = "\u{1b}[2J".into(), Contained),
        ("with one root twice", |s| s.roots.push(s.roots[0].clone()), Contained),
        (
            "with a root in a root",
            |s| {
                let mut other = s.roots[0].clone();
                (other.name, other.path) = ("tree:/h/f".into(), b"/h/f".to_vec());
                s.roots.push(other);
            },
            Contained,
        ),
        ("with a file as root", |s| s.roots[0].node.kind = NodeKind::File, Contained),
        (
            "with a link as root",
            |s| {
                s.roots[0].node.kind = NodeKind::Symlink;
                s.roots[0].node.target = Some(b"/".to_vec());
            },
            Contained,
        ),
        (
            "below a link that is a root",
            |s| {
                let mut link = s.roots[0].clone();
                (link.name, link.path, link.tree) = ("tree:/l".into(), b"/l".to_vec(), None);
                link.node.kind = NodeKind::Symlink;
                link.node.target = Some(b"..".to_vec());
                let mut inner = s.roots[0].clone();
                (inner.name, inner.path) = ("tree:/l/in".into(), b"/l/pwned".to_vec());
                s.roots = vec![link, inner];
            },
            Refused,
        ),
        (
            "with a device as root",
            |s| {
                s.roots[0].node.kind = NodeKind::Blockdev;
                s.roots[0].node.device = Some((8, 0));
            },
            Contained,
        ),
        (
            "of an unknown pack",
            |s| {
                s.roots[0].tree.as_mut().unwrap().pack = PackHandle([7; 16]);
            },
            Refused,
        ),
        (
            "of an ordinal that is not there",
            |s| s.roots[0].tree.as_mut().unwrap().first = 9,
            Refused,
        ),
        ("of a slice", |s| s.roots[0].tree.as_mut().unwrap().slice = Some((0, 5)), Refused),
        ("of two chunks", |s| s.roots[0].tree.as_mut().unwrap().count = 2, Refused),
        (
            "with content that is not there",
            |s| {
                let mut node = Node::new(NodeKind::Stream, *b"x");
                let run = ChunkRun { pack: PackHandle([7; 16]), first: 0, count: 1, slice: None };
                (node.size, node.content) = (5, Content { depth: 0, runs: vec![run] });
                (s.roots[0].node, s.roots[0].tree) = (node, None);
            },
            Refused,
        ),
        ("with 5000 roots", |s| s.roots = vec![s.roots[0].clone(); 5000], Refused),
        ("with 300 tags", |s| s.tags = vec!["t".into(); 300], Refused),
        (
            "of times that are none",
            |s| (s.time, s.ended) = ("never".into(), "\0".into()),
            Contained,
        ),
        ("with a source that is none", |s| s.source = "\u{1b}]0;x\u{7}\u{202e}".into(), Contained),
    ];
    for (case, alter, expect) in cases {
        let mut draft = Draft::plain();
        draft.snapshot = alter;
        let refused = forge.try_draft(case, draft);
        assert!(refused || expect == Contained, "{case} was taken");
    }
    let texts: Vec<(&str, fn(Vec<u8>) -> Vec<u8>)> = vec![
        ("of version 2", |text| replaced(&text, b"\"snapshot\":1", b"\"snapshot\":2")),
        ("with a critical key", |text| replaced(&text, b"\"seq\":2", b"\"seq\":2,\"!x\":1")),
        ("cut", |text| text[..text.len() / 2].to_vec()),
        ("of nothing", |_| Vec::new()),
        ("of arrays", |_| vec![b'['; 3_000_000]),
        ("twice", |text| [text.clone(), text].concat()),
        ("with an index out of its table", |text| replaced(&text, b"\"tree\":[0", b"\"tree\":[9")),
    ];
    for (case, alter) in texts {
        let mut draft = Draft::plain();
        draft.text = alter;
        assert!(forge.try_draft(case, draft), "{case} was taken");
    }
}

#[test]
fn hostile_segments_and_refs_are_refused() {
    let forge = Forge::new();
    let segments: Vec<(&str, fn(&mut IndexSegment))> = vec![
        ("of another repository", |s| s.owner.repository = RepositoryId([7; 32])),
        ("of another writer", |s| s.owner.writer = ActorId([7; 8])),
        ("of another domain", |s| s.owner.domain = DomainId([7; 8])),
        ("with a pack that its commit has not", |s| s.packs[0].name = ObjectId([7; 32])),
        ("with another size", |s| s.packs[0].size += 1),
        ("with all sizes there are", |s| s.packs[0].size = u64::MAX),
        ("without a pack", |s| s.packs.truncate(0)),
        ("with ids that lie", |s| s.packs[0].ids.swap(0, 1)),
        ("with other names", |s| {
            let (a, b) = (s.packs[0].name, s.packs[1].name);
            (s.packs[0].name, s.packs[1].name) = (b, a);
        }),
        ("with frames that lie", |s| s.packs[0].table.frames[0].stored_bytes += 5),
        ("with frames beyond the pack", |s| s.packs[0].table.frames[0].stored_bytes = 9_000_000),
        ("with lengths that lie", |s| s.packs[0].table.chunk_bytes[0] = 5),
        ("with the handle of another", |s| {
            s.packs[0].table.handle = s.packs[1].table.handle;
        }),
    ];
    for (case, alter) in segments {
        let mut draft = Draft::plain();
        draft.segment = alter;
        assert!(forge.try_draft(case, draft), "a segment {case} was taken");
    }
    let refs: Vec<(&str, fn(&mut Refs))> = vec![
        ("of another repository", |r| r.repository = RepositoryId([7; 32])),
        ("of another writer", |r| r.writer = ActorId([7; 8])),
        ("of another commit", |r| r.seq = 1),
        ("without a pack", |r| r.packs.truncate(1)),
        ("of nothing", |r| r.packs.clear()),
        ("of fewer chunks", |r| r.packs[0].used = ChunkBitmap::new(2)),
        ("of a pack of one chunk", |r| r.packs[0].used = ChunkBitmap::new(1)),
        ("of a pack that is not there", |r| r.packs[0].pack = ObjectId([7; 32])),
    ];
    for (case, alter) in refs {
        let mut draft = Draft::plain();
        draft.refs = alter;
        assert!(forge.try_draft(case, draft), "refs {case} were taken");
    }
}

#[test]
fn a_handle_of_the_good_pack_is_not_taken_over() {
    let forge = Forge::new();
    let store = Arc::new(forge.home.store.image());
    let home = &forge.home;
    let repository = home.open();
    let history = History::read(&repository).unwrap();
    let good = &history.logs[&forge.writer.id][0].commit;
    let segment = holdfast::repo::domain_index::read_segment(
        &repository,
        good,
        forge.writer.domain,
        &forge.keys.index_identity(),
        &good.puts.iter().find(|put| matches!(put.name, ObjectName::Index(..))).unwrap().name,
    );
    let handle = segment.unwrap().packs[0].table.handle;
    let hostile = forge.pack(PackKind::Data, None, |_| vec![vec![b'X'; 200_000]]);
    let mut entry = hostile.entry;
    entry.table.handle = handle;
    let segment = IndexSegment { owner: forge.owner(), packs: vec![entry.clone()] };
    let index: Recipient = forge.keys.index_recipient().into();
    let sealed = seal_small(&[&index], &segment.encode(), 1).unwrap();
    let name = ObjectName::Index(forge.writer.domain, object_id(&sealed));
    let pack = ObjectName::Data(entry.name);
    store.put(&pack.to_string(), &hostile.object).unwrap();
    store.put(&name.to_string(), &sealed).unwrap();
    let put = |name, bytes: &[u8]| PutEntry { name, bytes: bytes.len() as u64 };
    let commit = forge.commit(vec![put(pack, &hostile.object), put(name, &sealed)], None);
    let signed = commit.encode_and_sign(&forge.writer.key).unwrap();
    store.put(&Commit::object_name(forge.writer.id, 2), &signed).unwrap();
    assert!(forge.exercise(store, "a handle taken over"), "nobody said a word");
}

#[test]
fn hostile_commits_are_refused() {
    let forge = Forge::new();
    let cases: Vec<(&str, fn(&mut Commit))> = vec![
        ("with a gap before it", |c| c.seq = 3),
        ("far away", |c| c.seq = u64::MAX),
        ("of another predecessor", |c| c.prev = ObjectId([7; 32])),
        ("of no predecessor", |c| c.prev = NO_PREVIOUS),
        ("of another repository", |c| c.repository = RepositoryId([7; 32])),
        ("with an object that is not there", |c| {
            c.puts[0].name = ObjectName::Data(ObjectId([7; 32]));
        }),
        ("with another size", |c| c.puts[0].bytes += 1),
        ("with all sizes there are", |c| c.puts[0].bytes = u64::MAX),
        ("with all sizes twice", |c| {
            (c.puts[0].bytes, c.puts[1].bytes) = (u64::MAX, u64::MAX);
        }),
        ("without its packs", |c| c.puts.retain(|put| !matches!(put.name, ObjectName::Data(_)))),
        ("without its segment", |c| {
            c.puts.retain(|put| !matches!(put.name, ObjectName::Index(..)));
        }),
        ("of another snapshot", |c| c.snapshot.as_mut().unwrap().snapshot.id = ObjectId([7; 32])),
        ("of another writer's snapshot", |c| {
            c.snapshot.as_mut().unwrap().snapshot.writer = ActorId([7; 8]);
        }),
        ("of other refs", |c| c.snapshot.as_mut().unwrap().refs = ObjectId([7; 32])),
        ("with a segment of another domain", |c| {
            let id = c.puts[2].name.id();
            c.puts[2].name = ObjectName::Index(DomainId([7; 8]), id);
        }),
        ("that relocates", |c| c.relocations = c.snapshot.into_iter().collect()),
    ];
    for (case, alter) in cases {
        let mut draft = Draft::plain();
        draft.commit = alter;
        assert!(forge.try_draft(case, draft), "a commit {case} was taken");
    }
    let first = Commit::object_name(forge.writer.id, 1);
    let second = Commit::object_name(forge.writer.id, 2);
    let good = forge.home.store.get(&first, 1 << 20).unwrap();
    let replays: Vec<(&str, &str, Vec<u8>)> = vec![
        ("a replay of the first", &second, good.clone()),
        ("no text", &second, b"\0\0".to_vec()),
        ("nothing", &second, Vec::new()),
        ("another commit in its place", &second, replaced(&good, b"seq 1", b"seq 2")),
    ];
    for (case, name, bytes) in replays {
        let store = Arc::new(forge.home.store.image());
        store.put(name, &bytes).unwrap();
        assert!(forge.exercise(store, case), "{case} was taken");
    }
}

#[test]
fn a_writer_is_no_maintainer_and_no_root() {
    let forge = Forge::new();
    let home = &forge.home;
    let repository = home.open();
    let history = History::read(&repository).unwrap();
    let tomb = |maintainer, declaration| Tombstone {
        repository: repository.id,
        seq: 1,
        prev: NO_PREVIOUS,
        roster: repository.roster_reference(),
        maintainer,
        time: "2026-03-01T13:00:00Z".parse().unwrap(),
        declarations: vec![declaration],
    };
    let snapshot = history.snapshots[0].name;
    let forget = || Declaration::Forget { snapshot, reason: Remark::lossy("x") };
    let pack = history.logs[&snapshot.writer][0].commit.puts[0].name;
    for (case, maintainer, declaration) in [
        ("as itself", forge.writer.id, forget()),
        ("as the maintainer", home.maintainer.id, forget()),
        ("an intent", home.maintainer.id, Declaration::Intent(pack)),
        ("done", home.maintainer.id, Declaration::Done(pack)),
    ] {
        let store = Arc::new(home.store.image());
        let signed = tomb(maintainer, declaration).encode_and_sign(&forge.writer.key).unwrap();
        store.put(&Tombstone::object_name(1), &signed).unwrap();
        assert!(forge.exercise(store, case), "a tombstone {case} was taken");
    }
    let first = home.store.get(&Roster::object_name(1), 1 << 20).unwrap();
    let next = repository.roster.next(repository.roster_hash);
    let by_writer = next.encode_and_sign(&forge.writer.key);
    let by_maintainer = next.encode_and_sign(&home.maintainer.key);
    let rosters = [Ok(first.clone()), by_writer, by_maintainer, Ok(Vec::new())];
    for (number, bytes) in rosters.into_iter().flatten().enumerate() {
        let store = Arc::new(home.store.image());
        store.put(&Roster::object_name(2), &bytes).unwrap();
        let states = copy_of(home.states.path());
        let opened = Repository::open(store, states.path(), Some(home.id));
        assert!(opened.is_err(), "roster {number} was taken");
    }
}

/// A zstd frame that declares `content` bytes and has `blocks` blocks of 128 KiB of zeros.
fn bomb(content: u64, blocks: u32) -> Vec<u8> {
    // RFC 8878, 3.1.1: magic, a descriptor with eight bytes of size and no checksum, a window of
    // 8 MiB, the size; then blocks of one repeated byte.
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0xC0, 13 << 3];
    frame.extend_from_slice(&content.to_le_bytes());
    for block in 0..blocks {
        let is_last = u32::from(block + 1 == blocks);
        let header = (128 * 1024) << 3 | 1 << 1 | is_last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// In a process of its own: memory is counted by process.
#[test]
fn bombs_stay_small() {
    let words = ["--exact", "hostile::bombs", "--ignored", "--test-threads=1"];
    let output = Command::new(std::env::current_exe().unwrap()).args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "bombs_stay_small runs it alone"]
fn bombs() {
    let forge = Forge::new();
    forge.try_draft("nothing hostile", Draft::plain());
    let before = peak_bytes();
    let frames: BTreeMap<&str, Vec<u8>> = [
        ("8 EiB declared", bomb(1 << 63, 1)),
        ("1 GiB", bomb(1 << 30, 8192)),
        ("1 GiB that declares 1000 bytes", bomb(1000, 8192)),
        ("64 MiB that declares all there is", bomb(u64::MAX, 512)),
        ("many frames", bomb(1 << 17, 1).repeat(8192)),
    ]
    .into();
    for (case, frame) in &frames {
        let mut draft = Draft::plain();
        if frame.len() < 900_000 {
            draft.frame = Some(frame.clone());
            assert!(forge.try_draft(&format!("a chunk of {case}"), draft), "chunk: {case}");
        }
        let mut draft = Draft::plain();
        let mut sealer = Sealer::begin(&[&forge.read()], Vec::new(), ObjectSize::Free).unwrap();
        sealer.write(frame).unwrap();
        draft.sealed = Some(sealer.finish());
        assert!(forge.try_draft(&format!("a snapshot of {case}"), draft), "snapshot: {case}");
    }
    let grown = peak_bytes() - before;
    assert!(grown < 256 << 20, "{grown} bytes more");
}
