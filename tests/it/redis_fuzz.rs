//! What the fuzz targets of Redis do, with inputs that are made of the vectors: a few thousand of them
//! in every run of the tests.

use crate::household::noise;
use crate::redis_newest::newest;
use crate::redis_records::{SMALL, small_dump};
use crate::redis_vectors::{dump_sample, newest_sample, old_and_new_sample, sample, valkey_sample};

#[path = "../../fuzz/src/redis.rs"]
mod targets;

/// Bytes that mean something in a dump.
const WORDS: [&[u8]; 12] = [
    b"\xff",
    b"\xfe\0",
    b"\xc3\x03\x40\x64",
    b"\xc4",
    b"\x80\xff\xff\xff\xff",
    b"\x81\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x81\x7f\xff\xff\xff\xff\xff\xff\xf0",
    b"\x81\0\0\0\0\0\0\0\x01",
    b"\x04\x01h\x02",
    b"\xe1\x04\x01h",
    b"\xe2",
    b"\xf3\x01",
];

/// Numbers in no order.
struct Dice(std::vec::IntoIter<u8>);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        let mut two = || usize::from(self.0.next().expect("there are enough"));
        (two() << 8 | two()) % end.max(1)
    }
}

fn mutated(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(5) {
            0 => bytes.truncate(at),
            1 => {
                let word = WORDS[dice.below(WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            2 => {
                let end = (at + dice.below(9)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + dice.below(40)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = dice.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
        }
    }
    bytes
}

#[test]
fn changed_dumps_come_back_whatever_they_are() {
    let mut dice = Dice(noise(11, 1 << 20).into_iter());
    let mut large =
        [&b"\xfe\0\x04\x05table\x80\0\0\x27\x10"[..], &b"\x04abcd\x06valued"[..]].concat();
    (0..9999).for_each(|_| large.extend_from_slice(b"\x04abcd\x06valued"));
    let mut text = b"\0\x01t\x80\0\x01\x86\xa0".to_vec();
    text.resize(text.len() + 100_000, b'x');
    let seeds: Vec<Vec<u8>> = vec![
        small_dump("", SMALL),
        dump_sample().dump[9..].to_vec(),
        small_dump("", &[SMALL, b"\x16\x01h\x01\x01f\x01v\x01\x02\x03\x04\x05\x06\x07\x08", SMALL].concat()),
        small_dump("", b"\x0f\x01a\x01\x01k\x01l\x01\x01\x01\x01\x01g\x01\x01\x00\x00\x15\x01b\x00\x01\x01\x01\x01\x01\x01\x01\x01\x00"),
        small_dump("", b"\xf7\x05\x02\x01\x00\xf4\x01\x02\x03\xf5\x03fun\xf3\x01abcd\x05\x01x\x00\x00\x01a\x01b"),
        small_dump("", &newest()),
    ];
    for round in 0..4000 {
        let seed = mutated(&seeds[round % seeds.len()], &mut dice);
        targets::dump(&[&[dice.below(24) as u8], &seed[..]].concat());
    }
    // Large tables and texts: from part to part, in steps of any length.
    for (seed, choice) in [(&large, 2), (&text, 2), (&large, 20), (&text, 20)] {
        for _ in 0..4 {
            let whole = small_dump("", &[&seed[..], SMALL].concat());
            targets::dump(&[&[choice], &mutated(&whole, &mut dice)[..]].concat());
        }
    }
}

#[test]
fn changed_parts_and_columns_are_read_or_refused() {
    let mut dice = Dice(noise(12, 1 << 20).into_iter());
    let samples = [sample(), valkey_sample(), old_and_new_sample(), newest_sample()];
    for round in 0..6000 {
        let (records, headers) = &samples[round / 8 % samples.len()];
        let column = data_encoding::BASE64.decode(headers.column.as_bytes()).unwrap();
        let kind = (round % 8) as u8;
        let seed = match kind {
            0 | 1 => records,
            2 | 3 => &column,
            4 => &dump_sample().frame,
            5 => &b"{\"version\":1}\n\0\0\0\0\0\0\0\0\x02\0\0\0ab".to_vec(),
            6 => &b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*1\r\n$5\r\nMULTI\r\n*1\r\n$4\r\nEXEC\r\n"
                .to_vec(),
            _ => &b"$EOF:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nREDIS0009\xff".to_vec(),
        };
        targets::stored(&[&[kind], &mutated(seed, &mut dice)[..]].concat());
    }
}
