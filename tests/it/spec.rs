//! The specification says what the code does, where both can be compared.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use holdfast::backup::item::{CutBytes, Entry, Item, KnownContent, SmallFile, Step};
use holdfast::backup::ordered::Giver;
use holdfast::backup::run::{RootSource, SnapshotLabel, run};
use holdfast::backup::stream::{Reading, StreamRoot};
use holdfast::chunker::{ChunkSizes, Chunker};
use holdfast::clock::SystemClock;
use holdfast::compress::Level;
use holdfast::crypto::ids::content_hash;
use holdfast::crypto::recipient::{Identity, Prompter, ReadIdentity, Unattended};
use holdfast::format::limits;
use holdfast::format::node::{Node, NodeKind, UnixTime};
use holdfast::format::signed_text::NO_PREVIOUS;
use holdfast::format::tombstone::{Declaration, Tombstone};
use holdfast::progress::Progress;
use holdfast::replica::copy::{CopyOptions, copy};
use holdfast::replica::promote::promote;
use holdfast::repo::create::{CreateOptions, create};
use holdfast::repo::history::History;
use holdfast::repo::open::Repository;
use holdfast::repo::session::SessionOptions;
use holdfast::repo::unlock::Unlocked;
use holdfast::source::stream::ReaderStream;
use holdfast::store::local::LocalStore;
use holdfast::store::{Store, StoreError};
use secrecy::ExposeSecret;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows `| NAME | number |…` of the table.
fn limits_of(page: &str) -> Vec<(String, u64)> {
    page.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let name = cells.next()?.strip_suffix('`')?.to_owned();
            let value = cells.next()?.replace(' ', "").parse().ok()?;
            Some((name, value))
        })
        .collect()
}

#[test]
fn the_table_of_limits_is_that_of_the_code() {
    let page = limits_of(&read(&folder().join("limits.md")));
    let code: Vec<_> =
        limits::ALL.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    assert_eq!(page, code);
}

/// Targets of `](target)` that are files of this folder.
fn links_of(page: &str) -> impl Iterator<Item = &str> {
    page.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split('#').next().unwrap_or(""))
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

fn pages() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    for page in pages() {
        for target in links_of(&read(&page)) {
            assert!(folder().join(target).exists(), "{} links to {target}", page.display());
        }
    }
}

#[test]
fn the_first_page_links_to_every_other() {
    let first = read(&folder().join("README.md"));
    let linked: BTreeSet<_> = links_of(&first).map(|target| folder().join(target)).collect();
    let missing: Vec<_> = pages()
        .into_iter()
        .filter(|page| !page.ends_with("README.md") && !linked.contains(page))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The claims of the threat model, and what stands in their last column.
fn claims() -> Vec<(String, String)> {
    read(&folder().join("threat-model.md"))
        .lines()
        .filter_map(|line| {
            let cells: Vec<_> = line.strip_prefix("| C")?.split(" | ").map(str::trim).collect();
            let [number, _, shown] = cells[..] else { panic!("claim of another form: {line}") };
            Some((format!("C{number}"), shown.trim_end_matches('|').trim().to_owned()))
        })
        .collect()
}

#[test]
fn every_claim_names_tests_that_exist_or_says_not_yet() {
    let mut sources = Vec::new();
    for folder in ["src", "tests"] {
        all_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut sources);
    }
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let code: String = sources.iter().map(|path| read(path)).collect();
    let claims = claims();
    let numbers: Vec<_> = claims.iter().map(|(number, _)| number.clone()).collect();
    assert_eq!(numbers, (1..=24).map(|number| format!("C{number}")).collect::<Vec<_>>());
    for (number, shown) in claims {
        let tests: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty() || shown.starts_with("not yet"), "{number} names no test");
        for test in tests {
            assert!(code.contains(&format!("fn {test}(")), "{number}: there is no test {test}");
        }
    }
}

/// A tree that a test writes down instead of reading it from a disk.
struct DeclaredTree {
    /// In the order of a tree: directory, node, plain content without holes.
    entries: Vec<(&'static [u8], Node, Vec<u8>)>,
}

impl DeclaredTree {
    fn file(&mut self, dir: &'static [u8], name: &[u8], content: Vec<u8>) -> &mut Node {
        let mut node = Node::new(NodeKind::File, name);
        (node.mode, node.size) = (0o640, content.len() as u64);
        node.mtime = UnixTime(1_700_000_000, 123_456_789);
        node.hash = Some(content_hash(&content));
        self.entries.push((dir, node, content));
        &mut self.entries.last_mut().unwrap().1
    }

