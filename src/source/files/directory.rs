//! Directories of the tree, held open as long as few are and opened again when needed.
//!
//! A directory is known by its parent and its name, never by a path, so depth and `PATH_MAX` do
//! not matter. At most [`OPEN_DIRECTORIES_MAX`] descriptors are kept besides the root's; whoever
//! needs a closed one opens it again from its nearest open ancestor and checks that it is the
//! same inode as before.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::source::error::SourceError;
use crate::source::files::stat::Stat;

/// Descriptors of directories kept open by one tree.
pub const OPEN_DIRECTORIES_MAX: usize = 128;
/// Of a long way down, so many last directories stay open, for the way back up.
const REOPENED_KEPT: usize = 64;

/// One directory of a tree; cheap to share, keeps its parents alive.
#[derive(Debug)]
pub struct Directory {
    /// Taken out only when it is dropped.
    parent: Option<Arc<Directory>>,
    name: Box<[u8]>,
    depth: u32,
    /// Length of the path from the root.
    path_bytes: u64,
    stat: Stat,
    descriptor: Mutex<Option<Arc<OwnedFd>>>,
    tree: Arc<Tree>,
}

/// What all directories of one tree share.
#[derive(Debug)]
struct Tree {
    path: PathBuf,
    /// Those with an open descriptor, the one opened first in front.
    open: Mutex<VecDeque<Weak<Directory>>>,
}

impl Directory {
    /// Opens the root of a tree; its descriptor stays open as long as the tree is used.
    ///
    /// # Errors
    /// [`SourceError::Vanished`] when there is nothing at `path`, and system errors.
    pub fn open_root(path: &Path) -> Result<Arc<Self>, SourceError> {
        let fail = |errno| SourceError::from_errno("open", path.to_owned(), errno);
        let fd = open_directory(rustix::fs::CWD, path.as_os_str().as_bytes()).map_err(fail)?;
        let stat = Stat::of_fd(fd.as_fd()).map_err(fail)?;
        let tree = Tree { path: path.to_owned(), open: Mutex::default() };
        Ok(Arc::new(Self {
            parent: None,
            name: Box::default(),
            depth: 0,
            path_bytes: 0,
            stat,
            descriptor: Mutex::new(Some(Arc::new(fd))),
            tree: Arc::new(tree),
        }))
    }

