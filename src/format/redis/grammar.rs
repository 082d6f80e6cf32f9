//! What values look like, type by type, and a walk over their parts.
//!
//! Tables, no code: a value is skipped or rewritten by walking them. Where one number means two
//! things, the magic of the dump decides ([`Dialect`]).
//!
//! Source: `rdb.c` of Redis and Valkey. Types 26, 27, 28 and 30 of Redis are what 8.10 writes and
//! takes, and what readers say that were made apart from it: of all `internal/rdb` of Rediscope, of
//! streams also an importer for `FalkorDB`, of arrays `src/parser` of rdbinsight, of templates the
//! tests of Redis with damaged dumps. Types 29 and 31 stand in values that `DUMP` gives, in no dump;
//! 33 is of a rate limiter that 8.10 is not built with.

use crate::format::redis::text::{Front, number, text_length};

/// Whose dump it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `REDIS0001` to `REDIS0015`.
    Redis,
    /// `VALKEY080`.
    Valkey,
}

/// One part of a value.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A text.
    Text,
    /// A number.
    Number,
    /// So many bytes.
    Bytes(u64),
    /// A score in decimal digits: a length of one byte, 253 to 255 stand for themselves.
    Score,
    /// A number, and these steps as often.
    Each(&'static [Step]),
    /// A number, the first steps once, and the second ones as often as it says.
    EachAfter(&'static [Step], &'static [Step]),
    /// A number that says which of these steps follow; no other may stand there.
    OneOf(&'static [(u64, &'static [Step])]),
    /// Parts that say what they are, up to an end mark: what modules write.
    Module,
}

use Step::{Bytes, Each, EachAfter, Module, Number, OneOf, Score, Text};

/// How a type is written.
#[derive(Debug, PartialEq, Eq)]
pub struct Form {
    /// Its parts.
    pub steps: &'static [Step],
    /// The elements of its last part have no order of their own: they come as the server's table
    /// has them, and each begins with a text that no other has.
    pub is_table: bool,
}

const fn plain(steps: &'static [Step]) -> Form {
    Form { steps, is_table: false }
}

const fn table(steps: &'static [Step]) -> Form {
    Form { steps, is_table: true }
}

static TEXT: Form = plain(&[Text]);
static TEXTS: Form = plain(&[Each(&[Text])]);
static SET: Form = table(&[Each(&[Text])]);
static SCORED: Form = plain(&[Each(&[Text, Score])]);
static HASH: Form = table(&[Each(&[Text, Text])]);
static SCORED_BINARY: Form = plain(&[Each(&[Text, Bytes(8)])]);
static MODULE: Form = plain(&[Number, Module]);
static QUICKLIST: Form = plain(&[Each(&[Number, Text])]);
static HASH_TIMED_VALKEY: Form = table(&[Each(&[Text, Text, Bytes(8)])]);
static HASH_TIMED: Form = table(&[Bytes(8), Each(&[Number, Text, Text])]);
static TEXT_TIMED: Form = plain(&[Bytes(8), Text]);
static STREAM: Form = plain(&[
    Each(&[Text, Text]),
    Number,
    Number,
    Number,
    Each(&[
        Text,
        Number,
        Number,
        Each(&[Bytes(24), Number]),
        Each(&[Text, Bytes(8), Each(&[Bytes(16)])]),
    ]),
]);
static STREAM_2: Form = plain(&[
    Each(&[Text, Text]),
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Each(&[
        Text,
        Number,
        Number,
        Number,
        Each(&[Bytes(24), Number]),
        Each(&[Text, Bytes(8), Each(&[Bytes(16)])]),
    ]),
]);
static STREAM_3: Form = plain(&[
    Each(&[Text, Text]),
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Each(&[
        Text,
        Number,
        Number,
        Number,
        Each(&[Bytes(24), Number]),
        Each(&[Text, Bytes(16), Each(&[Bytes(16)])]),
    ]),
]);

/// With what each producer has sent of late, so that it is not taken twice.
static STREAM_4: Form = plain(&[
    Each(&[Text, Text]),
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Each(&[
        Text,
        Number,
        Number,
        Number,
        Each(&[Bytes(24), Number]),
        Each(&[Text, Bytes(16), Each(&[Bytes(16)])]),
    ]),
    Number,
    Number,
    Each(&[Text, Each(&[Text, Number, Number])]),
    Number,
    Number,
]);
/// With entries that a consumer of a group gave back.
static STREAM_5: Form = plain(&[
    Each(&[Text, Text]),
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Each(&[
        Text,
        Number,
        Number,
        Number,
        Each(&[Bytes(24), Number]),
        Each(&[Text, Bytes(16), Each(&[Bytes(16)])]),
        Each(&[Bytes(16)]),
    ]),
    Number,
    Number,
    Each(&[Text, Each(&[Text, Number, Number])]),
    Number,
    Number,
]);
/// Elements with their places; before them, where that is known, the place of the next one.
static ARRAY: Form = plain(&[EachAfter(
    &[OneOf(&[(0, &[]), (1, &[Number])])],
    &[Number, OneOf(&[(0, &[Text]), (1, &[Bytes(8)]), (2, &[Bytes(8)]), (3, &[Text])])],
)]);

