//! A queue of bytes between a server and what is slower than it: in memory up to a limit, beyond it
//! in a file that has no name and that nobody else can open.
//!
//! The writing side waits only where neither has room; then the server waits too. Bytes come out
//! in the order in which they went in. Dropping either side ends the other.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

/// Bytes in memory at most.
const MEMORY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Pieces whose memory is kept for the next ones.
const SPARE_PIECES_MAX: usize = 8;

#[derive(Debug, Default)]
struct Inner {
    memory: VecDeque<Vec<u8>>,
    /// Memory of pieces that were read.
    spare: Vec<Vec<u8>>,
    /// Memory that the pieces take, full or not.
    memory_bytes: usize,
    /// Bytes of the file that were read and written.
    file: (u64, u64),
    is_ended: bool,
    is_abandoned: bool,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    file: File,
    memory_bytes_max: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side that bytes go into.
#[derive(Debug)]
pub struct SpoolWriter(Arc<Shared>);

/// The side that bytes come out of.
#[derive(Debug)]
pub struct SpoolReader {
    shared: Arc<Shared>,
    /// The piece that is being read, and how far it was.
    piece: (Vec<u8>, usize),
}

/// A queue whose file lies in `folder`.
///
/// # Errors
/// The system does not let us make the file.
pub fn spool(folder: &Path) -> std::io::Result<(SpoolWriter, SpoolReader)> {
    spool_of(folder, MEMORY_BYTES_MAX)
}

fn spool_of(folder: &Path, memory_bytes_max: usize) -> std::io::Result<(SpoolWriter, SpoolReader)> {
    let file = nameless_file(folder)?;
    let (inner, changed) = (Mutex::default(), Condvar::default());
    let shared = Arc::new(Shared { inner, changed, file, memory_bytes_max });
    let reader = SpoolReader { shared: Arc::clone(&shared), piece: (Vec::new(), 0) };
    Ok((SpoolWriter(shared), reader))
}

/// A file that is gone when it is closed.
fn nameless_file(folder: &Path) -> std::io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        return Ok(file.into());
    }
    // Not every file system can do that.
    let path = folder.join(format!("spool-{}-{:x}", std::process::id(), getrandom::u64()?));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
    std::fs::remove_file(&path)?;
    Ok(file.into())
}

impl SpoolWriter {
    /// Puts bytes in, and takes them away: what is left is empty memory. `false` when nobody reads any
    /// more.
    pub fn write(&mut self, bytes: &mut Vec<u8>) -> bool {
        let shared = &*self.0;
        let mut inner = shared.lock();
        loop {
            if inner.is_abandoned {
                return false;
            }
            let is_in_memory = inner.file.0 == inner.file.1;
            if is_in_memory && inner.memory_bytes + bytes.capacity() <= shared.memory_bytes_max {
                inner.memory_bytes += bytes.capacity();
                let spare = inner.spare.pop().unwrap_or_else(|| Vec::with_capacity(bytes.len()));
                inner.memory.push_back(std::mem::replace(bytes, spare));
                drop(inner);
                shared.changed.notify_all();
                return true;
            }
            if is_in_memory {
                inner.file = (0, 0);
            }
            let end = inner.file.1;
            drop(inner);
            // Only this side writes, and the other reads no further than it is told.
            let written = shared.file.write_all_at(bytes, end);
            inner = shared.lock();
            if written.is_ok() {
                inner.file.1 = end + bytes.len() as u64;
                bytes.clear();
                shared.changed.notify_all();
                return true;
            }
            // No room: what is read makes some.
            inner = shared.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// All is in.
    pub fn finish(self) {
        self.0.lock().is_ended = true;
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        self.0.lock().is_ended = true;
        self.0.changed.notify_all();
    }
}

impl SpoolReader {
    /// Fills the front of `buffer`; 0 is the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let (piece, at) = &mut self.piece;
            if *at < piece.len() {
                let length = buffer.len().min(piece.len() - *at);
                buffer[..length].copy_from_slice(&piece[*at..*at + length]);
                *at += length;
                return Ok(length);
            }
            let shared = &*self.shared;
            let mut inner = shared.lock();
            if let Some(next) = inner.memory.pop_front() {
                inner.memory_bytes -= next.capacity();
                let mut read = std::mem::replace(piece, next);
                *at = 0;
                read.clear();
                if inner.spare.len() < SPARE_PIECES_MAX && read.capacity() > 0 {
                    inner.spare.push(read);
                }
                drop(inner);
                shared.changed.notify_all();
                continue;
            }
            let (from, to) = inner.file;
            if from < to {
                drop(inner);
                let length = (buffer.len() as u64).min(to - from) as usize;
                shared.file.read_exact_at(&mut buffer[..length], from)?;
                shared.lock().file.0 = from + length as u64;
                shared.changed.notify_all();
                return Ok(length);
            }
            if inner.is_ended {
                return Ok(0);
            }
            drop(shared.changed.wait(inner).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Drop for SpoolReader {
    fn drop(&mut self) {
        self.shared.lock().is_abandoned = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_through_memory_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, mut reader) = spool_of(folder.path(), 1000).unwrap();
        let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i * 7 % 253) as u8).collect();
        let given = bytes.clone();
        let thread = std::thread::spawn(move || {
            for (number, piece) in given.chunks(170).enumerate() {
                assert!(writer.write(&mut piece.to_vec()));
                if number % 50 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
            writer.finish();
        });
        let mut taken = Vec::new();
        let mut buffer = [0; 311];
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => break,
                length => taken.extend_from_slice(&buffer[..length]),
            }
        }
        thread.join().unwrap();
        assert_eq!(taken, bytes);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn who_writes_to_nobody_hears_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, reader) = spool_of(folder.path(), 10).unwrap();
        assert!(writer.write(&mut b"abc".to_vec()));
        drop(reader);
        assert!(!writer.write(&mut b"abc".to_vec()));
    }
}
