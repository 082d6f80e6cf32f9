//! A store in a directory of this host.
//!
//! What [`Store::put`] acknowledged survives a power loss; a crash leaves at most nameless files or
//! files below `tmp/`. Symbolic links inside the repository are never followed. Folders are 0700,
//! objects 0400.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, mkdirat, statat, unlinkat};
use rustix::io::Errno;

use crate::store::capabilities::Capabilities;
use crate::store::local_probe;
use crate::store::name::{
    RESERVE_FILE, TEMPORARY_FOLDER, check_object_name, check_prefix, is_component,
};
use crate::store::open_files::OpenFiles;
use crate::store::publish::{FOLDER, Method, Place, Publisher, open_beneath, sync_folder};
use crate::store::{Entry, Put, Store, StoreError};

/// Bytes of the reserve that a repository is made with, unless its maker says another number:
/// room for the tombstones and indexes with which a prune begins.
pub const RESERVE_BYTES_DEFAULT: u64 = 16 * 1024 * 1024;
/// Age from which a temporary file belongs to no running process.
const STALE_AFTER: Duration = Duration::from_hours(24);
const FOLDER_MODE: u32 = 0o700;
const OBJECT_MODE: u32 = 0o400;
const RESERVE_MODE: u32 = 0o600;

/// A repository's directory, open.
pub struct LocalStore {
    path: PathBuf,
    root: OwnedFd,
    publisher: Publisher,
    open_files: OpenFiles,
    /// Folders whose own names this process has made durable.
    durable_folders: Mutex<HashSet<String>>,
}