    fn other(&mut self, dir: &'static [u8], kind: NodeKind, name: &[u8]) -> &mut Node {
        let mut node = Node::new(kind, name);
        (node.mode, node.mtime) = (0o750, UnixTime(-7, 5));
        self.entries.push((dir, node, Vec::new()));
        &mut self.entries.last_mut().unwrap().1
    }

    fn with_every_kind() -> Self {
        let mut tree = Self { entries: Vec::new() };
        tree.other(b"", NodeKind::Dir, b"");
        tree.other(b"", NodeKind::Dir, b"deep");
        tree.file(b"", b"empty", Vec::new());
        let large = tree.file(b"", b"large", noise(1, 3_000_000));
        large.xattrs.insert(b"user.comment".to_vec(), b"\x00\xff".to_vec());
        tree.other(b"", NodeKind::Dir, b"many");
        tree.other(b"", NodeKind::Fifo, b"pipe");
        let sparse = tree.file(b"", b"sparse", noise(2, 70_000));
        sparse.size = 1_000_000;
        sparse.holes = vec![(0, 500_000), (520_000, 410_000), (980_000, 20_000)];
        tree.file(b"", b"z\xff\n", b"bytes, not text".to_vec());
        tree.other(b"deep", NodeKind::Dir, b"er");
        tree.file(b"deep/er", b"first", b"one file".to_vec()).link_group = Some(1 << 63);
        let second = tree.file(b"deep/er", b"second", Vec::new());
        (second.link_group, second.size) = (Some(1 << 63), 8);
        tree.other(b"deep/er", NodeKind::Symlink, b"up").target = Some(b"../\xfe".to_vec());
        for number in 0..3000 {
            let name = format!("{number:08}-{}", "n".repeat(120));
            tree.file(b"many", name.as_bytes(), number.to_string().into_bytes());
        }
        tree
    }
}

impl RootSource for DeclaredTree {
    fn name(&self) -> String {
        "tree:/srv/data".into()
    }

    fn path(&self) -> Vec<u8> {
        b"/srv/data".to_vec()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::FILES
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        for (dir, node, content) in &self.entries {
            let (dir, node, link_group) = (Arc::from(*dir), node.clone(), node.link_group);
            let entry = Entry { dir, node, device: 1, inode: 0, link_group };
            let mut lengths = Vec::new();
            let mut rest = &content[..];
            while let Some(length) = chunker.cut(rest, true) {
                lengths.push(length as u32);
                rest = &rest[length..];
            }
            items.give(Item::Batch(vec![if content.is_empty() {
                Step::Known(entry, KnownContent::None)
            } else {
                let cut = CutBytes::hash(&reading.keys, content.clone().into(), &lengths);
                Step::Small(SmallFile { entry, cut, is_known: false })
            }]));
        }
    }
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A repository with two snapshots: of the streams alone, and of the tree and both streams.
struct Written {
    folder: tempfile::TempDir,
    dump: Vec<u8>,
}

impl Written {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut dump: Vec<u8> =
            (0..400_000).flat_map(|i| format!("row {i}\n").into_bytes()).collect();
        let written = Self { dump: Vec::new(), folder };
        let identity = ReadIdentity::generate().unwrap();
        std::fs::write(written.path("identity"), identity.to_secret_text().expose_secret())
            .unwrap();
        let store: Arc<dyn Store> = Arc::new(LocalStore::create(written.path("repo"), 0).unwrap());
        let options = CreateOptions {
            operators: vec![vec![identity.recipient().into()]],
            writer_label: "host".parse().unwrap(),
            pack_bytes: 1024 * 1024,
            grace_seconds: 3600,
            retention_floor_seconds: 0,
            keep_maintainer: true,
        };
        create(&store, &written.path("state"), &options).unwrap();
        written.backup(&store, vec![stream("dump.sql", &dump)]);
        dump.splice(1_000_000..1_000_000, *b"an inserted row\n");
        let streams = [stream("dump.sql", &dump), stream("empty", b"")];
        let tree: Box<dyn RootSource> = Box::new(DeclaredTree::with_every_kind());
        written.backup(&store, streams.into_iter().chain([tree]).collect());
        Self { dump, ..written }
    }

