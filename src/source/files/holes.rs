//! Where a sparse file has holes, as its file system tells (`SEEK_HOLE`, `SEEK_DATA`).

use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Holes recorded of one file; what lies behind the last of so many is read as data, zeros.
///
/// A node must fit into a frame, and a hole costs some 20 bytes in it.
pub const HOLES_PER_FILE_MAX: usize = 65_536;

/// The holes of an open regular file below `size`: (offset, length), ascending, not touching.
///
/// A file system without holes has none. The descriptor's position is moved.
///
/// # Errors
/// System errors other than "not supported".
pub fn hole_map(file: BorrowedFd<'_>, size: u64) -> Result<Vec<(u64, u64)>, Errno> {
    let mut holes = Vec::new();
    let mut position = 0;
    while position < size && holes.len() < HOLES_PER_FILE_MAX {
        let start = match seek(file, SeekFrom::Hole(position)) {
            Ok(start) => start.min(size),
            // The file has become shorter: nothing lies behind.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        };
        if start == size {
            break;
        }
        let end = match seek(file, SeekFrom::Data(start)) {
            Ok(end) => end.min(size),
            Err(Errno::NXIO) => size,
            Err(errno) => return Err(errno),
        };
        if end > start {
            holes.push((start, end - start));
        }
        // At least one byte on, should the file change under the two calls.
        position = end.max(start + 1);
    }
    Ok(join_touching(holes))
}

/// Two holes can touch only when the file changed in between.
fn join_touching(holes: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(holes.len());
    for (start, length) in holes {
        match joined.last_mut() {
            Some(last) if last.0 + last.1 >= start => last.1 = start + length - last.0,
            _ => joined.push((start, length)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_are_exact() {
        const MIB: u64 = 1024 * 1024;
        type Row = (&'static [u64], u64, &'static [(u64, u64)]);
        let table: &[Row] = &[
            (&[], 0, &[]),
            (&[], MIB, &[(0, MIB)]),
            (&[0], MIB, &[(4096, MIB - 4096)]),
            (&[0, 65_536], MIB, &[(4096, 61_440), (69_632, MIB - 69_632)]),
            (&[MIB - 4096], MIB, &[(0, MIB - 4096)]),
            (&[0, 4096], 8192, &[]),
        ];
        for (blocks, size, expected) in table {
            let file = tempfile::tempfile().unwrap();
            file.set_len(*size).unwrap();
            for offset in *blocks {
                file.write_all_at(&[7; 4096], *offset).unwrap();
            }
            let holes = hole_map(file.as_fd(), *size).unwrap();
            assert_eq!(holes, *expected, "{blocks:?} of {size}");
        }
    }

    #[test]
    fn a_file_shorter_than_told_has_its_tail_left_alone() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 4096], 0).unwrap();
        let holes = hole_map(file.as_fd(), 1 << 20).unwrap();
        assert!(holes.iter().all(|(start, length)| start + length <= 1 << 20));
    }

    #[test]
    fn touching_holes_become_one() {
        assert_eq!(join_touching(vec![(0, 4), (4, 4), (9, 1)]), [(0, 8), (9, 1)]);
    }
}
