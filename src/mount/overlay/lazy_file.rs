//! A file of which blocks are missing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, OnceLock};

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};

use crate::mount::overlay::blocks::{Blocks, OriginName};
use crate::mount::overlay::origin::{Origin, OriginFile};
use crate::mount::sync::lock;

/// Extended attribute with what is missing.
const XATTR: &str = "user.holdfast.missing";
/// Largest value of it.
const XATTR_BYTES_MAX: usize = 8 * 1024;
/// Bytes that are fetched at a time.
const FETCH_BYTES: u64 = 1024 * 1024;

/// What is known of a file of which blocks are, or were, missing.
pub struct LazyFile {
    name: OriginName,
    state: Mutex<State>,
    /// Held while what is known is written down.
    noting: Mutex<()>,
}

struct State {
    blocks: Blocks,
    /// The attribute says less than is known.
    is_changed: bool,
}

/// A content that is opened when it is needed.
#[derive(Default)]
pub struct OpenOrigin(OnceLock<Box<dyn OriginFile>>);

impl OpenOrigin {
    fn get(&self, name: &OriginName, origin: &dyn Origin) -> io::Result<&dyn OriginFile> {
        if self.0.get().is_none() {
            // Another thread may have been faster.
            drop(self.0.set(origin.open(name)?));
        }
        Ok(&**self.0.get().expect("it was set"))
    }
}

impl LazyFile {
    /// Marks an empty file as one whose first `bytes` are to come, and makes it so long.
    pub fn lay_out(file: &File, name: &OriginName, bytes: u64) -> io::Result<()> {
        fsetxattr(file, XATTR, &Blocks::new(bytes).encode(name), XattrFlags::empty())?;
        file.set_len(bytes)
    }

    /// What a file says about itself; nothing of one that is whole.
    ///
    /// # Errors
    /// What it says was not written by us, or the system failed.
    pub fn read(file: &File) -> io::Result<Option<Self>> {
        let mut value = vec![0; XATTR_BYTES_MAX];
        let length = match fgetxattr(file, XATTR, &mut value[..]) {
            Ok(length) => length,
            Err(rustix::io::Errno::NODATA) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (mut blocks, name) =
            Blocks::decode(&value[..length]).ok_or(io::ErrorKind::InvalidData)?;
        // It was shortened, and nobody could write that down.
        blocks.cut(file.metadata()?.len());
        Ok(Some(Self {
            name,
            state: Mutex::new(State { blocks, is_changed: false }),
            noting: Mutex::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.state().blocks.is_whole()
    }

    /// Bytes that are missing at most.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.state().blocks.missing_bytes()
    }

    /// Fetches what is missing between two offsets.
    ///
    /// # Errors
    /// As [`OriginFile::read`], or the local file cannot be written.
    pub fn fill(
        &self,
        file: &File,
        opened: &OpenOrigin,
        origin: &dyn Origin,
        from: u64,
        to: u64,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        loop {
            let Some(part) = self.state().blocks.next_missing(from, to, FETCH_BYTES) else {
                return Ok(());
            };
            bytes.clear();
            opened.get(&self.name, origin)?.read(part.start, part.end - part.start, &mut bytes)?;
            let mut state = self.state();
            for block in state.blocks.of(&part) {
                // Somebody may have written it meanwhile, or cut it off.
                if state.blocks.is_missing_at(block.start) {
                    let at = (block.start - part.start) as usize;
                    let end = (block.end.min(part.end) - part.start) as usize;
                    file.write_all_at(&bytes[at..end], block.start)?;
                    state.is_changed |= state.blocks.set_local(block);
                }
            }
        }
    }

    /// Writes, after what is missing of the first and the last block was fetched.
    pub fn write(
        &self,
        file: &File,
        opened: &OpenOrigin,
        origin: &dyn Origin,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let part = offset..offset + data.len() as u64;
        loop {
            let mut state = self.state();
            let Some(edge) = state.blocks.missing_edge(&part) else {
                file.write_all_at(data, offset)?;
                state.is_changed |= state.blocks.set_local(part);
                return Ok(());
            };
            drop(state);
            self.fill(file, opened, origin, edge.start, edge.end)?;
        }
    }

    /// Makes it `length` bytes long.
    pub fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        let mut state = self.state();
        file.set_len(length)?;
        state.blocks.cut(length);
        state.is_changed = true;
        Ok(())
    }

    /// Makes its content durable, and then what is known of it.
    pub fn sync(&self, file: &File) -> io::Result<()> {
        let _noting = lock(&self.noting);
        let known = {
            let mut state = self.state();
            std::mem::take(&mut state.is_changed).then(|| state.blocks.clone())
        };
        let Some(blocks) = known else { return file.sync_all() };
        let written = file.sync_all().and_then(|()| self.note(file, &blocks));
        if written.is_err() {
            self.state().is_changed = true;
        }
        written
    }

    fn note(&self, file: &File, blocks: &Blocks) -> io::Result<()> {
        if blocks.is_whole() {
            return forget(file).and_then(|()| file.sync_all());
        }
        fsetxattr(file, XATTR, &blocks.encode(&self.name), XattrFlags::empty())?;
        file.sync_all()
    }
}

/// Takes the mark away from a file that is whole.
pub fn forget(file: &File) -> io::Result<()> {
    match fremovexattr(file, XATTR) {
        Ok(()) | Err(rustix::io::Errno::NODATA) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
