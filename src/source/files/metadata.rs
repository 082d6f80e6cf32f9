//! The part of a node that costs more than `lstat`: owner names, attributes, flags, link target,
//! holes.
//!
//! An unchanged item needs none of this: its ctime covers owner, mode, flags and attributes, so
//! the node of the previous snapshot still holds. What cannot be read is reported and the rest is
//! taken.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{ioctl_getflags, readlinkat};
use rustix::io::Errno;

use crate::format::node::{Node, NodeKind};
use crate::source::error::SourceError;
use crate::source::files::entry::{EntryHandle, OpenFile, OpenMode};
use crate::source::files::holes::hole_map;
use crate::source::files::stat::Stat;
use crate::source::files::xattr::XattrAccess;

/// The flags that `chattr` can set (`FS_*_FL` in `linux/fs.h`): s u c S i a d A m j t D T C x P F.
///
/// The others (extents, inline data, index, encrypted, verity, …) are the file system's own.
pub const SETTABLE_FLAGS: u32 = 0x0000_0001 // secure deletion
    | 0x0000_0002 // undelete
    | 0x0000_0004 // compress
    | 0x0000_0008 // synchronous updates
    | 0x0000_0010 // immutable
    | 0x0000_0020 // append only
    | 0x0000_0040 // no dump
    | 0x0000_0080 // no access time
    | 0x0000_0400 // do not compress
    | 0x0000_4000 // journal data
    | 0x0000_8000 // no tail merging
    | 0x0001_0000 // synchronous directory updates
    | 0x0002_0000 // top of a directory hierarchy
    | 0x0080_0000 // no copy on write
    | 0x0200_0000 // direct access
    | 0x2000_0000 // project id is inherited
    | 0x4000_0000; // letter case is folded

/// Completes nodes; one for a backup, shared by its threads, since it remembers owner names.
#[derive(Debug, Default)]
pub struct MetadataReader {
    users: Mutex<HashMap<u32, Option<String>>>,
    groups: Mutex<HashMap<u32, Option<String>>>,
}

/// By what an item is reached while its metadata are read.
enum Access<'f> {
    Open(&'f OpenFile),
    Opened(OwnedFd),
    Place(OwnedFd),
}

impl MetadataReader {
    /// Fills in what `lstat` left out of `node`: user, group, target, xattrs, flags, holes.
    ///
    /// Mode, owner, times and size are brought up to the moment of opening, all together; what
    /// changes after that has a later ctime, and so is seen by the next backup. Give the open file
    /// where it is open anyway: then nothing is opened here. Parts that cannot be read are left out
    /// of the node and told in `problems`.
    ///
    /// # Errors
    /// [`SourceError::Vanished`], [`SourceError::Replaced`], and system errors that leave no way to
    /// the item; the node is as before then.
    pub fn complete(
        &self,
        node: &mut Node,
        handle: &EntryHandle,
        file: Option<&OpenFile>,
        problems: &mut Vec<SourceError>,
    ) -> Result<(), SourceError> {
        let (access, stat) = Access::to(handle, file)?;
        let mut report = |action, errno: Errno| {
            let path = handle.full_path();
            problems.push(SourceError::Io { action, path, source: errno.into() });
        };
        stat.apply(node);
        node.user = self.user(node.uid);
        node.group = self.group(node.gid);
        access.read_xattrs(node, &mut report);
        access.read_flags(node, &mut report);
        access.read_target(node, &mut report);
        access.read_holes(node, &stat, &mut report);
        Ok(())
    }

    /// Name of a user, where the host knows one.
    #[must_use]
    pub fn user(&self, uid: u32) -> Option<String> {
        let find = |uid| uzers::get_user_by_uid(uid)?.name().to_str().map(str::to_owned);
        remembered(&self.users, uid, find)
    }

    /// Name of a group, where the host knows one.
    #[must_use]
    pub fn group(&self, gid: u32) -> Option<String> {
        let find = |gid| uzers::get_group_by_gid(gid)?.name().to_str().map(str::to_owned);
        remembered(&self.groups, gid, find)
    }
}

fn remembered(
    names: &Mutex<HashMap<u32, Option<String>>>,
    id: u32,
    find: impl Fn(u32) -> Option<String>,
) -> Option<String> {
    let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
    names.entry(id).or_insert_with(|| find(id)).clone()
}

