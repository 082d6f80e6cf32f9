//! Walks a file tree in the format's order: a directory's entries by name, then its subdirectories
//! in that order (`format-spec`, Tree).
//!
//! Nothing is left out in silence: what cannot be listed, opened or looked at is an event, and the
//! rest goes on. Memory is that of the names in one directory and of the subdirectories still to be
//! visited on the way down; there is no recursion, and descriptors are bounded.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::FileType;

use crate::format::limits;
use crate::format::node::NodeKind;
use crate::source::error::SourceError;
use crate::source::files::directory::Directory;
use crate::source::files::entry::{Entry, Parent, Root, join};
use crate::source::files::exclude::{ExcludeRules, ItemType, Verdict};
use crate::source::files::ignore_file::{IgnoreScope, find_marker};
use crate::source::files::listing::{Names, read_names};
use crate::source::files::stat::kind_of_type;

/// Events that [`Walker::next_batch`] gathers, about.
const BATCH_EVENTS: usize = 512;
/// Entries looked at in one go, over which the threads share.
const LOOK_UP_ENTRIES: usize = 4096;
/// Fewer entries than this are not worth starting a thread for.
const ENTRIES_PER_THREAD_MIN: usize = 512;
/// Threads for `lstat`, at most: more only help against a slow network file system.
const LOOK_UP_THREADS_MAX: usize = 8;

/// What a walk meets.
#[derive(Debug)]
pub enum WalkEvent {
    /// An entry. Entries come strictly ascending in the tree's order.
    Entry(Box<Entry>),
    /// An item that was listed and then gone, or a directory gone before it was read. Its path.
    Vanished(SourceError),
    /// An item that could not be listed, opened or looked at, all of it or in part.
    Error(SourceError),
}

/// A walk; call [`Self::next_batch`] until it says that there is no more.
#[derive(Debug)]
pub struct Walker {
    rules: Arc<ExcludeRules>,
    root_dev: u64,
    /// Absolute path of the root without its first `/`, for the patterns.
    root_path: Vec<u8>,
    /// The directory to be read next.
    next_directory: Option<Arc<Directory>>,
    listing: Option<Listing>,
    /// The directories on the way down to the one being listed.
    stack: Vec<Frame>,
    threads: NonZeroUsize,
}

/// A directory on the way down.
#[derive(Debug)]
struct Frame {
    directory: Arc<Directory>,
    /// Its subdirectories, `visited` of which are done or begun.
    subdirectories: Names,
    visited: usize,
    ignore: Option<IgnoreScope>,
    /// Place in the stack of the nearest frame with ignore files: this one's or one above.
    nearest_ignore: Option<usize>,
}

/// The directory whose entries are being given out.
#[derive(Debug)]
struct Listing {
    parent: Arc<Parent>,
    names: Names,
    position: usize,
}

impl WalkEvent {
    fn of(result: Result<Entry, SourceError>) -> Self {
        match result {
            Ok(entry) => Self::Entry(Box::new(entry)),
            Err(error @ SourceError::Vanished { .. }) => Self::Vanished(error),
            Err(error) => Self::Error(error),
        }
    }
}

