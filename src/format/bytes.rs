//! Little-endian integers out of and into byte strings, never beyond their end.

/// The input ended before a field did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} at offset {offset} needs {needed_bytes} bytes, {left_bytes} are left")]
pub struct Truncated {
    /// The field that was being read.
    pub field: &'static str,
    /// Where it begins.
    pub offset: usize,
    /// Its length.
    pub needed_bytes: usize,
    /// What there was.
    pub left_bytes: usize,
}

/// Reads fields one after another.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Fields<'a> {
    /// Begins at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], Truncated> {
        let left = self.bytes.len() - self.offset;
        if length > left {
            return Err(Truncated {
                field,
                offset: self.offset,
                needed_bytes: length,
                left_bytes: left,
            });
        }
        let taken = &self.bytes[self.offset..self.offset + length];
        self.offset += length;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Truncated> {
        self.take(N, field).map(|bytes| bytes.try_into().expect("take returned N bytes"))
    }

    /// An unsigned integer of 8 bits.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, Truncated> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    /// An unsigned integer of 16 bits.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, Truncated> {
        self.array(field).map(u16::from_le_bytes)
    }

    /// An unsigned integer of 32 bits.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, Truncated> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// An unsigned integer of 64 bits.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, Truncated> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// `count` unsigned integers of `width` bytes (at most 4) each.
    pub fn integers(
        &mut self,
        count: usize,
        width: usize,
        field: &'static str,
    ) -> Result<impl Iterator<Item = u32> + 'a, Truncated> {
        let bytes = self.take(count.saturating_mul(width), field)?;
        Ok(bytes
            .chunks_exact(width)
            .map(|chunk| chunk.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))))
    }

    /// Bytes that have not been read.
    #[must_use]
    pub fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }
}

/// Appends the low `width` bytes of `value`, lowest first.
pub fn put_integer(out: &mut Vec<u8>, value: u32, width: usize) {
    debug_assert!(width == 4 || value >> (8 * width) == 0, "{value} needs more than {width} bytes");
    out.extend_from_slice(&value.to_le_bytes()[..width]);
}
