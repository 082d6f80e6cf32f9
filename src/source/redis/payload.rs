//! The framing of a dump on its way: `$<length>`, or `$EOF:<mark>` with the mark again at the end.
//!
//! Empty lines before it say that the server is still at work. No boundary of reads means
//! anything. What comes after the dump belongs to the stream of commands, and is not taken.
//! Source: `replication.c`, `readSyncBulkPayload`.

use crate::source::redis::dump_check::DumpCheck;
use crate::source::redis::reply::front_line;

/// Bytes of a mark.
const MARK_BYTES: usize = 40;
/// Longest line before a dump.
const LINE_BYTES_MAX: usize = 1024;

/// A dump that comes.
#[derive(Debug)]
pub struct Payload {
    part: Part,
    check: DumpCheck,
    bytes: u64,
}

#[derive(Debug)]
enum Part {
    Header(Vec<u8>),
    Counted(u64),
    /// With the bytes that may be the front of the mark.
    Marked(Box<Mark>, Vec<u8>),
    Done,
}

#[derive(Debug)]
struct Mark {
    bytes: [u8; MARK_BYTES],
    /// How far a window can move whose last byte is this one.
    steps: [u8; 256],
}

impl Mark {
    fn new(bytes: [u8; MARK_BYTES]) -> Self {
        let mut steps = [MARK_BYTES as u8; 256];
        for (at, byte) in bytes[..MARK_BYTES - 1].iter().enumerate() {
            steps[usize::from(*byte)] = (MARK_BYTES - 1 - at) as u8;
        }
        Self { bytes, steps }
    }

    /// Where the mark begins (Horspool, 1980).
    fn find(&self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(window) = bytes.get(at..at + MARK_BYTES) {
            if window == self.bytes {
                return Some(at);
            }
            at += usize::from(self.steps[usize::from(window[MARK_BYTES - 1])]);
        }
        None
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self { part: Part::Header(Vec::new()), check: DumpCheck::default(), bytes: 0 }
    }
}

impl Payload {
    /// Whether all of the dump came, and it is whole.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.part, Part::Done)
    }

    /// Bytes of the dump so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether its first bytes have not come yet.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        matches!(self.part, Part::Header(_))
    }

    /// Takes the next bytes, and puts those of the dump into `dump`; gives how many it has taken.
    /// Less than all are taken at the end only.
    ///
    /// # Errors
    /// What is wrong, as text: the server's own error, no framing, a dump that is not whole.
    pub fn take(&mut self, bytes: &[u8], dump: &mut Vec<u8>) -> Result<usize, String> {
        let before = dump.len();
        let mut used = 0;
        if let Part::Header(line) = &mut self.part {
            let known = line.len();
            line.extend_from_slice(bytes);
            let Some((header, length)) = header(line)? else { return Ok(bytes.len()) };
            used = length - known.min(length);
            self.part = header;
        }
        let rest = &bytes[used..];
        let (taken, is_end) = match &mut self.part {
            Part::Counted(left) => {
                let now = (*left).min(rest.len() as u64);
                *left -= now;
                dump.extend_from_slice(&rest[..now as usize]);
                (now as usize, *left == 0)
            }
            Part::Marked(mark, held) => take_marked(mark, held, rest, dump),
            Part::Header(_) | Part::Done => (0, false),
        };
        self.check.take(&dump[before..]);
        self.bytes += (dump.len() - before) as u64;
        if is_end {
            self.part = Part::Done;
            self.check.finish()?;
        }
        Ok(used + taken)
    }
}

/// What follows the lines at the front, and their length; empty lines are taken away.
fn header(bytes: &mut Vec<u8>) -> Result<Option<(Part, usize)>, String> {
    let empty = bytes.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
    let Some((line, length)) = front_line(&bytes[empty..]) else {
        if bytes.len() - empty > LINE_BYTES_MAX {
            return Err("no dump begins".to_owned());
        }
        if empty == bytes.len() {
            bytes.clear();
        }
        return Ok(None);
    };
    let shown = || String::from_utf8_lossy(line).into_owned();
    let part = match line {
        [b'-', message @ ..] => return Err(String::from_utf8_lossy(message).into_owned()),
        [b'$', b'E', b'O', b'F', b':', mark @ ..] => {
            let mark = mark.try_into().map_err(|_| format!("a wrong mark: {}", shown()))?;
            Part::Marked(Box::new(Mark::new(mark)), Vec::new())
        }
        [b'$', digits @ ..] => {
            let digits = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            Part::Counted(digits.ok_or_else(|| format!("a wrong length: {}", shown()))?)
        }
        _ => return Err(format!("no dump begins: {}", shown())),
    };
    Ok(Some((part, empty + length)))
}