    fn backup(&self, store: &Arc<dyn Store>, roots: Vec<Box<dyn RootSource>>) {
        let label = SnapshotLabel {
            source: "shop".into(),
            host: "db".into(),
            user: "backup".into(),
            time: jiff::Timestamp::now(),
            tags: Vec::new(),
        };
        let repository = Repository::open(Arc::clone(store), &self.path("state"), None).unwrap();
        let options = SessionOptions { threads: 2, level: Level(3) };
        run(repository, Arc::new(SystemClock), options, &label, roots, &Arc::default()).unwrap();
    }

    /// Takes the older snapshot off the list.
    fn forget_first(&self) {
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(self.path("repo")).unwrap());
        let repository = Repository::open(Arc::clone(&store), &self.path("state"), None).unwrap();
        let maintainer = repository.state.maintainer().unwrap().unwrap().keys;
        let history = History::read(&repository).unwrap();
        let first = history.snapshots.iter().find(|snapshot| snapshot.seq == 1).unwrap();
        let tombstone = Tombstone {
            repository: repository.id,
            seq: 1,
            prev: NO_PREVIOUS,
            roster: repository.roster_reference(),
            maintainer: maintainer.id,
            time: first.time,
            declarations: vec![Declaration::Forget {
                snapshot: first.name,
                reason: "keep-last 1".parse().unwrap(),
            }],
        };
        let signed = tombstone.encode_and_sign(&maintainer.key).unwrap();
        store.put(&Tombstone::object_name(1), &signed).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What restore.py prints; panics with its complaint when it fails.
    fn restore_py(&self, words: &[&str]) -> Vec<u8> {
        let mut python = Command::new("python3");
        python.arg(folder().join("restore.py")).arg(self.path("repo"));
        python.arg("--identity").arg(self.path("identity")).args(words);
        let output = python.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

fn stream(name: &str, bytes: &[u8]) -> Box<dyn RootSource> {
    let source = ReaderStream::new(name, std::io::Cursor::new(bytes.to_vec()));
    Box::new(StreamRoot::new(name.to_owned(), Box::new(|| Ok(Box::new(source)))))
}

fn are_on_path(programs: &[&str]) -> bool {
    programs.iter().all(|program| Command::new(program).arg("--version").output().is_ok())
}

/// The plain bytes of a declared file with its holes as zeros.
fn laid_out(node: &Node, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = content;
    for (offset, length) in &node.holes {
        let (data, after) = rest.split_at(*offset as usize - bytes.len());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len() + *length as usize, 0);
        rest = after;
    }
    [&bytes[..], rest].concat()
}

fn check_restored(base: &Path, dir: &[u8], node: &Node, content: &[u8]) {
    let name = OsStr::from_bytes(&node.name);
    let path = base.join(OsStr::from_bytes(dir)).join(name);
    let shown = path.display();
    let found = std::fs::symlink_metadata(&path).unwrap();
    assert_eq!((found.mtime(), found.mtime_nsec()), (node.mtime.0, node.mtime.1.into()), "{shown}");
    match node.kind {
        NodeKind::Symlink => {
            let target = std::fs::read_link(&path).unwrap();
            assert_eq!(Some(target.as_os_str().as_bytes()), node.target.as_deref());
            return;
        }
        NodeKind::Dir => assert!(found.is_dir()),
        NodeKind::Fifo => assert!(found.file_type().is_fifo()),
        _ if node.link_group.is_some() => {
            assert_eq!(std::fs::read(&path).unwrap(), b"one file");
            assert_eq!(found.nlink(), 2);
        }
        _ => assert!(std::fs::read(&path).unwrap() == laid_out(node, content), "{shown}"),
    }
    assert_eq!(found.mode() & 0o7777, node.mode, "{shown}");
    for (key, value) in &node.xattrs {
        let mut stored = vec![0; value.len() + 1];
        let length = rustix::fs::getxattr(&path, &key[..], &mut stored[..]).unwrap();
        assert_eq!(&stored[..length], &value[..], "{shown}");
    }
}

#[test]
fn restore_py_reads_a_promoted_replica_and_not_what_it_has_fenced() {
    if !are_on_path(&["python3", "age", "zstd"]) {
        return;
    }
    let mut written = Written::make();
    let old: Arc<dyn Store> = Arc::new(LocalStore::open(written.path("repo")).unwrap());
    let west: Arc<dyn Store> = Arc::new(LocalStore::create(written.path("west"), 0).unwrap());
    let source = Repository::open(Arc::clone(&old), &written.path("state"), None).unwrap();
    let (now, progress) = (std::time::SystemTime::now(), Progress::default());
    copy(&source, &*west, CopyOptions::default(), now, &progress).unwrap();
    let text = std::fs::read_to_string(written.path("identity")).unwrap();
    let owner = Identity::parse_file(&text, &(Arc::new(Unattended) as Arc<dyn Prompter>)).unwrap();
    let states = written.path("west-state");
    let mut replica = Repository::open(Arc::clone(&west), &states, Some(source.id)).unwrap();
    let unlocked = Unlocked::open(&replica, &owner).unwrap();
    promote(&mut replica, &unlocked).unwrap();
    // The old primary goes on, and its objects get into the new one somehow.
    let dump = written.dump.clone();
    written.backup(&old, vec![stream("dump.sql", b"fenced")]);
    let mut names = Vec::new();
    old.list("", &mut |entry| names.push(entry.name)).unwrap();
    for name in names {
        if matches!(west.stat(&name), Err(StoreError::NotFound { .. })) {
            west.put(&name, &old.get(&name, u64::MAX).unwrap()).unwrap();
        }
    }
    std::fs::rename(written.path("repo"), written.path("lost")).unwrap();
    std::fs::rename(written.path("west"), written.path("repo")).unwrap();
    written.dump = dump;
    let list = String::from_utf8(written.restore_py(&["list"])).unwrap();
    assert_eq!(list.matches("shop@db").count(), 2, "{list}");
    assert!(written.restore_py(&["cat", "latest", "dump.sql"]) == written.dump);
}

#[test]
fn restore_py_gives_back_a_tree_and_streams() {
    if !are_on_path(&["python3", "age", "zstd"]) {
        return;
    }
    let written = Written::make();
    let list = String::from_utf8(written.restore_py(&["list"])).unwrap();
    assert_eq!(list.matches("shop@db").count(), 2, "{list}");
    let first = list.split(' ').next().unwrap();
    let mut old = written.dump.clone();
    old.drain(1_000_000..1_000_016);
    assert!(written.restore_py(&["cat", first, "stream:dump.sql"]) == old);
    assert!(written.restore_py(&["cat", "latest", "dump.sql"]) == written.dump);
    assert_eq!(written.restore_py(&["cat", "latest", "/srv/data/deep/er/second"]), b"one file");

    written.forget_first();
    let list = String::from_utf8(written.restore_py(&["list"])).unwrap();
    assert_eq!(list.matches("shop@db").count(), 1, "{list}");
    assert!(written.restore_py(&["cat", first, "dump.sql"]) == old, "forgotten, but still there");

    let target = written.path("target");
    written.restore_py(&["restore", "latest", target.to_str().unwrap()]);
    assert!(std::fs::read(target.join("dump.sql")).unwrap() == written.dump);
    assert_eq!(std::fs::read(target.join("empty")).unwrap(), b"");
    let tree = DeclaredTree::with_every_kind();
    for (dir, node, content) in &tree.entries {
        check_restored(&target.join("srv/data"), dir, node, content);
    }
    let sparse = std::fs::metadata(target.join("srv/data/sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 500_000, "{} blocks", sparse.blocks());
}

#[test]
fn restore_py_refuses_what_was_altered() {
    if !are_on_path(&["python3", "age", "zstd", "ssh-keygen"]) {
        return;
    }
    let written = Written::make();
    let identity = written.path("identity");
    let complaint = |words: &[&str]| {
        let mut python = Command::new("python3");
        python.arg(folder().join("restore.py")).arg(written.path("repo"));
        let output = python.arg("--identity").arg(&identity).args(words).output().unwrap();
        assert!(!output.status.success(), "{words:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let other = complaint(&["--id", &"0".repeat(64), "list"]);
    assert!(other.contains("belongs to repository"), "{other}");
    let mut packs = Vec::new();
    all_files(&written.path("repo/data"), &mut packs);
    for pack in &packs {
        let mut bytes = std::fs::read(pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        replace(pack, &bytes);
    }
    let damaged = complaint(&["cat", "latest", "dump.sql"]);
    assert!(damaged.contains("cannot be opened"), "{damaged}");
    let mut logs = Vec::new();
    all_files(&written.path("repo/log"), &mut logs);
    for log in &logs {
        let text = std::fs::read_to_string(log).unwrap();
        replace(log, text.replace("put data/", "put  data/").as_bytes());
    }
    let forged = complaint(&["cat", "latest", "dump.sql"]);
    assert!(forged.contains("signed by nobody who may"), "{forged}");
}

/// Objects are read-only files: a new one takes the place.
fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn all_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all_files(&path, found) } else { found.push(path) }
    }
}
