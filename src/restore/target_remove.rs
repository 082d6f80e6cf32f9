//! Removing what a snapshot does not have from a restore target (`restore --delete`).
//!
//! Never follows a symbolic link, never descends into another mounted file system, and removes
//! nothing that is not beneath the target.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::format::node::NodeKind;
use crate::progress::Progress;
use crate::restore::metadata::permit;
use crate::restore::metadata_object::Object;
use crate::restore::target::Target;
use crate::restore::target_error::TargetError;
use crate::restore::target_path::{TargetPath, escape, split_path};
use crate::restore::target_place::{CLOSED, kind_of, remove_file};

/// What is left to do with a directory that is going to be removed.
enum Step {
    Empty(Vec<u8>),
    Remove(Vec<u8>),
}

impl Target {
    /// Removes every entry of the directory `dir` whose name `keep` does not want, with all that is
    /// below it. Returns how many names were removed; what cannot be removed is reported.
    ///
    /// # Errors
    /// When the directory itself cannot be read.
    pub fn remove_extra(
        &self,
        dir: &TargetPath,
        keep: &dyn Fn(&[u8]) -> bool,
        progress: &Progress,
    ) -> Result<u64, TargetError> {
        let opened = self.open_dir(dir)?;
        let failure = |error| TargetError::io("list", dir, error);
        let device = fstat(&opened).map_err(failure)?.st_dev;
        let mut removal = Removal { target: self, device, removed: 0, steps: Vec::new(), progress };
        removal.empty(dir.as_bytes(), &opened, keep).map_err(failure)?;
        while let Some(step) = removal.steps.pop() {
            removal.take(step);
        }
        Ok(removal.removed)
    }
}

struct Removal<'a> {
    target: &'a Target,
    device: u64,
    removed: u64,
    steps: Vec<Step>,
    progress: &'a Progress,
}

impl Removal<'_> {
    fn take(&mut self, step: Step) {
        let (path, done) = match step {
            Step::Empty(path) => {
                self.steps.push(Step::Remove(path.clone()));
                let done = self.empty_dir(&path);
                (path, done)
            }
            Step::Remove(path) => {
                let done = self.remove_dir(&path);
                (path, done)
            }
        };
        if let Err(error) = done {
            self.progress.warn(format!("{}: not removed: {error}", escape(&path)));
        }
    }

    fn empty_dir(&mut self, path: &[u8]) -> Result<(), Errno> {
        let dir = self.target.dirs.open(path)?;
        if fstat(&dir)?.st_dev != self.device {
            self.steps.pop(); // another file system is mounted here: not even its name goes
            return Err(Errno::XDEV);
        }
        self.empty(path, &dir, &|_| false)
    }

    /// Removes the files of an open directory, and puts its directories on the stack.
    fn empty(
        &mut self,
        path: &[u8],
        dir: &Arc<OwnedFd>,
        keep: &dyn Fn(&[u8]) -> bool,
    ) -> Result<(), Errno> {
        let readable = openat(dir, ".", OFlags::RDONLY | CLOSED, Mode::empty())?;
        // All names first: some file systems lose their place when entries go.
        let mut names = Vec::new();
        for entry in Dir::read_from(&readable)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." && !keep(&name) {
                names.push(name);
            }
        }
        if !names.is_empty() {
            let _ = permit(Object::Open(readable.as_fd())); // what it forbids is reported below
        }
        for name in names {
            let below = join(path, &name);
            match remove_entry(dir, &name) {
                Ok(true) => self.removed += 1,
                Ok(false) => self.steps.push(Step::Empty(below)),
                Err(error) => {
                    self.progress.warn(format!("{}: not removed: {error}", escape(&below)));
                }
            }
        }
        Ok(())
    }

    fn remove_dir(&mut self, path: &[u8]) -> Result<(), Errno> {
        let (parent, name) = split_path(path);
        let parent = self.target.dirs.open(parent)?;
        self.target.dirs.forget(path);
        match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => {
                self.removed += 1;
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Removes one entry; says `false` of a directory.
fn remove_entry(dir: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(true),
        stat => stat?,
    };
    if kind_of(&stat) == NodeKind::Dir {
        return Ok(false);
    }
    match remove_file(dir, name) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(error) => Err(error),
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::{Removal, Step, Target};
    use crate::progress::Progress;
    use crate::restore::target_options::Options;

    #[test]
    fn what_is_mounted_below_stays() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("mounted/deep")).unwrap();
        std::fs::write(dir.path().join("mounted/file"), b"x").unwrap();
        let target = Target::open(dir.path(), Options::default()).unwrap();
        let progress = Progress::default();
        let here = rustix::fs::fstat(target.dirs.root()).unwrap().st_dev;
        for (device, left) in [(here + 1, 1), (here, 0)] {
            let steps = vec![Step::Empty(b"mounted".to_vec())];
            let mut removal =
                Removal { target: &target, device, removed: 0, steps, progress: &progress };
            while let Some(step) = removal.steps.pop() {
                removal.take(step);
            }
            assert_eq!(progress.take_messages().len(), left);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), left);
            assert_eq!(dir.path().join("mounted/file").exists(), left == 1);
        }
    }
}