impl Walker {
    /// A walk of everything below the root, without the root itself; nothing happens yet.
    ///
    /// A root that is not a directory has no entries.
    #[must_use]
    pub fn new(root: &Root, rules: Arc<ExcludeRules>) -> Self {
        let path = root.path.as_os_str().as_bytes();
        let trimmed = path.strip_prefix(b"/").unwrap_or(path);
        Self {
            rules,
            root_dev: root.stat.dev,
            root_path: trimmed.strip_suffix(b"/").unwrap_or(trimmed).to_vec(),
            next_directory: root.directory().cloned(),
            listing: None,
            stack: Vec::new(),
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }

    /// Appends the next events, some hundreds; false when there are no more.
    pub fn next_batch(&mut self, events: &mut Vec<WalkEvent>) -> bool {
        let enough = events.len() + BATCH_EVENTS;
        while events.len() < enough {
            if let Some(directory) = self.next_directory.take() {
                self.list(directory, events);
            } else if self.listing.is_some() {
                self.look_up(events);
            } else if !self.descend(events) {
                return false;
            }
        }
        true
    }

    /// Reads the names in a directory and makes it the one being given out.
    fn list(&mut self, directory: Arc<Directory>, events: &mut Vec<WalkEvent>) {
        let descriptor = match directory.fresh_descriptor() {
            Ok(descriptor) => descriptor,
            Err(error) => return events.push(WalkEvent::of(Err(error))),
        };
        let (mut names, failure) = read_names(descriptor.as_fd());
        if let Some(errno) = failure {
            let error = SourceError::from_errno("list", directory.full_path(), errno);
            events.push(WalkEvent::of(Err(error)));
        }
        let path = directory.relative_path();
        let parent = Arc::new(Parent { path, directory: Arc::clone(&directory) });
        let ignore = self.apply_markers(&mut names, &parent, descriptor.as_fd(), events);
        let nearest_ignore = match ignore {
            Some(_) => Some(self.stack.len()),
            None => self.stack.last().and_then(|frame| frame.nearest_ignore),
        };
        let subdirectories = Names::default();
        self.stack.push(Frame { directory, subdirectories, visited: 0, ignore, nearest_ignore });
        self.listing = Some(Listing { parent, names, position: 0 });
    }

    /// Heeds the files in a directory that say what is left out of it.
    fn apply_markers(
        &self,
        names: &mut Names,
        parent: &Parent,
        descriptor: BorrowedFd<'_>,
        events: &mut Vec<WalkEvent>,
    ) -> Option<IgnoreScope> {
        let options = self.rules.options();
        let mut errors = Vec::new();
        if let Some(marker) = find_marker(options, names, parent, descriptor, &mut errors) {
            names.keep_only(marker);
        }
        let ignore = IgnoreScope::read(options, names, parent, descriptor, &mut errors);
        events.extend(errors.into_iter().map(|error| WalkEvent::of(Err(error))));
        ignore
    }

    /// Looks at the next entries of the directory being given out.
    fn look_up(&mut self, events: &mut Vec<WalkEvent>) {
        let Some(mut listing) = self.listing.take() else { return };
        let end = listing.names.len().min(listing.position + LOOK_UP_ENTRIES);
        let wanted: Vec<&[u8]> = (listing.position..end)
            .filter(|&at| self.takes_name(&listing, at))
            .map(|at| listing.names.name(at))
            .collect();
        match listing.parent.directory.descriptor() {
            Ok(descriptor) => {
                let found = self.look_up_all(&listing.parent, descriptor.as_fd(), &wanted);
                let passed = |at| listing.names.file_type(at) != FileType::Unknown;
                let patterns_passed = (listing.position..end).all(passed);
                for event in found {
                    self.accept(event, patterns_passed, events);
                }
                listing.position = end;
            }
            Err(error) => {
                events.push(WalkEvent::of(Err(error)));
                return;
            }
        }
        if end < listing.names.len() {
            self.listing = Some(listing);
        }
    }

    /// `lstat` of all `names`, on several threads where they are many.
    fn look_up_all(
        &self,
        parent: &Arc<Parent>,
        descriptor: BorrowedFd<'_>,
        names: &[&[u8]],
    ) -> Vec<WalkEvent> {
        let look_up = |names: &[&[u8]]| -> Vec<WalkEvent> {
            let entry = |name: &&[u8]| WalkEvent::of(Entry::look_up(parent, descriptor, name));
            names.iter().map(entry).collect()
        };
        let threads =
            (names.len() / ENTRIES_PER_THREAD_MIN).min(self.threads.get()).min(LOOK_UP_THREADS_MAX);
        if threads < 2 {
            return look_up(names);
        }
        std::thread::scope(|scope| {
            let shares = names.chunks(names.len().div_ceil(threads));
            let running: Vec<_> = shares.map(|share| scope.spawn(move || look_up(share))).collect();
            running
                .into_iter()
                .flat_map(|thread| thread.join().expect("looking up an entry does not panic"))
                .collect()
        })
    }

    /// Gives an event out, unless the rules leave its entry out by what `lstat` told.
    ///
    /// The patterns are asked here only where the directory did not tell the types of its entries.
    fn accept(&mut self, event: WalkEvent, patterns_passed: bool, events: &mut Vec<WalkEvent>) {
        if let WalkEvent::Entry(entry) = &event {
            let taken = self.takes_state(entry)
                && (patterns_passed
                    || self.takes(&entry.parent.path, &entry.node.name, entry.node.kind));
            if !taken {
                return;
            }
            if entry.node.is_dir()
                && let Some(frame) = self.stack.last_mut()
            {
                frame.subdirectories.push(&entry.node.name, FileType::Directory);
            }
        }
        events.push(event);
    }

    /// Whether patterns let the item pass, where the directory itself told its type.
    fn takes_name(&self, listing: &Listing, at: usize) -> bool {
        match kind_of_type(listing.names.file_type(at)) {
            Some(kind) => self.takes(&listing.parent.path, listing.names.name(at), kind),
            None => true,
        }
    }

    /// Whether size and file system let the entry pass.
    fn takes_state(&self, entry: &Entry) -> bool {
        let file = entry.node.kind == NodeKind::File;
        let elsewhere = self.rules.options().one_file_system && entry.stat.dev != self.root_dev;
        !(file && self.rules.excludes_size(entry.stat.size)) && (entry.node.is_dir() || !elsewhere)
    }

    /// Whether the patterns let an item pass: those of the options first, then the ignore files
    /// from the nearest to the root's.
    fn takes(&self, parent: &[u8], name: &[u8], kind: NodeKind) -> bool {
        let mut scope = self.stack.last().and_then(|frame| frame.nearest_ignore);
        if !self.rules.has_patterns() && scope.is_none() {
            return true;
        }
        let item = if kind == NodeKind::Dir { ItemType::Directory } else { ItemType::Other };
        let relative = join(parent, name);
        let mut verdict = self.rules.verdict(&join(&self.root_path, &relative), item);
        while let (Verdict::Unmatched, Some(at)) = (verdict, scope) {
            if let Some(ignore) = &self.stack[at].ignore {
                verdict = ignore.verdict(&relative, item);
            }
            scope = at.checked_sub(1).and_then(|above| self.stack[above].nearest_ignore);
        }
        verdict != Verdict::Exclude
    }

    /// Goes on to the next subdirectory that has not been visited; false when there is none left.
    fn descend(&mut self, events: &mut Vec<WalkEvent>) -> bool {
        while let Some(frame) = self.stack.last_mut() {
            if frame.visited == frame.subdirectories.len() {
                self.stack.pop();
                continue;
            }
            let name = frame.subdirectories.name(frame.visited);
            let opened = open_subdirectory(&frame.directory, name);
            frame.visited += 1;
            let one_file_system = self.rules.options().one_file_system;
            match opened {
                Ok(child) if one_file_system && child.stat().dev != self.root_dev => {}
                Ok(child) => self.next_directory = Some(child),
                Err(error) => events.push(WalkEvent::of(Err(error))),
            }
            return true;
        }
        false
    }
}

/// Opens a subdirectory within the limits of the format.
fn open_subdirectory(
    directory: &Arc<Directory>,
    name: &[u8],
) -> Result<Arc<Directory>, SourceError> {
    let depth = u64::from(directory.depth()) + 1;
    let exceeds = |limit, max, actual| SourceError::LimitExceeded {
        path: directory.full_path_of(name),
        limit,
        max,
        actual,
    };
    if depth > limits::TREE_DEPTH_MAX {
        return Err(exceeds("TREE_DEPTH_MAX", limits::TREE_DEPTH_MAX, depth));
    }
    let path_bytes = directory.relative_path_bytes() + 1 + name.len() as u64;
    if path_bytes > limits::PATH_BYTES_MAX {
        return Err(exceeds("PATH_BYTES_MAX", limits::PATH_BYTES_MAX, path_bytes));
    }
    directory.open_child(name)
}