impl LocalStore {
    /// Opens the directory of a repository; nothing in it is read or changed.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let flags = FOLDER | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|error| failure("open", &path.to_string_lossy(), &path, error.into()))?;
        Ok(Self {
            path,
            root,
            publisher: Publisher::new(Method::LinkUnnamed),
            open_files: OpenFiles::default(),
            durable_folders: Mutex::default(),
        })
    }

    /// Makes the directory of a new repository (parents too, where missing), with a reserve of
    /// `reserve_bytes` (0: none). A crash leaves a directory that may be created again.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the directory holds anything else already.
    pub fn create(path: impl Into<PathBuf>, reserve_bytes: u64) -> Result<Self, StoreError> {
        let path = path.into();
        let fail = |error| failure("create", &path.to_string_lossy(), &path, error);
        let missing: Vec<PathBuf> =
            path.ancestors().take_while(|part| !part.exists()).map(Path::to_owned).collect();
        std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&path).map_err(fail)?;
        for made in &missing {
            let parent = made.parent().filter(|parent| *parent != Path::new(""));
            File::open(parent.unwrap_or(Path::new("."))).and_then(sync_folder).map_err(fail)?;
        }
        let store = Self::open(path)?;
        store.check_new()?;
        store.temporary_folder()?;
        store.ensure_reserve(reserve_bytes)?;
        Ok(store)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes temporary files that no running process can still be writing: older than a day by
    /// the clock of the file system. Returns how many.
    pub fn remove_stale_temporaries(&self) -> Result<u64, StoreError> {
        let fail = |error: io::Error| self.failure("clean", TEMPORARY_FOLDER, error);
        let folder = self.temporary_folder()?;
        let now = file_system_time(folder.as_fd()).map_err(fail)?;
        let mut removed = 0;
        for entry in Dir::read_from(&folder).map_err(|error| fail(error.into()))? {
            let entry = entry.map_err(|error| fail(error.into()))?;
            let Ok(stat) = statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                continue; // finished or removed meanwhile
            };
            let age = now.duration_since(modified(&stat)).unwrap_or_default();
            if !is_folder(&stat) && age > STALE_AFTER {
                match unlinkat(&folder, entry.file_name(), AtFlags::empty()) {
                    Ok(()) => removed += 1,
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(fail(error.into())),
                }
            }
        }
        Ok(removed)
    }

    /// Gives the reserved space back, so that a prune can begin on a full disk.
    pub fn release_reserve(&self) -> Result<(), StoreError> {
        match unlinkat(&self.root, RESERVE_FILE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failure("delete", RESERVE_FILE, error.into())),
        }
    }

    /// Makes the reserve anew unless one of at least `reserve_bytes` is there; 0 makes none.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] leaves no reserve.
    pub fn ensure_reserve(&self, reserve_bytes: u64) -> Result<(), StoreError> {
        let found = statat(&self.root, RESERVE_FILE, AtFlags::SYMLINK_NOFOLLOW);
        let found_bytes = found.map_or(0, |stat| stat.st_size.cast_unsigned());
        if found_bytes >= reserve_bytes {
            return Ok(());
        }
        self.release_reserve()?;
        let temporary = self.temporary_folder()?;
        let (temporary, folder) = (temporary.as_fd(), self.root.as_fd());
        let place = Place { temporary, folder, name: RESERVE_FILE, mode: RESERVE_MODE };
        self.publisher
            .publish(&place, &|file| write_incompressible(file, reserve_bytes))
            .map_err(|error| self.failure("write", RESERVE_FILE, error))?;
        Ok(())
    }

    /// An empty directory, or one that a crash left while it was made.
    fn check_new(&self) -> Result<(), StoreError> {
        let fail = |error: io::Error| self.failure("list", "", error);
        for entry in Dir::read_from(&self.root).map_err(|error| fail(error.into()))? {
            let entry = entry.map_err(|error| fail(error.into()))?;
            let known: [&[u8]; 5] = [b".", b"..", b"lost+found", b"tmp", b"reserve"];
            if !known.contains(&entry.file_name().to_bytes()) {
                let source = io::Error::from(io::ErrorKind::DirectoryNotEmpty);
                return Err(StoreError::Refused { name: self.location(), source });
            }
        }
        Ok(())
    }

    /// Stores a file in the folder of unfinished uploads as an object is stored.
    pub(super) fn put_temporary(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        let folder = self.temporary_folder()?;
        let (temporary, folder) = (folder.as_fd(), folder.as_fd());
        let place = Place { temporary, folder, name, mode: OBJECT_MODE };
        let done = self.publisher.publish(&place, &|mut file| file.write_all(bytes));
        done.map_err(|error| self.failure("write", TEMPORARY_FOLDER, error))
    }

    /// Removes what [`Self::put_temporary`] has made.
    pub(super) fn remove_temporary(&self, name: &str) -> Result<(), StoreError> {
        match unlinkat(&self.temporary_folder()?, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failure("delete", TEMPORARY_FOLDER, error.into())),
        }
    }

    fn temporary_folder(&self) -> Result<OwnedFd, StoreError> {
        self.make_folder(TEMPORARY_FOLDER)
            .map_err(|error| self.failure("create", TEMPORARY_FOLDER, error))
    }

    /// Opens a folder, making it and its parents where they are missing, all durable.
    fn make_folder(&self, name: &str) -> io::Result<OwnedFd> {
        let mut at: Option<OwnedFd> = None;
        let mut path = String::with_capacity(name.len());
        for component in name.split('/') {
            let parent = at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(component);
            let folder = self.make_folder_in(parent, component, &path)?;
            at = Some(folder);
        }
        at.ok_or_else(|| Errno::NOENT.into())
    }

    fn make_folder_in(
        &self,
        parent: BorrowedFd<'_>,
        component: &str,
        path: &str,
    ) -> io::Result<OwnedFd> {
        // Found by another process's making does not mean synced by it: once for each folder.
        if !self.is_durable(path) {
            match mkdirat(parent, component, Mode::from_raw_mode(FOLDER_MODE)) {
                Ok(()) | Err(Errno::EXIST) => sync_folder(parent)?,
                Err(error) => return Err(error.into()),
            }
        }
        match open_beneath(parent, component, FOLDER) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_durable(path) => {
                self.set_durable(path, false);
                self.make_folder_in(parent, component, path)
            }
            opened => {
                self.set_durable(path, opened.is_ok());
                opened
            }
        }
    }

    fn is_durable(&self, folder: &str) -> bool {
        self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner).contains(folder)
    }

    fn set_durable(&self, folder: &str, durable: bool) {
        let mut folders = self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner);
        if durable {
            if !folders.contains(folder) {
                folders.insert(folder.to_owned());
            }
        } else {
            folders.remove(folder);
        }
    }

    /// The folder that an object lies in.
    fn folder_of(&self, name: &str) -> io::Result<OwnedFd> {
        match name.rsplit_once('/') {
            Some((folder, _)) => open_beneath(self.root.as_fd(), folder, FOLDER),
            None => self.root.try_clone(),
        }
    }

    fn folder_to_put(&self, name: &str) -> io::Result<OwnedFd> {
        match name.rsplit_once('/') {
            Some((folder, _)) => self.make_folder(folder),
            None => self.root.try_clone(),
        }
    }

    /// Opens an object; anything but a regular file is refused. Never waits (a planted pipe).
    fn open_object(&self, name: &str) -> Result<(Arc<File>, u64), StoreError> {
        check_object_name(name)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = open_beneath(self.root.as_fd(), name, flags).and_then(|file| {
            let file = File::from(file);
            let metadata = file.metadata()?;
            if metadata.is_file() {
                Ok((Arc::new(file), metadata.len()))
            } else {
                Err(loop_error())
            }
        });
        opened.map_err(|error| self.failure("read", name, error))
    }

    /// As [`Self::open_object`], from the files kept open where possible.
    fn open_kept(&self, name: &str) -> Result<(Arc<File>, u64), StoreError> {
        if let Some(file) = self.open_files.find(name) {
            // Another process may have removed it, or a repair put another file in its place.
            if let Ok(metadata) = file.metadata()
                && metadata.nlink() > 0
            {
                return Ok((file, metadata.len()));
            }
            self.open_files.forget(name);
        }
        let (file, bytes) = self.open_object(name)?;
        self.open_files.keep(name, &file);
        Ok((file, bytes))
    }

    fn list_folder(
        &self,
        folder: &str,
        pending: &mut Vec<String>,
        visit: &mut dyn FnMut(Entry),
    ) -> io::Result<()> {
        let opened = match folder.strip_suffix('/') {
            Some(name) => open_beneath(self.root.as_fd(), name, FOLDER)?,
            None => open_beneath(self.root.as_fd(), ".", FOLDER)?,
        };
        for entry in Dir::read_from(&opened)? {
            let entry = entry?;
            let Some(name) = object_name(folder, entry.file_name().to_bytes()) else { continue };
            match statat(&opened, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_folder(&stat) => pending.push(name + "/"),
                Ok(stat) if is_regular(&stat) => visit(object_entry(name, &stat)),
                Ok(_) | Err(Errno::NOENT) => {} // not an object; or deleted meanwhile
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn failure(&self, action: &'static str, name: &str, error: io::Error) -> StoreError {
        failure(action, name, &self.path.join(name), error)
    }
}

impl Store for LocalStore {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        check_object_name(name)?;
        let temporary = self.temporary_folder()?;
        let last = name.rsplit('/').next().unwrap_or(name);
        let done = self.folder_to_put(name).and_then(|folder| {
            let (temporary, folder) = (temporary.as_fd(), folder.as_fd());
            if statat(folder, last, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                sync_folder(folder)?; // its writer may be between link and fsync
                return Ok(Put::Exists);
            }
            let place = Place { temporary, folder, name: last, mode: OBJECT_MODE };
            self.publisher.publish(&place, &|mut file| file.write_all(bytes))
        });
        done.map_err(|error| self.failure("write", name, error))
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let (file, actual_bytes) = self.open_object(name)?;
        if actual_bytes > bytes_max {
            let name = name.to_owned();
            return Err(StoreError::WrongSize { name, expected_bytes: bytes_max, actual_bytes });
        }
        let mut bytes = Vec::with_capacity(actual_bytes as usize);
        let limited = (&*file).take(actual_bytes).read_to_end(&mut bytes);
        limited.map_err(|error| self.failure("read", name, error))?;
        if (bytes.len() as u64) < actual_bytes {
            let (name, found) = (name.to_owned(), bytes.len() as u64);
            return Err(StoreError::WrongSize {
                name,
                expected_bytes: actual_bytes,
                actual_bytes: found,
            });
        }
        Ok(bytes)
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let (file, actual_bytes) = self.open_kept(name)?;
        let expected_bytes = offset.saturating_add(buffer.len() as u64);
        if expected_bytes > actual_bytes {
            let name = name.to_owned();
            return Err(StoreError::WrongSize { name, expected_bytes, actual_bytes });
        }
        file.read_exact_at(buffer, offset).map_err(|error| self.failure("read", name, error))
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        check_prefix(prefix)?;
        let mut pending = vec![prefix.to_owned()];
        while let Some(folder) = pending.pop() {
            match self.list_folder(&folder, &mut pending, visit) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(|error| self.failure("list", &folder, error))?,
            }
        }
        Ok(())
    }

    fn stat(&self, name: &str) -> Result<Entry, StoreError> {
        check_object_name(name)?;
        let last = name.rsplit('/').next().unwrap_or(name);
        let found = self.folder_of(name).and_then(|folder| {
            let stat = statat(&folder, last, AtFlags::SYMLINK_NOFOLLOW)?;
            if is_regular(&stat) { Ok(stat) } else { Err(loop_error()) }
        });
        let stat = found.map_err(|error| self.failure("stat", name, error))?;
        Ok(object_entry(name.to_owned(), &stat))
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_object_name(name)?;
        let last = name.rsplit('/').next().unwrap_or(name);
        let done = self.folder_of(name).and_then(|folder| {
            unlinkat(&folder, last, AtFlags::empty())?;
            sync_folder(&folder)
        });
        self.open_files.forget(name);
        match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|error| self.failure("delete", name, error)),
        }
    }

    fn probe(&self) -> Result<Capabilities, StoreError> {
        local_probe::probe(self)
    }

    fn free_bytes(&self) -> Option<u64> {
        let found = rustix::fs::fstatvfs(&self.root).ok()?;
        found.f_bavail.checked_mul(found.f_frsize)
    }
}

