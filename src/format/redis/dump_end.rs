//! How a dump ends: the one thing that can be told of dumps that are not understood.

use crate::format::redis::crc64::Crc64;
use crate::format::redis::grammar::Dialect;
use crate::format::redis::opcode::END;

/// The end mark and the sum.
pub const END_BYTES: usize = 9;

/// The first dumps of Redis with a sum.
const SUM_VERSION_MIN: u32 = 5;
/// Dumps of Redis up to this version end with a sum that is known.
const SUM_VERSION_MAX: u32 = 16;
/// The version of the dumps of Valkey that end so.
const VALKEY_VERSION: u32 = 80;

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With its end mark, and the sum of its bytes where the server computes one.
    Whole,
    /// Something is not known to this program. Either the dump ends with an end mark and the sum of its
    /// bytes, so it is whole, or it is of a kind of which that is not known either.
    Unknown,
    /// It ends in the middle.
    Truncated,
    /// The sum of its bytes is another than it says, or there is nothing that could be one.
    WrongSum,
}

/// Watches all bytes of a dump.
#[derive(Debug)]
pub struct EndWatch {
    has_sum: bool,
    has_known_end: bool,
    sum: Crc64,
    /// The last bytes.
    tail: [u8; END_BYTES],
    found: Ending,
}

impl Default for EndWatch {
    fn default() -> Self {
        Self {
            has_sum: false,
            has_known_end: false,
            sum: Crc64::default(),
            tail: [0; END_BYTES],
            found: Ending::Truncated,
        }
    }
}

impl EndWatch {
    /// The magic says so.
    pub fn set_version(&mut self, dialect: Dialect, version: u32) {
        self.has_sum = dialect == Dialect::Valkey || version >= SUM_VERSION_MIN;
        self.has_known_end = match dialect {
            Dialect::Redis => version <= SUM_VERSION_MAX,
            Dialect::Valkey => version == VALKEY_VERSION,
        };
    }

    /// Whether a sum stands behind the end mark.
    #[must_use]
    pub fn has_sum(&self) -> bool {
        self.has_sum
    }

    /// Takes the next bytes.
    pub fn pass(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        if let Some(tail) = bytes.last_chunk() {
            self.tail = *tail;
        } else {
            self.tail.copy_within(bytes.len().., 0);
            self.tail[END_BYTES - bytes.len()..].copy_from_slice(bytes);
        }
    }

    /// The end mark, and its sum where there is one, have been understood as such and passed.
    pub fn end(&mut self) {
        let is_whole = !self.has_sum || self.is_summed();
        self.found = if is_whole { Ending::Whole } else { Ending::WrongSum };
    }

    /// From here on, nothing is understood.
    pub fn give_up(&mut self, ending: Ending) {
        self.found = ending;
    }

    /// A sum of 0 stands for none. That of bytes and their sum is 0.
    fn is_summed(&self) -> bool {
        self.sum.value() == 0 || self.tail == [END, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    /// How it ended; to be asked when all bytes were taken.
    #[must_use]
    pub fn ending(&self) -> Ending {
        match self.found {
            Ending::Whole => Ending::Whole,
            _ if self.has_sum && self.is_summed() => Ending::Unknown,
            Ending::Unknown if self.has_sum && self.has_known_end => Ending::WrongSum,
            Ending::Truncated | Ending::WrongSum if !self.has_known_end => Ending::Unknown,
            ending => ending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(version: u32, bytes: &[u8], found: Option<Ending>) -> Ending {
        let mut watch = EndWatch::default();
        watch.set_version(Dialect::Redis, version);
        for bytes in bytes.chunks(4) {
            watch.pass(bytes);
        }
        match found {
            Some(ending) => watch.give_up(ending),
            None => watch.end(),
        }
        watch.ending()
    }

    #[test]
    fn what_is_not_understood_is_judged_by_its_end() {
        let mut crc = Crc64::default();
        let body = b"REDIS0013 anything at all\xff";
        crc.update(body);
        let whole = [&body[..], &crc.value().to_le_bytes()].concat();
        let without = [&body[..], &[0; 8]].concat();
        let cut = &whole[..whole.len() - 1];
        for found in [Some(Ending::Unknown), Some(Ending::Truncated)] {
            assert_eq!(ending(13, &whole, found), Ending::Unknown);
            assert_eq!(ending(13, &without, found), Ending::Unknown);
            // Of a version that is not known its end is not either.
            assert_eq!(ending(17, cut, found), Ending::Unknown);
        }
        assert_eq!(ending(13, cut, Some(Ending::Unknown)), Ending::WrongSum);
        assert_eq!(ending(13, cut, Some(Ending::Truncated)), Ending::Truncated);
        assert_eq!(ending(10, &whole, None), Ending::Whole);
        assert_eq!(ending(10, &without, None), Ending::Whole);
        assert_eq!(ending(10, cut, None), Ending::WrongSum);
        assert_eq!(ending(4, cut, None), Ending::Whole);
        assert_eq!(ending(4, cut, Some(Ending::Truncated)), Ending::Truncated);
    }
}
