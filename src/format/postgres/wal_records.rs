//! Records of the write-ahead log that a recovery can end at: ends of transactions, and restore
//! points.
//!
//! A server that is told a moment after which no transaction ended, or a transaction or a name that
//! its log does not have, fails; so one has to know. Records are followed by their lengths; of their
//! content is read what says which one it is, and when it was.
//! Source: `access/xlogrecord.h`, `access/xlog_internal.h`, `access/xact.h`, `catalog/pg_control.h`.

use crate::format::limits::WAL_RECORD_KEPT_BYTES_MAX;
use crate::format::postgres::lsn::Lsn;

/// A page of the log, unless the server was built otherwise.
pub const PAGE_BYTES: usize = 8192;
const SHORT_HEADER_BYTES: usize = 24;
const LONG_HEADER_BYTES: usize = 40;
const LONG_HEADER: u16 = 0x0002;
const RECORD_HEADER_BYTES: usize = 24;
/// As much of a record as a restore point, or the time of a transaction, can need.
const KEPT_BYTES: usize = 128;
/// `RM_XLOG_ID`, and `XLOG_RESTORE_POINT` of it.
const LOG_ITSELF: u8 = 0;
const RESTORE_POINT: u8 = 0x70;
/// `MAXFNAMELEN`.
const NAME_BYTES: usize = 64;
/// `RM_XACT_ID`.
const TRANSACTIONS: u8 = 1;
/// Commit and abort, in `XLOG_XACT_OPMASK`.
const ENDS: [u8; 2] = [0x00, 0x20];
/// Commit and abort of prepared transactions.
const PREPARED_ENDS: [u8; 2] = [0x30, 0x40];
/// `XLOG_XACT_HAS_INFO`.
const HAS_INFO: u8 = 0x80;
/// `XLOG_PAGE_MAGIC` of version 18, where objects with statistics got longer names.
const MAGIC_18: u16 = 0xD118;
/// Microseconds from 1970 to 2000, where the server's times begin.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// A record that a recovery can end at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Where it begins.
    pub start: Lsn,
    /// When it was, in microseconds since 1970 by the server's clock.
    pub microseconds: i64,
    /// What it is.
    pub kind: MarkKind,
}

/// What a recovery can end at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkKind {
    /// The end of a transaction, well or ill; its number, where that can be told.
    TransactionEnd(Option<u32>),
    /// A restore point of that name.
    RestorePoint(String),
}

/// Follows the records of a log from page to page.
#[derive(Default)]
pub struct WalRecords {
    start: Lsn,
    kept: Vec<u8>,
    left: usize,
    is_over: bool,
}

impl WalRecords {
    /// Takes the next segment and calls `visit` with each mark.
    ///
    /// `only_rest` ends it with the record that began in the segment before.
    pub fn take(&mut self, segment: &[u8], only_rest: bool, visit: &mut dyn FnMut(Mark)) {
        self.is_over = false;
        for page in segment.chunks_exact(PAGE_BYTES) {
            if self.is_over || (only_rest && self.left == 0) {
                return;
            }
            self.take_page(page, only_rest, visit);
        }
    }

    /// A segment begins that follows on the last one: after the end of the log in that one there is
    /// log again.
    pub fn next_segment(&mut self) {
        self.is_over = false;
    }

    /// Whether a record goes on in the next page.
    #[must_use]
    pub fn is_within_record(&self) -> bool {
        self.left > 0
    }

    /// Takes the next page; one that begins elsewhere in the log than at `expected` is what an
    /// older use of the file has left, and so is what follows in the segment.
    pub fn take_page_at(&mut self, page: &[u8], expected: Lsn, visit: &mut dyn FnMut(Mark)) {
        self.is_over |= page.len() != PAGE_BYTES || u64_at(page, 8) != expected.0;
        if !self.is_over {
            self.take_page(page, false, visit);
        }
    }