fn failure(action: &'static str, name: &str, path: &Path, source: io::Error) -> StoreError {
    let name = name.to_owned();
    match Errno::from_io_error(&source) {
        Some(Errno::NOENT) => StoreError::NotFound { name },
        Some(Errno::NOSPC | Errno::DQUOT) => StoreError::NoSpace { name, source },
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::LOOP) => {
            StoreError::Refused { name, source }
        }
        _ => StoreError::Io { action, path: path.to_owned(), source },
    }
}

/// What the kernel says of a symbolic link; said of everything that is no regular file.
fn loop_error() -> io::Error {
    Errno::LOOP.into()
}

fn object_name(folder: &str, component: &[u8]) -> Option<String> {
    let component = std::str::from_utf8(component).ok().filter(|text| is_component(text))?;
    let name = format!("{folder}{component}");
    check_object_name(&name).is_ok().then_some(name)
}

fn object_entry(name: String, stat: &Stat) -> Entry {
    Entry { name, size: stat.st_size.cast_unsigned(), first_seen: modified(stat) }
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn modified(stat: &Stat) -> SystemTime {
    let nanoseconds = Duration::from_nanos(stat.st_mtime_nsec);
    let seconds = Duration::from_secs(stat.st_mtime.unsigned_abs());
    if stat.st_mtime >= 0 {
        SystemTime::UNIX_EPOCH + seconds + nanoseconds
    } else {
        SystemTime::UNIX_EPOCH - seconds + nanoseconds
    }
}

/// The time as the file system has it: that of a file made for the purpose.
fn file_system_time(folder: BorrowedFd<'_>) -> io::Result<SystemTime> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let name = format!("time-{}-{}", std::process::id(), folder.as_raw_fd());
    let file = rustix::fs::openat(folder, &name, flags, Mode::from_raw_mode(RESERVE_MODE))?;
    let stat = rustix::fs::fstat(&file);
    unlinkat(folder, &name, AtFlags::empty())?;
    Ok(modified(&stat?))
}

/// Fills a file with bytes that no file system stores in less: zeros might take no space at all.
fn write_incompressible(mut file: &File, bytes: u64) -> io::Result<()> {
    let mut stream = blake3::Hasher::new().finalize_xof();
    let mut block = vec![0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(block.len() as u64) as usize;
        stream.fill(&mut block[..length]);
        file.write_all(&block[..length])?;
        left -= length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    use tempfile::TempDir;

    use super::LocalStore;
    use crate::store::conformance;
    use crate::store::{Put, Store, StoreError};

    fn new_store(reserve_bytes: u64) -> (TempDir, LocalStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::create(dir.path().join("a/repo"), reserve_bytes).unwrap();
        (dir, store)
    }

    fn names(store: &dyn Store) -> Vec<String> {
        let mut names = Vec::new();
        store.list("", &mut |entry| names.push(entry.name)).unwrap();
        names.sort();
        names
    }

    fn age(path: &Path, seconds: i64) {
        let now = rustix::fs::stat(path).unwrap();
        let time = Timespec { tv_sec: now.st_mtime - seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
    }

    #[test]
    fn conforms() {
        let dir = tempfile::tempdir().unwrap();
        let count = std::cell::Cell::new(0);
        conformance::run(|| {
            count.set(count.get() + 1);
            let path = dir.path().join(count.get().to_string());
            Box::new(LocalStore::create(path, 0).unwrap())
        });
    }

    #[test]
    fn only_the_owner_may_look() {
        let (dir, store) = new_store(0);
        store.put("data/00/a", b"x").unwrap();
        let mode = |path: &str| {
            let found = std::fs::metadata(dir.path().join("a/repo").join(path)).unwrap();
            found.permissions().mode() & 0o7777
        };
        assert_eq!(mode(""), 0o700);
        assert_eq!(mode("data"), 0o700);
        assert_eq!(mode("data/00"), 0o700);
        assert_eq!(mode("data/00/a"), 0o400);
    }

    #[test]
    fn create_refuses_a_directory_in_use_and_takes_an_unfinished_one() {
        let (dir, store) = new_store(10);
        let path = dir.path().join("a/repo");
        LocalStore::create(&path, 10).unwrap();
        store.put("FORMAT", b"x").unwrap();
        assert!(matches!(LocalStore::create(&path, 0), Err(StoreError::Refused { .. })));
        assert!(matches!(
            LocalStore::open(dir.path().join("absent")),
            Err(StoreError::NotFound { .. })
        ));
    }

    #[test]
    fn links_and_pipes_inside_are_not_objects() {
        let (dir, store) = new_store(0);
        let repo = dir.path().join("a/repo");
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), b"secret").unwrap();
        symlink(&outside, repo.join("data")).unwrap();
        symlink(outside.join("secret"), repo.join("link")).unwrap();
        rustix::fs::mkfifoat(CWD, repo.join("pipe"), 0o600.into()).unwrap();
        for name in ["data/secret", "link", "pipe"] {
            store.get(name, 100).unwrap_err();
            store.stat(name).unwrap_err();
            store.read_at(name, 0, &mut [0]).unwrap_err();
        }
        store.put("data/new", b"x").unwrap_err();
        store.delete("data/secret").unwrap_err();
        assert_eq!(store.put("link", b"x").unwrap(), Put::Exists);
        assert!(names(&store).is_empty());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"secret");
    }

    #[test]
    fn stale_temporaries_go_and_fresh_ones_stay() {
        let (dir, store) = new_store(0);
        let tmp = dir.path().join("a/repo/tmp");
        for (name, seconds) in [("fresh", 0), ("hours", 80_000), ("stale", 90_000)] {
            std::fs::write(tmp.join(name), b"x").unwrap();
            age(&tmp.join(name), seconds);
        }
        store.put("a", b"x").unwrap();
        age(&dir.path().join("a/repo/a"), 90_000);
        assert!(names(&store) == ["a"], "temporaries are not objects");
        assert_eq!(store.remove_stale_temporaries().unwrap(), 1);
        assert!(!tmp.join("stale").exists());
        assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 2);
        assert_eq!(names(&store), ["a"]);
    }

    #[test]
    fn the_reserve_takes_space_and_gives_it_back() {
        let (dir, store) = new_store(1 << 20);
        let reserve = dir.path().join("a/repo/reserve");
        let blocks = || rustix::fs::stat(&reserve).map_or(0, |stat| stat.st_blocks * 512);
        assert!(blocks() >= 1 << 20);
        assert!(names(&store).is_empty(), "the reserve is not an object");
        store.release_reserve().unwrap();
        store.release_reserve().unwrap();
        assert!(!reserve.exists());
        store.ensure_reserve(2 << 20).unwrap();
        store.ensure_reserve(1 << 20).unwrap();
        assert!(blocks() >= 2 << 20, "a larger one is kept");
        assert!(store.free_bytes().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn an_object_that_another_process_replaced_is_read_anew() {
        let (dir, store) = new_store(0);
        store.put("data/a", b"old").unwrap();
        let mut buffer = [0; 3];
        store.read_at("data/a", 0, &mut buffer).unwrap();
        let path = dir.path().join("a/repo/data");
        std::fs::remove_dir_all(&path).unwrap();
        store.read_at("data/a", 0, &mut buffer).unwrap_err();
        assert_eq!(store.put("data/a", b"new").unwrap(), Put::Created);
        store.read_at("data/a", 0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"new");
    }
}
