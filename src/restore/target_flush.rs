//! Writes large files to the disk while the restore goes on, so that little is left for its end.
//!
//! A hint and no more: what makes a restore durable is [`super::target::Target::sync`], which also
//! waits for this thread and reports its first error, since the kernel reports each only once.

use std::fs::File;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};

/// Files that wait; more are left to the end.
const WAITING_MAX: usize = 4;

/// The thread, begun with the first large file.
#[derive(Debug, Default)]
pub(super) struct Flusher {
    running: OnceLock<Mutex<Option<Running>>>,
}

#[derive(Debug)]
struct Running {
    files: Sender<File>,
    thread: JoinHandle<io::Result<()>>,
}

impl Flusher {
    /// Asks for what was written to `file` so far; does nothing while the thread is busy.
    pub(super) fn begin(&self, file: &File) {
        let running = self.running.get_or_init(|| Mutex::new(start()));
        let running = running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*running
            && !running.files.is_full()
            && let Ok(file) = file.try_clone()
        {
            // The end makes it durable in any case.
            let _ = running.files.try_send(file);
        }
    }

    /// Waits for what was asked for.
    ///
    /// # Errors
    /// The first one of the thread.
    pub(super) fn finish(&self) -> io::Result<()> {
        let Some(running) = self.running.get() else { return Ok(()) };
        let Some(running) = running.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        drop(running.files);
        running.thread.join().unwrap_or_else(|_| Err(io::Error::other("the flushing thread died")))
    }
}

fn start() -> Option<Running> {
    let (files, queue) = bounded::<File>(WAITING_MAX);
    let flush = move || {
        let mut first = Ok(());
        for file in queue {
            let flushed = file.sync_data();
            first = first.and(flushed);
        }
        first
    };
    // Without a thread all is left to the end.
    let thread = std::thread::Builder::new().name("flush".to_owned()).spawn(flush).ok()?;
    Some(Running { files, thread })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::Flusher;

    #[test]
    fn errors_come_out_at_the_end_and_only_once() {
        let flusher = Flusher::default();
        flusher.finish().unwrap();
        let mut good = tempfile::tempfile().unwrap();
        good.write_all(b"x").unwrap();
        flusher.begin(&good);
        // A pipe cannot be made durable: EINVAL.
        let (bad, _other) = rustix::pipe::pipe().unwrap();
        flusher.begin(&bad.into());
        flusher.begin(&good);
        assert_eq!(flusher.finish().unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
        flusher.finish().unwrap();
        flusher.begin(&good);
    }
}