/// How values of that type are written; `None` where that is not known.
#[must_use]
pub fn form(dialect: Dialect, kind: u8) -> Option<&'static Form> {
    Some(match (kind, dialect) {
        // 30: a hash whose fields stand in a template of the dump.
        (0 | 9..=13 | 16 | 17 | 20, _) | (30, Dialect::Redis) => &TEXT,
        (1 | 14, _) => &TEXTS,
        (2, _) => &SET,
        (3, _) => &SCORED,
        (4, _) => &HASH,
        (5, _) => &SCORED_BINARY,
        (7, _) => &MODULE,
        (15, _) => &STREAM,
        (18, _) => &QUICKLIST,
        (19, _) => &STREAM_2,
        (21, _) => &STREAM_3,
        (22, Dialect::Valkey) => &HASH_TIMED_VALKEY,
        (24, Dialect::Redis) => &HASH_TIMED,
        (25, Dialect::Redis) => &TEXT_TIMED,
        (26, Dialect::Redis) => &STREAM_4,
        (27, Dialect::Redis) => &STREAM_5,
        (28, Dialect::Redis) => &ARRAY,
        _ => return None,
    })
}

/// What modules keep beside a key of Redis: for each its class, and what it wrote.
pub static KEY_META: &[Step] = &[Each(&[Bytes(4), Module])];

/// The mark at which what a module wrote ends.
const MODULE_END: u64 = 0;

/// What follows a mark in what modules write.
fn module_part(mark: u64) -> Option<Step> {
    Some(match mark {
        1 | 2 => Number,
        3 => Bytes(4),
        4 => Bytes(8),
        5 => Text,
        _ => return None,
    })
}

/// A part that was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A text.
    Text,
    /// Anything else.
    Other,
}

/// Walks over a value, as far as its bytes are there.
#[derive(Debug, Default)]
pub struct Walk {
    /// Steps to do, how many are done, and how often all of them are to be done.
    open: Vec<(&'static [Step], usize, u64)>,
    in_module: bool,
}

impl Walk {
    /// Walks over these steps.
    #[must_use]
    pub fn new(steps: &'static [Step]) -> Self {
        let mut walk = Self::default();
        walk.begin(steps);
        walk
    }

    /// Walks over these steps so many times.
    #[must_use]
    pub fn repeated(steps: &'static [Step], times: u64) -> Self {
        Self { open: vec![(steps, 0, times)], in_module: false }
    }

    /// As [`Walk::new`], with the memory there is.
    pub fn begin(&mut self, steps: &'static [Step]) {
        self.open.clear();
        self.in_module = false;
        self.open.push((steps, 0, 1));
    }

    /// Whether everything was passed.
    pub fn is_done(&mut self) -> bool {
        loop {
            if self.in_module {
                return false;
            }
            let Some((steps, done, times)) = self.open.last_mut() else { return true };
            if *times > 0 && *done == steps.len() {
                *done = 0;
                *times -= 1;
            }
            if *times > 0 && !steps.is_empty() {
                return false;
            }
            self.open.pop();
        }
    }

    /// The kind and length of the next part, which stands at the front of `bytes`; only its head
    /// needs to be there. To be called while [`Walk::is_done`] is false.
    pub fn next(&mut self, bytes: &[u8]) -> Front<Part> {
        let other = |length| Front::Is(Part::Other, length);
        if self.in_module {
            return self.next_of_module(bytes);
        }
        let Some((steps, done, _)) = self.open.last_mut() else { return Front::No };
        let passed = match &steps[*done] {
            Text => of_text(bytes),
            Bytes(length) => other(*length),
            Score => match bytes.first() {
                None => Front::More,
                Some(253..) => other(1),
                Some(length) => other(1 + u64::from(*length)),
            },
            Number => of_number(bytes),
            Module => {
                self.in_module = true;
                *done += 1;
                return self.next_of_module(bytes);
            }
            Each(each) => match number(bytes) {
                Front::Is(times, length) => {
                    *done += 1;
                    self.open.push((each, 0, times));
                    return other(length);
                }
                Front::More => Front::More,
                Front::No => Front::No,
            },
            EachAfter(..) | OneOf(_) => return self.next_of_choice(bytes),
        };
        if matches!(passed, Front::Is(..)) {
            *done += 1;
        }
        passed
    }

    /// A number, and what it says of the steps that follow.
    fn next_of_choice(&mut self, bytes: &[u8]) -> Front<Part> {
        let Front::Is(value, length) = number(bytes) else { return of_number(bytes) };
        let Some((steps, done, _)) = self.open.last_mut() else { return Front::No };
        let step = &steps[*done];
        *done += 1;
        match step {
            EachAfter(once, each) => self.open.extend([(*each, 0, value), (*once, 0, 1)]),
            OneOf(choices) => match choices.iter().find(|(choice, _)| *choice == value) {
                Some((_, chosen)) => self.open.push((chosen, 0, 1)),
                None => return Front::No,
            },
            _ => return Front::No,
        }
        Front::Is(Part::Other, length)
    }