    fn take_page(&mut self, page: &[u8], only_rest: bool, visit: &mut dyn FnMut(Mark)) {
        let magic = u16::from_le_bytes([page[0], page[1]]);
        let flags = u16::from_le_bytes([page[2], page[3]]);
        let header = if flags & LONG_HEADER == 0 { SHORT_HEADER_BYTES } else { LONG_HEADER_BYTES };
        let mut at = header;
        let rest = u32_at(page, 16) as usize;
        if rest != self.left {
            // The front of this record was not seen, or the end of the last one never written.
            self.left = 0;
            at = aligned(at.saturating_add(rest));
        }
        while at < page.len() {
            if self.left == 0 {
                at = aligned(at);
                if at + 4 > page.len() || only_rest {
                    return;
                }
                let length = u32_at(page, at) as usize;
                if length < RECORD_HEADER_BYTES {
                    self.is_over = true;
                    return;
                }
                self.left = length;
                self.start = Lsn(u64_at(page, 8).saturating_add(at as u64));
                self.kept.clear();
            }
            let here = self.left.min(page.len() - at);
            self.keep(&page[at..at + here]);
            at += here;
            self.left -= here;
            if self.left == 0
                && let Some((microseconds, kind)) = mark(&self.kept, magic)
            {
                visit(Mark { start: self.start, microseconds, kind });
            }
        }
    }

    fn keep(&mut self, mut bytes: &[u8]) {
        for limit in [KEPT_BYTES, WAL_RECORD_KEPT_BYTES_MAX as usize] {
            let room = limit.saturating_sub(self.kept.len()).min(bytes.len());
            self.kept.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            if bytes.is_empty() || !is_prepared_end(&self.kept) {
                return;
            }
        }
    }
}

