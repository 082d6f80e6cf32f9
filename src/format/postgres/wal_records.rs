//! Ends of transactions in a segment of the write-ahead log, with their times.
//!
//! A server that is told a moment fails when no transaction ended after it; so one has to know.
//! Records are followed by their lengths only; nothing of their content but the time is read.
//! Source: `access/xlogrecord.h`, `access/xlog_internal.h`, `access/xact.h`.

/// A page of the log, unless the server was built otherwise.
const PAGE_BYTES: usize = 8192;
const SHORT_HEADER_BYTES: usize = 24;
const LONG_HEADER_BYTES: usize = 40;
const LONG_HEADER: u16 = 0x0002;
const RECORD_HEADER_BYTES: usize = 24;
/// As much of a record as the time of a transaction can need.
const KEPT_BYTES: usize = 64;
/// `RM_XACT_ID`.
const TRANSACTIONS: u8 = 1;
/// Commit, abort, and both of prepared transactions, in `XLOG_XACT_OPMASK`.
const ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];
/// Microseconds from 1970 to 2000, where the server's times begin.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// Follows the records of a log from page to page.
#[derive(Default)]
pub struct TransactionEnds {
    is_in_step: bool,
    kept: Vec<u8>,
    left: usize,
    is_over: bool,
}

impl TransactionEnds {
    /// Takes the next segment and calls `visit` with each time, in microseconds since 1970.
    ///
    /// `only_rest` ends it with the record that began in the segment before.
    pub fn take(&mut self, segment: &[u8], only_rest: bool, visit: &mut dyn FnMut(i64)) {
        for page in segment.chunks_exact(PAGE_BYTES) {
            if self.is_over || (only_rest && self.left == 0) {
                return;
            }
            self.take_page(page, only_rest, visit);
        }
    }

    fn take_page(&mut self, page: &[u8], only_rest: bool, visit: &mut dyn FnMut(i64)) {
        let flags = u16::from_le_bytes([page[2], page[3]]);
        let header = if flags & LONG_HEADER == 0 { SHORT_HEADER_BYTES } else { LONG_HEADER_BYTES };
        let mut at = header;
        if !self.is_in_step {
            let rest = u32_at(page, 16) as usize;
            at = aligned(at + rest);
            if at >= page.len() {
                return;
            }
            self.is_in_step = true;
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
                self.kept.clear();
            }
            let here = self.left.min(page.len() - at);
            let room = KEPT_BYTES - self.kept.len();
            self.kept.extend_from_slice(&page[at..at + here.min(room)]);
            at += here;
            self.left -= here;
            if self.left == 0
                && let Some(time) = end_of_transaction(&self.kept)
            {
                visit(time);
            }
        }
    }
}

fn aligned(at: usize) -> usize {
    at.div_ceil(8) * 8
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// The time in the front of a record, where it is the end of a transaction.
fn end_of_transaction(record: &[u8]) -> Option<i64> {
    let (info, manager) = (record.get(16)?, record.get(17)?);
    if *manager != TRANSACTIONS || !ENDS.contains(&(info & 0x70)) {
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
    let time = record.get(at..at + 8)?;
    let time = i64::from_le_bytes(time.try_into().ok()?);
    time.checked_add(EPOCH_MICROSECONDS)
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
        let mut ends = TransactionEnds::default();
        for (part, only_rest) in parts {
            ends.take(part, *only_rest, &mut |time| found.push(time - EPOCH_MICROSECONDS));
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

    #[test]
    fn nonsense_ends_quietly() {
        assert_eq!(times(&[(&vec![0xFF; PAGE_BYTES * 3], false)]).len(), 0);
        assert_eq!(times(&[(&vec![0; PAGE_BYTES], false)]).len(), 0);
        assert_eq!(times(&[(&[1, 2, 3], false)]).len(), 0);
    }
}
