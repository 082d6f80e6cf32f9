//! Extended attributes of anything, ACLs, capabilities and security labels among them.
//!
//! What cannot be opened (symlinks, devices, fifos, sockets) is reached by `/proc/self/fd/N` of an
//! `O_PATH` descriptor: that leads to the very inode, and never through a symbolic link.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{fgetxattr, flistxattr, getxattr, listxattr};
use rustix::io::Errno;

use crate::format::limits;
use crate::format::node::Bytes;

/// First guess of the length of a list or value.
const GUESS_BYTES: usize = 1024;

/// By what an item's attributes are reached.
#[derive(Debug)]
pub enum XattrAccess<'f> {
    /// A descriptor opened for reading.
    Descriptor(BorrowedFd<'f>),
    /// The path under `/proc/self/fd` of a descriptor opened with `O_PATH`.
    Place(String),
}

/// An attribute that is there and could not be read.
#[derive(Debug)]
pub struct XattrFailure {
    /// Its name; empty when already the list failed.
    pub name: Bytes,
    /// What the system said; `E2BIG` for more or longer ones than a node can have.
    pub errno: Errno,
}

impl<'f> XattrAccess<'f> {
    /// Of an open file or directory.
    pub fn of_open<Fd: AsFd>(fd: &'f Fd) -> Self {
        Self::Descriptor(fd.as_fd())
    }

    /// Of any item by a descriptor opened with `O_PATH`, valid as long as that stays open.
    pub fn of_place<Fd: AsFd>(fd: &'f Fd) -> Self {
        Self::Place(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
    }

    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Descriptor(fd) => flistxattr(fd, buffer),
            Self::Place(path) => listxattr(path.as_str(), buffer),
        }
    }

    fn value(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Descriptor(fd) => fgetxattr(fd, name, buffer),
            Self::Place(path) => getxattr(path.as_str(), name, buffer),
        }
    }

    /// All attributes; those that cannot be read are told in `failures`.
    ///
    /// An attribute that vanishes meanwhile was not there; a file system without attributes has
    /// none.
    pub fn read_all(&self, failures: &mut Vec<XattrFailure>) -> BTreeMap<Bytes, Bytes> {
        let mut found = BTreeMap::new();
        let list = match read_growing(|buffer| self.list(buffer)) {
            Ok(list) => list,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return found,
            Err(errno) => {
                failures.push(XattrFailure { name: Bytes::new(), errno });
                return found;
            }
        };
        for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let value = if found.len() as u64 >= limits::XATTRS_PER_NODE_MAX {
                Err(Errno::TOOBIG)
            } else {
                read_growing(|buffer| self.value(name, buffer))
            };
            match value {
                Ok(value) => drop(found.insert(name.to_vec(), value)),
                Err(Errno::NODATA) => {}
                Err(errno) => failures.push(XattrFailure { name: name.to_vec(), errno }),
            }
        }
        found
    }
}

/// Calls `read` with ever larger buffers, up to what a node may have.
fn read_growing(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let bytes_max = usize::try_from(limits::XATTR_BYTES_MAX).expect("a MiB fits into memory");
    let mut buffer = vec![0; GUESS_BYTES];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() >= bytes_max => return Err(Errno::TOOBIG),
            Err(Errno::RANGE) => buffer.resize((buffer.len() * 8).min(bytes_max), 0),
            Err(errno) => return Err(errno),
        }
    }
}
