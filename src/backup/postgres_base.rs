//! A `PostgreSQL` cluster as a root: `BASE_BACKUP`, taken apart into files while it streams.
//!
//! The result is the data directory as a tree, with the log from start to stop in `pg_wal`: whole
//! by itself, however it was sent. Pages are compared with the previous snapshot, and looked at.
//! Nothing is saved unless the server has said that the backup is complete.

use std::io::Read;
use std::sync::Arc;

use secrecy::SecretString;

use crate::backup::error::BackupError;
use crate::backup::item::{CutBytes, Ended, Entry, Item, KnownContent, SmallFile, Step};
use crate::backup::ordered::Giver;
use crate::backup::page_watch::PageWatch;
use crate::backup::pages::{PageCheck, PageFile, read_pages};
use crate::backup::previous_files::PreviousFiles;
use crate::backup::run::{RootSource, SnapshotLabel};
use crate::backup::stream::Reading;
use crate::backup::successor::Successor;
use crate::chunker::{ChunkSizes, Chunker};
use crate::crypto::ids::{content_hash, content_hasher};
use crate::format::node::{Node, NodeKind, UnixTime};
use crate::format::postgres::facts::{BaseFacts, PostgresFacts};
use crate::format::snapshot::Facts;
use crate::format::tree::{EntryKey, is_name};
use crate::repo::session::WriteSession;
use crate::source::error::SourceError;
use crate::source::files::postgres_directory::is_page_file;
use crate::source::postgres::address::Address;
use crate::source::postgres::base_backup::{BaseBackup, BaseBackupOptions, Part};
use crate::source::postgres::connection::{Connection, Purpose};
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::replication::{create_temporary_slot, identify};
use crate::source::postgres::server::{ServerFacts, server_time};

/// Files up to this length are read as a whole.
const SMALL_FILE_BYTES: u64 = 1024 * 1024;
/// Bad pages that are named.
const BAD_PAGES_NAMED: usize = 100;

/// How to get at a server.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where it is.
    pub address: Address,
    /// The password, where it is not in the password file.
    pub password: Option<SecretString>,
}

impl Access {
    /// Connects.
    pub fn connect(&self, purpose: Purpose) -> Result<Connection, PostgresError> {
        Connection::open(&self.address, purpose, self.password.as_ref())
    }
}

/// A cluster.
pub struct PostgresBase {
    name: String,
    access: Access,
    options: BaseBackupOptions,
    expected: Option<String>,
    previous: Option<PreviousFiles>,
    facts: Option<BaseFacts>,
}

impl PostgresBase {
    /// The cluster behind `access`, under that name; its system identifier must be the `expected`
    /// one.
    #[must_use]
    pub fn new(
        name: String,
        access: Access,
        options: BaseBackupOptions,
        expected: Option<String>,
    ) -> Self {
        Self { name, access, options, expected, previous: None, facts: None }
    }