fn aligned(at: usize) -> usize {
    at.div_ceil(8).saturating_mul(8)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn is_prepared_end(record: &[u8]) -> bool {
    let (Some(info), Some(manager)) = (record.get(16), record.get(17)) else { return false };
    *manager == TRANSACTIONS && PREPARED_ENDS.contains(&(info & 0x70))
}

/// What the front of a record says, where it is a mark.
fn mark(record: &[u8], magic: u16) -> Option<(i64, MarkKind)> {
    let (info, manager) = (*record.get(16)?, *record.get(17)?);
    let is_point = manager == LOG_ITSELF && info & 0xF0 == RESTORE_POINT;
    let is_end = manager == TRANSACTIONS && ENDS.contains(&(info & 0x70));
    let is_prepared = is_prepared_end(record);
    if !is_point && !is_end && !is_prepared {
        return None;
    }
    let mut at = RECORD_HEADER_BYTES;
    loop {
        at += match record.get(at)? {
            253 => 3,
            252 => 5,
            255 => break at += 2,
            254 => break at += 5,
            _ => return None,
        };
    }
    let data = record.get(at..)?;
    let time = i64::from_le_bytes(data.get(..8)?.try_into().ok()?);
    let time = time.checked_add(EPOCH_MICROSECONDS)?;
    let kind = if is_point {
        let name = data.get(8..8 + NAME_BYTES)?.split(|byte| *byte == 0).next()?;
        MarkKind::RestorePoint(String::from_utf8_lossy(name).into_owned())
    } else if is_prepared {
        MarkKind::TransactionEnd(prepared_number(data, info, magic))
    } else {
        MarkKind::TransactionEnd(Some(u32_at(record, 4)))
    };
    Some((time, kind))
}

/// The number of the prepared transaction that ends: it stands behind what the end drops and makes
/// known.
fn prepared_number(data: &[u8], info: u8, magic: u16) -> Option<u32> {
    /// `XACT_XINFO_HAS_…` in the order in which it lies, and the bytes of one of many.
    const SUBTRANSACTIONS: (u32, usize) = (1 << 1, 4);
    const FILES: (u32, usize) = (1 << 2, 12);
    const INVALIDATIONS: (u32, usize) = (1 << 3, 16);
    const DATABASE: u32 = 1;
    const DROPPED_STATISTICS: u32 = 1 << 8;
    const TWO_PHASES: u32 = 1 << 4;
    if info & HAS_INFO == 0 {
        return None;
    }
    let number = |at: usize| {
        let bytes = data.get(at..at.checked_add(4)?)?;
        Some(u32_at(bytes, 0))
    };
    let has = number(8)?;
    if has & TWO_PHASES == 0 {
        return None;
    }
    let mut at: usize = 12;
    if has & DATABASE != 0 {
        at += 8;
    }
    let statistics = (DROPPED_STATISTICS, if magic < MAGIC_18 { 12 } else { 16 });
    for (flag, bytes) in [SUBTRANSACTIONS, FILES, statistics, INVALIDATIONS] {
        if has & flag != 0 {
            let count = number(at)? as usize;
            at = at.checked_add(4)?.checked_add(count.checked_mul(bytes)?)?;
        }
    }
    number(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(manager: u8, info: u8, time: i64, padding: usize) -> Vec<u8> {
        let main = [&time.to_le_bytes()[..], &vec![7; padding]].concat();
        let mut body = vec![253, 1, 0, 254];
        body.extend_from_slice(&(main.len() as u32).to_le_bytes());
        body.extend_from_slice(&main);
        let mut record = ((body.len() + 24) as u32).to_le_bytes().to_vec();
        record.extend_from_slice(&[0; 12]);
        record.extend_from_slice(&[info, manager, 0, 0, 0, 0, 0, 0]);
        record.extend_from_slice(&body);
        record
    }

    /// Pages that hold the records one after another.
    fn pages(records: &[Vec<u8>]) -> Vec<u8> {
        let mut pages: Vec<u8> = Vec::new();
        let open = |left: usize, pages: &mut Vec<u8>| {
            let is_first = pages.is_empty();
            let mut header = vec![0; if is_first { 40 } else { 24 }];
            header[2] = if is_first { 2 } else { 0 };
            header[16..20].copy_from_slice(&(left as u32).to_le_bytes());
            pages.extend_from_slice(&header);
        };
        open(0, &mut pages);
        for record in records {
            while !pages.len().is_multiple_of(8) {
                pages.push(0);
            }
            let mut rest = &record[..];
            while !rest.is_empty() {
                if pages.len().is_multiple_of(PAGE_BYTES) {
                    open(rest.len(), &mut pages);
                }
                let room = PAGE_BYTES - pages.len() % PAGE_BYTES;
                let (now, after) = rest.split_at(room.min(rest.len()));
                pages.extend_from_slice(now);
                rest = after;
            }
        }
        pages.resize(pages.len().div_ceil(PAGE_BYTES) * PAGE_BYTES, 0);
        pages
    }

    fn times(parts: &[(&[u8], bool)]) -> Vec<i64> {
        let mut found = Vec::new();
        let mut records = WalRecords::default();
        for (part, only_rest) in parts {
            let mut visit = |mark: Mark| found.push(mark.microseconds - EPOCH_MICROSECONDS);
            records.take(part, *only_rest, &mut visit);
        }
        found
    }

    #[test]
    fn ends_of_transactions_are_found_across_pages() {
        let records = [
            record(1, 0x00, 11, 5),
            record(10, 0x00, 12, 20_000),
            record(1, 0x80, 13, 8100),
            record(1, 0x10, 14, 0),
            record(1, 0x20, 15, 9000),
        ];
        let pages = pages(&records);
        assert_eq!(times(&[(&pages, false)]), [11, 13, 15]);
        // Begun in the middle, only what begins after that is seen.
        assert_eq!(times(&[(&pages[PAGE_BYTES..], false)]), [13, 15]);
        // A record that goes on in the next segment is seen, and nothing after it.
        for cut in 1..pages.len() / PAGE_BYTES {
            let (first, second) = pages.split_at(cut * PAGE_BYTES);
            let whole = times(&[(first, false), (second, true)]);
            let alone = times(&[(first, false)]);
            assert!(whole.starts_with(&alone) && whole.len() <= alone.len() + 1, "{cut}");
        }
    }

    /// The front of a record with these main data.
    fn short(manager: u8, info: u8, number: u32, main: &[u8]) -> Vec<u8> {
        let mut record = ((main.len() + 29) as u32).to_le_bytes().to_vec();
        record.extend_from_slice(&number.to_le_bytes());
        record.extend_from_slice(&[0; 8]);
        record.extend_from_slice(&[info, manager, 0, 0, 0, 0, 0, 0, 254]);
        record.extend_from_slice(&(main.len() as u32).to_le_bytes());
        record.extend_from_slice(main);
        record
    }

    /// The end of prepared transaction 77, which has of everything something.
    fn prepared_end(statistics_bytes: usize, invalidations: usize) -> Vec<u8> {
        let has: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x80 | 0x100;
        let mut main = 5_i64.to_le_bytes().to_vec();
        main.extend_from_slice(&has.to_le_bytes());
        main.extend_from_slice(&[9; 8]);
        for (count, bytes) in [(2, 4), (1, 12), (3, statistics_bytes), (invalidations, 16)] {
            main.extend_from_slice(&(count as u32).to_le_bytes());
            main.extend_from_slice(&vec![9; count * bytes]);
        }
        main.extend_from_slice(&77_u32.to_le_bytes());
        main.extend_from_slice(b"name\0");
        main
    }

    #[test]
    fn transactions_and_restore_points_are_told_apart_and_placed() {
        let mut point = 6_i64.to_le_bytes().to_vec();
        point.extend_from_slice(b"before four");
        point.resize(8 + NAME_BYTES, 0);
        let records = [
            short(1, 0x00, 70, &4_i64.to_le_bytes()),
            // The number in front is that of who ends it.
            short(1, 0x80 | 0x30, 0, &prepared_end(12, 3000)),
            short(1, 0x80 | 0x40, 0, &prepared_end(12, 0)),
            short(0, RESTORE_POINT, 0, &point),
            short(0, 0x10, 0, &point),
        ];
        let mut pages = pages(&records);
        for (number, page) in pages.chunks_mut(PAGE_BYTES).enumerate() {
            page[8..16].copy_from_slice(&((number * PAGE_BYTES) as u64).to_le_bytes());
        }
        let mut found = Vec::new();
        WalRecords::default().take(&pages, false, &mut |mark| found.push(mark));
        let kinds: Vec<&MarkKind> = found.iter().map(|mark| &mark.kind).collect();
        let ended = |number| MarkKind::TransactionEnd(Some(number));
        let name = MarkKind::RestorePoint("before four".to_owned());
        assert_eq!(kinds, [&ended(70), &ended(77), &ended(77), &name]);
        for mark in &found {
            let at = mark.start.0 as usize;
            let length = u32_at(&pages, at) as usize;
            assert!(records.iter().any(|record| record.len() == length), "{mark:?}");
        }
        // Version 18 has longer names of objects with statistics.
        let newer = |bytes| prepared_number(&prepared_end(bytes, 5), 0xB0, MAGIC_18);
        assert_eq!(newer(16), Some(77));
        for cut in 0..prepared_end(16, 1).len() {
            let _ = prepared_number(&prepared_end(16, 1)[..cut], 0xB0, MAGIC_18);
        }
        // What an older use of a segment's file has left is passed over.
        let mut count = 0;
        let mut reader = WalRecords::default();
        for (number, page) in pages.chunks(PAGE_BYTES).enumerate() {
            let expected = Lsn(if number == 0 { 0 } else { 1 << 20 });
            reader.take_page_at(page, expected, &mut |_| count += 1);
        }
        assert_eq!(count, 1);
    }

    #[test]
    fn nonsense_ends_quietly() {
        assert_eq!(times(&[(&vec![0xFF; PAGE_BYTES * 3], false)]).len(), 0);
        assert_eq!(times(&[(&vec![0; PAGE_BYTES], false)]).len(), 0);
        assert_eq!(times(&[(&[1, 2, 3], false)]).len(), 0);
    }
}
