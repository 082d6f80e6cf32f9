//! What has come over a connection and is not written yet, and when it was executed.

use std::fs::File;

use crate::format::redis::command_stream::{Command, CommandScanner, NoCommand};
use crate::format::redis::journal::SegmentHeader;
use crate::source::redis::watch::{Sightings, history_of};

/// What has so many bytes is a frame.
const FRAME_BYTES: usize = 64 * 1024;
/// After some times of exact moments that were shorter than that…
const STEADY_MS: u64 = 30_000;
const SHORT_TIMES_MAX: u32 = 2;
/// …the next one begins later by so much: a server that is nearly too far away makes no part of each
/// second.
const CALM_MS: u64 = 5_000;
/// A moment is exact where no command of its frame may have been executed longer before.
pub const UNSURE_MS_MAX: u64 = 1000;

/// When a server sends a transaction, or what a script has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transactions {
    /// When it is done.
    Done,
    /// From its beginning on, also while a script is at work: before 7.
    AtWork,
}

/// The server that commands come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Name of its run: another replica may be elsewhere in the same history.
    pub run_id: String,
    /// When it sends transactions.
    pub transactions: Transactions,
}

/// A connection.
pub struct Pending {
    /// How its last segment begins; of the first one if there is none yet.
    pub header: SegmentHeader,
    /// The file of its last segment.
    pub file: Option<File>,
    /// Behind the last byte that came.
    pub scanner: CommandScanner,
    /// What is not written yet.
    pub bytes: Vec<u8>,
    /// When the first of it came (milliseconds since 1970).
    pub since: u64,
    /// It goes on with a command or transaction whose front is written.
    pub is_rest: bool,
    /// That was executed before its front came.
    pub is_done: bool,
    sender: Sender,
    /// What it is called where it was seen.
    pub seen_as: String,
    /// End of the last command that is more than a sign of life.
    pub data_end: u64,
}

impl Pending {
    /// Nothing has come.
    #[must_use]
    pub fn new(header: SegmentHeader, sender: Sender) -> Self {
        Self {
            seen_as: history_of(&header.replid, &sender.run_id),
            scanner: CommandScanner::new(header.start, header.db),
            data_end: header.start,
            header,
            file: None,
            bytes: Vec::new(),
            since: 0,
            is_rest: false,
            is_done: false,
            sender,
        }
    }

    /// Takes the front of what came; gives how much, and whether a frame ends there.
    ///
    /// # Errors
    /// [`NoCommand`].
    pub fn take(
        &mut self,
        bytes: &[u8],
        seen: &Sightings,
        asks: &mut bool,
    ) -> Result<(usize, bool), NoCommand> {
        let position = self.scanner.position();
        if self.bytes.is_empty() {
            self.is_rest = self.scanner.boundary() < position;
            let is_whole = self.sender.transactions == Transactions::Done;
            self.is_done = self.is_rest && (is_whole || !self.scanner.is_in_transaction());
        }
        let data_end = &mut self.data_end;
        let mut found = |command: &Command| {
            *asks |= command.asks_for_acknowledgement();
            if command.is_data() {
                *data_end = command.end;
            }
        };
        let (length, is_end) = if self.is_rest {
            let length = self.scanner.take_to_boundary(bytes, &mut found)?;
            (length, self.scanner.boundary() > position)
        } else {
            let next = seen.next(&self.seen_as, position);
            let next = next.and_then(|next| usize::try_from(next - position).ok());
            let length = next.map_or(bytes.len(), |next| next.min(bytes.len()));
            self.scanner.take(&bytes[..length], &mut found)?;
            (length, next == Some(length))
        };
        self.bytes.extend_from_slice(&bytes[..length]);
        Ok((length, is_end || self.bytes.len() >= FRAME_BYTES))
    }
}

/// Whether moments are exact, and since when they are or are not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exactness {
    is_live: bool,
    since: u64,
    /// So many exact times in a row were short.
    short_times: u32,
}

impl Exactness {
    /// Takes a frame of that time whose bounds are close, or not; gives whether its moments count as
    /// exact.
    pub fn take(&mut self, time_ms: u64, is_close: bool) -> bool {
        // Where a clock was put back, it begins anew.
        self.since = self.since.min(time_ms);
        let lasted = time_ms - self.since;
        let is_calm = self.short_times <= SHORT_TIMES_MAX || lasted >= CALM_MS;
        let is_live = is_close && (self.is_live || is_calm);
        if is_live != self.is_live {
            if self.is_live {
                self.short_times = if lasted < STEADY_MS { self.short_times + 1 } else { 0 };
            }
            (self.is_live, self.since) = (is_live, time_ms);
        }
        is_live
    }
}

/// What bounds say of the commands of a frame.
pub struct Bounds {
    /// They were executed by then (milliseconds since 1970).
    pub time_ms: u64,
    /// All before them was.
    pub begun: u64,
    /// None of them was executed more than [`UNSURE_MS_MAX`] before.
    pub is_close: bool,
}

impl Bounds {
    /// Of those between two positions of a history, which have come by now, behind a frame of
    /// `last_ms`.
    #[must_use]
    pub fn of(
        seen: &Sightings,
        history: &str,
        (start, end): (u64, u64),
        now_ms: u64,
        last_ms: u64,
    ) -> Self {
        let by = |end| seen.executed_by(history, end).map_or(now_ms, |by| by.min(now_ms));
        let time_ms = by(end).max(last_ms);
        let after = seen.executed_after(history, start);
        let unsure = after.and_then(|after| time_ms.checked_sub(after));
        Self {
            time_ms,
            begun: by(start).max(last_ms),
            is_close: unsure.is_some_and(|unsure| unsure <= UNSURE_MS_MAX),
        }
    }
}
