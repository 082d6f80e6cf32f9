//! How bytes get a name on a file system: all of them, durably, and only if the name is free.
//!
//! Temporary file, write, fsync, link without replace, fsync of the folder. A file whose fsync
//! failed is lost (the kernel may have dropped its pages and marked them clean): it is removed, and
//! the fsync is never tried again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use crate::store::Put;

/// How a finished temporary file gets its name; tried from the first on, what a file system
/// refuses is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Method {
    /// A file without a name (`O_TMPFILE`) is linked: a crash leaves nothing behind.
    LinkUnnamed = 0,
    /// A named temporary file is linked, then loses its first name.
    LinkNamed = 1,
    /// A named temporary file is renamed without replace, where links do not exist.
    Rename = 2,
}

/// Publishes files of one store.
pub(super) struct Publisher {
    method: AtomicU8,
    names_drawn: AtomicU64,
}

/// Where a file goes.
pub(super) struct Place<'a> {
    /// Open folder of temporary files, on the same file system.
    pub temporary: BorrowedFd<'a>,
    /// Open folder of the name.
    pub folder: BorrowedFd<'a>,
    /// Last component of the name.
    pub name: &'a str,
    /// Permission bits of the file.
    pub mode: u32,
}

impl Publisher {
    /// A publisher that begins with `first`, the best method to try.
    pub(super) fn new(first: Method) -> Self {
        Self { method: AtomicU8::new(first as u8), names_drawn: AtomicU64::new(0) }
    }

    /// Writes a new file by `write` and gives it its name, durably, if that is free.
    pub(super) fn publish(
        &self,
        place: &Place<'_>,
        write: &dyn Fn(&File) -> io::Result<()>,
    ) -> io::Result<Put> {
        loop {
            let method = self.method();
            let tried = match method {
                Method::LinkUnnamed => publish_unnamed(place, write),
                Method::LinkNamed | Method::Rename => self.publish_named(place, write, method),
            };
            match tried {
                Err(error) if is_lack_of_method(&error) && method < Method::Rename => {
                    self.method.fetch_max(method as u8 + 1, Relaxed);
                }
                other => return other,
            }
        }
    }

    fn method(&self) -> Method {
        match self.method.load(Relaxed) {
            0 => Method::LinkUnnamed,
            1 => Method::LinkNamed,
            _ => Method::Rename,
        }
    }

    fn publish_named(
        &self,
        place: &Place<'_>,
        write: &dyn Fn(&File) -> io::Result<()>,
        method: Method,
    ) -> io::Result<Put> {
        let (first_name, file) = self.create_named(place)?;
        let done = fill(&file, write).and_then(|()| {
            let named = match method {
                Method::Rename => {
                    let free = RenameFlags::NOREPLACE;
                    renameat_with(place.temporary, &first_name, place.folder, place.name, free)
                }
                _ => {
                    linkat(place.temporary, &first_name, place.folder, place.name, AtFlags::empty())
                }
            };
            settle(place, named)
        });
        // After a rename it is gone already; what stays after a crash is removed when it is stale.
        let _ = unlinkat(place.temporary, &first_name, AtFlags::empty());
        done
    }

