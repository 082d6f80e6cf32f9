//! A dump as what it holds: keys with their values, functions, scripts. What frames them is left out.
//!
//! Values come as the dump has them, in pieces where they are long, so memory is bounded: the
//! lookahead of [`DumpParts`], and one key. What a server could not be given by commands is named
//! ([`DumpItems::unfit`]), never left out in silence.

use crate::format::redis::dump_end::Ending;
use crate::format::redis::dump_parts::{DumpParts, Kind, Next};
use crate::format::redis::grammar::{Dialect, KEY_META, Walk};
use crate::format::redis::opcode::{
    AUX, EXPIRE_MS, EXPIRE_S, FREQUENCY, FUNCTION, IDLE, KEY_META_OR_SLOT_IMPORT, MODULE_AUX,
    TEMPLATE_HASH, TEMPLATE_VALUES, is_framing,
};
use crate::format::redis::record::walked;
use crate::format::redis::text::{Front, number, put_plain, text_length};

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest script that a dump carries for the cache of scripts.
const SCRIPT_BYTES_MAX: u64 = 1024 * 1024;
/// Tables and lists that are written element by element: a count of 0 is an empty value.
const COUNTED_TYPES: [u8; 7] = [1, 2, 3, 4, 5, 14, 18];
/// Hashes whose fields may expire each by itself.
const TIMED_HASH_TYPES: [u8; 3] = [22, 24, 25];
/// What an expiry of -1 means.
const NEVER: i64 = -1;

/// A key, and what stands before its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Number of its database.
    pub database: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// When it expires, in milliseconds since 1970.
    pub expiry_ms: Option<i64>,
    /// Seconds since the last access.
    pub idle_seconds: Option<u64>,
    /// Frequency of access.
    pub frequency: Option<u8>,
    /// What modules keep beside it, with its opcode: a server takes it before the type.
    pub metadata: Vec<u8>,
    /// Type of its value.
    pub value_type: u8,
    /// Its value has no elements: a server that loads the dump leaves it out.
    pub is_empty: bool,
}

impl Key {
    /// Parts of the value may expire by themselves, and it goes with the last of them.
    #[must_use]
    pub fn is_volatile(&self) -> bool {
        TIMED_HASH_TYPES.contains(&self.value_type)
    }

    /// Whether it has expired at that moment.
    #[must_use]
    pub fn is_expired(&self, now_ms: i64) -> bool {
        self.expiry_ms.is_some_and(|expiry| expiry < now_ms)
    }
}

/// What begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// A key with its value.
    Key(Key),
    /// A library of functions.
    Function,
}

