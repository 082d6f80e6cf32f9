//! The names in one directory, sorted by their bytes and each there once.
//!
//! Names lie in one buffer: a million entries cost some 40 MB and two allocations that grow.

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

/// Bytes asked of the kernel at a time.
const READ_BYTES: usize = 32 * 1024;

/// Names with the type the directory itself gave them (`Unknown` on some file systems).
#[derive(Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    index: Vec<NameAt>,
}

#[derive(Debug, Clone, Copy)]
struct NameAt {
    start: usize,
    length: u16,
    file_type: FileType,
}

impl Names {
    /// Appends a name (at most 65,535 bytes; the kernel gives no longer ones).
    pub fn push(&mut self, name: &[u8], file_type: FileType) {
        let length = u16::try_from(name.len()).expect("a directory record is shorter than 64 KiB");
        self.index.push(NameAt { start: self.bytes.len(), length, file_type });
        self.bytes.extend_from_slice(name);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The name at `position`.
    #[must_use]
    pub fn name(&self, position: usize) -> &[u8] {
        self.slice(self.index[position])
    }

    /// The type the directory gave for it.
    #[must_use]
    pub fn file_type(&self, position: usize) -> FileType {
        self.index[position].file_type
    }

    /// Whether `name` is one of them; they must be sorted.
    #[must_use]
    pub fn contains(&self, name: &[u8]) -> bool {
        self.index.binary_search_by(|at| self.slice(*at).cmp(name)).is_ok()
    }

    /// Drops all names but `name`.
    pub fn keep_only(&mut self, name: &[u8]) {
        let bytes = &self.bytes;
        self.index.retain(|at| &bytes[at.start..][..usize::from(at.length)] == name);
    }

    fn slice(&self, at: NameAt) -> &[u8] {
        &self.bytes[at.start..][..usize::from(at.length)]
    }

    /// Sorts by bytes; a name that a directory changed meanwhile gave twice stays once.
    fn sort(&mut self) {
        let Self { bytes, index } = self;
        let slice = |at: &NameAt| &bytes[at.start..][..usize::from(at.length)];
        index.sort_unstable_by(|a, b| slice(a).cmp(slice(b)));
        index.dedup_by(|a, b| slice(a) == slice(b));
    }
}

/// Reads all names but `.` and `..`, sorted.
///
/// An error ends the reading, not the listing: what was read until then comes with it.
#[must_use]
pub fn read_names(directory: BorrowedFd<'_>) -> (Names, Option<Errno>) {
    let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES);
    let spare: &mut [MaybeUninit<u8>] = buffer.spare_capacity_mut();
    let mut reader = RawDir::new(directory, spare);
    let mut names = Names::default();
    let mut failure = None;
    while let Some(record) = reader.next() {
        match record {
            Ok(entry) => {
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(name, entry.file_type());
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => {
                failure = Some(errno);
                break;
            }
        }
    }
    names.sort();
    (names, failure)
}