    /// The number of elements that are left to the innermost repetition.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.open.last().map_or(0, |(_, _, times)| *times)
    }

    /// A mark and its part at once, so that nothing is left behind between calls; a text after its
    /// mark counts as anything else.
    fn next_of_module(&mut self, bytes: &[u8]) -> Front<Part> {
        let Front::Is(mark, head) = number(bytes) else {
            return if bytes.len() < 9 { Front::More } else { Front::No };
        };
        if mark == MODULE_END {
            self.in_module = false;
            return Front::Is(Part::Other, head);
        }
        let rest = bytes.get(head as usize..).unwrap_or_default();
        let part = match module_part(mark) {
            None => return Front::No,
            Some(Bytes(length)) => Front::Is(Part::Other, length),
            Some(Text) => of_text(rest),
            Some(_) => of_number(rest),
        };
        match part {
            Front::Is(_, length) => match head.checked_add(length) {
                Some(length) => Front::Is(Part::Other, length),
                None => Front::No,
            },
            other => other,
        }
    }
}

fn of_text(bytes: &[u8]) -> Front<Part> {
    match text_length(bytes) {
        Front::Is((), length) => Front::Is(Part::Text, length),
        Front::More => Front::More,
        Front::No => Front::No,
    }
}

fn of_number(bytes: &[u8]) -> Front<Part> {
    match number(bytes) {
        Front::Is(_, length) => Front::Is(Part::Other, length),
        Front::More => Front::More,
        Front::No => Front::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(steps: &'static [Step], bytes: &[u8]) -> Vec<u64> {
        let mut walk = Walk::new(steps);
        let (mut at, mut lengths) = (0, Vec::new());
        while !walk.is_done() {
            let Front::Is(_, length) = walk.next(&bytes[at..]) else { panic!("at {at}") };
            lengths.push(length);
            at += length as usize;
        }
        assert_eq!(at, bytes.len());
        lengths
    }

    #[test]
    fn values_are_walked_part_by_part() {
        assert_eq!(lengths(HASH.steps, b"\x02\x01a\x01b\x01c\x02de"), [1, 2, 2, 2, 3]);
        assert_eq!(lengths(HASH.steps, b"\0"), [1]);
        assert_eq!(lengths(SCORED.steps, b"\x01\x01a\xfd"), [1, 2, 1]);
        assert_eq!(lengths(MODULE.steps, b"\x05\x02\x07\x05\x02ab\0"), [1, 2, 4, 1]);
        let nested: &[Step] = &[Each(&[Text, Each(&[Bytes(2)])]), Number];
        assert_eq!(lengths(nested, b"\x02\x01a\x02xxyy\x01b\0\x09"), [1, 2, 1, 2, 2, 2, 1, 1]);
    }

    #[test]
    fn a_count_and_a_choice_may_stand_before_what_they_are_of() {
        let array: &[u8] =
            b"\x04\x01\x07\x00\x03\x01a\x01\x01xxxxxxxx\x02\x02yyyyyyyy\x41\x00\x00\x02bc";
        let wanted = [1, 1, 1, 1, 1, 2, 1, 1, 8, 1, 1, 8, 2, 1, 3];
        assert_eq!(lengths(ARRAY.steps, array), wanted);
        assert_eq!(lengths(ARRAY.steps, b"\x01\x00\x05\x03\x01a"), [1, 1, 1, 1, 2]);
        assert_eq!(lengths(ARRAY.steps, b"\x00\x00"), [1, 1]);
        for unknown in [&b"\x01\x02\x05\x03\x01a"[..], b"\x01\x00\x05\x04\x01a", b"\x01\xc0"] {
            assert!(walks_into(ARRAY.steps, unknown, Front::No), "{unknown:?}");
            assert!(walks_into(ARRAY.steps, &unknown[..1], Front::More));
        }
    }

    /// Whether a walk comes to where this stands.
    fn walks_into(steps: &'static [Step], bytes: &[u8], end: Front<Part>) -> bool {
        let (mut walk, mut at) = (Walk::new(steps), 0);
        while !walk.is_done() {
            match walk.next(bytes.get(at..).unwrap_or_default()) {
                Front::Is(_, length) => at += length as usize,
                other => return other == end,
            }
        }
        false
    }

    #[test]
    fn a_number_means_what_the_magic_says() {
        assert_eq!(form(Dialect::Valkey, 22), Some(&HASH_TIMED_VALKEY));
        assert_eq!(form(Dialect::Redis, 22), None);
        assert_eq!(form(Dialect::Valkey, 24), None);
        for kind in [26, 27, 28, 30] {
            assert!(form(Dialect::Redis, kind).is_some() && form(Dialect::Valkey, kind).is_none());
        }
    }

    #[test]
    fn hostile_counts_cost_nothing() {
        let mut walk = Walk::new(TEXTS.steps);
        assert_eq!(
            walk.next(&[0x81, 255, 255, 255, 255, 255, 255, 255, 255]),
            Front::Is(Part::Other, 9)
        );
        assert!(!walk.is_done());
        assert_eq!(walk.next(&[]), Front::More);
    }
}
