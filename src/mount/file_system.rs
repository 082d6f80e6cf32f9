//! The tree of all snapshots: looking up, attributes, opening, reading.
//!
//! `/<source>/<time>/` holds the roots of a snapshot, each at its own path; where roots lie within
//! each other the innermost one answers. `/<source>/latest` is a symbolic link. No answer depends
//! on an earlier question: an inode number says all.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use crate::format::commit::SnapshotName;
use crate::format::node::{Bytes, Node, NodeKind, UnixTime};
use crate::format::tree::{EntryKey, join};
use crate::mount::attributes::{Attributes, Owner};
use crate::mount::catalog::{Catalog, Listed};
use crate::mount::error::VfsError;
use crate::mount::frames::Frames;
use crate::mount::inode::{Ino, Meaning, TOP};
use crate::mount::links::Links;
use crate::mount::loaded::{Loaded, LoadedSnapshot, LoadedTree};
use crate::mount::names::time_name;
use crate::mount::open_file::{OpenFile, Sources};
use crate::mount::prefetch::Prefetch;
use crate::mount::sync::lock;
use crate::mount::tree::{LostPart, Place, Trees};
use crate::progress::Progress;
use crate::repo::read_access::ReadAccess;
use crate::restore::error::with_causes;

/// Plain bytes that one file is fetched ahead at most.
const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// And at least, however many files are open.
const WINDOW_BYTES_MIN: u64 = 1024 * 1024;
/// Damaged entries of which each is reported once.
const REPORTED_MAX: usize = 10_000;
/// Name of the link to the newest snapshot of a source.
pub const LATEST: &str = "latest";

/// How a file system is set up.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Decoded data that is kept, in bytes.
    pub cache_bytes: u64,
    /// Threads that decode.
    pub threads: usize,
    /// Owner of what no snapshot has.
    pub owner: Owner,
}

/// A directory above the snapshots' trees, or a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Above {
    Top,
    /// By the name of its directory.
    Source(String),
    /// The link in that source's directory.
    Latest(String),
    /// A directory of a snapshot above its roots, by its path.
    Between(SnapshotName, Bytes),
}

struct AboveNumbers {
    list: Vec<Above>,
    numbers: HashMap<Above, Ino>,
}

/// The file system. All calls may be made from any thread.
pub struct FileSystem {
    pub(super) frames: Arc<Frames>,
    prefetch: Prefetch,
    pub(super) trees: Trees,
    links: Links,
    pub(super) catalog: Catalog,
    loaded: Loaded,
    above: Mutex<AboveNumbers>,
    pub(super) options: Options,
    progress: Arc<Progress>,
    reported: Mutex<HashSet<Ino>>,
    damaged: AtomicU64,
    open_files: AtomicUsize,
}

/// An entry of a snapshot.
pub(super) enum Found {
    Root(Arc<LoadedTree>),
    Entry(Arc<LoadedTree>, Place),
}

impl Found {
    pub(super) fn tree(&self) -> &Arc<LoadedTree> {
        match self {
            Self::Root(tree) | Self::Entry(tree, _) => tree,
        }
    }

    pub(super) fn node(&self) -> &Node {
        match self {
            Self::Root(tree) => &tree.root.node,
            Self::Entry(_, place) => place.node(),
        }
    }

    /// Its path below the root.
    pub(super) fn below(&self) -> Bytes {
        match self {
            Self::Root(_) => Bytes::new(),
            Self::Entry(_, place) => place.key().path(),
        }
    }
}

