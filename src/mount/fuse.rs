//! The file system in the kernel's hands, by FUSE without any library of the host.
//!
//! What a snapshot holds never changes, so the kernel may keep it for as long as it likes; the list
//! of snapshots it asks for again.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyXattr, Request, Session, SessionACL,
};
use rustix::mount::{UnmountFlags, unmount};

use crate::mount::attributes::Attributes;
use crate::mount::directory::{Directory, Take};
use crate::mount::error::VfsError;
use crate::mount::file_system::FileSystem;
use crate::mount::fuse_values::{READ_BYTES, attr, errno, file_type};
use crate::mount::inode::Ino;
use crate::mount::lru::Lru;
use crate::mount::open_file::OpenFile;
use crate::mount::sync::lock;

/// How long the kernel keeps what cannot change.
const FIXED: Duration = Duration::from_hours(24);
/// How long it keeps the list of snapshots.
const CHANGING: Duration = Duration::from_secs(1);
/// How long answers that are being given may take when it is unmounted.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Threads that answer the kernel; those that wait for the store do not hold up the others.
const THREADS: usize = 8;
/// Requests that the kernel may send ahead of their need.
const BACKGROUND_MAX: u16 = 64;
/// Directories whose listing goes on at a time.
const LISTED_MAX: u64 = 256;
/// Largest read ahead that the kernel is offered, in bytes.
const READAHEAD_BYTES: u32 = 1024 * 1024;
const BLOCK_BYTES: u32 = 4096;
const NAME_BYTES_MAX: u32 = 255;
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// Who may look into a mounted file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// The user who has mounted it, whatever the modes of the files say.
    Owner,
    /// All, as far as the modes of the files allow.
    All,
}

/// A mounted file system; when it is dropped it is unmounted.
pub struct Mounted {
    session: BackgroundSession,
    path: PathBuf,
}

/// How a mounted file system has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It is unmounted.
    Unmounted,
    /// It is gone from its place; programs that still used it get errors from now on.
    Detached,
}

/// Mounts a file system over an empty directory; it is answered for by threads of its own.
///
/// # Errors
/// What the system said.
pub fn mount(file_system: Arc<FileSystem>, path: &Path, users: Users) -> io::Result<Mounted> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
        MountOption::FSName("holdfast".to_owned()),
        MountOption::Subtype("holdfast".to_owned()),
    ];
    if users == Users::All {
        config.acl = SessionACL::All;
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let front = Front {
        file_system,
        files: Handles::default(),
        directories: Handles::default(),
        listed: Mutex::new(Lru::new(LISTED_MAX)),
        opens_directories: true,
        next: AtomicU64::new(1),
    };
    let session = Session::new(front, path, &config)?.spawn()?;
    Ok(Mounted::of(session, path))
}

impl Mounted {
    /// What is mounted at `path`.
    pub(super) fn of(session: BackgroundSession, path: &Path) -> Self {
        Self { session, path: path.to_owned() }
    }

    /// Whether it was unmounted from outside.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.session.guard.is_finished()
    }

    /// Unmounts it, if it is mounted.
    ///
    /// # Errors
    /// What the system said.
    pub fn end(self) -> io::Result<Ended> {
        let Self { session, path } = self;
        if !session.guard.is_finished() {
            match unmount(&path, UnmountFlags::NOFOLLOW) {
                Ok(()) => wait_for_end(&session),
                Err(rustix::io::Errno::BUSY) => {
                    unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
                    // It lives on until its last user is gone, or this process.
                    std::mem::forget(session);
                    return Ok(Ended::Detached);
                }
                // Not root: the helper that has mounted it unmounts it.
                Err(_) => return session.umount_and_join().map(|()| Ended::Unmounted),
            }
        }
        // Dropped, it would unmount whatever is at its place by now.
        std::mem::forget(session);
        Ok(Ended::Unmounted)
    }
}

/// The threads that answer the kernel see that it is unmounted.
fn wait_for_end(session: &BackgroundSession) {
    let begun = Instant::now();
    while !session.guard.is_finished() && begun.elapsed() < END_TIMEOUT {
        std::thread::sleep(Duration::from_millis(1));
    }
}

type Handles<T> = Mutex<HashMap<u64, Arc<T>>>;

/// Answers the kernel.
struct Front {
    file_system: Arc<FileSystem>,
    files: Handles<OpenFile>,
    directories: Handles<Directory>,
    /// Directories that are being listed by a kernel that does not open them.
    listed: Mutex<Lru<Ino, Arc<Directory>>>,
    opens_directories: bool,
    next: AtomicU64,
}

impl Front {
    fn keep<T>(&self, handles: &Handles<T>, value: T) -> FileHandle {
        let number = self.next.fetch_add(1, Relaxed);
        lock(handles).insert(number, Arc::new(value));
        FileHandle(number)
    }

    /// The directory that is to be listed from an offset on.
    fn directory(
        &self,
        ino: Ino,
        handle: FileHandle,
        offset: u64,
    ) -> Result<Arc<Directory>, Errno> {
        if self.opens_directories {
            return lock(&self.directories).get(&handle.0).cloned().ok_or(Errno::EBADF);
        }
        let begun = if offset == 0 { None } else { lock(&self.listed).find(&ino) };
        if let Some(directory) = begun {
            return Ok(directory);
        }
        let directory = Arc::new(self.file_system.open_directory(ino).map_err(errno)?);
        lock(&self.listed).keep(ino, directory.clone(), 1);
        Ok(directory)
    }