/// The next piece of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// Something begins; with the number of its bytes where it is short.
    Begin(&'a Head, Option<u64>),
    /// Its next bytes. The first of all is the type, behind what modules keep beside the key, or
    /// the opcode of a function.
    Bytes(&'a [u8]),
    /// It has ended.
    End,
    /// A script for the server's cache.
    Script(&'a [u8]),
}

#[derive(Debug)]
enum Open {
    Nothing,
    /// The front of a record, up to the end of its key.
    Head(Vec<u8>),
    Value,
    Skipped,
}

/// Takes one dump apart as it comes.
#[derive(Debug)]
pub struct DumpItems {
    parts: DumpParts,
    held: Vec<u8>,
    open: Open,
    has_begun: bool,
    unfit: Option<&'static str>,
    is_lost: bool,
}

impl Default for DumpItems {
    fn default() -> Self {
        Self {
            parts: DumpParts::default(),
            held: Vec::new(),
            open: Open::Nothing,
            has_begun: false,
            unfit: None,
            is_lost: false,
        }
    }
}

impl DumpItems {
    /// Takes the next bytes, and gives `each` what is whole.
    ///
    /// # Errors
    /// Those of `each`; the dump is to be left then.
    pub fn take<E>(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.held.extend_from_slice(bytes);
        self.pass(false, each)
    }

    /// All bytes were taken: gives the rest, and how the dump ended.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn finish<E>(
        &mut self,
        each: &mut dyn FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<Ending, E> {
        self.pass(true, each)?;
        Ok(self.parts.ending())
    }

    /// How it was taken apart.
    #[must_use]
    pub fn parts(&self) -> &DumpParts {
        &self.parts
    }

    /// What in it cannot be given to a server by commands.
    #[must_use]
    pub fn unfit(&self) -> Option<&'static str> {
        self.unfit
    }

    /// Something was not understood, so there may be more keys than were given.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    fn pass<E>(
        &mut self,
        is_end: bool,
        each: &mut dyn FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let held = std::mem::take(&mut self.held);
        let mut at = 0;
        while at < held.len() {
            let Next::Part(kind, length) = self.parts.next(&held[at..], is_end) else { break };
            self.part(kind, &held[at..at + length], each)?;
            at += length;
        }
        self.held = held;
        self.held.drain(..at);
        Ok(())
    }

    fn part<E>(
        &mut self,
        kind: Kind,
        bytes: &[u8],
        each: &mut dyn FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let is_complete = self.parts.is_complete();
        if kind == Kind::Unknown {
            self.refuse("something that is not known to this program");
            self.is_lost = true;
            self.open = Open::Skipped;
            return Ok(());
        }
        match &mut self.open {
            Open::Nothing => return self.begin(bytes, is_complete, each),
            Open::Head(head) => {
                head.extend_from_slice(bytes);
                let head = std::mem::take(head);
                return self.record(head, is_complete, each);
            }
            Open::Value => each(Item::Bytes(bytes))?,
            Open::Skipped => {}
        }
        self.close(is_complete, each)
    }

    fn close<E>(
        &mut self,
        is_complete: bool,
        each: &mut dyn FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if is_complete {
            let is_value = matches!(self.open, Open::Value);
            self.open = Open::Nothing;
            return if is_value { each(Item::End) } else { Ok(()) };
        }
        Ok(())
    }

    fn refuse(&mut self, what: &'static str) {
        self.unfit.get_or_insert(what);
    }

    fn begin<E>(
        &mut self,
        bytes: &[u8],
        is_complete: bool,
        each: &mut dyn FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.open = Open::Skipped;
        let is_magic = !std::mem::replace(&mut self.has_begun, true);
        match bytes.first() {
            _ if is_magic => {}
            Some(&AUX) if is_complete => {
                if let Some(script) = script(bytes) {
                    each(Item::Script(&script))?;
                }
            }
            Some(&FUNCTION) => {
                self.open = Open::Value;
                let length = is_complete.then_some(bytes.len() as u64);
                each(Item::Begin(&Head::Function, length))?;
                each(Item::Bytes(bytes))?;
            }
            Some(&MODULE_AUX) => self.refuse("what a module keeps beside the keys"),
            Some(&KEY_META_OR_SLOT_IMPORT) if self.parts.dialect() == Dialect::Valkey => {
                self.refuse("slots that were on their way");
            }
            Some(&AUX) | None => {}
            Some(code) if is_framing(*code) => {}
            Some(_) => return self.record(bytes.to_vec(), is_complete, each),
        }
        self.close(is_complete, each)
    }

    /// The front of a record, or a whole one.
    fn record<E>(
        &mut self,
        front: Vec<u8>,
        is_complete: bool,
        each: &mut dyn FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.open = Open::Skipped;
        match key_of(&front, self.parts.database()) {
            Front::Is(mut key, value_at) => {
                let value = &front[value_at as usize..];
                key.is_empty = COUNTED_TYPES.contains(&key.value_type) && value == [0];
                let mut before = key.metadata.clone();
                before.push(key.value_type);
                if matches!(key.value_type, TEMPLATE_HASH | TEMPLATE_VALUES) {
                    self.refuse("a hash whose fields stand in a template of the dump");
                }
                let length = is_complete.then_some((before.len() + value.len()) as u64);
                each(Item::Begin(&Head::Key(key), length))?;
                each(Item::Bytes(&before))?;
                if !value.is_empty() {
                    each(Item::Bytes(value))?;
                }
                self.open = Open::Value;
            }
            Front::More if !is_complete && front.len() <= KEY_BYTES_MAX => {
                self.open = Open::Head(front);
                return Ok(());
            }
            Front::More | Front::No => {
                self.refuse("a key that is too long, or none");
                self.is_lost = true;
            }
        }
        self.close(is_complete, each)
    }
}

/// The script that an auxiliary field holds.
fn script(aux: &[u8]) -> Option<Vec<u8>> {
    let text = aux.strip_prefix(b"\xfa\x03lua")?;
    let mut script = Vec::new();
    put_plain(text, SCRIPT_BYTES_MAX, &mut script)?;
    Some(script)
}

/// The key at the front of a record, and where its value begins behind the type.
fn key_of(bytes: &[u8], database: u64) -> Front<Key> {
    let mut key = Key {
        database,
        name: Vec::new(),
        expiry_ms: None,
        idle_seconds: None,
        frequency: None,
        metadata: Vec::new(),
        value_type: 0,
        is_empty: false,
    };
    let mut at = 0;
    loop {
        let Some((code, rest)) = bytes[at..].split_first() else { return Front::More };
        at += 1 + match *code {
            EXPIRE_MS => {
                let Some(expiry) = rest.first_chunk() else { return Front::More };
                key.expiry_ms = Some(i64::from_le_bytes(*expiry)).filter(|it| *it != NEVER);
                8
            }
            EXPIRE_S => {
                let Some(expiry) = rest.first_chunk() else { return Front::More };
                let seconds = i64::from(i32::from_le_bytes(*expiry));
                key.expiry_ms = Some(seconds).filter(|it| *it != NEVER).map(|it| it * 1000);
                4
            }
            IDLE => match number(rest) {
                Front::Is(seconds, length) => {
                    key.idle_seconds = Some(seconds);
                    length as usize
                }
                Front::More => return Front::More,
                Front::No => return Front::No,
            },
            FREQUENCY => {
                let Some(frequency) = rest.first() else { return Front::More };
                key.frequency = Some(*frequency);
                1
            }
            KEY_META_OR_SLOT_IMPORT => {
                let Some(length) = walked(&mut Walk::default(), KEY_META, rest) else {
                    return Front::No;
                };
                key.metadata = bytes[at..=at + length].to_vec();
                length
            }
            value_type => {
                key.value_type = value_type;
                return with_name(key, rest, at as u64 + 1);
            }
        };
    }
}