impl FileSystem {
    /// Over the snapshots of `catalog`, read through `access`; troubles go to `progress`.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        access: Arc<ReadAccess>,
        options: Options,
        progress: Arc<Progress>,
    ) -> Self {
        let frames = Arc::new(Frames::new(access, options.cache_bytes, options.threads + 2));
        Self {
            prefetch: Prefetch::start(&frames, options.threads),
            trees: Trees::new(frames.clone()),
            frames,
            links: Links::default(),
            catalog,
            loaded: Loaded::default(),
            above: Mutex::new(AboveNumbers {
                list: vec![Above::Top],
                numbers: HashMap::from([(Above::Top, TOP)]),
            }),
            options,
            progress,
            reported: Mutex::default(),
            damaged: AtomicU64::new(0),
            open_files: AtomicUsize::new(0),
        }
    }

    /// The list of snapshots.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Entries that could not be read so far.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Relaxed)
    }

    /// Whether the entry is of a snapshot, and so will never change.
    #[must_use]
    pub fn is_fixed(&self, ino: Ino) -> bool {
        match Meaning::of(ino) {
            Meaning::Above(_) => matches!(self.above(ino), Some(Above::Between(..))),
            _ => true,
        }
    }

    pub(super) fn above(&self, ino: Ino) -> Option<Above> {
        lock(&self.above).list.get(usize::try_from(ino.checked_sub(1)?).ok()?).cloned()
    }

    pub(super) fn number_of(&self, above: Above) -> Ino {
        let mut numbers = lock(&self.above);
        if let Some(number) = numbers.numbers.get(&above) {
            return *number;
        }
        numbers.list.push(above.clone());
        let number = numbers.list.len() as Ino;
        numbers.numbers.insert(above, number);
        number
    }

    /// The entry of that name in a directory.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Ino, VfsError> {
        let above = match Meaning::of(parent) {
            Meaning::Above(_) => self.above(parent).ok_or(VfsError::NotFound)?,
            _ => return self.lookup_in_tree(parent, name),
        };
        match above {
            Above::Top => {
                self.catalog.refresh(&self.frames);
                let name = std::str::from_utf8(name).map_err(|_| VfsError::NotFound)?;
                let is_there = self.catalog.sources().contains_key(name);
                is_there
                    .then(|| self.number_of(Above::Source(name.to_owned())))
                    .ok_or(VfsError::NotFound)
            }
            Above::Source(source) => {
                self.catalog.refresh(&self.frames);
                let sources = self.catalog.sources();
                let snapshots = sources.get(&source).ok_or(VfsError::NotFound)?;
                if name == LATEST.as_bytes() && snapshots.latest.is_some() {
                    return Ok(self.number_of(Above::Latest(source)));
                }
                let name = std::str::from_utf8(name).map_err(|_| VfsError::NotFound)?;
                let listed = snapshots.snapshots.get(name).ok_or(VfsError::NotFound)?;
                Ok(self.number_of(Above::Between(listed.name, Bytes::new())))
            }
            Above::Latest(_) => Err(VfsError::NotDirectory),
            Above::Between(snapshot, path) => {
                let loaded = self.load(snapshot)?;
                match loaded.root_at(&path) {
                    Some(tree) => self.lookup_in_tree(Meaning::Root { tree }.ino(), name),
                    None => self.at_path(&loaded, snapshot, &join(&path, name)),
                }
            }
        }
    }

    /// What a snapshot has at a path that no tree has.
    pub(super) fn at_path(
        &self,
        loaded: &LoadedSnapshot,
        snapshot: SnapshotName,
        path: &[u8],
    ) -> Result<Ino, VfsError> {
        if let Some(tree) = loaded.root_at(path) {
            return Ok(Meaning::Root { tree }.ino());
        }
        if loaded.is_above(path) {
            return Ok(self.number_of(Above::Between(snapshot, path.to_vec())));
        }
        Err(VfsError::NotFound)
    }

    fn lookup_in_tree(&self, parent: Ino, name: &[u8]) -> Result<Ino, VfsError> {
        let found = self.find(parent)?;
        if !found.node().is_dir() {
            return Err(VfsError::NotDirectory);
        }
        let (tree, dir) = (found.tree(), found.below());
        let path = join(&dir, name);
        if let Some((_, nested)) = tree.nested.iter().find(|(nested, _)| *nested == path) {
            return Ok(Meaning::Root { tree: *nested }.ino());
        }
        let key = EntryKey { dir, name: name.to_vec() };
        let place = self.with_newest(|| self.trees.find(&tree.root, &key));
        if let Some(place) = place.map_err(|lost| self.lost(tree, parent, &key.dir, &lost))? {
            return Ok(self.number_of_entry(tree, &place));
        }
        if tree.nested.is_empty() {
            return Err(VfsError::NotFound);
        }
        let loaded = self.load(tree.snapshot.name)?;
        self.at_path(&loaded, tree.snapshot.name, &join_paths(&tree.path, &path))
    }

    /// The number of an entry; all names of a file have one.
    pub(super) fn number_of_entry(&self, tree: &LoadedTree, place: &Place) -> Ino {
        let group = place.node().link_group;
        let linked = group.and_then(|group| self.links.find(&self.trees, tree, group));
        let ordinal = linked.map_or(place.ordinal(), |linked| linked.ordinal);
        Meaning::Entry { tree: tree.number, ordinal }.ino()
    }

    pub(super) fn find(&self, ino: Ino) -> Result<Found, VfsError> {
        match Meaning::of(ino) {
            Meaning::Above(_) => Err(VfsError::WrongKind),
            Meaning::Root { tree } => {
                self.loaded.tree(tree).map(Found::Root).ok_or(VfsError::NotFound)
            }
            Meaning::Entry { tree, ordinal } => {
                let tree = self.loaded.tree(tree).ok_or(VfsError::NotFound)?;
                let place = self.with_newest(|| self.trees.at(&tree.root, ordinal));
                let place = place.map_err(|lost| self.lost(&tree, ino, b"", &lost))?;
                place.map(|place| Found::Entry(tree, place)).ok_or(VfsError::NotFound)
            }
        }
    }

    /// A snapshot, loaded if it was not.
    pub(super) fn load(&self, name: SnapshotName) -> Result<Arc<LoadedSnapshot>, VfsError> {
        if let Some(loaded) = self.loaded.snapshot(name) {
            return Ok(loaded);
        }
        let listed = self.catalog.snapshot(name).ok_or(VfsError::NotFound)?;
        let snapshot = self.catalog.read(&listed).map_err(|error| {
            self.progress.warn(format!("{}: {}", shown(&listed), with_causes(&error)));
            VfsError::Damaged
        })?;
        self.loaded.add(&listed, snapshot, &mut |root| {
            let path = String::from_utf8_lossy(&root.path);
            let what = "is not shown: another root is at its path, or the path is none";
            self.progress.warn(format!("{}: root {path} {what}", shown(&listed)));
        })
    }

    /// The attributes of an entry.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes, VfsError> {
        match Meaning::of(ino) {
            Meaning::Above(_) => self.attributes_above(ino),
            Meaning::Root { .. } | Meaning::Entry { .. } => {
                let found = self.find(ino)?;
                Ok(self.attributes_of(found.tree(), ino, found.node()))
            }
        }
    }

    pub(super) fn attributes_of(&self, tree: &LoadedTree, ino: Ino, node: &Node) -> Attributes {
        let time = unix_time(tree.snapshot.time);
        let attributes = Attributes::of(ino, node, self.options.owner, time);
        let linked = node.link_group.and_then(|group| self.links.find(&self.trees, tree, group));
        Attributes { links: linked.map_or(1, |linked| linked.names), ..attributes }
    }

    fn attributes_above(&self, ino: Ino) -> Result<Attributes, VfsError> {
        let owner = self.options.owner;
        let above = self.above(ino).ok_or(VfsError::NotFound)?;
        if matches!(above, Above::Top | Above::Source(_)) {
            self.catalog.refresh(&self.frames);
        }
        let sources = self.catalog.sources();
        let newest = |source: &str| {
            let source = sources.get(source)?;
            let latest = source.snapshots.get(source.latest.as_ref()?);
            latest.map(|listed| unix_time(listed.time))
        };
        // A listing that the kernel keeps is worth nothing any more when its time changes.
        let changed = |time: Option<UnixTime>| {
            UnixTime(time.unwrap_or_default().0, self.catalog.generation() % 1_000_000_000)
        };
        match above {
            Above::Top => {
                let time = sources.keys().filter_map(|name| newest(name)).max();
                Ok(Attributes::directory(ino, owner, changed(time)))
            }
            Above::Source(source) => {
                Ok(Attributes::directory(ino, owner, changed(newest(&source))))
            }
            Above::Latest(source) => {
                let target = sources.get(&source).and_then(|source| source.latest.as_ref());
                let target = target.ok_or(VfsError::NotFound)?.len();
                Ok(Attributes::link(ino, target, owner, newest(&source).unwrap_or_default()))
            }
            Above::Between(snapshot, _) => {
                let listed = self.catalog.snapshot(snapshot).ok_or(VfsError::NotFound)?;
                Ok(Attributes::directory(ino, owner, unix_time(listed.time)))
            }
        }
    }

    /// The target of a symbolic link.
    pub fn link_target(&self, ino: Ino) -> Result<Bytes, VfsError> {
        if let Some(Above::Latest(source)) = self.above(ino) {
            self.catalog.refresh(&self.frames);
            let sources = self.catalog.sources();
            let source = sources.get(&source).ok_or(VfsError::NotFound)?;
            let latest = source.latest.clone().ok_or(VfsError::NotFound)?;
            return Ok(latest.into_bytes());
        }
        self.find(ino)?.node().target.clone().ok_or(VfsError::WrongKind)
    }

    /// Names and values of the extended attributes, through `look`.
    pub fn with_xattrs<T>(
        &self,
        ino: Ino,
        look: impl FnOnce(&std::collections::BTreeMap<Bytes, Bytes>) -> T,
    ) -> Result<T, VfsError> {
        match Meaning::of(ino) {
            Meaning::Above(_) => Ok(look(&std::collections::BTreeMap::new())),
            _ => Ok(look(&self.find(ino)?.node().xattrs)),
        }
    }

    /// Opens a file for reading; it must be closed again.
    pub fn open(&self, ino: Ino) -> Result<OpenFile, VfsError> {
        let found = self.find(ino)?;
        match found.node().kind {
            NodeKind::File | NodeKind::Stream => {}
            NodeKind::Dir => return Err(VfsError::IsDirectory),
            _ => return Err(VfsError::WrongKind),
        }
        let file = OpenFile::new(found.node()).map_err(|error| {
            self.damage(found.tree(), ino, &found.below(), &with_causes(&error));
            VfsError::Damaged
        })?;
        self.open_files.fetch_add(1, Relaxed);
        Ok(file)
    }

    /// Says that a file is no longer open.
    pub fn close(&self, _file: &OpenFile) {
        self.open_files.fetch_sub(1, Relaxed);
    }

    /// Appends bytes of an open file: up to `length` from `offset` on.
    ///
    /// # Errors
    /// [`VfsError::Damaged`]; what was appended then means nothing.
    pub fn read(
        &self,
        ino: Ino,
        file: &OpenFile,
        offset: u64,
        length: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), VfsError> {
        let files = self.open_files.load(Relaxed).max(1) as u64;
        let window =
            (self.options.cache_bytes / 4 / files).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        let sources =
            Sources { frames: &self.frames, prefetch: &self.prefetch, window_max: window };
        let begin = out.len();
        let read = self.with_newest(|| {
            out.truncate(begin);
            file.read(&sources, offset, length, out)
        });
        let Err(error) = read else { return Ok(()) };
        let found = self.find(ino)?;
        self.damage(found.tree(), ino, &found.below(), &with_causes(&error));
        Err(VfsError::Damaged)
    }

    /// Reads something; what is not where it was is looked for again with the newest index, in case
    /// it was repacked meanwhile.
    pub(super) fn with_newest<T, E>(&self, mut work: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        let before = self.frames.access();
        work().or_else(|error| {
            let is_new =
                self.catalog.refresh(&self.frames) || !Arc::ptr_eq(&before, &self.frames.access());
            if is_new { work() } else { Err(error) }
        })
    }

    /// Reports a lost part of a tree.
    pub(super) fn lost(
        &self,
        tree: &LoadedTree,
        ino: Ino,
        dir: &[u8],
        lost: &LostPart,
    ) -> VfsError {
        self.damage(tree, ino, dir, &with_causes(&lost.source));
        VfsError::Damaged
    }

    /// Reports an entry that cannot be read, once.
    fn damage(&self, tree: &LoadedTree, ino: Ino, below: &[u8], why: &str) {
        let mut reported = lock(&self.reported);
        if reported.len() >= REPORTED_MAX || !reported.insert(ino) {
            return;
        }
        drop(reported);
        self.damaged.fetch_add(1, Relaxed);
        let path = join_paths(&tree.path, below);
        let path = String::from_utf8_lossy(&path);
        self.progress.warn(format!("/{path} in {}: {why}", shown(&tree.snapshot)));
    }
}

/// A path from two, either of which may be empty.
pub(super) fn join_paths(path: &[u8], below: &[u8]) -> Bytes {
    match (path.is_empty(), below.is_empty()) {
        (true, _) => below.to_vec(),
        (_, true) => path.to_vec(),
        _ => join(path, below),
    }
}

fn shown(listed: &Listed) -> String {
    let id = listed.name.id.to_string();
    format!("snapshot {} of {} at {}", &id[..8], listed.source, time_name(listed.time))
}

fn unix_time(time: Timestamp) -> UnixTime {
    let nanoseconds = time.subsec_nanosecond();
    if nanoseconds < 0 {
        return UnixTime(time.as_second() - 1, (nanoseconds + 1_000_000_000).unsigned_abs());
    }
    UnixTime(time.as_second(), nanoseconds.unsigned_abs())
}
