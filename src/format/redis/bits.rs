//! Numbers of a fixed number of bits, lowest bit first.

/// Appends numbers.
#[derive(Debug, Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    open: u64,
    open_bits: u32,
}

impl BitWriter {
    /// Appends the low `bits` (at most 56) of `value`.
    pub fn put(&mut self, value: u64, bits: u32) {
        debug_assert!(bits <= 56 && value >> bits == 0, "{value} has more than {bits} bits");
        self.open |= value << self.open_bits;
        self.open_bits += bits;
        while self.open_bits >= 8 {
            self.bytes.push(self.open as u8);
            self.open >>= 8;
            self.open_bits -= 8;
        }
    }

    /// The bytes; unused bits of the last one are 0.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.open_bits > 0 {
            self.bytes.push(self.open as u8);
        }
        self.bytes
    }
}

/// Reads numbers.
#[derive(Debug)]
pub struct BitReader<'a> {
    bytes: std::slice::Iter<'a, u8>,
    open: u64,
    open_bits: u32,
}

impl<'a> BitReader<'a> {
    /// Begins at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.iter(), open: 0, open_bits: 0 }
    }

    /// The next number of that many bits, at most 56.
    pub fn take(&mut self, bits: u32) -> Option<u64> {
        while self.open_bits < bits {
            self.open |= u64::from(*self.bytes.next()?) << self.open_bits;
            self.open_bits += 8;
        }
        let value = self.open & ((1 << bits) - 1);
        self.open >>= bits;
        self.open_bits -= bits;
        Some(value)
    }
}

/// Bits that tell `count` things apart.
#[must_use]
pub fn bits_for(count: usize) -> u32 {
    usize::BITS - count.saturating_sub(1).leading_zeros()
}

/// Bytes of so many bits.
#[must_use]
pub fn bytes_of(count: usize, bits: u32) -> usize {
    (count * bits as usize).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let numbers = [(5, 3), (0, 0), (1, 1), (0xf_ffff, 20), (1 << 55, 56), (3, 2)];
        let mut writer = BitWriter::default();
        for (value, bits) in numbers {
            writer.put(value, bits);
        }
        let bytes = writer.finish();
        assert_eq!(bytes.len(), bytes_of(1, 82));
        let mut reader = BitReader::new(&bytes);
        for (value, bits) in numbers {
            assert_eq!(reader.take(bits), Some(value));
        }
        assert_eq!(reader.take(20), None);
    }

    #[test]
    fn as_many_bits_as_needed() {
        let expected = [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9)];
        for (count, bits) in expected {
            assert_eq!(bits_for(count), bits, "{count}");
        }
    }
}
