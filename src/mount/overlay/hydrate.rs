//! Fetches all that is missing, while the folder is in use or when it is not any more.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::mount::overlay::folder::{Folder, OWN_PREFIX};
use crate::mount::overlay::lazy_file::forget;
use crate::mount::sync::lock;

/// Bytes that are asked for at a time; between two of them a signal is seen.
const STEP_BYTES: u64 = 4 * 1024 * 1024;

/// How often what cannot be fetched is tried again while nothing else is.
const TRIES: u32 = 5;
/// How long it is waited in between.
const PAUSE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(50);

/// What is still to come, as it was when the last look began.
#[derive(Default)]
pub struct Hydration {
    /// Bytes that were missing at the beginning.
    pub total: AtomicU64,
    /// It is to stop.
    pub stop: AtomicBool,
}

impl Hydration {
    /// Fills all files of the folder with `threads` threads; `false` when it was stopped.
    ///
    /// Files may come, go, grow and change their names meanwhile: it looks until nothing is
    /// missing.
    ///
    /// # Errors
    /// The repository cannot be read, or the folder not be written.
    pub fn run(&self, folder: &Folder, threads: usize) -> io::Result<bool> {
        let (mut is_first, mut idle) = (true, 0);
        loop {
            let files = missing_files(folder)?;
            if files.is_empty() {
                return Ok(true);
            }
            if std::mem::take(&mut is_first) {
                self.total.store(files.iter().map(|(_, bytes)| bytes).sum(), Relaxed);
            }
            let count = files.len();
            let queue = Mutex::new(files.into_iter());
            let failures = Mutex::new(Vec::new());
            std::thread::scope(|scope| {
                for _ in 0..threads.max(1) {
                    scope.spawn(|| {
                        loop {
                            let next = lock(&queue).next();
                            let Some((path, _)) = next else { return };
                            if let Err(error) = self.fill(folder, &path) {
                                lock(&failures).push((path, error));
                            }
                            if self.stop.load(Relaxed) {
                                return;
                            }
                        }
                    });
                }
            });
            if self.stop.load(Relaxed) {
                return Ok(false);
            }
            let mut failures =
                failures.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            let failed = failures.len();
            let Some((path, error)) = failures.pop() else { continue };
            // A store may be away for a while; what is damaged stays so.
            idle = if failed == count { idle + 1 } else { 0 };
            if idle == TRIES {
                let what = format!("{failed} files, {} for one: {error}", path.display());
                return Err(io::Error::other(what));
            }
            self.pause();
        }
    }

    fn pause(&self) {
        let begun = Instant::now();
        while begun.elapsed() < PAUSE && !self.stop.load(Relaxed) {
            std::thread::sleep(TICK);
        }
    }

    fn fill(&self, folder: &Folder, path: &Path) -> io::Result<()> {
        let handle = match folder.open_at(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut at = 0;
        while handle.missing_bytes() > 0 && !self.stop.load(Relaxed) {
            let length = handle.metadata()?.len();
            if at >= length {
                break;
            }
            folder.fill(&handle, at, at + STEP_BYTES)?;
            at += STEP_BYTES;
        }
        Ok(())
    }
}

/// Files with something missing, and how much.
fn missing_files(folder: &Folder) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    walk(folder.base(), &mut |path| {
        match folder.open_at(path) {
            // It is gone again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(handle) => {
                let missing = handle.missing_bytes();
                if missing > 0 {
                    files.push((path.to_owned(), missing));
                }
            }
        }
        Ok(())
    })?;
    Ok(files)
}

fn walk(top: &Path, visit: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut folders = vec![top.to_owned()];
    while let Some(path) = folders.pop() {
        let entries = match std::fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path != top => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                visit(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// Makes the folder one of its own: durable, without marks, and with its seal in place.
///
/// Nobody may use it meanwhile, and nothing may be missing.
///
/// # Errors
/// Something is missing ([`io::ErrorKind::InvalidData`]), or the system failed: then the seal is
/// not in place.
pub fn complete(folder: &Folder, seal: &str) -> io::Result<()> {
    if !missing_files(folder)?.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let base = folder.base();
    let top = File::open(base)?;
    rustix::fs::syncfs(&top)?;
    walk(base, &mut |path| forget(&File::options().write(true).open(path)?))?;
    rustix::fs::syncfs(&top)?;
    std::fs::rename(base.join(Folder::sealed_name(seal)), base.join(seal))?;
    for entry in std::fs::read_dir(base)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(OWN_PREFIX.as_bytes()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    rustix::fs::syncfs(&top)?;
    Ok(())
}