impl<'f> Access<'f> {
    /// The best way to the item: open where that is needed and allowed, else only as a place.
    fn to(handle: &EntryHandle, file: Option<&'f OpenFile>) -> Result<(Self, Stat), SourceError> {
        if let Some(file) = file {
            return Ok((Self::Open(file), *file.stat()));
        }
        let mode = match handle.stat().kind {
            NodeKind::File => OpenMode::Read,
            NodeKind::Dir => OpenMode::ReadDirectory,
            _ => OpenMode::Place,
        };
        if mode != OpenMode::Place {
            match handle.open_as(mode) {
                Ok((fd, stat)) => return Ok((Self::Opened(fd), stat)),
                // Not readable for us: what can be known without opening it still is.
                Err(SourceError::Io { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let (fd, stat) = handle.open_as(OpenMode::Place)?;
        Ok((Self::Place(fd), stat))
    }

    fn read_xattrs(&self, node: &mut Node, report: &mut impl FnMut(&'static str, Errno)) {
        let xattrs = match self {
            Self::Open(file) => XattrAccess::of_open(*file),
            Self::Opened(fd) => XattrAccess::of_open(fd),
            Self::Place(fd) => XattrAccess::of_place(fd),
        };
        let mut failures = Vec::new();
        node.xattrs = xattrs.read_all(&mut failures);
        for failure in failures {
            report("read an extended attribute of", failure.errno);
        }
    }

    fn read_flags(&self, node: &mut Node, report: &mut impl FnMut(&'static str, Errno)) {
        let flags = match self {
            Self::Open(file) => ioctl_getflags(file),
            Self::Opened(fd) => ioctl_getflags(fd),
            // Symlinks, devices and the like have none. For a file or directory that may not be
            // opened, its failed opening is reported where its content is read.
            Self::Place(_) => return,
        };
        match flags {
            Ok(flags) => node.flags = flags.bits() & SETTABLE_FLAGS,
            // The file system has no flags.
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => node.flags = 0,
            Err(errno) => report("read the flags of", errno),
        }
    }

    fn read_target(&self, node: &mut Node, report: &mut impl FnMut(&'static str, Errno)) {
        let Self::Place(fd) = self else { return };
        if node.kind != NodeKind::Symlink {
            return;
        }
        match readlinkat(fd, c"", Vec::new()) {
            Ok(target) => node.target = Some(target.into_bytes()),
            Err(errno) => report("read the target of", errno),
        }
    }

    fn read_holes(
        &self,
        node: &mut Node,
        stat: &Stat,
        report: &mut impl FnMut(&'static str, Errno),
    ) {
        node.holes.clear();
        if node.kind != NodeKind::File || !stat.may_have_holes() {
            return;
        }
        let holes = match self {
            Self::Open(file) => hole_map(file.as_fd(), stat.size),
            Self::Opened(fd) => hole_map(fd.as_fd(), stat.size),
            Self::Place(_) => return,
        };
        match holes {
            Ok(holes) => node.holes = holes,
            Err(errno) => report("find the holes of", errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::source::files::entry::Root;

    fn completed(path: &Path) -> (Node, Vec<SourceError>) {
        let mut root = Root::open(path).unwrap();
        let mut problems = Vec::new();
        let reader = MetadataReader::default();
        reader.complete(&mut root.node, &root.handle, None, &mut problems).unwrap();
        (root.node, problems)
    }

    fn run(program: &str, arguments: &[&str], path: &Path) -> bool {
        let status = Command::new(program).args(arguments).arg(path).status();
        status.is_ok_and(|status| status.success())
    }

    fn set_xattr(path: &Path, name: &str, value: &[u8]) {
        rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    }

    #[test]
    fn owners_have_names() {
        let reader = MetadataReader::default();
        assert_eq!(reader.user(0).as_deref(), Some("root"));
        assert_eq!(reader.group(0).as_deref(), Some("root"));
        assert_eq!(reader.user(4_000_000_001), None);
    }

    #[test]
    fn attributes_of_files_and_directories() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, b"x").unwrap();
        let long = vec![7; 3000];
        for path in [&file, directory.path()] {
            set_xattr(path, "user.empty", b"");
            set_xattr(path, "user.long", &long);
            let (node, problems) = completed(path);
            assert!(problems.is_empty(), "{problems:?}");
            assert_eq!(node.xattrs[&b"user.long".to_vec()], long);
            assert_eq!(node.xattrs[&b"user.empty".to_vec()], b"");
        }
        if run("setfacl", &["-m", "u:12345:r"], &file) {
            let (node, _) = completed(&file);
            assert!(node.xattrs.contains_key(b"system.posix_acl_access".as_slice()));
        }
    }

    #[test]
    fn attributes_of_what_cannot_be_opened() {
        if !rustix::process::geteuid().is_root() {
            // Only root may set any attribute on a symlink or fifo.
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (link, fifo) = (directory.path().join("l"), directory.path().join("p"));
        fs::write(directory.path().join("t"), b"").unwrap();
        symlink("t", &link).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        for path in [&link, &fifo] {
            set_xattr(path, "trusted.holdfast", b"of the item itself");
            let (node, problems) = completed(path);
            assert!(problems.is_empty(), "{problems:?}");
            assert_eq!(node.xattrs[&b"trusted.holdfast".to_vec()], b"of the item itself");
        }
        let (target, _) = completed(&directory.path().join("t"));
        assert!(!target.xattrs.contains_key(b"trusted.holdfast".as_slice()));
        assert_eq!(completed(&link).0.target.as_deref(), Some(&b"t"[..]));
    }

    #[test]
    fn flags_that_can_be_set_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, b"x").unwrap();
        assert_eq!(completed(&file).0.flags & 0x40, 0);
        if run("chattr", &["+d"], &file) {
            // The flag for extents, which ext4 sets by itself, must not show.
            assert_eq!(completed(&file).0.flags, 0x40);
        }
    }

    #[test]
    fn sparse_files_have_their_holes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, [1; 4096]).unwrap();
        assert!(completed(&file).0.holes.is_empty());
        fs::File::options().write(true).open(&file).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(completed(&file).0.holes, [(4096, (1 << 20) - 4096)]);
    }

    #[test]
    fn a_change_after_lstat_is_taken_whole() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, b"x").unwrap();
        let mut root = Root::open(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o612)).unwrap();
        let reader = MetadataReader::default();
        reader.complete(&mut root.node, &root.handle, None, &mut Vec::new()).unwrap();
        assert_eq!(root.node.mode, 0o612, "a new ctime must not come with an old mode");
    }

    #[test]
    fn an_item_gone_or_replaced_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, b"x").unwrap();
        let mut root = Root::open(&file).unwrap();
        let mut complete = || {
            let reader = MetadataReader::default();
            reader.complete(&mut root.node, &root.handle, None, &mut Vec::new())
        };
        fs::rename(&file, directory.path().join("old")).unwrap();
        assert!(matches!(complete(), Err(SourceError::Vanished { .. })));
        fs::write(&file, b"y").unwrap();
        assert!(matches!(complete(), Err(SourceError::Replaced { .. })));
    }
}