    /// Opens the directory `name` in this one, not through a symbolic link.
    ///
    /// # Errors
    /// [`SourceError::Vanished`], [`SourceError::Io`] also when it is no directory any more.
    pub fn open_child(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Self>, SourceError> {
        let parent_fd = self.descriptor()?;
        let fail = |errno| SourceError::from_errno("open", self.full_path_of(name), errno);
        let fd = open_directory(parent_fd.as_fd(), name).map_err(fail)?;
        let stat = Stat::of_fd(fd.as_fd()).map_err(fail)?;
        let child = Arc::new(Self {
            parent: Some(Arc::clone(self)),
            name: name.into(),
            depth: self.depth + 1,
            path_bytes: self.path_bytes + 1 + name.len() as u64,
            stat,
            descriptor: Mutex::new(Some(Arc::new(fd))),
            tree: Arc::clone(&self.tree),
        });
        self.tree.register(&child);
        Ok(child)
    }

    /// A descriptor of the directory, opened again where it was closed meanwhile.
    ///
    /// Hold it no longer than one system call needs it.
    ///
    /// # Errors
    /// [`SourceError::Replaced`] when another directory stands in its place, or in that of a
    /// parent; [`SourceError::Vanished`]; system errors.
    pub fn descriptor(self: &Arc<Self>) -> Result<Arc<OwnedFd>, SourceError> {
        if let Some(fd) = lock(&self.descriptor).as_ref() {
            return Ok(Arc::clone(fd));
        }
        let (mut fd, closed) = self.nearest_open();
        let kept_from = closed.len().saturating_sub(REOPENED_KEPT);
        for (step, directory) in closed.into_iter().rev().enumerate() {
            fd = Arc::new(directory.reopen(fd.as_fd())?);
            if step >= kept_from {
                *lock(&directory.descriptor) = Some(Arc::clone(&fd));
                self.tree.register(directory);
            }
        }
        Ok(fd)
    }

    /// A descriptor from which nobody has read names yet, so that they come from the first one on.
    ///
    /// Only the root is shared by several walks; any other directory is opened by one of them.
    pub(crate) fn fresh_descriptor(self: &Arc<Self>) -> Result<Arc<OwnedFd>, SourceError> {
        let descriptor = self.descriptor()?;
        if self.depth > 0 {
            return Ok(descriptor);
        }
        let fail = |errno| SourceError::from_errno("open", self.full_path(), errno);
        open_directory(descriptor.as_fd(), b".").map(Arc::new).map_err(fail)
    }

    /// The nearest open ancestor's descriptor, and the closed directories below it, deepest first.
    fn nearest_open(self: &Arc<Self>) -> (Arc<OwnedFd>, Vec<&Arc<Self>>) {
        let mut closed = Vec::new();
        let mut at = self;
        loop {
            if let Some(fd) = lock(&at.descriptor).as_ref() {
                return (Arc::clone(fd), closed);
            }
            closed.push(at);
            at = at.parent.as_ref().expect("the root's descriptor is never closed");
        }
    }

    fn reopen(&self, parent: BorrowedFd<'_>) -> Result<OwnedFd, SourceError> {
        let fail = |errno| SourceError::from_errno("open", self.full_path(), errno);
        let fd = open_directory(parent, &self.name).map_err(fail)?;
        let stat = Stat::of_fd(fd.as_fd()).map_err(fail)?;
        if stat.is_same_file(&self.stat) {
            Ok(fd)
        } else {
            Err(SourceError::Replaced { path: self.full_path() })
        }
    }

    /// Components between the root (0) and this directory.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// Length in bytes of [`Self::relative_path`], or one more.
    #[must_use]
    pub fn relative_path_bytes(&self) -> u64 {
        self.path_bytes
    }

    /// Its state when it was opened first.
    #[must_use]
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Path relative to the root of the tree, `/`-separated; empty for the root.
    #[must_use]
    pub fn relative_path(&self) -> Vec<u8> {
        let mut names = Vec::with_capacity(self.depth as usize);
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(&at.name[..]);
            at = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Path of the tree's root, and below it this directory: for messages, not for system calls.
    #[must_use]
    pub fn full_path(&self) -> PathBuf {
        let relative = self.relative_path();
        if relative.is_empty() {
            self.tree.path.clone()
        } else {
            self.tree.path.join(OsStr::from_bytes(&relative))
        }
    }

    /// [`Self::full_path`] of an entry.
    #[must_use]
    pub fn full_path_of(&self, name: &[u8]) -> PathBuf {
        self.full_path().join(OsStr::from_bytes(name))
    }

    /// Path of the tree's root as given.
    #[must_use]
    pub fn root_path(&self) -> &Path {
        &self.tree.path
    }
}

impl Drop for Directory {
    /// Lets go of the parents one after another: a chain of thousands must not use up the stack.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut parent) = next.and_then(Arc::into_inner) {
            next = parent.parent.take();
        }
    }
}

impl Tree {
    /// Counts a newly opened directory, and closes the oldest ones beyond the limit.
    fn register(&self, directory: &Arc<Directory>) {
        let mut open = lock(&self.open);
        open.push_back(Arc::downgrade(directory));
        while open.len() > OPEN_DIRECTORIES_MAX {
            let oldest = open.pop_front().and_then(|weak| weak.upgrade());
            if let Some(oldest) = oldest {
                lock(&oldest.descriptor).take();
            }
        }
    }
}

/// No state here can be half changed, so a panic of another thread does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    open_without_atime(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// `openat` that follows no link, cannot hang on a fifo, and leaves no access time where the
/// kernel allows that (only the owner and root may ask for it).
pub(crate) fn open_without_atime(
    parent: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match openat(parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(parent, name, flags, Mode::empty()),
        result => result,
    }
}
