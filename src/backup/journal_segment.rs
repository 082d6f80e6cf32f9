//! A segment of a journal in a file: what of it counts, and what a killed process has left.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::backup::journal_series::SavedSegment;
use crate::backup::journal_spool::{JournalSpoolError, io_error};
use crate::crypto::ids::content_hasher;
use crate::format::redis::command_stream::CommandScanner;
use crate::format::redis::journal::{
    FRAME_HEADER_BYTES, SegmentError, SegmentHeader, SegmentReader, frame_header,
};
use crate::format::redis::server_facts::JournalRange;

/// Bytes that are read at once.
const READ_BYTES: usize = 1024 * 1024;

/// A segment that is not wholly saved.
#[derive(Debug)]
pub struct Segment {
    /// What it says about itself.
    pub header: SegmentHeader,
    /// Its file.
    pub path: PathBuf,
    /// Bytes of the file, whole frames.
    pub bytes: u64,
    /// End of the last command that counts, and the database that is selected there.
    pub end: (u64, Option<u32>),
    /// End of the last command that is more than a sign of life.
    pub data_end: u64,
    from_ms: Option<u64>,
    until_ms: u64,
    /// End and time of what is saved of it.
    pub saved: Option<(u64, u64)>,
    /// Nothing is added any more.
    pub is_closed: bool,
}

impl Segment {
    /// An empty one, whose file is not made yet.
    #[must_use]
    pub fn new(header: SegmentHeader, path: PathBuf) -> Self {
        let end = (header.start, header.db);
        let (data_end, until_ms) = (header.start, header.begun);
        let (bytes, from_ms, saved, is_closed) = (0, None, None, false);
        Self { header, path, bytes, end, data_end, from_ms, until_ms, saved, is_closed }
    }

    /// Takes note of a frame of that time.
    pub fn reach(&mut self, scanner: &CommandScanner, time_ms: u64) {
        if scanner.boundary() > self.end.0 {
            self.end = (scanner.boundary(), scanner.boundary_db());
            self.until_ms = time_ms;
        }
        if self.from_ms.is_none() && self.end.0 >= self.header.live_from {
            let is_live_at_once = self.header.live_from <= self.header.start;
            self.from_ms = Some(if is_live_at_once { self.header.begun } else { time_ms });
        }
    }

    /// Whether there is more to be saved.
    #[must_use]
    pub fn has_unsaved(&self) -> bool {
        self.end.0 > self.header.start && self.saved != Some((self.end.0, self.until_ms))
    }

    /// What it holds.
    #[must_use]
    pub fn content(&self) -> SavedSegment {
        let range = JournalRange {
            line: self.header.line.clone(),
            session: self.header.session,
            replid: self.header.replid.clone(),
            after: self.header.after.clone(),
            start: self.header.start,
            end: self.end.0,
            from: self.from_ms,
            until: self.until_ms,
        };
        SavedSegment { range, db: self.end.1, file: None }
    }

    /// Whether its file goes on with what was saved of it, and has more than that.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn goes_on_from(&self, saved: &SavedSegment) -> Result<bool, JournalSpoolError> {
        let Some((bytes, hash)) = saved.file.filter(|_| saved.range.end < self.end.0) else {
            return Ok(false);
        };
        let failed = |source| io_error(&self.path, source);
        let mut front = File::open(&self.path).map_err(failed)?.take(bytes);
        let mut hasher = content_hasher();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match front.read(&mut buffer).map_err(failed)? {
                0 => return Ok(hasher.content_hash() == hash),
                length => hasher.update(&buffer[..length]),
            }
        }
    }

    /// Adds a frame to its file.
    ///
    /// # Errors
    /// The system refused; the file is as it was, or has a torn frame that does not count.
    pub fn append(
        &mut self,
        file: &mut File,
        time_ms: u64,
        bytes: &[u8],
    ) -> Result<(), JournalSpoolError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let header = frame_header(time_ms, bytes.len() as u32);
        let written = file.write_all(&header).and_then(|()| file.write_all(bytes));
        written.map_err(|source| {
            // A torn frame is of no use; where it stays, it is not counted.
            drop(file.set_len(self.bytes));
            io_error(&self.path, source)
        })?;
        self.bytes += (FRAME_HEADER_BYTES + bytes.len()) as u64;
        Ok(())
    }
}

/// What a killed process has left in a file: whole frames of it; nothing where there are none.
pub fn recover(path: &Path) -> Result<Option<Segment>, JournalSpoolError> {
    let failed = |source| io_error(path, source);
    let file = File::options().read(true).write(true).open(path).map_err(failed)?;
    let mut reader = SegmentReader::default();
    let read = each_piece(&file, &mut |bytes| reader.take(bytes, &mut |_, _| {}))?;
    if let Err(source @ SegmentError::Version(_)) = read {
        return Err(JournalSpoolError::Segment { path: path.to_owned(), source });
    }
    file.set_len(reader.whole()).map_err(failed)?;
    let Some(header) = reader.header() else {
        std::fs::remove_file(path).map_err(failed)?;
        return Ok(None);
    };
    let mut segment = Segment::new(header.clone(), path.to_owned());
    let mut scanner = CommandScanner::new(segment.header.start, segment.header.db);
    let mut frames = SegmentReader::default();
    let scanned = each_piece(&file, &mut |bytes| {
        let mut outcome = Ok(());
        frames.take(bytes, &mut |time_ms, bytes| {
            if outcome.is_ok() {
                outcome = scanner.take(bytes, &mut |_| {});
                segment.reach(&scanner, time_ms);
            }
        })?;
        outcome.map_err(|_| SegmentError::Torn)
    })?;
    drop(scanned);
    segment.bytes = reader.whole();
    (segment.data_end, segment.is_closed) = (segment.end.0, true);
    if segment.end.0 > segment.header.start {
        return Ok(Some(segment));
    }
    std::fs::remove_file(path).map_err(failed)?;
    Ok(None)
}

/// Reads a file from its beginning, until a piece of it is refused.
fn each_piece(
    file: &File,
    visit: &mut dyn FnMut(&[u8]) -> Result<(), SegmentError>,
) -> Result<Result<(), SegmentError>, JournalSpoolError> {
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0;
    loop {
        let length = file.read_at(&mut buffer, at);
        let length = length.map_err(|source| io_error(Path::new("segment"), source))?;
        if length == 0 {
            return Ok(Ok(()));
        }
        at += length as u64;
        if let Err(error) = visit(&buffer[..length]) {
            return Ok(Err(error));
        }
    }
}
