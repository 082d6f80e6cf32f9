//! Reads the data ranges of a file, and notices when it changes meanwhile.
//!
//! What was read always agrees with what [`ReadOutcome`] says: its size less its holes is the
//! number of bytes given out, also for a file that shrank or grew.

use std::os::fd::AsFd;

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, pread};

use crate::source::error::SourceError;
use crate::source::files::entry::OpenFile;
use crate::source::files::stat::Stat;

/// Reads one file once, from its first data to its last.
#[derive(Debug)]
pub struct FileReader {
    file: OpenFile,
    holes: Vec<(u64, u64)>,
    /// Holes before this one lie behind the position.
    next_hole: usize,
    position: u64,
    /// End of the file: as it was when opened, or where it was found to end earlier.
    size: u64,
}

/// Whether the bytes are those of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadVerdict {
    /// Size, mtime and ctime are the same after reading as they were at opening.
    Unchanged,
    /// The file changed while it was read: read it again, or record that it did.
    Changed,
}

/// What a finished reading amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOutcome {
    /// Whether the file stayed the same.
    pub verdict: ReadVerdict,
    /// Length of the file as it was read, holes included, in bytes.
    pub size: u64,
    /// Its holes as they were left out, none beyond `size`.
    pub holes: Vec<(u64, u64)>,
    /// Its state after reading.
    pub stat: Stat,
}

impl FileReader {
    /// Begins to read; `holes` are left out: (offset, length), ascending.
    ///
    /// The file is read up to the size it had when it was opened.
    #[must_use]
    pub fn new(file: OpenFile, holes: Vec<(u64, u64)>) -> Self {
        // A hint: a file system that does not take it reads as well.
        let _ = fadvise(file.as_fd(), 0, None, Advice::Sequential);
        let size = file.stat().size;
        let mut reader = Self { file, holes, next_hole: 0, position: 0, size };
        reader.skip_holes();
        reader
    }

