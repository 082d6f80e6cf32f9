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
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request, Session, SessionACL,
};
use rustix::mount::{UnmountFlags, unmount};

use crate::format::node::{NodeKind, UnixTime};
use crate::mount::attributes::Attributes;
use crate::mount::directory::Directory;
use crate::mount::error::VfsError;
use crate::mount::file_system::FileSystem;
use crate::mount::inode::Ino;
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
/// Largest read ahead that the kernel is offered, in bytes.
const READAHEAD_BYTES: u32 = 1024 * 1024;
/// Preferred size of a read, in bytes.
const READ_BYTES: u32 = 128 * 1024;
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
        next: AtomicU64::new(1),
    };
    let session = Session::new(front, path, &config)?.spawn()?;
    Ok(Mounted { session, path: path.to_owned() })
}

impl Mounted {
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
    next: AtomicU64,
}

impl Front {
    fn keep<T>(&self, handles: &Handles<T>, value: T) -> FileHandle {
        let number = self.next.fetch_add(1, Relaxed);
        lock(handles).insert(number, Arc::new(value));
        FileHandle(number)
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
        ] {
            // A kernel that does not know it does without.
            let _ = config.add_capabilities(wish);
        }
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
        let Some(directory) = lock(&self.directories).get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let mut is_empty = true;
        let mut take = |next: u64, name: &[u8], found: &Attributes| {
            let is_full =
                reply.add(INodeNo(found.ino), next, file_type(found.kind), OsStr::from_bytes(name));
            is_empty &= is_full;
            if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let listed = list(&self.file_system, &directory, ino.0, offset, &mut take);
        match listed {
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
        let Some(directory) = lock(&self.directories).get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let lifetime = self.lifetime(ino.0);
        let mut is_empty = true;
        let mut take = |next: u64, name: &[u8], found: &Attributes| {
            let (ino, name) = (INodeNo(found.ino), OsStr::from_bytes(name));
            let is_full = reply.add(ino, next, name, &lifetime, &attr(found), Generation(0));
            is_empty &= is_full;
            if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let listed = list(&self.file_system, &directory, ino.0, offset, &mut take);
        match listed {
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
    ino: Ino,
    offset: u64,
    take: &mut dyn FnMut(u64, &[u8], &Attributes) -> ControlFlow<()>,
) -> Result<(), VfsError> {
    let dots = [&b"."[..], b".."];
    if offset < dots.len() as u64 {
        let own = file_system.attributes(ino)?;
        for (next, dot) in (1..).zip(dots).skip(offset as usize) {
            if take(next, dot, &own).is_break() {
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

fn errno(error: VfsError) -> Errno {
    match error {
        VfsError::NotFound => Errno::ENOENT,
        VfsError::NotDirectory => Errno::ENOTDIR,
        VfsError::IsDirectory => Errno::EISDIR,
        VfsError::WrongKind => Errno::EINVAL,
        VfsError::Damaged => Errno::EIO,
        VfsError::TooMany => Errno::EOVERFLOW,
    }
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File | NodeKind::Stream => FileType::RegularFile,
        NodeKind::Dir => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Chardev => FileType::CharDevice,
        NodeKind::Blockdev => FileType::BlockDevice,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
    }
}

fn attr(found: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(found.ino),
        size: found.size,
        blocks: found.blocks,
        atime: system_time(found.mtime),
        mtime: system_time(found.mtime),
        ctime: system_time(found.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(found.kind),
        perm: found.mode as u16,
        nlink: found.links,
        uid: found.uid,
        gid: found.gid,
        rdev: device_number(found.device),
        blksize: READ_BYTES,
        flags: 0,
    }
}

/// A device as the kernel's protocol has it: 12 bits of the major number, 20 of the minor.
fn device_number((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// A time; one that the system cannot hold becomes 1970.
pub(super) fn system_time(time: UnixTime) -> SystemTime {
    let seconds = Duration::from_secs(time.0.unsigned_abs());
    let whole =
        if time.0 < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    let nanoseconds = Duration::from_nanos(time.1.into());
    whole.and_then(|whole| whole.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_as_the_system_has_them() {
        for (major, minor) in [(1, 3), (8, 17), (259, 65_537)] {
            let number = u64::from(device_number((major, minor)));
            // The encoding of stat() is the same for numbers of this size.
            let expected = rustix::fs::makedev(major, minor);
            assert_eq!(number & 0xffff_ffff, expected & 0xffff_ffff, "{major}:{minor}");
        }
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let time = system_time(UnixTime(-2, 250_000_000));
        assert_eq!(UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(1750));
        let last = system_time(UnixTime(i64::MAX, 0));
        assert_eq!(last.duration_since(UNIX_EPOCH).unwrap().as_secs(), i64::MAX as u64);
    }
}
