//! A small repository in memory, for the tests of everything that reads back.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backup::content::ContentBuilder;
use crate::backup::tree_builder::TreeBuilder;
use crate::backup::usage::Usage;
use crate::compress::Level;
use crate::crypto::ids::{ChunkKind, DomainKeys, content_hash};
use crate::crypto::recipient::ReadIdentity;
use crate::crypto::secret::Secret32;
use crate::format::node::{Content, Node, NodeKind, UnixTime};
use crate::format::pack::PackOwner;
use crate::format::snapshot::{Root, Snapshot, Statistics};
use crate::format::tree::EntryKey;
use crate::id::{ActorId, DomainId, RepositoryId};
use crate::index::database::IndexDatabase;
use crate::index::lookup::ChunkLookup;
use crate::repo::chunk_writer::ChunkWriter;
use crate::repo::pack_builder::PackSettings;
use crate::repo::read_access::ReadAccess;
use crate::store::memory::MemoryStore;

pub(crate) const DOMAIN: DomainId = DomainId([3; 8]);

/// Entries of a tree, in order.
pub(crate) type Entries = BTreeMap<EntryKey, Node>;

/// The repository while it is written to.
pub(crate) struct Fixture {
    pub store: Arc<MemoryStore>,
    pub keys: DomainKeys,
    identity: ReadIdentity,
    folder: tempfile::TempDir,
    writer: Option<ChunkWriter>,
    usage: Usage,
    pub chunk_bytes: usize,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let mut fixture = Self {
            store: Arc::new(MemoryStore::new()),
            keys: DomainKeys::derive(&Secret32::from_bytes(&[5; 32])),
            identity: ReadIdentity::from_secret(&Secret32::from_bytes(&[9; 32])),
            folder: tempfile::tempdir().unwrap(),
            writer: None,
            usage: Usage::default(),
            chunk_bytes: 10_000,
        };
        fixture.begin_run("index");
        fixture
    }

    /// Begins another run, with an index database of its own: it deduplicates nothing.
    pub(crate) fn begin_run(&mut self, index: &str) {
        self.finish();
        let database = IndexDatabase::open(&self.folder.path().join(index)).unwrap();
        let lookup = ChunkLookup::open(database, "run").unwrap();
        let settings = PackSettings {
            owner: PackOwner {
                repository: RepositoryId([1; 32]),
                writer: ActorId([2; 8]),
                domain: DOMAIN,
            },
            recipient: self.identity.recipient().into(),
            pack_bytes: 1 << 20,
        };
        let store = self.store.clone();
        let dynamic: Arc<dyn crate::store::Store> = store;
        let writer = ChunkWriter::start(settings, self.keys.clone(), &dynamic, lookup, 2, Level(1));
        self.writer = Some(writer.unwrap());
    }

    fn writer(&mut self) -> &mut ChunkWriter {
        self.writer.as_mut().unwrap()
    }

    pub(crate) fn finish(&mut self) {
        if let Some(mut writer) = self.writer.take() {
            writer.finish().unwrap();
        }
    }

    /// Stores bytes in chunks of one length.
    pub(crate) fn content(&mut self, bytes: &[u8]) -> Content {
        let mut builder = ContentBuilder::default();
        for chunk in bytes.chunks(self.chunk_bytes) {
            let id = self.keys.chunk_id(ChunkKind::Data, chunk);
            builder.push(self.writer().put_data(id, chunk).unwrap());
        }
        self.writer().settle().unwrap();
        let (writer, usage) = (self.writer.as_mut().unwrap(), &mut self.usage);
        assert!(builder.resolve(writer, usage).unwrap());
        builder.finish(writer, usage).unwrap().content
    }

    /// A file with its content, without holes.
    pub(crate) fn file(&mut self, name: &str, bytes: &[u8]) -> Node {
        let mut node = node(NodeKind::File, name);
        node.size = bytes.len() as u64;
        node.content = self.content(bytes);
        node.hash = Some(content_hash(bytes));
        node
    }

    pub(crate) fn tree(&mut self, path: &str, entries: &Entries) -> Root {
        let mut builder = TreeBuilder::default();
        let (writer, usage) = (self.writer.as_mut().unwrap(), &mut self.usage);
        for (key, node) in entries {
            builder.push(&key.dir, node, writer, usage).unwrap();
        }
        let built = builder.finish(writer, usage).unwrap();
        Root {
            name: format!("tree:{path}"),
            path: path.into(),
            node: Node { name: Vec::new(), ..node(NodeKind::Dir, "") },
            tree: built.top,
            levels: built.levels,
            entries: built.entries,
            bytes: entries.values().map(Node::stored_bytes).sum(),
            chunker: String::new(),
            facts: None,
        }
    }

    pub(crate) fn stream(&mut self, name: &str, bytes: &[u8]) -> Root {
        let node = Node { kind: NodeKind::Stream, ..self.file(name, bytes) };
        Root {
            name: format!("stream:{name}"),
            path: name.into(),
            node,
            tree: None,
            levels: 0,
            entries: 0,
            bytes: bytes.len() as u64,
            chunker: String::new(),
            facts: None,
        }
    }

    /// Ends the run and reads by the first index.
    pub(crate) fn access(&mut self) -> Arc<ReadAccess> {
        self.finish();
        let database = IndexDatabase::open(&self.folder.path().join("index")).unwrap();
        let identities = vec![self.identity.to_identity()];
        let domains = vec![(DOMAIN, self.keys.clone(), database)];
        let store = self.store.clone();
        Arc::new(ReadAccess::new(store, RepositoryId([1; 32]), identities, domains))
    }

    /// Enters the packs of another run's index into the first one.
    pub(crate) fn merge_index(&self, other: &str) {
        let from = IndexDatabase::open(&self.folder.path().join(other)).unwrap();
        let into = IndexDatabase::open(&self.folder.path().join("index")).unwrap();
        for row in from.packs_from(0).unwrap() {
            into.add_pack(&from.pack(row.number).unwrap().unwrap(), None).unwrap();
        }
    }
}

/// A node of this process's user.
pub(crate) fn node(kind: NodeKind, name: &str) -> Node {
    let mut node = Node::new(kind, name);
    node.mode = if kind == NodeKind::Dir { 0o755 } else { 0o640 };
    node.uid = rustix::process::geteuid().as_raw();
    node.gid = rustix::process::getegid().as_raw();
    node.mtime = UnixTime(1_600_000_000, 123_456_789);
    node
}

/// Enters a node below a directory.
pub(crate) fn enter(entries: &mut Entries, dir: &str, node: Node) {
    entries.insert(EntryKey { dir: dir.into(), name: node.name.clone() }, node);
}

/// Bytes that do not compress and never repeat.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A snapshot of these roots.
pub(crate) fn snapshot(roots: Vec<Root>) -> Snapshot {
    Snapshot {
        repository: RepositoryId([1; 32]),
        writer: ActorId([2; 8]),
        seq: 1,
        domain: DOMAIN,
        epoch: 1,
        source: "test".into(),
        host: String::new(),
        user: String::new(),
        time: "2026-01-01T00:00:00Z".into(),
        ended: String::new(),
        tags: Vec::new(),
        program: String::new(),
        roots,
        partial: false,
        statistics: Statistics::default(),
    }
}