    fn create_named(&self, place: &Place<'_>) -> io::Result<(String, File)> {
        loop {
            let number = self.names_drawn.fetch_add(1, Relaxed);
            let name = format!("put-{}-{number}", std::process::id());
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            match openat(place.temporary, &name, flags, Mode::from_raw_mode(place.mode)) {
                Ok(file) => return Ok((name, File::from(file))),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether the file system lacks the method, rather than refusing this file.
fn is_lack_of_method(error: &io::Error) -> bool {
    const LACKS: [Errno; 7] = [
        Errno::OPNOTSUPP, // no O_TMPFILE
        Errno::ISDIR,     // kernel without O_TMPFILE
        Errno::NOENT,     // no /proc to name the file by
        Errno::PERM,      // no links (FAT, some network shares)
        Errno::MLINK,
        Errno::INVAL,
        Errno::NOSYS,
    ];
    Errno::from_io_error(error).is_some_and(|errno| LACKS.contains(&errno))
}

fn publish_unnamed(place: &Place<'_>, write: &dyn Fn(&File) -> io::Result<()>) -> io::Result<Put> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(openat(place.temporary, ".", flags, Mode::from_raw_mode(place.mode))?);
    fill(&file, write)?;
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut named = linkat(CWD, own, place.folder, place.name, AtFlags::SYMLINK_FOLLOW);
    if named == Err(Errno::NOENT) {
        // No /proc here: the direct way, which older kernels grant to privileged processes only.
        named = linkat(&file, "", place.folder, place.name, AtFlags::EMPTY_PATH);
    }
    settle(place, named)
}

fn fill(file: &File, write: &dyn Fn(&File) -> io::Result<()>) -> io::Result<()> {
    write(file)?;
    file.sync_all()
}

/// Makes the name durable, or takes it away again.
fn settle(place: &Place<'_>, named: Result<(), Errno>) -> io::Result<Put> {
    match named {
        Ok(()) => match sync_folder(place.folder) {
            Ok(()) => Ok(Put::Created),
            Err(error) => {
                let _ = unlinkat(place.folder, place.name, AtFlags::empty());
                Err(error)
            }
        },
        // Whoever linked it may not have come to its fsync yet, and our caller relies on the name.
        Err(Errno::EXIST) => sync_folder(place.folder).map(|()| Put::Exists),
        Err(error) => Err(error.into()),
    }
}

/// Makes the names in a folder durable. File systems that cannot sync a folder say `EINVAL`; there
/// is nothing more to be had from them.
pub(super) fn sync_folder(folder: impl AsFd) -> io::Result<()> {
    match rustix::fs::fsync(folder) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens a folder or file below an open folder; no component may be a symbolic link.
pub(super) fn open_beneath(root: BorrowedFd<'_>, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder: Option<OwnedFd> = None;
    let mut components = name.split('/').peekable();
    while let Some(component) = components.next() {
        let at = folder.as_ref().map_or(root, AsFd::as_fd);
        let last = components.peek().is_none();
        let how = if last { flags } else { FOLDER | OFlags::NOFOLLOW | OFlags::CLOEXEC };
        let opened = openat(at, component, how, Mode::empty())?;
        if last {
            return Ok(opened);
        }
        folder = Some(opened);
    }
    Err(Errno::NOENT.into())
}

/// Flags with which a folder is opened so that it can be read and synced.
pub(super) const FOLDER: OFlags = OFlags::DIRECTORY;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use rustix::io::Errno;

    use super::{Method, Place, Publisher};
    use crate::store::Put;

    #[test]
    fn every_method_creates_once_and_leaves_no_temporary() {
        for method in [Method::LinkUnnamed, Method::LinkNamed, Method::Rename] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("tmp")).unwrap();
            let folder = std::fs::File::open(dir.path()).unwrap();
            let temporary = std::fs::File::open(dir.path().join("tmp")).unwrap();
            let (temporary, folder) = (temporary.as_fd(), folder.as_fd());
            let place = Place { temporary, folder, name: "object", mode: 0o400 };
            let publisher = Publisher::new(method);
            let put =
                |text: &'static [u8]| publisher.publish(&place, &|mut file| file.write_all(text));
            assert_eq!(put(b"first").unwrap(), Put::Created, "{method:?}");
            assert_eq!(put(b"second").unwrap(), Put::Exists, "{method:?}");
            assert_eq!(publisher.method(), method);
            assert_eq!(std::fs::read(dir.path().join("object")).unwrap(), b"first");
            assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        for method in [Method::LinkUnnamed, Method::LinkNamed, Method::Rename] {
            let dir = tempfile::tempdir().unwrap();
            let folder = std::fs::File::open(dir.path()).unwrap();
            let folder = folder.as_fd();
            let place = Place { temporary: folder, folder, name: "object", mode: 0o400 };
            let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
            Publisher::new(method).publish(&place, &|_| Err(full())).unwrap_err();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{method:?}");
        }
    }

    #[test]
    fn a_method_that_the_file_system_lacks_is_left_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let folder = std::fs::File::open(dir.path()).unwrap();
        let folder = folder.as_fd();
        let publisher = Publisher::new(Method::LinkUnnamed);
        let place = |name| Place { temporary: folder, folder, name, mode: 0o400 };
        let tries = std::cell::Cell::new(0);
        let lacks_links = |mut file: &std::fs::File| {
            tries.set(tries.get() + 1);
            if tries.get() < 3 { Err(Errno::PERM.into()) } else { file.write_all(b"x") }
        };
        assert_eq!(publisher.publish(&place("a"), &lacks_links).unwrap(), Put::Created);
        assert_eq!((publisher.method(), tries.get()), (Method::Rename, 3));
        assert_eq!(publisher.publish(&place("b"), &lacks_links).unwrap(), Put::Created);
        assert_eq!(tries.get(), 4);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_broken_medium_is_not_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = std::fs::File::open(dir.path()).unwrap();
        let folder = folder.as_fd();
        let place = Place { temporary: folder, folder, name: "object", mode: 0o400 };
        let tries = std::cell::Cell::new(0);
        let broken = |_: &std::fs::File| {
            tries.set(tries.get() + 1);
            Err(Errno::IO.into())
        };
        Publisher::new(Method::LinkUnnamed).publish(&place, &broken).unwrap_err();
        assert_eq!(tries.get(), 1);
    }
}