    fn receive(&mut self, feed: &mut Feed<'_>) -> Result<bool, Failure> {
        let mut sql = self.access.connect(Purpose::Sql)?;
        let server = ServerFacts::read(&mut sql)?;
        server.require_cluster(&self.name, self.expected.as_deref(), sql.shown())?;
        let mut keeper = self.access.connect(Purpose::Replication)?;
        let identity = identify(&mut keeper)?;
        if identity.system != server.cluster.system {
            let what = "the connections for queries and for replication lead to two clusters";
            let address = keeper.shown().to_owned();
            return Err(PostgresError::Unfit { address, what: what.to_owned() }.into());
        }
        // The log that the backup needs stays until it was sent, whatever the server's settings.
        let slot = format!("holdfast_base_{}", std::process::id());
        if let Err(error) = create_temporary_slot(&mut keeper, &slot) {
            feed.reading.progress.warn(format!("without a replication slot: {error}"));
        }
        let mut connection = self.access.connect(Purpose::Replication)?;
        let mut base = BaseBackup::start(&mut connection, &self.options)?;
        let watch = Arc::new(PageWatch::new(&server, base.start));
        let (start, timeline) = (base.start, base.timeline);
        let tablespaces = base.tablespaces.clone();
        while let Some(part) = base.next_part()? {
            let goes_on = match part {
                Part::Archive { tablespace } => {
                    self.take_archive(&mut base, tablespace, &watch, &server, feed)?
                }
                Part::Manifest => Self::take_manifest(&mut base, feed)?,
            };
            if !goes_on {
                return Ok(false);
            }
        }
        if !feed.give_root() {
            return Ok(false);
        }
        let (stop, stop_timeline) = base.finish()?;
        if stop_timeline != timeline {
            let what = format!("it went from timeline {timeline} to {stop_timeline} meanwhile");
            let address = connection.shown().to_owned();
            return Err(PostgresError::Unfit { address, what }.into());
        }
        for notice in connection.take_notices() {
            feed.reading.progress.warn(format!("the server says: {notice}"));
        }
        drop(keeper);
        let bad_pages = watch.finish(stop, &mut sql);
        for page in bad_pages.iter().take(BAD_PAGES_NAMED) {
            let warning = format!("page {} of {} is damaged on the server", page.page, page.path);
            feed.reading.progress.warn(warning);
        }
        let bad_pages_count = bad_pages.len() as u64;
        self.facts = Some(BaseFacts {
            cluster: server.cluster,
            timeline,
            start,
            stop,
            stop_time: server_time(&mut sql)?,
            page_bytes: server.page_bytes,
            has_checksums: server.has_checksums,
            from_standby: server.is_standby,
            changed_since: None,
            tablespaces,
            bad_pages: bad_pages.into_iter().take(BAD_PAGES_NAMED).collect(),
            bad_pages_count,
            collations: server.collations,
            settings: server.settings,
        });
        Ok(true)
    }

    fn take_archive(
        &mut self,
        base: &mut BaseBackup<'_>,
        tablespace: Option<u32>,
        watch: &Arc<PageWatch>,
        server: &ServerFacts,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        let prefix = tablespace.map(|oid| format!("pg_tblspc/{oid}"));
        if let Some(prefix) = &prefix {
            let node = feed.own_folder();
            if !feed.give_known(prefix.as_bytes(), node) {
                return Ok(false);
            }
        }
        let mut archive = tar::Archive::new(&mut *base);
        let read = self.take_entries(&mut archive, prefix.as_deref(), watch, server, feed);
        read.map_err(|error| base.take_failure().map_or(error, Failure::Server))
    }

