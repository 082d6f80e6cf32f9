//! Directories below a restore target, opened without following any symbolic link.
//!
//! Every descent starts at the target's own descriptor (or at one reached from it) and is made by
//! `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`; kernels without
//! it get one `openat(O_NOFOLLOW)` per component, which refuses the same. A few directories stay
//! open, so that a file in the directory of its predecessor costs no descent. Long paths are walked
//! in pieces that the kernel accepts.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::restore::target_path::split_path;

/// Directories kept open at most.
const OPEN_DIRS_MAX: usize = 256;
/// Longest piece of a path handed to the kernel, below its `PATH_MAX` of 4096 with the zero byte.
const PIECE_BYTES_MAX: usize = 4000;
/// How often a descent is tried again that another process's rename disturbed.
const DISTURBANCES_MAX: u32 = 64;
const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The target's directory and some below it, open.
pub(super) struct TargetDirs {
    root: Arc<OwnedFd>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_path: HashMap<Box<[u8]>, (Arc<OwnedFd>, u64)>,
    uses: u64,
}

impl TargetDirs {
    /// Begins at an open directory.
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root: Arc::new(root), kept: Mutex::default() }
    }

    /// The target's own directory.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens (`O_PATH`) the directory at a checked path.
    ///
    /// # Errors
    /// `ELOOP`, `EXDEV` or `ENOTDIR` where a component is no real directory.
    pub(super) fn open(&self, path: &[u8]) -> Result<Arc<OwnedFd>, Errno> {
        let (mut at, mut rest) = self.nearest(path);
        if rest.is_empty() {
            return Ok(at);
        }
        while !rest.is_empty() {
            let (piece, after) = first_piece(rest);
            at = Arc::new(open_piece(at.as_fd(), piece)?);
            rest = after;
        }
        self.keep(path, &at);
        Ok(at)
    }

    /// Closes a directory that is going to be removed, and what is kept below it.
    pub(super) fn forget(&self, path: &[u8]) {
        self.lock().by_path.retain(|kept, _| {
            let below = kept.strip_prefix(path);
            below.is_none_or(|rest| !rest.is_empty() && rest[0] != b'/')
        });
    }

    /// The deepest kept directory on the way, and the rest of the path below it.
    fn nearest<'a>(&self, path: &'a [u8]) -> (Arc<OwnedFd>, &'a [u8]) {
        let mut kept = self.lock();
        kept.uses += 1;
        let now = kept.uses;
        let mut end = path.len();
        while end > 0 {
            if let Some((dir, last_use)) = kept.by_path.get_mut(&path[..end]) {
                *last_use = now;
                return (Arc::clone(dir), path[end..].strip_prefix(b"/").unwrap_or_default());
            }
            end = split_path(&path[..end]).0.len();
        }
        (Arc::clone(&self.root), path)
    }

    fn keep(&self, path: &[u8], dir: &Arc<OwnedFd>) {
        let mut kept = self.lock();
        if kept.by_path.len() >= OPEN_DIRS_MAX {
            let oldest = kept.by_path.iter().min_by_key(|(_, (_, last_use))| *last_use);
            if let Some(oldest) = oldest.map(|(path, _)| path.clone()) {
                kept.by_path.remove(&oldest);
            }
        }
        let now = kept.uses;
        kept.by_path.insert(path.into(), (Arc::clone(dir), now));
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts whole components off the front, as many as fit one call.
fn first_piece(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PIECE_BYTES_MAX {
        return (path, b"");
    }
    // A component has at most 255 bytes, so there is a slash within the first 4000.
    let cut = path[..PIECE_BYTES_MAX].iter().rposition(|byte| *byte == b'/');
    let cut = cut.unwrap_or(PIECE_BYTES_MAX);
    (&path[..cut], path[cut..].strip_prefix(b"/").unwrap_or_default())
}

fn open_piece(at: BorrowedFd<'_>, piece: &[u8]) -> Result<OwnedFd, Errno> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut disturbances = 0;
    loop {
        match openat2(at, piece, DIRECTORY, Mode::empty(), beneath) {
            Err(Errno::NOSYS | Errno::PERM) => return open_steps(at, piece),
            Err(Errno::AGAIN | Errno::INTR) if disturbances < DISTURBANCES_MAX => disturbances += 1,
            opened => return opened,
        }
    }
}

/// The same without `openat2` (before Linux 5.6, or hidden by a sandbox, which says `EPERM`).
fn open_steps(at: BorrowedFd<'_>, piece: &[u8]) -> Result<OwnedFd, Errno> {
    let mut dir = openat(at, ".", DIRECTORY, Mode::empty())?;
    for component in piece.split(|byte| *byte == b'/') {
        dir = openat(&dir, component, DIRECTORY, Mode::empty())?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    use rustix::io::Errno;

    use super::{OPEN_DIRS_MAX, TargetDirs, first_piece, open_piece, open_steps};

    #[test]
    fn both_ways_of_descending_refuse_the_same() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        std::fs::write(dir.path().join("a/file"), b"").unwrap();
        symlink("b", dir.path().join("a/inside")).unwrap();
        symlink("/etc", dir.path().join("a/outside")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        for good in ["a", "a/b", "a/b/c"] {
            assert!(open_piece(root.as_fd(), good.as_bytes()).is_ok(), "{good}");
            assert!(open_steps(root.as_fd(), good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["a/inside", "a/inside/c", "a/outside", "a/outside/ssh", "a/file"] {
            for open in [open_piece, open_steps] {
                let error = open(root.as_fd(), bad.as_bytes()).unwrap_err();
                assert!(matches!(error, Errno::LOOP | Errno::NOTDIR), "{bad}: {error:?}");
            }
        }
        assert_eq!(open_piece(root.as_fd(), b"..").unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn what_is_forgotten_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b", "ab", "c"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let dirs = TargetDirs::new(std::fs::File::open(dir.path()).unwrap().into());
        for path in ["a", "a/b", "ab", "c"] {
            dirs.open(path.as_bytes()).unwrap();
        }
        dirs.forget(b"a");
        let mut kept: Vec<_> = dirs.lock().by_path.keys().cloned().collect();
        kept.sort();
        assert_eq!(kept, [Box::from(*b"ab") as Box<[u8]>, Box::from(*b"c")]);
        for number in 0..2 * OPEN_DIRS_MAX {
            let name = format!("d{number}");
            std::fs::create_dir(dir.path().join(&name)).unwrap();
            dirs.open(name.as_bytes()).unwrap();
        }
        assert_eq!(dirs.lock().by_path.len(), OPEN_DIRS_MAX);
    }

    #[test]
    fn pieces_hold_whole_components() {
        let path = vec!["d".repeat(255); 40].join("/");
        let (mut rest, mut components) = (path.as_bytes(), 0);
        while !rest.is_empty() {
            let (piece, after) = first_piece(rest);
            assert!(piece.len() <= 4000);
            assert!(piece.split(|byte| *byte == b'/').all(|component| component.len() == 255));
            components += piece.split(|byte| *byte == b'/').count();
            rest = after;
        }
        assert_eq!(components, 40);
    }
}
