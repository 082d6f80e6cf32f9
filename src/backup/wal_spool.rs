//! The log between a stream and the repository: files of segments, the last one growing.
//!
//! Bytes are taken in the order of their positions only; what does not join is refused. Nothing
//! here is durable: until a segment is saved, the server still has it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::backup::log_root::{LogContent, LogInput};
use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::format::postgres::segment::{Segment, SegmentBytes};

/// Why bytes were not taken.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The system refused or failed.
    #[error("the spool at {} cannot be written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// They are not the next ones.
    #[error("the log goes on at {found}, and {expected} was expected")]
    DoesNotJoin {
        /// The next byte that is missing.
        expected: Lsn,
        /// Where the bytes begin.
        found: Lsn,
    },
}

/// Segments that are not saved yet.
pub struct WalSpool {
    folder: PathBuf,
    size: SegmentBytes,
    timeline: Timeline,
    position: Lsn,
    current: Option<File>,
    whole: Vec<Segment>,
    saved_bytes: u64,
}

impl WalSpool {
    /// An empty spool in that folder; `from` must be the start of a segment.
    pub fn begin(
        folder: &Path,
        size: SegmentBytes,
        timeline: Timeline,
        from: Lsn,
    ) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::Io { path: folder.to_owned(), source };
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        std::fs::create_dir_all(folder).map_err(failed)?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(folder, permissions).map_err(failed)?;
        Ok(Self {
            folder: folder.to_owned(),
            size,
            timeline,
            position: from,
            current: None,
            whole: Vec::new(),
            saved_bytes: 0,
        })
    }

    /// The next byte that is missing.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Timeline of what comes.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// Segments that are whole and not saved.
    #[must_use]
    pub fn whole(&self) -> usize {
        self.whole.len()
    }

    /// Whether there is anything that the last save did not have.
    #[must_use]
    pub fn has_unsaved(&self) -> bool {
        !self.whole.is_empty() || self.current_bytes() > self.saved_bytes
    }

    fn current_bytes(&self) -> u64 {
        if self.current.is_some() { self.position.0 - self.segment_start().0 } else { 0 }
    }

    fn segment(&self) -> Segment {
        Segment::of(self.timeline, self.position, self.size)
    }

    fn segment_start(&self) -> Lsn {
        self.size.start(self.position)
    }

    fn path(&self, segment: Segment) -> PathBuf {
        self.folder.join(segment.name(self.size))
    }

    /// Takes the bytes at a position.
    pub fn take(&mut self, start: Lsn, mut bytes: &[u8]) -> Result<(), SpoolError> {
        if start != self.position {
            return Err(SpoolError::DoesNotJoin { expected: self.position, found: start });
        }
        while !bytes.is_empty() {
            let segment = self.segment();
            let path = self.path(segment);
            let failed = |source| SpoolError::Io { path: path.clone(), source };
            if self.current.is_none() {
                self.current = Some(File::create(&path).map_err(failed)?);
                self.saved_bytes = 0;
            }
            let room = segment.end(self.size).0 - self.position.0;
            let now = (bytes.len() as u64).min(room) as usize;
            if let Some(file) = &mut self.current {
                file.write_all(&bytes[..now]).map_err(failed)?;
            }
            bytes = &bytes[now..];
            self.position.0 += now as u64;
            if self.position == segment.end(self.size) {
                self.current = None;
                self.whole.push(segment);
            }
        }
        Ok(())
    }

    /// All that is to be saved now: whole segments, and the front of the last one.
    #[must_use]
    pub fn files(&self) -> Vec<LogInput> {
        let content = |path: PathBuf| LogContent::File { path, stamp: None };
        let whole = self.whole.iter().map(|segment| LogInput {
            name: segment.name(self.size),
            content: content(self.path(*segment)),
        });
        let mut files: Vec<LogInput> = whole.collect();
        if self.current.is_some() {
            let segment = self.segment();
            let name = format!("{}.partial", segment.name(self.size));
            files.push(LogInput { name, content: content(self.path(segment)) });
        }
        files
    }

    /// What [`Self::files`] gave is durable.
    pub fn saved(&mut self) {
        for segment in std::mem::take(&mut self.whole) {
            // A file that stays goes with the folder, at the next start.
            drop(std::fs::remove_file(self.path(segment)));
        }
        self.saved_bytes = self.current_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn segments_fill_and_what_does_not_join_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let size = SegmentBytes::new(MIB).unwrap();
        let at = folder.path().join("spool");
        let mut spool = WalSpool::begin(&at, size, Timeline(1), Lsn(3 * MIB)).unwrap();
        assert!(!spool.has_unsaved() && spool.files().is_empty());
        let bytes: Vec<u8> = (0..MIB as usize + 100).map(|i| (i % 251) as u8).collect();
        spool.take(Lsn(3 * MIB), &bytes[..10]).unwrap();
        let names = |spool: &WalSpool| -> Vec<String> {
            spool.files().into_iter().map(|file| file.name).collect()
        };
        assert_eq!(names(&spool), ["000000010000000000000003.partial"]);
        spool.saved();
        assert!(!spool.has_unsaved());
        assert!(spool.take(Lsn(3 * MIB), b"x").is_err());
        assert!(spool.take(Lsn(3 * MIB + 11), b"x").is_err());
        spool.take(Lsn(3 * MIB + 10), &bytes[10..]).unwrap();
        assert_eq!(names(&spool), ["000000010000000000000003", "000000010000000000000004.partial"]);
        assert_eq!(
            std::fs::read(at.join("000000010000000000000003")).unwrap(),
            bytes[..MIB as usize]
        );
        assert_eq!(spool.position(), Lsn(4 * MIB + 100));
        spool.saved();
        assert_eq!(std::fs::read_dir(&at).unwrap().count(), 1);
        assert_eq!((spool.whole(), spool.has_unsaved()), (0, false));
    }
}