/// Gives how many bytes of `rest` were taken, and whether the mark has come.
fn take_marked(mark: &Mark, held: &mut Vec<u8>, rest: &[u8], dump: &mut Vec<u8>) -> (usize, bool) {
    // The mark may lie over the boundary: then it begins in what is held, and ends in the front.
    let front = rest.len().min(MARK_BYTES);
    let known = held.len();
    held.extend_from_slice(&rest[..front]);
    if let Some(at) = mark.find(held) {
        dump.extend_from_slice(&held[..at]);
        return (at + MARK_BYTES - known, true);
    }
    if let Some(at) = mark.find(rest) {
        dump.extend_from_slice(&held[..known]);
        dump.extend_from_slice(&rest[..at]);
        return (at + MARK_BYTES, true);
    }
    held.truncate(known);
    let sure = (known + rest.len()).saturating_sub(MARK_BYTES - 1);
    dump.extend(held.drain(..sure.min(known)));
    let from_rest = sure.saturating_sub(known);
    dump.extend_from_slice(&rest[..from_rest]);
    held.extend_from_slice(&rest[from_rest..]);
    (rest.len(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &[u8; 40] = b"0123456789abcdef0123456789abcdef01234567";

    /// A dump that has the front of the mark in it, more than once.
    fn dump() -> Vec<u8> {
        let mut dump = b"REDIS0011".to_vec();
        dump.extend_from_slice(&MARK[..39]);
        dump.extend_from_slice(&MARK[..16]);
        dump.push(0xff);
        let mut crc = crate::format::redis::crc64::Crc64::default();
        crc.update(&dump);
        dump.extend(crc.value().to_le_bytes());
        dump
    }

    fn framed(is_marked: bool) -> Vec<u8> {
        let dump = dump();
        let mut bytes = b"\n\n\n".to_vec();
        if is_marked {
            bytes.extend_from_slice(b"$EOF:");
            bytes.extend_from_slice(MARK);
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(&dump);
            bytes.extend_from_slice(MARK);
        } else {
            bytes.extend_from_slice(format!("${}\r\n", dump.len()).as_bytes());
            bytes.extend_from_slice(&dump);
        }
        bytes
    }

    /// The dump, and how many bytes were left.
    fn take(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), String> {
        let (mut payload, mut dump, mut left) = (Payload::default(), Vec::new(), 0);
        for piece in pieces {
            if payload.is_done() {
                left += piece.len();
                continue;
            }
            left += piece.len() - payload.take(piece, &mut dump)?;
        }
        Ok((dump, left, payload.is_done()))
    }

    #[test]
    fn both_framings_at_every_read_boundary() {
        for is_marked in [false, true] {
            let mut bytes = framed(is_marked);
            bytes.extend_from_slice(b"*1\r\n");
            for first in 0..bytes.len() {
                for second in [first, first + 1, first + 39, first + 40, first + 41] {
                    let second = second.min(bytes.len());
                    let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(take(&pieces).unwrap(), (dump(), 4, true), "{first} {second}");
                }
            }
            for size in 1..50 {
                let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
                assert_eq!(take(&pieces).unwrap(), (dump(), 4, true), "{size}");
            }
        }
    }

    #[test]
    fn nothing_less_than_all_is_whole() {
        for is_marked in [false, true] {
            let bytes = framed(is_marked);
            for cut in 0..bytes.len() {
                assert!(!take(&[&bytes[..cut]]).unwrap().2, "{cut}");
            }
            // The mark or the length is there, and the dump is not whole.
            let mut damaged = bytes.clone();
            let at = bytes.len() - 60;
            damaged[at] ^= 1;
            assert!(take(&[&damaged]).is_err());
        }
        let mut short = b"$EOF:".to_vec();
        short.extend_from_slice(MARK);
        short.extend_from_slice(b"\r\nREDIS0011");
        short.extend_from_slice(MARK);
        assert!(take(&[&short]).unwrap_err().contains("before its end"));
    }

    #[test]
    fn what_is_no_framing_is_an_error() {
        for bytes in [&b"-ERR no\r\n"[..], b"$EOF:12\r\n", b"$x\r\n", b"+OK\r\n", &[b'a'; 2000]] {
            assert!(take(&[bytes]).is_err(), "{bytes:?}");
        }
    }
}
