//! The folder with what is local, and all that can be done to its entries.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    lchown,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, CWD, OFlags, Timespec, Timestamps, UTIME_OMIT, utimensat};

use crate::mount::overlay::lazy_file::{LazyFile, OpenOrigin};
use crate::mount::overlay::nodes::{Nodes, TOP};
use crate::mount::overlay::origin::Origin;
use crate::mount::sync::lock;

/// Files of ours at the top begin so, and are not shown.
pub const OWN_PREFIX: &str = ".holdfast";

/// An open file.
pub struct Handle {
    file: File,
    ino: u64,
    lazy: Option<Arc<LazyFile>>,
    opened: OpenOrigin,
}

/// Who an entry is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maker {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What is to change of an entry.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Last modification, in seconds and nanoseconds.
    pub mtime: Option<(i64, u32)>,
}

/// The folder.
pub struct Folder {
    base: PathBuf,
    origin: Arc<dyn Origin>,
    /// A file at the top that lies under a name of ours until all is there, so that nobody takes
    /// the folder for the whole.
    seal: OsString,
    /// Whose the top is said to be. On the disk it is ours as long as the folder is shown: nobody
    /// gets at what is in it but through us.
    owner: Maker,
    nodes: Mutex<Nodes>,
    lazy: Mutex<HashMap<u64, Arc<LazyFile>>>,
    open: Mutex<HashMap<u64, Vec<Arc<Handle>>>>,
    filled: AtomicU64,
}