    /// Fills the front of `buffer` with the next data, as far as one data range goes; 0 at the end.
    ///
    /// # Errors
    /// [`SourceError::Io`]; the position stays, so that a failed read is never an end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let range_end = self.holes.get(self.next_hole).map_or(self.size, |hole| hole.0);
        let wanted = range_end.min(self.size).saturating_sub(self.position);
        let length = usize::try_from(wanted).unwrap_or(usize::MAX).min(buffer.len());
        if length == 0 {
            return Ok(0);
        }
        let read = loop {
            match pread(&self.file, &mut buffer[..length], self.position) {
                Err(Errno::INTR) => {}
                Err(errno) => {
                    let path = self.file.full_path();
                    return Err(SourceError::Io { action: "read", path, source: errno.into() });
                }
                Ok(read) => break read,
            }
        };
        self.position += read as u64;
        if read == 0 {
            self.size = self.position;
        }
        self.skip_holes();
        Ok(read)
    }

    /// Fills `buffer` across data ranges; fewer bytes than it takes mean the end.
    ///
    /// # Errors
    /// As [`Self::read`]; how much of the buffer was filled is not known then.
    pub fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => break,
                length => filled += length,
            }
        }
        Ok(filled)
    }

    fn skip_holes(&mut self) {
        while let Some((start, length)) = self.holes.get(self.next_hole)
            && *start <= self.position
        {
            self.position = self.position.max(start.saturating_add(*length)).min(self.size);
            self.next_hole += 1;
        }
    }

    /// The file being read: its path for messages, its state when opened.
    #[must_use]
    pub fn file(&self) -> &OpenFile {
        &self.file
    }

    /// Ends the reading where it stands, and compares the file's state with that at opening.
    ///
    /// # Errors
    /// [`SourceError::Io`] when the state cannot be read.
    pub fn finish(mut self) -> Result<ReadOutcome, SourceError> {
        let stat = Stat::of_fd(self.file.as_fd()).map_err(|errno| SourceError::Io {
            action: "stat",
            path: self.file.full_path(),
            source: errno.into(),
        })?;
        // Read to its end it has the size from the beginning; ended before, the rest was not read.
        let size = self.size.min(self.position);
        let same = size == self.file.stat().size && stat.is_unchanged(self.file.stat());
        self.holes.retain(|hole| hole.0 < size);
        if let Some(last) = self.holes.last_mut() {
            last.1 = last.1.min(size - last.0);
        }
        let verdict = if same { ReadVerdict::Unchanged } else { ReadVerdict::Changed };
        Ok(ReadOutcome { verdict, size, holes: self.holes, stat })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    use super::*;
    use crate::source::files::entry::Root;

    struct Scene {
        _directory: tempfile::TempDir,
        path: PathBuf,
    }

    impl Scene {
        fn new(content: &[u8]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("f");
            fs::write(&path, content).unwrap();
            Self { _directory: directory, path }
        }

        fn reader(&self, holes: &[(u64, u64)]) -> FileReader {
            let file = Root::open(&self.path).unwrap().handle.open().unwrap();
            FileReader::new(file, holes.to_vec())
        }

        fn write(&self) -> fs::File {
            fs::File::options().write(true).open(&self.path).unwrap()
        }
    }

    fn read_all(reader: &mut FileReader) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 3];
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => return bytes,
                length => bytes.extend_from_slice(&buffer[..length]),
            }
        }
    }

    #[test]
    fn only_data_ranges_are_read() {
        type Row = (&'static [(u64, u64)], &'static [u8]);
        let scene = Scene::new(b"0123456789");
        let table: &[Row] = &[
            (&[], b"0123456789"),
            (&[(0, 10)], b""),
            (&[(0, 4)], b"456789"),
            (&[(2, 3), (8, 2)], b"01567"),
            (&[(0, 1), (1, 1), (9, 1)], b"2345678"),
        ];
        for (holes, expected) in table {
            let mut reader = scene.reader(holes);
            assert_eq!(read_all(&mut reader), *expected, "{holes:?}");
            let outcome = reader.finish().unwrap();
            assert_eq!(outcome.verdict, ReadVerdict::Unchanged, "{holes:?}");
            assert_eq!((outcome.size, &outcome.holes[..]), (10, *holes));
            let mut buffer = [0; 32];
            let length = scene.reader(holes).read_full(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], *expected);
        }
    }

    #[test]
    fn a_file_that_shrinks_ends_where_it_ends() {
        let scene = Scene::new(&[5; 1000]);
        let mut reader = scene.reader(&[(10, 10), (900, 100)]);
        assert_eq!(reader.read(&mut [0; 100]).unwrap(), 10);
        scene.write().set_len(50).unwrap();
        assert_eq!(read_all(&mut reader).len(), 30);
        assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
        let outcome = reader.finish().unwrap();
        assert_eq!(outcome.verdict, ReadVerdict::Changed);
        assert_eq!((outcome.size, outcome.holes), (50, vec![(10, 10)]));
    }

    #[test]
    fn a_file_that_grows_is_read_to_its_first_size() {
        let scene = Scene::new(b"12345");
        let mut reader = scene.reader(&[]);
        scene.write().write_all_at(b"6789", 5).unwrap();
        assert_eq!(read_all(&mut reader), b"12345");
        let outcome = reader.finish().unwrap();
        assert_eq!((outcome.verdict, outcome.size), (ReadVerdict::Changed, 5));
    }

    #[test]
    fn a_change_of_the_same_length_is_seen() {
        let scene = Scene::new(b"12345");
        let mut reader = scene.reader(&[]);
        assert_eq!(read_all(&mut reader), b"12345");
        // Set to another moment, since a write within the same tick of the clock shows nothing.
        scene.write().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(reader.finish().unwrap().verdict, ReadVerdict::Changed);
    }

    #[test]
    fn a_reading_given_up_is_no_whole_file() {
        let scene = Scene::new(b"12345");
        let mut reader = scene.reader(&[]);
        assert_eq!(reader.read(&mut [0; 2]).unwrap(), 2);
        let outcome = reader.finish().unwrap();
        assert_eq!((outcome.verdict, outcome.size), (ReadVerdict::Changed, 2));
    }
}
