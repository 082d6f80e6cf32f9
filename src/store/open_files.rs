//! A few files kept open, so that many small reads of one object do not open it each time.
//!
//! Bounded; the file read least recently is closed first. An entry is only a shortcut: whoever
//! takes one checks that the file still has a name.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files kept open at most.
const OPEN_FILES_MAX: usize = 64;

#[derive(Default)]
struct Slots {
    files: HashMap<String, (Arc<File>, u64)>,
    uses: u64,
}

/// Open files by object name.
#[derive(Default)]
pub(super) struct OpenFiles(Mutex<Slots>);

impl OpenFiles {
    /// The open file of that name, if it is kept.
    pub(super) fn find(&self, name: &str) -> Option<Arc<File>> {
        let mut slots = self.lock();
        slots.uses += 1;
        let now = slots.uses;
        let (file, last_use) = slots.files.get_mut(name)?;
        *last_use = now;
        Some(Arc::clone(file))
    }

    /// Keeps a file, in place of the one read least recently.
    pub(super) fn keep(&self, name: &str, file: &Arc<File>) {
        let mut slots = self.lock();
        if slots.files.len() >= OPEN_FILES_MAX && !slots.files.contains_key(name) {
            let oldest = slots.files.iter().min_by_key(|(_, (_, last_use))| *last_use);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                slots.files.remove(&oldest);
            }
        }
        slots.uses += 1;
        let now = slots.uses;
        slots.files.insert(name.to_owned(), (Arc::clone(file), now));
    }

    /// Closes a file once its last reader is done.
    pub(super) fn forget(&self, name: &str) {
        self.lock().files.remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use super::{OPEN_FILES_MAX, OpenFiles};

    #[test]
    fn the_least_recent_goes_first() {
        let files = OpenFiles::default();
        let null = Arc::new(File::open("/dev/null").unwrap());
        for number in 0..OPEN_FILES_MAX {
            files.keep(&number.to_string(), &null);
        }
        assert!(files.find("0").is_some());
        files.keep("one more", &null);
        assert!(files.find("0").is_some(), "was used");
        assert!(files.find("1").is_none(), "was not");
        assert_eq!(Arc::strong_count(&null), OPEN_FILES_MAX + 1);
    }
}