impl Folder {
    /// The folder at `base`; the file `seal` at its top lies under a name of ours.
    #[must_use]
    pub fn new(base: PathBuf, origin: Arc<dyn Origin>, seal: &str, owner: Maker) -> Self {
        Self {
            base,
            owner,
            origin,
            seal: seal.into(),
            nodes: Mutex::default(),
            lazy: Mutex::default(),
            open: Mutex::default(),
            filled: AtomicU64::new(0),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Whose the top is said to be.
    #[must_use]
    pub fn owner(&self) -> Maker {
        self.owner
    }

    /// Under which name the seal lies.
    #[must_use]
    pub fn sealed_name(seal: &str) -> String {
        format!("{OWN_PREFIX}.{seal}")
    }

    /// Name of an entry in the folder.
    fn local_name(&self, parent: u64, name: &OsStr) -> io::Result<OsString> {
        if parent == TOP && name == self.seal {
            return Ok(Self::sealed_name(&self.seal.to_string_lossy()).into());
        }
        if parent == TOP && name.as_encoded_bytes().starts_with(OWN_PREFIX.as_bytes()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(name.to_owned())
    }

    fn path(&self, ino: u64) -> io::Result<PathBuf> {
        lock(&self.nodes).path(&self.base, ino).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn place(&self, parent: u64, name: &OsStr) -> io::Result<(PathBuf, OsString)> {
        let name = self.local_name(parent, name)?;
        Ok((self.path(parent)?.join(&name), name))
    }

    /// Number of an entry for the kernel.
    #[must_use]
    pub fn number(&self, metadata: &Metadata, path: &Path) -> u64 {
        if path == self.base { TOP } else { metadata.ino() }
    }

    fn told(&self, parent: u64, name: &OsStr, path: &Path) -> io::Result<Metadata> {
        let metadata = std::fs::symlink_metadata(path)?;
        lock(&self.nodes).tell(metadata.ino(), parent, name);
        Ok(metadata)
    }

    /// A new entry: whatever had its number is gone.
    fn made(&self, parent: u64, name: &OsStr, path: &Path, by: Maker) -> io::Result<Metadata> {
        let made = lchown(path, Some(by.uid), Some(by.gid));
        // Who is not root makes all for itself.
        made.or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Ok(()),
            _ => Err(error),
        })?;
        let metadata = self.told(parent, name, path)?;
        lock(&self.lazy).remove(&metadata.ino());
        Ok(metadata)
    }

    /// Looks an entry up.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> io::Result<Metadata> {
        let (path, local) = self.place(parent, name)?;
        self.told(parent, &local, &path)
    }

    /// The kernel has forgotten an entry.
    pub fn forget(&self, ino: u64, count: u64) {
        lock(&self.nodes).forget(ino, count);
    }

    /// The attributes of an entry.
    pub fn metadata(&self, ino: u64) -> io::Result<Metadata> {
        // A file that is open may have no name any more.
        let open = lock(&self.open).get(&ino).and_then(|all| all.first().cloned());
        match open {
            Some(handle) => handle.file.metadata(),
            None => std::fs::symlink_metadata(self.path(ino)?),
        }
    }

    /// Changes attributes.
    pub fn change(&self, ino: u64, changes: Changes) -> io::Result<Metadata> {
        if let Some(size) = changes.size {
            let open = lock(&self.open).get(&ino).and_then(|all| all.first().cloned());
            let handle = open.map_or_else(|| self.handle(ino).map(Arc::new), Ok)?;
            match &handle.lazy {
                Some(lazy) => lazy.set_len(&handle.file, size)?,
                None => handle.file.set_len(size)?,
            }
        }
        if ino == TOP {
            // It is what it has to be.
            return self.metadata(ino);
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            lchown(self.path(ino)?, changes.uid, changes.gid)?;
        }
        if let Some(mode) = changes.mode {
            std::fs::set_permissions(self.path(ino)?, Permissions::from_mode(mode))?;
        }
        if let Some((seconds, nanoseconds)) = changes.mtime {
            let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            let mtime = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
            let times = Timestamps { last_access: omit, last_modification: mtime };
            utimensat(CWD, self.path(ino)?, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        self.metadata(ino)
    }

    /// The target of a symbolic link.
    pub fn link_target(&self, ino: u64) -> io::Result<PathBuf> {
        std::fs::read_link(self.path(ino)?)
    }

    /// Makes a folder.
    pub fn make_folder(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        by: Maker,
    ) -> io::Result<Metadata> {
        let (path, local) = self.place(parent, name)?;
        std::fs::DirBuilder::new().mode(mode).create(&path)?;
        self.made(parent, &local, &path, by)
    }

    /// Makes a symbolic link.
    pub fn make_link(
        &self,
        parent: u64,
        name: &OsStr,
        target: &Path,
        by: Maker,
    ) -> io::Result<Metadata> {
        let (path, local) = self.place(parent, name)?;
        std::os::unix::fs::symlink(target, &path)?;
        self.made(parent, &local, &path, by)
    }

    /// Gives a file one more name.
    pub fn add_name(&self, ino: u64, parent: u64, name: &OsStr) -> io::Result<Metadata> {
        let (path, local) = self.place(parent, name)?;
        std::fs::hard_link(self.path(ino)?, &path)?;
        self.told(parent, &local, &path)
    }

    /// Removes a name.
    pub fn remove(&self, parent: u64, name: &OsStr) -> io::Result<()> {
        std::fs::remove_file(self.place(parent, name)?.0)
    }

    /// Removes an empty folder.
    pub fn remove_folder(&self, parent: u64, name: &OsStr) -> io::Result<()> {
        std::fs::remove_dir(self.place(parent, name)?.0)
    }

    /// Renames; what had the name before is gone.
    pub fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr)) -> io::Result<()> {
        let (old, _) = self.place(from.0, from.1)?;
        let (new, local) = self.place(to.0, to.1)?;
        let ino = std::fs::symlink_metadata(&old)?.ino();
        std::fs::rename(old, new)?;
        lock(&self.nodes).rename(ino, to.0, &local);
        Ok(())
    }

    /// Makes a file, and opens it.
    pub fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        by: Maker,
    ) -> io::Result<(Metadata, Arc<Handle>)> {
        let (path, local) = self.place(parent, name)?;
        // Nobody may take it for what had its number before, until that is forgotten.
        let mut known = lock(&self.lazy);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(mode);
        let file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&path)?;
        known.remove(&file.metadata()?.ino());
        drop(known);
        let metadata = self.made(parent, &local, &path, by)?;
        let (ino, opened) = (metadata.ino(), OpenOrigin::default());
        Ok((metadata, self.keep(Handle { file, ino, lazy: None, opened })))
    }

    /// Opens a file.
    pub fn open(&self, ino: u64) -> io::Result<Arc<Handle>> {
        let handle = self.handle(ino)?;
        Ok(self.keep(handle))
    }

    fn handle(&self, ino: u64) -> io::Result<Handle> {
        self.open_at(&self.path(ino)?)
    }

    /// Opens a file by its path.
    pub(super) fn open_at(&self, path: &Path) -> io::Result<Handle> {
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(flags).open(path)?;
        let ino = file.metadata()?.ino();
        let lazy = self.lazy(&file, ino)?;
        Ok(Handle { file, ino, lazy, opened: OpenOrigin::default() })
    }

    fn keep(&self, handle: Handle) -> Arc<Handle> {
        let handle = Arc::new(handle);
        lock(&self.open).entry(handle.ino).or_default().push(Arc::clone(&handle));
        handle
    }

    /// What is known of what a file lacks. Looked up and read under one lock: two would each take
    /// the other's blocks for missing.
    fn lazy(&self, file: &File, ino: u64) -> io::Result<Option<Arc<LazyFile>>> {
        let mut known = lock(&self.lazy);
        if let Some(lazy) = known.get(&ino) {
            return Ok(Some(Arc::clone(lazy)));
        }
        let Some(lazy) = LazyFile::read(file)?.map(Arc::new) else { return Ok(None) };
        known.insert(ino, Arc::clone(&lazy));
        Ok(Some(lazy))
    }

    /// Closes a file.
    pub fn close(&self, handle: &Arc<Handle>) {
        let mut open = lock(&self.open);
        if let Some(all) = open.get_mut(&handle.ino) {
            all.retain(|other| !Arc::ptr_eq(other, handle));
            if all.is_empty() {
                open.remove(&handle.ino);
            }
        }
    }

    /// Appends up to `length` bytes: fewer only at the end of the file.
    pub fn read(
        &self,
        handle: &Handle,
        offset: u64,
        length: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.fill(handle, offset, offset.saturating_add(length as u64))?;
        out.resize(length, 0);
        let mut filled = 0;
        while filled < length {
            match handle.file.read_at(&mut out[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out.truncate(filled);
        Ok(())
    }

    /// Fetches what is missing of a part.
    pub(super) fn fill(&self, handle: &Handle, from: u64, to: u64) -> io::Result<()> {
        let Some(lazy) = &handle.lazy else { return Ok(()) };
        let before = lazy.missing_bytes();
        if before == 0 {
            return Ok(());
        }
        let filled = lazy.fill(&handle.file, &handle.opened, &*self.origin, from, to);
        self.filled.fetch_add(before.saturating_sub(lazy.missing_bytes()), Relaxed);
        filled
    }

    /// Bytes that were fetched so far.
    #[must_use]
    pub fn filled(&self) -> u64 {
        self.filled.load(Relaxed)
    }

    /// Writes all of `data`.
    pub fn write(&self, handle: &Handle, offset: u64, data: &[u8]) -> io::Result<()> {
        match &handle.lazy {
            Some(lazy) => lazy.write(&handle.file, &handle.opened, &*self.origin, offset, data),
            None => handle.file.write_all_at(data, offset),
        }
    }

    /// Makes a file durable.
    pub fn sync(&self, handle: &Handle) -> io::Result<()> {
        match &handle.lazy {
            Some(lazy) => lazy.sync(&handle.file),
            None => handle.file.sync_all(),
        }
    }

    /// Makes the names in a folder durable.
    pub fn sync_folder(&self, ino: u64) -> io::Result<()> {
        File::open(self.path(ino)?)?.sync_all()
    }

    /// The entries of a folder: number, type, name.
    pub fn list(&self, ino: u64) -> io::Result<Vec<(u64, std::fs::FileType, OsString)>> {
        use std::os::unix::fs::DirEntryExt as _;
        let sealed = Self::sealed_name(&self.seal.to_string_lossy());
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(self.path(ino)?)? {
            let entry = entry?;
            let mut name = entry.file_name();
            if ino == TOP && name.as_encoded_bytes().starts_with(OWN_PREFIX.as_bytes()) {
                if name != *sealed {
                    continue;
                }
                name.clone_from(&self.seal);
            }
            entries.push((entry.ino(), entry.file_type()?, name));
        }
        Ok(entries)
    }
}

impl Handle {
    /// What is missing of the file.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.lazy.as_ref().map_or(0, |lazy| lazy.missing_bytes())
    }

    /// Its attributes.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }
}