    fn take_entries(
        &mut self,
        archive: &mut tar::Archive<&mut BaseBackup<'_>>,
        prefix: Option<&str>,
        watch: &Arc<PageWatch>,
        server: &ServerFacts,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = entry.path_bytes();
            // Folders that the server makes up, such as that of the log, begin with `./`.
            let name = name.strip_prefix(b"./").unwrap_or(&name);
            let name = name.strip_suffix(b"/").unwrap_or(name);
            let path = match prefix {
                Some(prefix) => [prefix.as_bytes(), b"/", name].concat(),
                None => name.to_vec(),
            };
            if !path.split(|byte| *byte == b'/').all(is_name) {
                let what = format!("a file of the name {:?}", String::from_utf8_lossy(&path));
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what).into());
            }
            let node = node_of(entry.header())?;
            feed.owner.get_or_insert_with(|| node.clone());
            let goes_on = match node.kind {
                NodeKind::File if is_page_file(&path) => {
                    let check = watch.of_file(&path, server);
                    let pages = (server.page_bytes, check);
                    self.take_pages(&mut entry, &path, node, pages, feed)?
                }
                NodeKind::File => self.take_file(&mut entry, &path, node, feed)?,
                _ => feed.give_known(&path, node),
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take_manifest(base: &mut BaseBackup<'_>, feed: &mut Feed<'_>) -> Result<bool, Failure> {
        let mut node = Node::new(NodeKind::File, Vec::new());
        node.mode = 0o600;
        let read = Self::take_stream(base, b"backup_manifest", node, feed);
        read.map_err(|error| base.take_failure().map_or(error, Failure::Server))
    }

    fn take_pages(
        &mut self,
        read: &mut dyn Read,
        path: &[u8],
        node: Node,
        (page_bytes, check): (u32, PageCheck),
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        let mut entry = entry_of(path, node);
        let key = EntryKey { dir: entry.dir.to_vec(), name: entry.node.name.clone() };
        let previous = self.previous.as_mut().and_then(|previous| previous.find(&key));
        if !feed.flush() || !feed.items.give(Item::Begin(Box::new(entry.clone()))) {
            return Ok(false);
        }
        let size = entry.node.size;
        let mut left = size;
        let mut read_full = |buffer: &mut [u8]| {
            let length = fill(read, buffer).map_err(|source| of_stream(path, source))?;
            left -= length as u64;
            Ok(length)
        };
        let check = Some(check);
        let pages = PageFile { page_bytes, previous: previous.as_ref(), check };
        let mut hasher = content_hasher();
        if !read_pages(&mut read_full, &pages, feed.reading, feed.items, &mut hasher)? {
            return Ok(false);
        }
        if left != 0 {
            return Err(Failure::Archive(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let hash = hasher.content_hash();
        entry.node.hash = Some(hash);
        let is_known = previous.is_some();
        let ended = Ended { entry, hash: Some(hash), is_known, discard: None };
        Ok(feed.items.give(Item::End(Box::new(ended))))
    }

    fn take_file(
        &mut self,
        read: &mut dyn Read,
        path: &[u8],
        node: Node,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        if node.size > SMALL_FILE_BYTES {
            return Self::take_stream(read, path, node, feed);
        }
        let mut bytes = vec![0; node.size as usize];
        read.read_exact(&mut bytes)?;
        let mut entry = entry_of(path, node);
        if bytes.is_empty() {
            return Ok(feed.push(Step::Known(entry, KnownContent::None)));
        }
        let key = EntryKey { dir: entry.dir.to_vec(), name: entry.node.name.clone() };
        let is_known = self.previous.as_mut().is_some_and(|previous| previous.has(&key));
        entry.node.hash = Some(content_hash(&bytes));
        let lengths = feed.lengths(&bytes);
        let cut = CutBytes::hash(&feed.reading.keys, bytes.into(), &lengths);
        Ok(feed.push(Step::Small(SmallFile { entry, cut, is_known })))
    }

    /// A file of any length; its size is what comes.
    fn take_stream(
        read: &mut dyn Read,
        path: &[u8],
        node: Node,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        let expected = Some(node.size).filter(|size| *size > 0);
        let mut entry = entry_of(path, node);
        if !feed.flush() || !feed.items.give(Item::Begin(Box::new(entry.clone()))) {
            return Ok(false);
        }
        let mut size = 0;
        let mut counted = |buffer: &mut [u8]| {
            let length = read.read(buffer).map_err(|source| of_stream(path, source))?;
            size += length as u64;
            Ok(length)
        };
        if !feed.reading.cut_all(&mut counted, feed.chunker, feed.items)? {
            return Ok(false);
        }
        if expected.is_some_and(|expected| expected != size) {
            return Err(Failure::Archive(std::io::ErrorKind::UnexpectedEof.into()));
        }
        entry.node.size = size;
        let ended = Ended { entry, hash: None, is_known: false, discard: None };
        Ok(feed.items.give(Item::End(Box::new(ended))))
    }
}

impl RootSource for PostgresBase {
    fn name(&self) -> String {
        format!("postgres:{}", self.name)
    }

    fn path(&self) -> Vec<u8> {
        self.name.clone().into_bytes()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::FILES
    }

    fn previous(
        &mut self,
        session: &mut WriteSession,
        label: &SnapshotLabel,
    ) -> Result<Option<Successor>, BackupError> {
        let (previous, successor) = PreviousFiles::open(session, label, &self.path())?;
        self.previous = previous;
        Ok(Some(successor))
    }

    fn facts(&self) -> Option<Facts> {
        self.facts.clone().map(|facts| PostgresFacts::Base(facts).encode())
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        let mut feed = Feed { reading, chunker, items, steps: Vec::new(), bytes: 0, owner: None };
        let received = self.receive(&mut feed);
        let name = self.name.clone();
        match received {
            Ok(true) => drop(feed.flush()),
            Ok(false) => {}
            Err(Failure::Server(source)) => {
                items.give(Item::Failed(BackupError::Postgres { name, source }));
            }
            Err(Failure::Source(source)) => {
                items.give(Item::Failed(BackupError::Source { name, source }));
            }
            Err(Failure::Archive(source)) => {
                let (address, doing) = (name.clone(), "receiving a base backup");
                let source = PostgresError::Broken { address, doing, source };
                items.give(Item::Failed(BackupError::Postgres { name, source }));
            }
        }
    }
}

/// Why a base backup ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Server(#[from] PostgresError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Archive(#[from] std::io::Error),
}

fn of_stream(path: &[u8], source: std::io::Error) -> SourceError {
    let path = String::from_utf8_lossy(path).into_owned().into();
    SourceError::Io { action: "receive", path, source }
}

fn fill(read: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read.read(&mut buffer[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}

fn node_of(header: &tar::Header) -> std::io::Result<Node> {
    use tar::EntryType;
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => NodeKind::File,
        EntryType::Directory => NodeKind::Dir,
        EntryType::Symlink => NodeKind::Symlink,
        other => {
            let what = format!("an entry of kind {other:?} in a base backup");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
        }
    };
    let mut node = Node::new(kind, Vec::new());
    node.mode = header.mode()? & 0o7777;
    node.uid = header.uid()? as u32;
    node.gid = header.gid()? as u32;
    node.user = name_of(header.username());
    node.group = name_of(header.groupname());
    node.mtime = UnixTime(header.mtime()?.cast_signed(), 0);
    match kind {
        NodeKind::File => node.size = header.size()?,
        NodeKind::Symlink => {
            node.target = header.link_name_bytes().map(std::borrow::Cow::into_owned);
        }
        _ => {}
    }
    Ok(node)
}

fn entry_of(path: &[u8], mut node: Node) -> Entry {
    let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    node.name = name.to_vec();
    Entry { dir: Arc::from(dir), node, device: 0, inode: 0, link_group: None }
}

fn name_of(name: Result<Option<&str>, std::str::Utf8Error>) -> Option<String> {
    name.ok().flatten().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Gathers small files into batches, and gives everything in the order of its coming.
struct Feed<'a> {
    reading: &'a Reading,
    chunker: &'a Chunker,
    items: &'a mut Giver<Item>,
    steps: Vec<Step>,
    bytes: usize,
    /// The first entry: all belong to the user of the server.
    owner: Option<Node>,
}

impl Feed<'_> {
    fn give_root(&mut self) -> bool {
        let node = self.own_folder();
        self.give_known(b"", node)
    }

    /// A folder that the server does not send, but has.
    fn own_folder(&self) -> Node {
        let mut node = Node::new(NodeKind::Dir, Vec::new());
        node.mode = 0o700;
        if let Some(owner) = &self.owner {
            (node.uid, node.gid) = (owner.uid, owner.gid);
            (node.user, node.group) = (owner.user.clone(), owner.group.clone());
            node.mtime = owner.mtime;
        }
        node
    }

    fn give_known(&mut self, path: &[u8], node: Node) -> bool {
        let entry = entry_of(path, node);
        self.push(Step::Known(entry, KnownContent::None))
    }

    fn push(&mut self, step: Step) -> bool {
        if let Step::Small(file) = &step {
            self.bytes += file.cut.bytes.len();
        }
        self.steps.push(step);
        let is_full = self.steps.len() >= 256 || self.bytes as u64 >= SMALL_FILE_BYTES;
        !is_full || self.flush()
    }

    fn flush(&mut self) -> bool {
        self.bytes = 0;
        let steps = std::mem::take(&mut self.steps);
        if self.reading.progress.is_cancelled() {
            self.items.give(Item::Failed(BackupError::Cancelled));
            return false;
        }
        steps.is_empty() || self.items.give(Item::Batch(steps))
    }

    fn lengths(&self, bytes: &[u8]) -> Vec<u32> {
        let mut lengths = Vec::new();
        let mut at = 0;
        while let Some(length) = self.chunker.cut(&bytes[at..], true) {
            lengths.push(length as u32);
            at += length;
        }
        lengths
    }
}
