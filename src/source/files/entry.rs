//! Entries of a walk, and the way to open one: by its parent's descriptor and its name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::format::node::{Bytes, Node, NodeKind};
use crate::source::error::SourceError;
use crate::source::files::directory::{Directory, open_without_atime};
use crate::source::files::stat::{Stat, kind_of, lstat, node_of, stat_of};

/// The directory in which entries lie; all entries of one directory share it.
#[derive(Debug)]
pub struct Parent {
    /// Path relative to the root of the walk, `/`-separated bytes; empty for the root.
    pub path: Bytes,
    /// The directory.
    pub directory: Arc<Directory>,
}

/// One entry of a walk.
#[derive(Debug)]
pub struct Entry {
    /// Where it lies.
    pub parent: Arc<Parent>,
    /// Its node as far as `lstat` fills it; the rest by
    /// [`MetadataReader::complete`](crate::source::files::metadata::MetadataReader::complete).
    pub node: Node,
    /// Its identity and state, to compare with an earlier one.
    pub stat: Stat,
}

/// What it takes to open an entry later, on any thread.
#[derive(Debug, Clone)]
pub struct EntryHandle {
    parent: Arc<Parent>,
    name: Bytes,
    stat: Stat,
}

/// A file that is open, and known to be the one that `lstat` saw.
#[derive(Debug)]
pub struct OpenFile {
    fd: OwnedFd,
    stat: Stat,
    handle: EntryHandle,
}

/// The place where a walk begins; not always a directory.
#[derive(Debug)]
pub struct Root {
    /// Absolute path of it.
    pub path: PathBuf,
    /// Its node; the name is empty.
    pub node: Node,
    /// Its state.
    pub stat: Stat,
    /// To open it, and to complete its node.
    pub handle: EntryHandle,
}

impl Entry {
    /// Looks at `name` in the directory.
    ///
    /// # Errors
    /// [`SourceError::Vanished`], [`SourceError::UnknownKind`], system errors.
    pub(crate) fn look_up(
        parent: &Arc<Parent>,
        descriptor: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<Self, SourceError> {
        let path = || parent.directory.full_path_of(name);
        let raw = lstat(descriptor, name)
            .map_err(|errno| SourceError::from_errno("lstat", path(), errno))?;
        let kind = kind_of(&raw).ok_or_else(|| SourceError::UnknownKind {
            path: path(),
            mode: u32::from(raw.stx_mode),
        })?;
        Ok(Self {
            parent: Arc::clone(parent),
            node: node_of(&raw, kind, name),
            stat: stat_of(&raw, kind),
        })
    }

    /// Path relative to the root of the walk.
    #[must_use]
    pub fn path(&self) -> Bytes {
        join(&self.parent.path, &self.node.name)
    }

    /// What it takes to open it later; costs one copy of the name.
    #[must_use]
    pub fn handle(&self) -> EntryHandle {
        EntryHandle {
            parent: Arc::clone(&self.parent),
            name: self.node.name.clone(),
            stat: self.stat,
        }
    }
}

impl EntryHandle {
    /// Absolute path, for messages.
    #[must_use]
    pub fn full_path(&self) -> PathBuf {
        if self.name == b"." {
            self.parent.directory.full_path()
        } else {
            self.parent.directory.full_path_of(&self.name)
        }
    }

    /// The state that `lstat` saw.
    #[must_use]
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Opens a regular file for reading.
    ///
    /// The state is taken anew: [`OpenFile::stat`] may be later than [`Self::stat`].
    ///
    /// # Errors
    /// [`SourceError::Replaced`] when under the name there is another file now, or no regular one;
    /// [`SourceError::Vanished`]; system errors.
    pub fn open(&self) -> Result<OpenFile, SourceError> {
        let (fd, stat) = self.open_as(OpenMode::Read)?;
        if stat.kind != NodeKind::File {
            return Err(SourceError::Replaced { path: self.full_path() });
        }
        Ok(OpenFile { fd, stat, handle: self.clone() })
    }

    /// Opens the item so, and checks that it is the one that `lstat` saw.
    pub(crate) fn open_as(&self, mode: OpenMode) -> Result<(OwnedFd, Stat), SourceError> {
        let parent = self.parent.directory.descriptor()?;
        let fail = |errno| match errno {
            // A symbolic link, or no directory, where another kind of file was: another file.
            Errno::LOOP | Errno::NOTDIR => SourceError::Replaced { path: self.full_path() },
            _ => SourceError::from_errno("open", self.full_path(), errno),
        };
        let fd = mode.open(parent.as_fd(), &self.name).map_err(fail)?;
        let stat = Stat::of_fd(fd.as_fd()).map_err(fail)?;
        if stat.is_same_file(&self.stat) {
            Ok((fd, stat))
        } else {
            Err(SourceError::Replaced { path: self.full_path() })
        }
    }
}

/// How to open an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenMode {
    /// For reading: files.
    Read,
    /// For reading: directories.
    ReadDirectory,
    /// Only as a place (`O_PATH`): what cannot or must not be opened.
    Place,
}

impl OpenMode {
    fn open(self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
        match self {
            Self::Read => open_without_atime(parent, name, OFlags::RDONLY),
            Self::ReadDirectory => {
                open_without_atime(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)
            }
            Self::Place => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(parent, name, flags, Mode::empty())
            }
        }
    }
}

impl OpenFile {
    /// The state when it was opened.
    #[must_use]
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Absolute path, for messages.
    #[must_use]
    pub fn full_path(&self) -> PathBuf {
        self.handle.full_path()
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// Looks at `path`: a directory to walk, or any other item.
    ///
    /// A symbolic link is taken as such, unless `path` ends in `/`. A relative path is made
    /// absolute by the working directory.
    ///
    /// # Errors
    /// [`SourceError::Vanished`] when there is nothing: a missing source is never an empty one.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let io = |source| SourceError::Io { action: "find", path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(io)?;
        let raw = lstat(rustix::fs::CWD, path.as_os_str().as_encoded_bytes())
            .map_err(|errno| SourceError::from_errno("lstat", path.clone(), errno))?;
        let kind = kind_of(&raw).ok_or_else(|| SourceError::UnknownKind {
            path: path.clone(),
            mode: u32::from(raw.stx_mode),
        })?;
        let (directory, name) = match (kind, path.parent(), path.file_name()) {
            (NodeKind::Dir, ..) | (_, None, _) | (_, _, None) => {
                (Directory::open_root(&path)?, b".".to_vec())
            }
            (_, Some(parent), Some(name)) => {
                (Directory::open_root(parent)?, name.as_encoded_bytes().to_vec())
            }
        };
        let stat = stat_of(&raw, kind);
        let parent = Arc::new(Parent { path: Bytes::new(), directory });
        let handle = EntryHandle { parent, name, stat };
        Ok(Self { path, node: node_of(&raw, kind, b""), stat, handle })
    }

    /// The directory to walk, or nothing where the root is another kind of item.
    #[must_use]
    pub fn directory(&self) -> Option<&Arc<Directory>> {
        (self.stat.kind == NodeKind::Dir).then_some(&self.handle.parent.directory)
    }
}

/// `name` below the relative path `parent`.
pub(crate) fn join(parent: &[u8], name: &[u8]) -> Bytes {
    let mut path = Bytes::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    if !parent.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
