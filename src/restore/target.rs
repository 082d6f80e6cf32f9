//! The directory that a restore writes into: the only code that does.
//!
//! Nothing outside of it is ever created, changed or removed, whatever the repository says and
//! whatever another process does in it meanwhile: every access begins at the directory's own
//! descriptor and follows no symbolic link. (A directory that someone moves elsewhere while it is
//! open takes what is still written into it along; it was in the target when it was opened.)
//! Entries come in any order, from any thread, but a directory before what is in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, unlinkat};
use rustix::io::Errno;

use crate::format::node::{Node, NodeKind};
use crate::progress::Progress;
use crate::restore::metadata::{Forbidding, Metadata, flags_before_content, is_forbidding, permit};
use crate::restore::metadata_later::{Later, LaterStack};
use crate::restore::metadata_object::{Identity, Object};
use crate::restore::target_dirs::TargetDirs;
use crate::restore::target_error::TargetError;
use crate::restore::target_file::{Restored, TargetFile};
use crate::restore::target_flush::Flusher;
use crate::restore::target_options::Options;
use crate::restore::target_path::TargetPath;
use crate::restore::target_place::{CLOSED, Found, Place, found, kind_of};

const LATER_BYTES_DEFAULT: usize = 16 * 1024 * 1024;
/// How often an entry that another process keeps putting in the way is removed again.
const ATTEMPTS_MAX: u32 = 16;
/// Until its own attributes are set, only the owner may look at what is restored.
const FILE_MODE: Mode = Mode::from_bits_retain(0o600);
const DIR_MODE: Mode = Mode::from_bits_retain(0o700);

/// An open restore target.
pub struct Target {
    pub(super) dirs: TargetDirs,
    options: Options,
    metadata: Metadata,
    later: Mutex<LaterStack>,
    flusher: Arc<Flusher>,
}

impl Target {
    /// Opens the directory; its own path may lead through symbolic links, it is the user's.
    ///
    /// # Errors
    /// [`TargetError::Unusable`].
    pub fn open(dir: &Path, options: Options) -> Result<Self, TargetError> {
        let unusable = |source| TargetError::Unusable { path: dir.to_owned(), source };
        if options.create {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(dir).map_err(unusable)?;
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty());
        let root = root.map_err(|error| unusable(error.into()))?;
        let later_bytes_max = match options.later_bytes_max {
            0 => LATER_BYTES_DEFAULT,
            given => given,
        };
        Ok(Self {
            dirs: TargetDirs::new(root),
            metadata: Metadata::new(&options),
            later: Mutex::new(LaterStack::new(later_bytes_max)),
            flusher: Arc::default(),
            options,
        })
    }

