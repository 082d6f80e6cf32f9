//! Whether a dump is whole: it begins as one, ends with the opcode of an end, and its checksum fits.
//!
//! The mark or the length that frames it on its way is not enough: a server that fails in the
//! middle of a dump may still send one. Source: `rdb.c`, `rdbSaveRio`.

use crate::format::redis::crc64::Crc64;

/// The opcode that ends a dump.
const END: u8 = 0xff;
/// `REDIS0011`, `VALKEY080`
const MAGIC_BYTES: usize = 9;
const CHECKSUM_BYTES: usize = 8;

/// Looks at a dump as it comes.
#[derive(Debug, Clone, Default)]
pub struct DumpCheck {
    magic: Vec<u8>,
    /// The last bytes, which may be the checksum.
    tail: Vec<u8>,
    crc: Crc64,
    /// The last byte that the checksum is of.
    last: Option<u8>,
}

impl DumpCheck {
    /// Takes the next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        let missing = MAGIC_BYTES - self.magic.len();
        self.magic.extend_from_slice(&bytes[..missing.min(bytes.len())]);
        if bytes.len() >= CHECKSUM_BYTES {
            let tail = std::mem::take(&mut self.tail);
            self.sum(&tail);
            let (front, tail) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
            self.sum(front);
            self.tail.extend_from_slice(tail);
            return;
        }
        self.tail.extend_from_slice(bytes);
        let over = self.tail.len().saturating_sub(CHECKSUM_BYTES);
        let front: Vec<u8> = self.tail.drain(..over).collect();
        self.sum(&front);
    }

    fn sum(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.last = bytes.last().copied().or(self.last);
    }

    /// Says what is wrong, now that all has come.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub fn finish(&self) -> Result<(), String> {
        if !(self.magic.starts_with(b"REDIS") || self.magic.starts_with(b"VALKEY")) {
            return Err("it does not begin as one".to_owned());
        }
        let stored = <[u8; CHECKSUM_BYTES]>::try_from(&*self.tail);
        let (Ok(stored), Some(END)) = (stored, self.last) else {
            return Err("it ends before its end".to_owned());
        };
        // A server whose checksums are off writes zeros.
        match u64::from_le_bytes(stored) {
            0 => Ok(()),
            stored if stored == self.crc.value() => Ok(()),
            stored => Err(format!("its checksum is {:016x}, not {stored:016x}", self.crc.value())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn dump() -> Vec<u8> {
        let mut dump = b"REDIS0010\xfa\x03abc\x01x\xfe\x00\x00\x01k\x01v\xff".to_vec();
        let mut crc = Crc64::default();
        crc.update(&dump);
        dump.extend(crc.value().to_le_bytes());
        dump
    }

    fn check(pieces: &[&[u8]]) -> Result<(), String> {
        let mut check = DumpCheck::default();
        for piece in pieces {
            check.take(piece);
        }
        check.finish()
    }

    #[test]
    fn a_whole_dump_is_whole_in_any_pieces_and_no_part_of_it_is() {
        let dump = dump();
        for cut in 0..=dump.len() {
            check(&[&dump[..cut], &dump[cut..]]).unwrap();
            assert_eq!(check(&[&dump[..cut]]).is_ok(), cut == dump.len(), "{cut}");
        }
        for size in 1..10 {
            check(&dump.chunks(size).collect::<Vec<_>>()).unwrap();
        }
    }

    #[test]
    fn damage_anywhere_is_seen_and_zeros_mean_no_checksum() {
        let dump = dump();
        for at in 0..dump.len() {
            let mut damaged = dump.clone();
            damaged[at] ^= 0x40;
            assert!(check(&[&damaged]).is_err(), "{at}");
        }
        let mut without = dump.clone();
        let end = without.len() - 8;
        without[end..].fill(0);
        check(&[&without]).unwrap();
    }
}
