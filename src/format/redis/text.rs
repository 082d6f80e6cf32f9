//! Lengths and texts as dumps encode them, and the one encoding that is ours.
//!
//! A text is a length and bytes, a small integer, or LZF. In records a text that was LZF stands
//! decoded under [`UNPACKED`], a code that no server writes.

use crate::format::redis::lzf::{Compressor, decompress};

/// First byte of a text in a record: length and bytes follow, and LZF is what the dump had.
pub const UNPACKED: u8 = 0xc4;
const LZF: u8 = 0xc3;
/// A text that decodes to more stays as it is.
const UNPACKED_BYTES_MAX: u64 = 1024 * 1024;
/// So does one that decodes to so many times its length, so that memory is bounded by what came.
const UNPACKED_TIMES_MAX: u64 = 16;
/// No text is longer: what is added to such a length does not overflow.
const TEXT_BYTES_MAX: u64 = 1 << 62;

/// What stands at the front of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front<T> {
    /// It does, and is so long.
    Is(T, u64),
    /// More bytes are needed to tell.
    More,
    /// Nothing of that kind.
    No,
}

/// An unsigned number: 1, 2, 5 or 9 bytes.
#[must_use]
pub fn number(bytes: &[u8]) -> Front<u64> {
    let Some(first) = bytes.first() else { return Front::More };
    let be = |from: usize, to: usize| {
        let digits = bytes.get(from..to);
        digits.map(|digits| digits.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let (value, length) = match first {
        0..=0x3f => (Some(u64::from(*first)), 1),
        0x40..=0x7f => (be(0, 2).map(|value| value & 0x3fff), 2),
        0x80 => (be(1, 5), 5),
        0x81 => (be(1, 9), 9),
        _ => return Front::No,
    };
    value.map_or(Front::More, |value| Front::Is(value, length))
}

/// Appends a number in the shortest form, as servers write it.
pub fn put_number(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => out.push(value as u8),
        0x40..=0x3fff => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..=0xffff_ffff => {
            out.push(0x80);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// The length of the text at the front; its bytes need not be there yet.
#[must_use]
pub fn text_length(bytes: &[u8]) -> Front<()> {
    let header = |at: usize| number(bytes.get(at..).unwrap_or_default());
    let whole = |head: u64, body: u64| match head.checked_add(body) {
        Some(length) if length <= TEXT_BYTES_MAX => Front::Is((), length),
        _ => Front::No,
    };
    match bytes.first() {
        None => Front::More,
        Some(0xc0) => Front::Is((), 2),
        Some(0xc1) => Front::Is((), 3),
        Some(0xc2) => Front::Is((), 5),
        Some(&LZF) => match header(1) {
            Front::Is(packed, first) => match header(1 + first as usize) {
                Front::Is(_, second) => whole(1 + first + second, packed),
                Front::More => Front::More,
                Front::No => Front::No,
            },
            Front::More => Front::More,
            Front::No => Front::No,
        },
        Some(&UNPACKED) => match header(1) {
            Front::Is(length, first) => whole(1 + first, length),
            Front::More => Front::More,
            Front::No => Front::No,
        },
        Some(_) => match header(0) {
            Front::Is(length, first) => whole(first, length),
            Front::More => Front::More,
            Front::No => Front::No,
        },
    }
}

/// Appends what a text of a dump stands for; `None` where it is none, or longer than `bytes_max`.
pub fn put_plain(text: &[u8], bytes_max: u64, out: &mut Vec<u8>) -> Option<()> {
    let (first, rest) = text.split_first()?;
    let integer = match first {
        0xc0 => Some(i32::from(rest.first()?.cast_signed())),
        0xc1 => Some(i32::from(i16::from_le_bytes(*rest.first_chunk()?))),
        0xc2 => Some(i32::from_le_bytes(*rest.first_chunk()?)),
        _ => None,
    };
    if let Some(integer) = integer {
        out.extend_from_slice(integer.to_string().as_bytes());
        return Some(());
    }
    if *first == LZF {
        let Front::Is(packed, first) = number(rest) else { return None };
        let rest = &rest[first as usize..];
        let Front::Is(length, second) = number(rest) else { return None };
        let packed = rest[second as usize..].get(..usize::try_from(packed).ok()?)?;
        return if length > bytes_max { None } else { decompress(packed, length as usize, out) };
    }
    let Front::Is(length, head) = number(text) else { return None };
    if length > bytes_max {
        return None;
    }
    out.extend_from_slice(text.get(head as usize..)?.get(..length as usize)?);
    Some(())
}

/// Appends a text of a dump as records have it: LZF decoded where that can be.
pub fn put_canonical(text: &[u8], out: &mut Vec<u8>) {
    if text.first() == Some(&LZF) && put_unpacked(text, out).is_some() {
        return;
    }
    out.extend_from_slice(text);
}

fn put_unpacked(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let Front::Is(packed, first) = number(&text[1..]) else { return None };
    let second_at = 1 + first as usize;
    let Front::Is(length, second) = number(&text[second_at..]) else { return None };
    if length > UNPACKED_BYTES_MAX || length / UNPACKED_TIMES_MAX > packed {
        return None;
    }
    let packed = text[second_at + second as usize..].get(..usize::try_from(packed).ok()?)?;
    let start = out.len();
    out.push(UNPACKED);
    put_number(out, length);
    let decoded = decompress(packed, length as usize, out);
    if decoded.is_none() {
        out.truncate(start);
    }
    decoded
}

/// Appends a text of a record as the dump had it.
pub fn put_original(text: &[u8], compressor: &mut Compressor, out: &mut Vec<u8>) {
    match (text.first(), number(text.get(1..).unwrap_or_default())) {
        (Some(&UNPACKED), Front::Is(length, head)) => {
            let body = &text[1 + head as usize..];
            let packed = compressor.packed(body);
            out.push(LZF);
            put_number(out, packed.len() as u64);
            put_number(out, length);
            out.extend_from_slice(packed);
        }
        _ => out.extend_from_slice(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_shortest_form() {
        let values = [0, 63, 64, 16_383, 16_384, u64::from(u32::MAX), 1 << 32, u64::MAX];
        for value in values {
            let mut bytes = Vec::new();
            put_number(&mut bytes, value);
            assert_eq!(number(&bytes), Front::Is(value, bytes.len() as u64));
            for cut in 0..bytes.len() {
                assert_eq!(number(&bytes[..cut]), Front::More);
            }
        }
        assert_eq!(number(&[0x82]), Front::No);
        assert_eq!(number(&[0xc0, 1]), Front::No);
    }

    #[test]
    fn texts_stand_for_bytes() {
        let table: [(&[u8], Option<&[u8]>); 8] = [
            (b"\x03abc", Some(b"abc")),
            (b"\xc0\xfe", Some(b"-2")),
            (b"\xc1\x00\x01", Some(b"256")),
            (b"\xc2\x00\x00\x01\x00", Some(b"65536")),
            (b"\xc3\x05\x0a\x01aa\xc0\x00", Some(b"aaaaaaaaaa")),
            (b"\x0baaaaaaaaaaa", None),
            (b"\x03ab", None),
            (b"\xc1\x00", None),
        ];
        for (text, bytes) in table {
            let mut out = Vec::new();
            let put = put_plain(text, 10, &mut out);
            assert_eq!(put.map(|()| &out[..]), bytes, "{text:?}");
        }
    }

    #[test]
    fn texts_have_the_length_of_their_form() {
        assert_eq!(text_length(b"\x03abc"), Front::Is((), 4));
        assert_eq!(text_length(&[0xc0, 7]), Front::Is((), 2));
        assert_eq!(text_length(&[0xc1]), Front::Is((), 3));
        assert_eq!(text_length(&[0xc2]), Front::Is((), 5));
        assert_eq!(text_length(&[0xc3, 5, 20]), Front::Is((), 8));
        assert_eq!(text_length(&[0xc3, 5]), Front::More);
        assert_eq!(text_length(&[0xc5]), Front::No);
        for first in [255, 127, 64] {
            let endless = [0x81, first, 255, 255, 255, 255, 255, 255, 255];
            assert_eq!(text_length(&endless), Front::No);
        }
    }

    #[test]
    fn lzf_stands_decoded_and_comes_back() {
        let mut compressor = Compressor::default();
        let of = |length: usize| {
            let mut unpacked = vec![UNPACKED];
            put_number(&mut unpacked, length as u64);
            unpacked.resize(unpacked.len() + length, b'x');
            unpacked
        };
        let (mut dump, mut record) = (Vec::new(), Vec::new());
        put_original(&of(100), &mut compressor, &mut dump);
        assert!(dump.len() < 15);
        put_canonical(&dump, &mut record);
        assert_eq!(record, of(100));
        // What is much longer decoded stays.
        let mut large = Vec::new();
        put_original(&of(50_000), &mut compressor, &mut large);
        let mut kept = Vec::new();
        put_canonical(&large, &mut kept);
        assert_eq!(kept, large);
        // What does not decode stays.
        dump[2] = 99;
        let mut kept = Vec::new();
        put_canonical(&dump, &mut kept);
        assert_eq!(kept, dump);
    }
}