    fn lifetime(&self, ino: Ino) -> Duration {
        if self.file_system.is_fixed(ino) { FIXED } else { CHANGING }
    }

    fn entry(&self, parent: Ino, name: &OsStr) -> Result<FileAttr, Errno> {
        let ino = self.file_system.lookup(parent, name.as_bytes()).map_err(errno)?;
        self.file_system.attributes(ino).map(|found| attr(&found)).map_err(errno)
    }

    fn xattr_names(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let names = self.file_system.with_xattrs(ino, |xattrs| {
            xattrs.keys().flat_map(|name| [&name[..], b"\0"].concat()).collect()
        });
        names.map_err(errno)
    }

    fn xattr(&self, ino: Ino, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let value =
            self.file_system.with_xattrs(ino, |xattrs| xattrs.get(name.as_bytes()).cloned());
        value.map_err(errno)?.ok_or(Errno::NO_XATTR)
    }
}

impl Filesystem for Front {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wish in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_AUTO_INVAL_DATA,
        ] {
            // A kernel that does not know it does without.
            let _ = config.add_capabilities(wish);
        }
        self.opens_directories =
            !config.capabilities().contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        let _ = config.set_max_background(BACKGROUND_MAX);
        if let Err(most) = config.set_max_readahead(READAHEAD_BYTES) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.entry(parent.0, name) {
            Ok(attr) => reply.entry_with_ttls(
                &self.lifetime(attr.ino.0),
                &self.lifetime(parent.0),
                &attr,
                Generation(0),
            ),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.file_system.attributes(ino.0) {
            Ok(found) => reply.attr(&self.lifetime(ino.0), &attr(&found)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.file_system.link_target(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.file_system.open(ino.0) {
            Ok(file) => {
                reply.opened(self.keep(&self.files, file), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = lock(&self.files).get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let mut bytes = Vec::with_capacity(size as usize);
        match self.file_system.read(ino.0, &file, offset, size.into(), &mut bytes) {
            Ok(()) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(file) = lock(&self.files).remove(&handle.0) {
            self.file_system.close(&file);
        }
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if !self.opens_directories {
            // The kernel asks no more, and keeps the listings.
            return reply.error(Errno::ENOSYS);
        }
        let flags = if self.file_system.is_fixed(ino.0) {
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR
        } else {
            FopenFlags::empty()
        };
        match self.file_system.open_directory(ino.0) {
            Ok(directory) => reply.opened(self.keep(&self.directories, directory), flags),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let directory = match self.directory(ino.0, handle, offset) {
            Ok(directory) => directory,
            Err(error) => return reply.error(error),
        };
        let mut is_empty = true;
        let mut take = |next: u64, name: &[u8], found: &Attributes| {
            let is_full =
                reply.add(INodeNo(found.ino), next, file_type(found.kind), OsStr::from_bytes(name));
            is_empty &= is_full;
            if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match list(&self.file_system, &directory, offset, &mut take) {
            Err(error) if is_empty => reply.error(errno(error)),
            _ => reply.ok(),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let directory = match self.directory(ino.0, handle, offset) {
            Ok(directory) => directory,
            Err(error) => return reply.error(error),
        };
        let lifetime = self.lifetime(ino.0);
        let mut is_empty = true;
        let mut take = |next: u64, name: &[u8], found: &Attributes| {
            let (ino, name) = (INodeNo(found.ino), OsStr::from_bytes(name));
            let is_full = reply.add(ino, next, name, &lifetime, &attr(found), Generation(0));
            is_empty &= is_full;
            if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match list(&self.file_system, &directory, offset, &mut take) {
            Err(error) if is_empty => reply.error(errno(error)),
            _ => reply.ok(),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        lock(&self.directories).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.file_system.catalog().stored_bytes().div_ceil(BLOCK_BYTES.into());
        reply.statfs(blocks, 0, 0, 0, 0, READ_BYTES, NAME_BYTES_MAX, BLOCK_BYTES);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_xattr(reply, size, self.xattr(ino.0, name));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr(reply, size, self.xattr_names(ino.0));
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Some(file) = lock(&self.files).get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let (Ok(offset), SEEK_DATA | SEEK_HOLE) = (u64::try_from(offset), whence) else {
            return reply.error(Errno::EINVAL);
        };
        match file.seek(offset, whence == SEEK_HOLE).and_then(|at| i64::try_from(at).ok()) {
            Some(at) => reply.offset(at),
            None => reply.error(Errno::ENXIO),
        }
    }
}

/// Lists a directory from the kernel's offset on: `.` and `..` are the first two.
fn list(
    file_system: &FileSystem,
    directory: &Directory,
    offset: u64,
    take: &mut Take<'_>,
) -> Result<(), VfsError> {
    let dots = [&b"."[..], b".."];
    if offset < dots.len() as u64 {
        for (next, dot) in (1..).zip(dots).skip(offset as usize) {
            if take(next, dot, directory.own()).is_break() {
                return Ok(());
            }
        }
    }
    let place = offset.saturating_sub(dots.len() as u64);
    file_system.list(directory, place, &mut |next, name, found| {
        take(next + dots.len() as u64, name, found)
    })
}

fn reply_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(error),
    }
}