    /// What is at a path, symbolic links not followed; `None` if nothing is.
    pub fn find(&self, path: &TargetPath) -> Result<Option<Found>, TargetError> {
        let stat = if path.as_bytes().is_empty() {
            rustix::fs::fstat(self.dirs.root())
        } else {
            match self.place(path) {
                Err(TargetError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return Ok(None);
                }
                place => place?.stat(),
            }
        };
        match stat {
            Ok(stat) => Ok(Some(found(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(TargetError::io("stat", path, error)),
        }
    }

    /// Makes a directory, open to its owner only until [`Self::finish_directories`]; one that is
    /// there is taken. Its parent must be there.
    ///
    /// # Errors
    /// [`TargetError::Exists`] where something else is and overwriting was not asked for.
    pub fn make_dir(&self, path: &TargetPath) -> Result<(), TargetError> {
        if path.as_bytes().is_empty() {
            return Ok(());
        }
        let place = self.place(path)?;
        self.make(&place, &|| rustix::fs::mkdirat(&place.dir, place.name, DIR_MODE), &|stat| {
            kind_of(stat) == NodeKind::Dir && self.open_up(path, stat)
        })
    }

    /// Remembers a directory's attributes for [`Self::finish_directories`]. Parents first.
    pub fn schedule_directory(&self, path: &TargetPath, node: &Node) -> Result<(), TargetError> {
        let dir = self.open_dir(path)?;
        let stat = rustix::fs::fstat(&dir).map_err(|error| TargetError::io("stat", path, error))?;
        self.do_later(path, Identity::of(&stat), node)
    }

    /// Opens a file of `node.size` bytes for writing: a new one, or with the option to overwrite
    /// the one that is there, with its content. A file that has other names, and anything that is
    /// no file, gives way to a new one.
    ///
    /// # Errors
    /// [`TargetError::Exists`], [`TargetError::NotEmpty`], and system errors.
    pub fn create_file(&self, path: &TargetPath, node: &Node) -> Result<TargetFile, TargetError> {
        let place = self.place(path)?;
        for _ in 0..ATTEMPTS_MAX {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
            match openat(&place.dir, place.name, flags | CLOSED, FILE_MODE) {
                Ok(file) => return self.begin_file(path, file, node, true),
                Err(Errno::EXIST) if self.options.overwrite => {}
                Err(error) => return Err(place.failure("create", error)),
            }
            if let Some(file) = place.open_alone(node.uid)? {
                return self.begin_file(path, file.into(), node, false);
            }
            place.clear()?;
        }
        Err(TargetError::Exchanged { path: path.to_string() })
    }

    /// Opens a file for reading, to compare it; `None` if there is none, or no regular one.
    pub fn open_file(&self, path: &TargetPath) -> Result<Option<TargetFile>, TargetError> {
        match self.find(path)? {
            Some(found) if found.kind == NodeKind::File => {}
            _ => return Ok(None),
        }
        let place = self.place(path)?;
        let Some((file, stat)) = place.open_regular(OFlags::RDONLY)? else { return Ok(None) };
        let size_bytes = stat.st_size.cast_unsigned();
        let restored = Restored { path: path.clone(), identity: Identity::of(&stat) };
        Ok(Some(TargetFile::new(file, restored, size_bytes, false, None)))
    }

    /// Makes a symbolic link, whose target is taken as it is and never looked at.
    pub fn symlink(&self, path: &TargetPath, target: &[u8]) -> Result<Restored, TargetError> {
        let place = self.place(path)?;
        let make = || rustix::fs::symlinkat(target, &place.dir, place.name);
        self.make(&place, &make, &|_| false)?;
        place.restored(NodeKind::Symlink)
    }

    /// The target of a symbolic link, for comparison.
    pub fn read_link(&self, path: &TargetPath) -> Result<Vec<u8>, TargetError> {
        let place = self.place(path)?;
        let read = rustix::fs::readlinkat(&place.dir, place.name, Vec::new());
        read.map(std::ffi::CString::into_bytes).map_err(|error| place.failure("read", error))
    }

    /// Gives an object that this run restored a further name.
    ///
    /// # Errors
    /// [`TargetError::Exchanged`] if the first name leads to another object by now; then the new
    /// name is gone again.
    pub fn hard_link(&self, from: &Restored, path: &TargetPath) -> Result<(), TargetError> {
        let source = self.place(&from.path)?;
        let place = self.place(path)?;
        let plain = AtFlags::empty(); // a symbolic link itself is linked, not what it names
        let make = || rustix::fs::linkat(&source.dir, source.name, &place.dir, place.name, plain);
        self.make(&place, &make, &|stat| Identity::of(stat) == from.identity)?;
        let linked = place.stat().map_err(|error| place.failure("stat", error))?;
        if Identity::of(&linked) == from.identity {
            return Ok(());
        }
        let _ = unlinkat(&place.dir, place.name, AtFlags::empty());
        Err(TargetError::Exchanged { path: from.path.to_string() })
    }

    /// Makes a named pipe.
    pub fn fifo(&self, path: &TargetPath) -> Result<Restored, TargetError> {
        self.make_node(path, NodeKind::Fifo, 0)
    }

    /// Makes an unconnected socket.
    ///
    /// # Errors
    /// [`TargetError::NotAsked`] without [`Options::sockets`].
    pub fn socket(&self, path: &TargetPath) -> Result<Restored, TargetError> {
        if !self.options.sockets {
            return Err(TargetError::NotAsked { path: path.to_string(), kind: "socket" });
        }
        self.make_node(path, NodeKind::Socket, 0)
    }

    /// Makes the device that `node` describes (kind, major and minor number).
    ///
    /// # Errors
    /// [`TargetError::NotAsked`] without [`Options::devices`].
    pub fn device(&self, path: &TargetPath, node: &Node) -> Result<Restored, TargetError> {
        let is_device = matches!(node.kind, NodeKind::Chardev | NodeKind::Blockdev);
        let (Some((major, minor)), true) = (node.device, is_device) else {
            return Err(TargetError::io("create", path, Errno::INVAL));
        };
        if !self.options.devices {
            return Err(TargetError::NotAsked { path: path.to_string(), kind: "device" });
        }
        self.make_node(path, node.kind, rustix::fs::makedev(major, minor))
    }

    /// Sets all attributes of a file whose content is complete. Immutable and append-only flags of
    /// a file with several names wait for [`Self::finish_directories`].
    pub fn apply_file_metadata(
        &self,
        file: &TargetFile,
        node: &Node,
        progress: &Progress,
    ) -> Result<(), TargetError> {
        self.apply(file.object(), &file.restored, node, progress)
    }

    /// Sets all attributes of a symbolic link, pipe, socket or device.
    ///
    /// # Errors
    /// [`TargetError::Exchanged`] if it is another object by now.
    pub fn apply_metadata(
        &self,
        restored: &Restored,
        node: &Node,
        progress: &Progress,
    ) -> Result<(), TargetError> {
        let place = self.place(&restored.path)?;
        let held = openat(&place.dir, place.name, OFlags::PATH | CLOSED, Mode::empty())
            .map_err(|error| place.failure("open", error))?;
        let object = Object::Path(held.as_fd());
        let stat = object.stat().map_err(|error| place.failure("stat", error))?;
        if Identity::of(&stat) != restored.identity {
            return Err(TargetError::Exchanged { path: restored.path.to_string() });
        }
        self.apply(object, restored, node, progress)
    }

    /// Sets what had to wait for the end: the attributes of directories, children before parents,
    /// and flags that forbid changes. Troubles are reported to `progress`.
    ///
    /// # Errors
    /// Only if the records themselves cannot be read back.
    pub fn finish_directories(&self, progress: &Progress) -> Result<(), TargetError> {
        let mut later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = |error| TargetError::io("read attributes of", &TargetPath::root(), error);
        while let Some(record) = later.pop().map_err(lost)? {
            if let Err(error) = self.finish(record, progress) {
                let source = std::error::Error::source(&error);
                let source = source.map_or(String::new(), |source| format!(": {source}"));
                progress.warn(format!("{error}{source}"));
            }
        }
        self.metadata.summarize(progress);
        Ok(())
    }

    /// Makes everything restored so far durable, with all else on the target's file system. Only
    /// after it may a restore be called successful.
    ///
    /// # Errors
    /// Also for writes that failed in the background; then any of the files may be damaged.
    pub fn sync(&self) -> Result<(), TargetError> {
        let failed = |error| TargetError::io("sync", &TargetPath::root(), error);
        self.flusher.finish().map_err(failed)?;
        rustix::fs::syncfs(self.dirs.root()).map_err(|error| failed(error.into()))
    }

    fn finish(&self, record: Later, progress: &Progress) -> Result<(), TargetError> {
        let path = TargetPath::parse(&record.path)?;
        let identity = record.identity();
        let node = record.into_node();
        let held = if node.kind == NodeKind::Dir {
            let dir = self.open_dir(&path)?;
            File::from(
                openat(&dir, ".", OFlags::RDONLY | CLOSED, Mode::empty())
                    .map_err(|error| TargetError::io("open", &path, error))?,
            )
        } else {
            match self.place(&path)?.open_regular(OFlags::RDONLY)? {
                Some((file, _)) => file,
                None => return Err(TargetError::Exchanged { path: path.to_string() }),
            }
        };
        let object = Object::Open(held.as_fd());
        let stat = object.stat().map_err(|error| TargetError::io("stat", &path, error))?;
        if Identity::of(&stat) != identity {
            return Err(TargetError::Exchanged { path: path.to_string() });
        }
        if node.kind == NodeKind::Dir {
            self.metadata.apply(object, &node, &path, Forbidding::Now, progress);
        } else {
            self.metadata.forbid(object, &node, &path, progress);
        }
        Ok(())
    }

    fn apply(
        &self,
        object: Object<'_>,
        restored: &Restored,
        node: &Node,
        progress: &Progress,
    ) -> Result<(), TargetError> {
        let waits = node.link_group.is_some() && is_forbidding(node);
        let forbidding = if waits { Forbidding::AtTheEnd } else { Forbidding::Now };
        self.metadata.apply(object, node, &restored.path, forbidding, progress);
        if waits { self.do_later(&restored.path, restored.identity, node) } else { Ok(()) }
    }

    fn do_later(
        &self,
        path: &TargetPath,
        identity: Identity,
        node: &Node,
    ) -> Result<(), TargetError> {
        let record = Later::new(path.as_bytes(), identity, node);
        let mut later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
        let pushed = later.push(record, &|| nameless_file(&self.dirs));
        pushed.map_err(|error| TargetError::io("keep attributes of", path, error))
    }

    fn make_node(
        &self,
        path: &TargetPath,
        kind: NodeKind,
        device: u64,
    ) -> Result<Restored, TargetError> {
        let place = self.place(path)?;
        let kind_bits = match kind {
            NodeKind::Chardev => FileType::CharacterDevice,
            NodeKind::Blockdev => FileType::BlockDevice,
            NodeKind::Socket => FileType::Socket,
            _ => FileType::Fifo,
        };
        let make = || rustix::fs::mknodat(&place.dir, place.name, kind_bits, FILE_MODE, device);
        self.make(&place, &make, &|_| false)?;
        place.restored(kind)
    }

    /// Makes an entry by `make`; what is there is kept if `keep` says so, and else removed if the
    /// options allow it.
    fn make(
        &self,
        place: &Place<'_>,
        make: &dyn Fn() -> Result<(), Errno>,
        keep: &dyn Fn(&Stat) -> bool,
    ) -> Result<(), TargetError> {
        for _ in 0..ATTEMPTS_MAX {
            match make() {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(place.failure("create", error)),
            }
            match place.stat() {
                Ok(stat) if keep(&stat) => return Ok(()),
                Ok(_) if !self.options.overwrite => {
                    return Err(place.failure("create", Errno::EXIST));
                }
                Ok(_) => place.clear()?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(place.failure("stat", error)),
            }
        }
        Err(TargetError::Exchanged { path: place.path.to_string() })
    }

    /// Lets this run write into a directory that was there: its owner may take his own rights
    /// back, and immutable is taken away with the option to overwrite.
    fn open_up(&self, path: &TargetPath, stat: &Stat) -> bool {
        let missing = !stat.st_mode & 0o700;
        if missing == 0 && !self.options.overwrite {
            return true;
        }
        let Ok(place) = self.place(path) else { return true };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | CLOSED;
        if self.options.overwrite
            && let Ok(dir) = openat(&place.dir, place.name, flags, Mode::empty())
        {
            let _ = permit(Object::Open(dir.as_fd())); // what it forbids will be reported
        }
        if missing != 0
            && let Ok(held) = openat(&place.dir, place.name, OFlags::PATH | CLOSED, Mode::empty())
        {
            let object = Object::Path(held.as_fd());
            if object.stat().is_ok_and(|now| Identity::of(&now) == Identity::of(stat)) {
                let _ = object.set_mode(stat.st_mode & 0o7777 | 0o700); // as above
            }
        }
        true
    }

    /// Gives an opened file its size, and what must be set while it is empty.
    fn begin_file(
        &self,
        path: &TargetPath,
        file: OwnedFd,
        node: &Node,
        is_new: bool,
    ) -> Result<TargetFile, TargetError> {
        let failure = |action, error: Errno| TargetError::io(action, path, error);
        let stat = rustix::fs::fstat(&file).map_err(|error| failure("stat", error))?;
        if is_new && !flags_before_content(node).is_empty() {
            let flags = flags_before_content(node);
            // Asked again, and reported if refused, with the other flags.
            let _ = Object::Open(file.as_fd()).set_flags(flags, flags);
        }
        if !is_new && stat.st_mode & 0o7077 != 0 {
            // Who could read or run the old content shall not get at the new one before its mode is
            // set. Refused to a writer who is not the owner; he cannot set the mode either.
            let _ = Object::Open(file.as_fd()).set_mode(stat.st_mode & 0o700);
        }
        if stat.st_size.cast_unsigned() != node.size {
            rustix::fs::ftruncate(&file, node.size).map_err(|error| failure("resize", error))?;
        }
        let restored = Restored { path: path.clone(), identity: Identity::of(&stat) };
        let flusher = Some(self.flusher.clone());
        Ok(TargetFile::new(File::from(file), restored, node.size, is_new, flusher))
    }

    pub(super) fn open_dir(&self, path: &TargetPath) -> Result<Arc<OwnedFd>, TargetError> {
        let bytes = path.as_bytes();
        self.dirs.open(bytes).map_err(|error| TargetError::descent(bytes, error))
    }

    pub(super) fn place<'a>(&self, path: &'a TargetPath) -> Result<Place<'a>, TargetError> {
        let (dir, name) = path.split();
        if name.is_empty() {
            return Err(TargetError::Exists { path: ".".to_owned() });
        }
        let dir = self.dirs.open(dir).map_err(|error| TargetError::descent(dir, error))?;
        Ok(Place { dir, name, path })
    }
}

/// A file without a name in the target, gone when it is closed.
fn nameless_file(dirs: &TargetDirs) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match openat(dirs.root(), ".", flags, FILE_MODE) {
        Ok(file) => return Ok(File::from(file)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let name = format!(".holdfast-restore-{}", std::process::id());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let file = openat(dirs.root(), &name, flags, FILE_MODE)?;
    unlinkat(dirs.root(), &name, AtFlags::empty())?;
    Ok(File::from(file))
}
