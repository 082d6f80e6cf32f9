//! The commands of a server between its stream and the repository: segments of a journal in files.
//!
//! A segment begins between two commands and outside of a transaction; what counts of it ends
//! there too. Nothing here is durable. What a killed process has left is found again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::backup::journal_pending::{Bounds, Exactness, Pending, Sender, UNSURE_MS_MAX};
use crate::backup::journal_segment::{Segment, recover};
use crate::backup::journal_series::SavedSegment;
use crate::backup::log_root::{LogContent, LogInput};
use crate::format::redis::command_stream::NoCommand;
use crate::format::redis::journal::{SegmentError, SegmentHeader};
use crate::source::redis::watch::Sightings;

/// A segment ends when it has so many bytes…
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// …or is so old.
const SEGMENT_MS: u64 = 60 * 60 * 1000;
/// What comes within so short a time is one frame.
const FRAME_MS: u64 = 50;
/// A file that only takes room: where there is no more of it, what waits can be saved in its place.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 16 * 1024 * 1024;
/// A file that says since which start of the system the spool is written.
const BOOT: &str = "boot";
/// Where the system says it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why commands were not taken.
#[derive(Debug, thiserror::Error)]
pub enum JournalSpoolError {
    /// The system refused or failed.
    #[error("the spool at {} cannot be used", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server sends what is no command.
    #[error("what the server sends cannot be understood")]
    NoCommand(#[from] NoCommand),
    /// What was left of an earlier process is of a newer version.
    #[error("{} cannot be read", path.display())]
    Segment {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SegmentError,
    },
    /// More waits than is allowed to.
    #[error("{bytes} bytes of commands wait to be saved, and no more may")]
    Full {
        /// That many.
        bytes: u64,
    },
}

/// A place in a journal from which it can be gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEnd {
    /// Name of the line.
    pub line: String,
    /// Number of the last connection.
    pub session: u64,
    /// Name of the history.
    pub replid: String,
    /// Position of the next byte.
    pub offset: u64,
    /// The database that is selected there.
    pub db: Option<u32>,
}

impl JournalEnd {
    fn at(header: &SegmentHeader, (offset, db): (u64, Option<u32>)) -> Self {
        let SegmentHeader { line, session, replid, .. } = header.clone();
        Self { line, session, replid, offset, db }
    }
}

/// What is saved next, and how much of it.
pub struct Unsaved {
    /// The files.
    pub files: Vec<LogInput>,
    /// What each holds.
    pub segments: Vec<(String, SavedSegment)>,
}

/// Segments that are not saved yet.
pub struct JournalSpool {
    folder: PathBuf,
    segments: Vec<Segment>,
    open: Option<Pending>,
    /// Where the last connection began.
    begun: Option<JournalEnd>,
    /// Time of the last frame.
    last_ms: u64,
    exactness: Exactness,
    bytes_max: u64,
}

