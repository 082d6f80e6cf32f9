//! LZF as servers write it: what decodes is stored decoded, if compressing it gives the same bytes.
//!
//! The compressor makes the choices of `LibLZF` 3.6 as Redis builds it (hash of 16 bits, "very fast"),
//! with a table that is empty at first. Redis leaves its table uninitialised, so that its bytes are
//! not determined in principle; whoever relies on them compares.

const TABLE_BITS: u32 = 16;
const TABLE_SLOTS: usize = 1 << TABLE_BITS;
const LITERALS_MAX: usize = 32;
const DISTANCE_MAX: usize = 1 << 13;
const MATCH_MAX: usize = (1 << 8) + (1 << 3);

/// Compresses as a server does. Keeps its table between values.
#[derive(Debug)]
pub struct Compressor {
    /// Position of a triple plus `base`; what is not above `base` is from an earlier value.
    table: Box<[u32; TABLE_SLOTS]>,
    base: u32,
    /// Room for [`Compressor::packed`].
    packed: Vec<u8>,
}

impl Default for Compressor {
    fn default() -> Self {
        let table = vec![0; TABLE_SLOTS].try_into();
        Self { table: table.expect("so many slots were asked for"), base: 0, packed: Vec::new() }
    }
}

impl Compressor {
    /// Appends the compressed form of `input`, at most 1 GiB.
    pub fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let length = input.len() as u32;
        if self.base.checked_add(length).is_none() {
            self.table.fill(0);
            self.base = 0;
        }
        self.run(input, out);
        self.base += length;
    }

    /// The compressed form of `input`, at most 1 GiB.
    pub fn packed(&mut self, input: &[u8]) -> &[u8] {
        let mut packed = std::mem::take(&mut self.packed);
        packed.clear();
        self.compress(input, &mut packed);
        self.packed = packed;
        &self.packed
    }

    fn run(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let (base, end) = (self.base, input.len());
        let (mut at, mut literals_at) = (0, 0);
        while let Some(triple) = triple(input, at) {
            let entry = &mut self.table[slot(triple)];
            let before = std::mem::replace(entry, base + at as u32);
            if before <= base {
                at += 1;
                continue;
            }
            let from = (before - base) as usize;
            if at - from > DISTANCE_MAX || self::triple(input, from) != Some(triple) {
                at += 1;
                continue;
            }
            put_literals(out, &input[literals_at..at]);
            let longest = (end - at - 2).clamp(3, MATCH_MAX);
            let (old, new) = (&input[from + 3..], &input[at + 3..at + longest]);
            let length = 3 + old.iter().zip(new).take_while(|(old, new)| old == new).count();
            put_match(out, at - from - 1, length - 2);
            at += length;
            literals_at = at;
            if at + 2 >= end {
                break;
            }
            for noted in [at - 2, at - 1] {
                if let Some(triple) = self::triple(input, noted) {
                    self.table[slot(triple)] = base + noted as u32;
                }
            }
        }
        put_literals(out, &input[literals_at..]);
    }
}

/// The three bytes at `at`.
fn triple(input: &[u8], at: usize) -> Option<u32> {
    let [first, second, third] = *input.get(at..)?.first_chunk()?;
    Some(u32::from(first) << 16 | u32::from(second) << 8 | u32::from(third))
}

/// Where a triple is noted.
fn slot(triple: u32) -> usize {
    let hash = (triple >> (24 - TABLE_BITS)).wrapping_sub(triple.wrapping_mul(5));
    hash as usize & (TABLE_SLOTS - 1)
}

fn put_literals(out: &mut Vec<u8>, literals: &[u8]) {
    for literals in literals.chunks(LITERALS_MAX) {
        out.push((literals.len() - 1) as u8);
        out.extend_from_slice(literals);
    }
}

fn put_match(out: &mut Vec<u8>, distance: usize, length: usize) {
    let high = (distance >> 8) as u8;
    if length < 7 {
        out.push(high | (length as u8) << 5);
    } else {
        out.push(high | 7 << 5);
        out.push((length - 7) as u8);
    }
    out.push(distance as u8);
}

/// Appends what `input` decodes to, `length` bytes exactly; `None` where it does not.
pub fn decompress(input: &[u8], length: usize, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let mut input = input.iter();
    while let Some(control) = input.next() {
        let control = usize::from(*control);
        if control < LITERALS_MAX {
            let (literals, rest) = input.as_slice().split_at_checked(control + 1)?;
            out.extend_from_slice(literals);
            input = rest.iter();
        } else {
            let mut bytes = (control >> 5) + 2;
            if bytes == 9 {
                bytes += usize::from(*input.next()?);
            }
            let distance = ((control & 31) << 8 | usize::from(*input.next()?)) + 1;
            let from = out.len().checked_sub(distance).filter(|from| *from >= start)?;
            if bytes <= distance {
                out.extend_from_within(from..from + bytes);
            } else {
                for at in from..from + bytes {
                    out.push(out[at]);
                }
            }
        }
        if out.len() - start > length {
            return None;
        }
    }
    (out.len() - start == length).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, proptest};

    fn there_and_back(input: &[u8], compressor: &mut Compressor) {
        let (mut packed, mut out) = (Vec::new(), Vec::new());
        compressor.compress(input, &mut packed);
        decompress(&packed, input.len(), &mut out).unwrap();
        assert_eq!(out, input);
    }

    #[test]
    fn a_run_is_what_the_servers_write() {
        let mut packed = Vec::new();
        Compressor::default().compress(&[b'a'; 100], &mut packed);
        // Position 0 is never referred to; the last two bytes are not looked at.
        assert_eq!(packed, [1, b'a', b'a', 0xe0, 87, 0, 1, b'a', b'a']);
    }

    #[test]
    fn what_is_damaged_is_refused() {
        for input in [&[0x20, 0][..], &[5, 1], &[0xe0], &[0, 1, 0x20], &[0, 1, 0x20, 5]] {
            assert_eq!(decompress(input, 3, &mut Vec::new()), None, "{input:?}");
        }
        assert_eq!(decompress(&[0, 1], 2, &mut Vec::new()), None);
        assert_eq!(decompress(&[1, 1, 1], 1, &mut Vec::new()), None);
    }

    proptest! {
        #[test]
        fn what_is_compressed_decodes(values in prop::collection::vec(prop::collection::vec(0_u8..4, 0..600), 1..5)) {
            let mut compressor = Compressor::default();
            for value in &values {
                there_and_back(value, &mut compressor);
                let (mut kept, mut fresh) = (Vec::new(), Vec::new());
                compressor.compress(value, &mut kept);
                Compressor::default().compress(value, &mut fresh);
                assert_eq!(kept, fresh, "earlier values leave no trace");
            }
        }

        #[test]
        fn nothing_makes_it_panic(input in prop::collection::vec(any::<u8>(), 0..200), length in 0_usize..300) {
            let _ = decompress(&input, length, &mut Vec::new());
        }
    }
}