fn with_name(mut key: Key, bytes: &[u8], at: u64) -> Front<Key> {
    match text_length(bytes) {
        Front::Is((), length) if length <= bytes.len() as u64 => {
            let text = &bytes[..length as usize];
            match put_plain(text, KEY_BYTES_MAX as u64, &mut key.name) {
                Some(()) => Front::Is(key, at + length),
                None => Front::No,
            }
        }
        Front::Is(..) | Front::More => Front::More,
        Front::No => Front::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a dump holds, a line each; values by their lengths and first bytes.
    fn items(dump: &[u8], piece: usize) -> (Vec<String>, Option<&'static str>) {
        let (mut lines, mut value) = (Vec::new(), Vec::new());
        let mut each = |item: Item<'_>| {
            match item {
                Item::Begin(Head::Key(key), length) => {
                    let name: Vec<u8> = key.name.iter().take(5).copied().collect();
                    let name = String::from_utf8(name).unwrap();
                    let timed = (key.expiry_ms, key.idle_seconds, key.frequency, key.is_empty);
                    lines.push(format!("{}:{name} {timed:?} {}", key.database, length.is_some()));
                }
                Item::Begin(Head::Function, length) => {
                    lines.push(format!("function {}", length.is_some()));
                }
                Item::Bytes(bytes) => value.extend_from_slice(bytes),
                Item::End => {
                    lines.push(format!("{} of type {}", value.len(), value[0]));
                    value.clear();
                }
                Item::Script(script) => lines.push(format!("script {}", script.len())),
            }
            Ok::<(), ()>(())
        };
        let mut parts = DumpItems::default();
        for piece in dump.chunks(piece) {
            parts.take(piece, &mut each).unwrap();
        }
        let ending = parts.finish(&mut each).unwrap();
        assert_eq!(ending, Ending::Whole);
        (lines, parts.unfit())
    }

    fn text(length: usize) -> Vec<u8> {
        let mut text = vec![0x80];
        text.extend_from_slice(&(length as u32).to_be_bytes());
        text.resize(5 + length, b'x');
        text
    }

    fn dump(body: &[&[u8]]) -> Vec<u8> {
        [&b"REDIS0010"[..], &body.concat(), &[255, 0, 0, 0, 0, 0, 0, 0, 0]].concat()
    }

    #[test]
    fn keys_come_with_what_stands_before_them_whatever_the_pieces() {
        let (long, longer) = (text(70_000), text(200_000));
        let dump = dump(&[
            b"\xfa\x03lua\x05local\xfa\x05ctime\xc2\x01\x00\x00\x00\xf5\x04#!lu\xf5",
            &long,
            b"\xfe\x00\xfb\x02\x01\xfc\x01\x00\x00\x00\x00\x00\x00\x00\xf9\x07\x00\x01a\x02ab",
            b"\xfd\x02\x00\x00\x00\xf8\x40\xff\x00\xc1\x00\x01\x02ab\x02\x05empty\x00",
            b"\xfe\x05\x01\x01l\x02\x02ab",
            &longer,
            b"\xfd\xff\xff\xff\xff\x00",
            &longer,
            b"\x01v",
        ]);
        let wanted = [
            "script 5",
            "function true",
            "6 of type 245",
            "function false",
            "70006 of type 245",
            "0:a (Some(1), None, Some(7), false) true",
            "4 of type 0",
            "0:256 (Some(2000), Some(255), None, false) true",
            "4 of type 0",
            "0:empty (None, None, None, true) true",
            "2 of type 2",
            "5:l (None, None, None, false) false",
            "200010 of type 1",
            "5:xxxxx (None, None, None, false) false",
            "3 of type 0",
        ];
        for piece in [1_000_000, 70_001, 4096, 997] {
            let (lines, unfit) = items(&dump, piece);
            assert_eq!(lines, wanted, "{piece}");
            assert_eq!(unfit, None);
        }
    }

    #[test]
    fn a_large_table_is_one_value() {
        let mut table = b"\x04\x01h\x43\xe8".to_vec();
        for number in 0..1000 {
            table.extend_from_slice(format!("\x07f{number:06}").as_bytes());
            table.extend_from_slice(&text(if number == 500 { 90_000 } else { 100 }));
        }
        let length = table.len() - 2;
        let (lines, unfit) = items(&dump(&[&table, b"\x00\x01a\x01b"]), 50_000);
        assert_eq!(unfit, None);
        assert_eq!(lines[1], format!("{length} of type 4"));
        assert_eq!(lines.len(), 4, "{lines:?}");
    }

    #[test]
    fn what_commands_cannot_say_is_named() {
        let module = dump(&[b"\xf7\x01\x02\x01\x00\x00\x01a\x01b"]);
        let (lines, unfit) = items(&module, 7);
        assert_eq!((lines.len(), unfit), (2, Some("what a module keeps beside the keys")));
    }
}