impl JournalSpool {
    /// The spool in that folder, with what an earlier process has left; takes no more than so many
    /// bytes that are not saved.
    ///
    /// # Errors
    /// The folder cannot be used, or holds segments of a newer version.
    pub fn open(folder: &Path, bytes_max: u64) -> Result<Self, JournalSpoolError> {
        let failed = |source| io_error(folder, source);
        std::fs::create_dir_all(folder).map_err(failed)?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(folder, permissions).map_err(failed)?;
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() != RESERVE && entry.file_name() != BOOT {
                segments.extend(recover(&entry.path())?);
            }
        }
        // Not by their times: clocks go back.
        segments.sort_by_key(|one: &Segment| (one.header.session, one.header.start));
        let boot = std::fs::read(BOOT_ID).unwrap_or_default();
        if !segments.is_empty() && std::fs::read(folder.join(BOOT)).ok().as_ref() != Some(&boot) {
            // The last file may not have come to the disk as it was: the server has it still.
            let last = segments.pop().map(|last| std::fs::remove_file(last.path));
            last.transpose().map_err(failed)?;
        }
        std::fs::write(folder.join(BOOT), boot).map_err(failed)?;
        Ok(Self {
            folder: folder.to_owned(),
            segments,
            open: None,
            begun: None,
            last_ms: 0,
            exactness: Exactness::default(),
            bytes_max,
        })
    }

    /// Where the last of the segments ends; where the last connection began if it has none.
    #[must_use]
    pub fn end(&self) -> Option<JournalEnd> {
        let last = self.segments.last().map(|last| JournalEnd::at(&last.header, last.end));
        let is_of_last =
            |begun: &&JournalEnd| last.as_ref().is_none_or(|last| last.line != begun.line);
        self.begun.as_ref().filter(is_of_last).cloned().or(last)
    }

    /// Throws away what belongs to no line of that name.
    pub fn keep_line(&mut self, line: Option<&str>) {
        self.begun = self.begun.take().filter(|begun| Some(&*begun.line) == line);
        self.segments.retain(|one| {
            let is_kept = Some(&*one.header.line) == line;
            if !is_kept {
                // What stays is found again, and thrown away again.
                drop(std::fs::remove_file(&one.path));
            }
            is_kept
        });
    }

    /// Throws away what is no more than what was saved, or does not go on from it: what is durable
    /// is right, and a file that a crash has left may be torn anywhere.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn keep_beyond(
        &mut self,
        saved: &BTreeMap<String, SavedSegment>,
    ) -> Result<(), JournalSpoolError> {
        let mut kept = Vec::new();
        for one in std::mem::take(&mut self.segments) {
            let known = saved.get(&one.header.file_name());
            let known = known.filter(|known| known.range.session == one.header.session);
            match known {
                Some(known) if !one.goes_on_from(known)? => {
                    // What stays is found again, and thrown away again.
                    drop(std::fs::remove_file(&one.path));
                }
                _ => kept.push(one),
            }
        }
        self.segments = kept;
        self.drop_behind_hole();
        Ok(())
    }

    /// Throws away what does not go on from what is before it, which a crash has damaged: the server
    /// sends it again, or a gap is said.
    fn drop_behind_hole(&mut self) {
        let mut end = None;
        self.segments.retain(|one| {
            let is_joined = end.is_none_or(|end| one.header.start <= end);
            if is_joined {
                end = end.max(Some(one.end.0));
            } else {
                // What stays is found again, and thrown away again.
                drop(std::fs::remove_file(&one.path));
            }
            is_joined
        });
    }

    /// Name of the line that is taken, else of the last one.
    #[must_use]
    pub fn line(&self) -> Option<&String> {
        let open = self.open.as_ref().map(|open| &open.header.line);
        open.or_else(|| self.segments.last().map(|last| &last.header.line))
    }

    /// Begins a connection; its header says where, and the number of its first segments.
    ///
    /// # Errors
    /// There is no room.
    pub fn begin(
        &mut self,
        header: SegmentHeader,
        sender: Sender,
    ) -> Result<(), JournalSpoolError> {
        self.make_reserve()?;
        if Some(&header.line) != self.line() {
            self.last_ms = 0;
        }
        self.begun = Some(JournalEnd::at(&header, (header.start, header.db)));
        self.open = Some(Pending::new(header, sender));
        Ok(())
    }

    fn make_reserve(&self) -> Result<(), JournalSpoolError> {
        let path = self.folder.join(RESERVE);
        let failed = |source| io_error(&path, source);
        let file = File::create(&path).map_err(failed)?;
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, RESERVE_BYTES).or_else(|error| {
            // Not every file system can do that; then there is no reserve.
            if error == rustix::io::Errno::OPNOTSUPP { Ok(()) } else { Err(failed(error.into())) }
        })
    }

    /// What is full is to be saved: that needs room too.
    fn give_reserve(&self) {
        // Where it cannot be removed, saving says what is wrong.
        drop(std::fs::remove_file(self.folder.join(RESERVE)));
    }

    /// Takes what came now, of a server that was seen there; gives whether it asks how far we are.
    ///
    /// # Errors
    /// [`JournalSpoolError`]: the connection is of no use any more.
    pub fn take(
        &mut self,
        now_ms: u64,
        mut bytes: &[u8],
        seen: &mut Sightings,
    ) -> Result<bool, JournalSpoolError> {
        let mut asks = false;
        while !bytes.is_empty() {
            let Some(open) = &mut self.open else { return Ok(false) };
            if open.bytes.is_empty() {
                open.since = now_ms;
            }
            let (length, is_end) = open.take(bytes, seen, &mut asks)?;
            bytes = &bytes[length..];
            if is_end {
                self.write_frame(now_ms, seen)?;
            }
        }
        self.tick(now_ms, seen)?;
        Ok(asks)
    }

    /// Writes what has waited long enough.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn tick(&mut self, now_ms: u64, seen: &mut Sightings) -> Result<(), JournalSpoolError> {
        let open = self.open.as_ref();
        let is_due = open.is_some_and(|open| now_ms.abs_diff(open.since) >= FRAME_MS);
        if is_due { self.write_frame(now_ms, seen) } else { Ok(()) }
    }

    fn write_frame(&mut self, now_ms: u64, seen: &mut Sightings) -> Result<(), JournalSpoolError> {
        let written = self.try_write_frame(now_ms, seen);
        if matches!(written, Err(JournalSpoolError::Io { .. })) {
            self.give_reserve();
        }
        written
    }

    fn try_write_frame(
        &mut self,
        now_ms: u64,
        seen: &mut Sightings,
    ) -> Result<(), JournalSpoolError> {
        let waiting = self.waiting_bytes();
        let Some(open) = self.open.as_mut().filter(|open| !open.bytes.is_empty()) else {
            return Ok(());
        };
        if waiting > self.bytes_max {
            return Err(JournalSpoolError::Full { bytes: waiting });
        }
        let (is_rest, is_done) = (open.is_rest, open.is_done);
        let mut pending = std::mem::take(&mut open.bytes);
        let start = open.scanner.position() - pending.len() as u64;
        if !is_rest {
            self.begin_unit(start, now_ms, seen)?;
        } else if !is_done {
            let (history, end) = (&open.seen_as, open.scanner.position());
            self.last_ms = Bounds::of(seen, history, (start, end), now_ms, self.last_ms).time_ms;
        }
        let (Some(open), Some(segment)) = (&mut self.open, self.segments.last_mut()) else {
            return Ok(());
        };
        let Some(file) = &mut open.file else { return Ok(()) };
        segment.append(file, self.last_ms, &pending)?;
        segment.reach(&open.scanner, self.last_ms);
        segment.data_end = open.data_end.max(segment.header.start);
        pending.clear();
        open.bytes = pending;
        Ok(())
    }

    /// A frame follows that begins between two commands and outside of a transaction: when, and
    /// whether in a segment of its own.
    fn begin_unit(
        &mut self,
        start: u64,
        now_ms: u64,
        seen: &mut Sightings,
    ) -> Result<(), JournalSpoolError> {
        let Some(open) = &self.open else { return Ok(()) };
        let (header, end) = (&open.header, open.scanner.position());
        let has_gone_back = now_ms.saturating_add(UNSURE_MS_MAX) < self.last_ms;
        let last_ms = if has_gone_back { 0 } else { self.last_ms };
        let bounds = Bounds::of(seen, &open.seen_as, (start, end), now_ms, last_ms);
        seen.forget_before(start);
        self.last_ms = bounds.time_ms;
        let is_first = open.file.is_none();
        let was_live = header.live_from <= start;
        let is_live = self.exactness.take(now_ms, bounds.is_close);
        let is_other = is_first || has_gone_back || is_live != was_live;
        let last = self.segments.last().filter(|_| !is_first);
        let is_due = last.is_some_and(|last| {
            let age = bounds.time_ms.saturating_sub(last.header.begun);
            last.bytes >= SEGMENT_BYTES || age >= SEGMENT_MS
        });
        if !is_other && !is_due {
            return Ok(());
        }
        let next_session = if is_first { header.session } else { now_ms.max(header.session + 1) };
        let live_from = if is_live { start } else { u64::MAX };
        let header = SegmentHeader {
            session: if is_other { next_session } else { header.session },
            after: header.after.clone().filter(|_| is_first),
            start,
            db: last.map_or(header.db, |last| last.end.1),
            begun: bounds.begun,
            live_from: if is_other { live_from } else { header.live_from },
            ..header.clone()
        };
        self.begin_segment(header)
    }

    fn begin_segment(&mut self, header: SegmentHeader) -> Result<(), JournalSpoolError> {
        self.close_segments()?;
        // What is there of the same place comes again: one tree has each name once.
        let name = header.file_name();
        self.segments.retain(|one| {
            let is_other = one.header.file_name() != name;
            if !is_other {
                // What stays is found again, and thrown away again.
                drop(std::fs::remove_file(&one.path));
            }
            is_other
        });
        let path = self.folder.join(format!("{}.{}", header.file_name(), header.session));
        let encoded = header.encode();
        // Never one that is there: it may hold what is not saved.
        let made = File::create_new(&path).and_then(|mut file| {
            file.write_all(&encoded)?;
            Ok(file)
        });
        let file = made.map_err(|source| io_error(&path, source))?;
        let mut segment = Segment::new(header.clone(), path);
        segment.bytes = encoded.len() as u64;
        self.segments.push(segment);
        if let Some(open) = &mut self.open {
            (open.file, open.header) = (Some(file), header);
        }
        Ok(())
    }

    /// The connection is over: what came is written, and the segment ends.
    ///
    /// # Errors
    /// What came last could not be written; the server has it still.
    pub fn end_connection(
        &mut self,
        now_ms: u64,
        seen: &mut Sightings,
    ) -> Result<(), JournalSpoolError> {
        let written = self.write_frame(now_ms, seen);
        let closed = self.close_segments();
        self.open = None;
        self.drop_saved();
        written.and(closed)
    }

    /// Nothing is added any more to what there is, and a power cut takes nothing of it.
    fn close_segments(&mut self) -> Result<(), JournalSpoolError> {
        for segment in &mut self.segments {
            segment.is_closed = true;
        }
        let file = self.open.as_ref().and_then(|open| open.file.as_ref());
        let synced = file.map_or(Ok(()), File::sync_data);
        synced.map_err(|source| io_error(&self.folder, source))
    }

    /// Bytes that are not saved.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        let waiting = self.segments.iter().filter(|one| one.has_unsaved());
        waiting.map(|one| one.end.0 - one.saved.map_or(one.header.start, |saved| saved.0)).sum()
    }

    /// Whether commands that change something wait to be saved.
    #[must_use]
    pub fn has_unsaved_data(&self) -> bool {
        let saved = |one: &Segment| one.saved.map_or(one.header.start, |saved| saved.0);
        self.segments.iter().any(|one| one.data_end.min(one.end.0) > saved(one))
    }

    /// How far nothing but signs of life lies behind a position up to which all is durable.
    #[must_use]
    pub fn quiet_end(&self, durable: u64) -> u64 {
        let open = self.open.as_ref().filter(|open| durable > 0 && open.data_end <= durable);
        open.map_or(durable, |open| open.scanner.boundary().max(durable))
    }

    /// All that is to be saved now.
    #[must_use]
    pub fn unsaved(&self) -> Unsaved {
        let unsaved = || self.segments.iter().filter(|one| one.has_unsaved());
        let input = |one: &Segment| LogInput {
            name: one.header.file_name(),
            content: LogContent::Front { path: one.path.clone(), bytes: one.bytes },
        };
        let content = |one: &Segment| (one.header.file_name(), one.content());
        Unsaved {
            files: unsaved().map(input).collect(),
            segments: unsaved().map(content).collect(),
        }
    }

    /// What [`Self::unsaved`] gave is durable.
    pub fn saved(&mut self, segments: &[(String, SavedSegment)]) {
        for (_, saved) in segments {
            let same = |one: &&mut Segment| {
                (one.header.start, one.header.session) == (saved.range.start, saved.range.session)
                    && one.header.line == saved.range.line
            };
            if let Some(segment) = self.segments.iter_mut().find(same) {
                segment.saved = Some((saved.range.end, saved.range.until));
            }
        }
        self.drop_saved();
    }

    fn drop_saved(&mut self) {
        self.segments.retain(|one| {
            let is_kept = !one.is_closed || one.has_unsaved();
            if !is_kept {
                // A file that stays is found at the next start, and saved once more.
                drop(std::fs::remove_file(&one.path));
            }
            is_kept
        });
    }
}

/// The system's error about a path.
pub(super) fn io_error(path: &Path, source: std::io::Error) -> JournalSpoolError {
    JournalSpoolError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
