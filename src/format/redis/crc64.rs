//! The checksum at the end of a dump: CRC-64 with the polynomial of Jones, reflected, no initial
//! and no final XOR.

/// The polynomial 0xad93d23594c935a9 with its bits reversed.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

/// Bytes that are taken at once.
const SLICE_BYTES: usize = 16;

/// What so many bytes do, byte by byte: slicing (Kounavis and Berry, 2005).
static TABLES: [[u64; 256]; SLICE_BYTES] = tables();

#[allow(clippy::large_stack_arrays, reason = "run by the compiler only")]
const fn tables() -> [[u64; 256]; SLICE_BYTES] {
    let mut tables = [[0; 256]; SLICE_BYTES];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut table = 1;
    while table < SLICE_BYTES {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// The checksum of what came so far.
#[derive(Debug, Clone, Default)]
pub struct Crc64(u64);

impl Crc64 {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (slices, rest) = bytes.as_chunks::<SLICE_BYTES>();
        let mut crc = self.0;
        for slice in slices {
            let [first, second] = *slice.as_chunks::<8>().0 else { break };
            let mixed = (crc ^ u64::from_le_bytes(first)).to_le_bytes();
            crc = 0;
            for (byte, table) in mixed.iter().chain(&second).zip(TABLES.iter().rev()) {
                crc ^= table[usize::from(*byte)];
            }
        }
        for byte in rest {
            crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
        }
        self.0 = crc;
    }

    /// The checksum.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_is_that_of_the_literature() {
        let mut crc = Crc64::default();
        crc.update(b"123456789");
        assert_eq!(crc.value(), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let bytes: Vec<u8> = (0..1000_u32).map(|i| (i * i % 251) as u8).collect();
        let mut whole = Crc64::default();
        whole.update(&bytes);
        for cut in 0..bytes.len() {
            let mut parts = Crc64::default();
            parts.update(&bytes[..cut]);
            parts.update(&bytes[cut..]);
            assert_eq!(parts.value(), whole.value());
        }
    }
}
