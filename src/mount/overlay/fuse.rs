//! The folder in the kernel's hands.
//!
//! Nobody but the kernel changes what it sees, so it may keep all answers.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{FileType as StdFileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};

use crate::mount::fuse::{Mounted, Users};
use crate::mount::overlay::folder::{Changes, Folder, Handle, Maker};
use crate::mount::overlay::nodes::TOP;
use crate::mount::sync::lock;

/// How long the kernel keeps what it was told.
const LIFETIME: Duration = Duration::from_hours(24);
/// Threads that answer the kernel: most of their time they wait for the repository.
const THREADS: usize = 16;
/// Largest write and read ahead, in bytes.
const TRANSFER_BYTES: u32 = 1024 * 1024;
/// Preferred size of a read or write, in bytes.
const BLOCK_BYTES: u32 = 8192;

/// Mounts the folder over an empty directory; it is answered for by threads of its own.
///
/// # Errors
/// What the system said.
pub fn mount(folder: Arc<Folder>, path: &Path, users: Users) -> io::Result<Mounted> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RW,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::FSName("holdfast".to_owned()),
        MountOption::Subtype("holdfast".to_owned()),
    ];
    if users == Users::All {
        config.acl = SessionACL::All;
    }
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let front = Front {
        folder,
        files: Mutex::default(),
        listings: Mutex::default(),
        next: AtomicU64::new(1),
    };
    let session = Session::new(front, path, &config)?.spawn()?;
    Ok(Mounted::of(session, path))
}

type Listing = Vec<(u64, StdFileType, OsString)>;

struct Front {
    folder: Arc<Folder>,
    files: Mutex<HashMap<u64, Arc<Handle>>>,
    listings: Mutex<HashMap<u64, Arc<Listing>>>,
    next: AtomicU64,
}

impl Front {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    fn keep(&self, handle: Arc<Handle>) -> FileHandle {
        let number = self.number();
        lock(&self.files).insert(number, handle);
        FileHandle(number)
    }

    fn reply_attr(&self, reply: ReplyAttr, ino: INodeNo, found: io::Result<Metadata>) {
        match found {
            Ok(metadata) => {
                let mut shown = attr(ino.0, &metadata);
                if ino.0 == TOP {
                    (shown.uid, shown.gid) = (self.folder.owner().uid, self.folder.owner().gid);
                }
                reply.attr(&LIFETIME, &shown);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<Handle>> {
        let found = lock(&self.files).get(&handle.0).cloned();
        found.ok_or_else(|| io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error()))
    }
}

impl Filesystem for Front {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wish in [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_ASYNC_READ] {
            // A kernel that does not know it does without.
            let _ = config.add_capabilities(wish);
        }
        if let Err(most) = config.set_max_write(TRANSFER_BYTES) {
            let _ = config.set_max_write(most);
        }
        if let Err(most) = config.set_max_readahead(TRANSFER_BYTES) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply_entry(reply, self.folder.lookup(parent.0, name));
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.folder.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let metadata = match handle {
            Some(handle) => self.file(handle).and_then(|handle| handle.metadata()),
            None => self.folder.metadata(ino.0),
        };
        self.reply_attr(reply, ino, metadata);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mtime = mtime.map(|time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        });
        let mtime = mtime.map(|time| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            (since.as_secs().cast_signed(), since.subsec_nanos())
        });
        let changes = Changes { mode, uid, gid, size, mtime };
        self.reply_attr(reply, ino, self.folder.change(ino.0, changes));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.folder.link_target(ino.0) {
            Ok(target) => reply.data(target.as_os_str().as_encoded_bytes()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.folder.make_folder(parent.0, name, mode & !umask, maker(request));
        reply_entry(reply, made);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        reply_entry(reply, self.folder.make_link(parent.0, name, target, maker(request)));
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply_entry(reply, self.folder.add_name(ino.0, parent.0, name));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.folder.remove(parent.0, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.folder.remove_folder(parent.0, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        reply_empty(reply, self.folder.rename((parent.0, name), (new_parent.0, new_name)));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.folder.create(parent.0, name, mode & !umask, maker(request)) {
            Ok((metadata, handle)) => reply.created(
                &LIFETIME,
                &attr(metadata.ino(), &metadata),
                Generation(0),
                self.keep(handle),
                FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.folder.open(ino.0) {
            Ok(handle) => reply.opened(self.keep(handle), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = Vec::new();
        let read = self
            .file(handle)
            .and_then(|handle| self.folder.read(&handle, offset, size as usize, &mut bytes));
        match read {
            Ok(()) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.file(handle).and_then(|handle| self.folder.write(&handle, offset, data));
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
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
        if let Some(handle) = lock(&self.files).remove(&handle.0) {
            self.folder.close(&handle);
        }
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        reply_empty(reply, self.file(handle).and_then(|handle| self.folder.sync(&handle)));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply_empty(reply, self.folder.sync_folder(ino.0));
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.folder.list(ino.0) {
            Ok(listing) => {
                let number = self.number();
                lock(&self.listings).insert(number, Arc::new(listing));
                reply.opened(FileHandle(number), FopenFlags::empty());
            }
            Err(error) => reply.error(errno(&error)),
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
        let Some(listing) = lock(&self.listings).get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let dots = [".", ".."].map(|name| (ino.0, FileType::Directory, OsStr::new(name)));
        let entries = listing.iter().map(|(ino, kind, name)| (*ino, file_type(*kind), &**name));
        let all = dots.into_iter().chain(entries).zip(1..);
        for ((ino, kind, name), next) in all.skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        lock(&self.listings).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match rustix::fs::statvfs(self.folder.base()) {
            Ok(found) => reply.statfs(
                found.f_blocks,
                found.f_bfree,
                found.f_bavail,
                found.f_files,
                found.f_ffree,
                found.f_bsize as u32,
                found.f_namemax as u32,
                found.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(&error.into())),
        }
    }
}

fn maker(request: &Request) -> Maker {
    Maker { uid: request.uid(), gid: request.gid() }
}

fn errno(error: &io::Error) -> Errno {
    match (error.raw_os_error(), error.kind()) {
        (Some(number), _) => Errno::from_i32(number),
        (None, io::ErrorKind::NotFound) => Errno::ENOENT,
        // What cannot be fetched is no reason for a server to take it for the end of anything.
        _ => Errno::EIO,
    }
}

fn reply_entry(reply: ReplyEntry, found: io::Result<Metadata>) {
    match found {
        Ok(metadata) => {
            reply.entry(&LIFETIME, &attr(metadata.ino(), &metadata), Generation(0));
        }
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_empty(reply: ReplyEmpty, done: io::Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn attr(ino: u64, metadata: &Metadata) -> FileAttr {
    let time = |time: io::Result<SystemTime>| time.unwrap_or(UNIX_EPOCH);
    let ctime = Duration::from_secs(metadata.ctime().unsigned_abs());
    FileAttr {
        ino: INodeNo(ino),
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: time(metadata.accessed()),
        mtime: time(metadata.modified()),
        ctime: UNIX_EPOCH + ctime,
        crtime: UNIX_EPOCH,
        kind: file_type(metadata.file_type()),
        perm: (metadata.permissions().mode() & 0o7777) as u16,
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn file_type(kind: StdFileType) -> FileType {
    if kind.is_dir() {
        FileType::Directory
    } else if kind.is_symlink() {
        FileType::Symlink
    } else if kind.is_fifo() {
        FileType::NamedPipe
    } else if kind.is_socket() {
        FileType::Socket
    } else {
        FileType::RegularFile
    }
}
