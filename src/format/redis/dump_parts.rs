//! Takes a dump apart while it comes: records, elements of large tables, and what lies between.
//!
//! Every byte belongs to exactly one part, in order, whatever the dump holds: from the first byte
//! that is not understood on, the rest is one part of its own. Memory: none beside the caller's
//! buffer, which needs [`LOOKAHEAD_BYTES`].

use crate::format::redis::dump_end::{END_BYTES, EndWatch, Ending};
use crate::format::redis::grammar::{Dialect, Form, KEY_META, Part, Step, Walk, form};
use crate::format::redis::opcode::{
    AUX, END, EXPIRE_MS, EXPIRE_S, FREQUENCY, FUNCTION, HASH_TEMPLATE, IDLE,
    KEY_META_OR_SLOT_IMPORT, MODULE_AUX, RESIZE, SELECT, SLOT_INFO, TEMPLATE_VALUES,
};
use crate::format::redis::templates::Templates;
use crate::format::redis::text::{Front, number, put_number, text_length};

/// A record or element that is longer is not sorted.
pub const ATOM_BYTES_MAX: usize = 64 * 1024;
/// A table with a longer key is not sorted by its elements: each would repeat the key.
const TABLE_KEY_BYTES_MAX: u64 = 1024;
/// With so many bytes at hand the next part can always be told.
pub const LOOKAHEAD_BYTES: usize = 2 * ATOM_BYTES_MAX + 64;

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Neither record nor element: it stays where it is.
    Between,
    /// A record: what stands before its type, type, key, value.
    Record {
        /// Bytes before the type.
        prefix: usize,
    },
    /// The beginning of a large table, up to the number of its elements.
    TableHead {
        /// Bytes before the type.
        prefix: usize,
    },
    /// One element of the table that began last.
    Element,
    /// What is not understood, to the end.
    Unknown,
}

/// The next part, or that more bytes are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It stands at the front, so many bytes.
    Part(Kind, usize),
    /// More bytes are needed.
    More,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Magic,
    Top,
    Elements(&'static [Step], u64),
    Behind,
    Lost,
}

/// A value that is too long to be held: passed part by part.
#[derive(Debug)]
struct Long {
    walk: Walk,
    /// Bytes of the current part that are not passed.
    pending: u64,
    value: Option<&'static [Step]>,
}

/// Takes one dump apart.
#[derive(Debug)]
pub struct DumpParts {
    state: State,
    long: Option<Long>,
    walk: Walk,
    dialect: Dialect,
    version: u32,
    end: EndWatch,
    is_bound: bool,
    has_records: bool,
    database: u64,
    table: u8,
    created: Option<u64>,
    templates: Templates,
}

impl Default for DumpParts {
    fn default() -> Self {
        Self {
            state: State::Magic,
            long: None,
            walk: Walk::default(),
            dialect: Dialect::Redis,
            version: 0,
            end: EndWatch::default(),
            is_bound: false,
            has_records: false,
            database: 0,
            table: 0,
            created: None,
            templates: Templates::default(),
        }
    }
}

/// Whether these are the first bytes of a dump; `None` while there are too few.
#[must_use]
pub fn is_dump(first: &[u8]) -> Option<bool> {
    match magic(first) {
        Front::Is(..) => Some(true),
        Front::No => Some(false),
        Front::More => None,
    }
}

/// Appends what says that the next records are of that database.
pub fn put_select(out: &mut Vec<u8>, database: u64) {
    out.push(SELECT);
    put_number(out, database);
}

fn magic(bytes: &[u8]) -> Front<(Dialect, u32)> {
    for (name, dialect) in [(&b"REDIS"[..], Dialect::Redis), (b"VALKEY", Dialect::Valkey)] {
        let shared = bytes.len().min(name.len());
        if bytes[..shared] != name[..shared] {
            continue;
        }
        let Some(digits) = bytes.get(name.len()..9) else { return Front::More };
        let text = std::str::from_utf8(digits).ok();
        let is_number = digits.iter().all(u8::is_ascii_digit);
        let version = text.filter(|_| is_number).and_then(|text| text.parse().ok());
        return version.map_or(Front::No, |version| Front::Is((dialect, version), 9));
    }
    Front::No
}

impl DumpParts {
    /// Whose dump it is, as its magic says.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Number of the database that the part given last belongs to.
    #[must_use]
    pub fn database(&self) -> u64 {
        self.database
    }

    /// Type of the table that began last.
    #[must_use]
    pub fn table(&self) -> u8 {
        self.table
    }

    /// Seconds since 1970 at which the dump was begun, where it says so.
    #[must_use]
    pub fn created(&self) -> Option<u64> {
        self.created
    }

    /// Whether the part given last is the end of what it belongs to: a record, all elements of a
    /// table, or what stands between them.
    pub fn is_complete(&mut self) -> bool {
        let is_long = self
            .long
            .as_mut()
            .is_some_and(|long| long.pending > 0 || !long.walk.is_done() || long.value.is_some());
        !is_long && !matches!(self.state, State::Elements(_, 1..))
    }

    /// Version of the dump's form, as its magic says.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// How it ended; to be asked when all bytes were taken.
    #[must_use]
    pub fn ending(&self) -> Ending {
        self.end.ending()
    }

    /// Whether the same records in another order could mean something else.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.is_bound || !self.end.has_sum()
    }

    /// The part at the front of `bytes`, which begin where the part before ended. It counts as
    /// passed. At the end of the dump all bytes are there.
    pub fn next(&mut self, bytes: &[u8], is_end: bool) -> Next {
        let found = match &mut self.long {
            Some(_) => self.next_of_long(bytes),
            None => self.next_of_state(bytes),
        };
        let next = match found {
            Front::Is(kind, length) => Next::Part(kind, (length.min(bytes.len() as u64)) as usize),
            Front::More if !is_end => return Next::More,
            Front::More => self.give_up(bytes, Ending::Truncated),
            Front::No => self.give_up(bytes, Ending::Unknown),
        };
        if let Next::Part(kind, length) = next {
            let passed = &bytes[..length];
            self.end.pass(passed);
            if kind == Kind::Between && self.state == State::Behind {
                self.end.end();
            }
        }
        next
    }

    fn give_up(&mut self, bytes: &[u8], ending: Ending) -> Next {
        if self.state != State::Lost {
            self.end.give_up(ending);
        }
        self.state = State::Lost;
        self.long = None;
        Next::Part(Kind::Unknown, bytes.len())
    }

    fn next_of_state(&mut self, bytes: &[u8]) -> Front<Kind> {
        match self.state {
            State::Magic => match magic(bytes) {
                Front::Is((dialect, version), length) => {
                    (self.dialect, self.version) = (dialect, version);
                    self.end.set_version(dialect, version);
                    self.state = State::Top;
                    Front::Is(Kind::Between, length)
                }
                Front::More => Front::More,
                Front::No => Front::No,
            },
            State::Top => self.next_at_top(bytes),
            State::Elements(_, 0) => {
                self.state = State::Top;
                self.next_at_top(bytes)
            }
            State::Elements(each, left) => self.next_element(bytes, each, left),
            // A log may follow, as in the first part of an append-only file of old.
            State::Behind | State::Lost if bytes.is_empty() => Front::More,
            State::Behind | State::Lost => Front::Is(Kind::Unknown, bytes.len() as u64),
        }
    }

    fn next_at_top(&mut self, bytes: &[u8]) -> Front<Kind> {
        let Some(first) = bytes.first() else { return Front::More };
        let between = |length: u64| Front::Is(Kind::Between, length);
        match (*first, self.dialect) {
            (AUX, _) => {
                let length = self.passed(bytes, &[Step::Text, Step::Text]);
                if let Front::Is((), length) = length
                    && length <= bytes.len() as u64
                {
                    self.look_at_aux(&bytes[..length as usize]);
                }
                self.or_long(length, bytes, &[Step::Text, Step::Text])
            }
            (RESIZE, _) => self.between(bytes, &[Step::Number, Step::Number]),
            (SLOT_INFO, _) => self.between(bytes, &[Step::Number, Step::Number, Step::Number]),
            (FUNCTION, _) => self.between(bytes, &[Step::Text]),
            (MODULE_AUX, _) => {
                // What a module reads when all keys are there.
                self.is_bound |= self.has_records;
                self.between(bytes, &[Step::Number, Step::Module])
            }
            (HASH_TEMPLATE, Dialect::Redis) => {
                self.templates.see(&bytes[1..]);
                self.between(bytes, &[Step::Number, Step::Each(&[Step::Text])])
            }
            (KEY_META_OR_SLOT_IMPORT, Dialect::Valkey) => {
                self.between(bytes, &[Step::Text, Step::Each(&[Step::Number, Step::Number])])
            }
            (SELECT, _) => match number(&bytes[1..]) {
                Front::Is(database, length) => {
                    self.database = database;
                    between(1 + length)
                }
                Front::More => Front::More,
                Front::No => Front::No,
            },
            (END, _) => {
                let length = if self.end.has_sum() { END_BYTES } else { 1 };
                if bytes.len() < length {
                    return Front::More;
                }
                self.state = State::Behind;
                between(length as u64)
            }
            _ => self.record(bytes),
        }
    }

    /// Length of a code and these steps; at most one buffer is looked at.
    fn passed(&mut self, bytes: &[u8], steps: &'static [Step]) -> Front<()> {
        self.walk.begin(steps);
        let mut at = 1;
        while !self.walk.is_done() {
            match self.walk.next(bytes.get(at as usize..).unwrap_or_default()) {
                Front::Is(_, length) => at += length,
                Front::More => return Front::More,
                Front::No => return Front::No,
            }
            if at > ATOM_BYTES_MAX as u64 {
                return Front::Is((), at);
            }
        }
        Front::Is((), at)
    }

    fn between(&mut self, bytes: &[u8], steps: &'static [Step]) -> Front<Kind> {
        let length = self.passed(bytes, steps);
        self.or_long(length, bytes, steps)
    }

    fn or_long(&mut self, length: Front<()>, bytes: &[u8], steps: &'static [Step]) -> Front<Kind> {
        match length {
            Front::Is((), length) if length > ATOM_BYTES_MAX as u64 => {
                self.long = Some(Long { walk: Walk::new(steps), pending: 0, value: None });
                Front::Is(Kind::Between, 1)
            }
            Front::Is((), length) if length > bytes.len() as u64 => Front::More,
            Front::Is((), length) => Front::Is(Kind::Between, length),
            Front::More => Front::More,
            Front::No => Front::No,
        }
    }

    fn look_at_aux(&mut self, aux: &[u8]) {
        const CTIME: &[u8] = b"\xfa\x05ctime";
        let Some(value) = aux.strip_prefix(CTIME) else { return };
        self.created = match value {
            [0xc2, rest @ ..] => rest.try_into().ok().map(|it| u64::from(u32::from_le_bytes(it))),
            [_, digits @ ..] => std::str::from_utf8(digits).ok().and_then(|it| it.parse().ok()),
            [] => None,
        };
    }

    /// Bytes before the type of a record.
    fn prefix(&mut self, bytes: &[u8]) -> Front<()> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let length = match rest.first() {
                None => return Front::More,
                Some(&EXPIRE_MS) => 9,
                Some(&EXPIRE_S) => 5,
                Some(&FREQUENCY) => 2,
                Some(&IDLE) => match number(&rest[1..]) {
                    Front::Is(_, length) => 1 + length as usize,
                    Front::More => return Front::More,
                    Front::No => return Front::No,
                },
                Some(&KEY_META_OR_SLOT_IMPORT) if self.dialect == Dialect::Redis => {
                    match self.passed(rest, KEY_META) {
                        Front::Is((), length) => length as usize,
                        Front::More if rest.len() >= ATOM_BYTES_MAX => return Front::No,
                        other => return other,
                    }
                }
                Some(_) => return Front::Is((), at as u64),
            };
            at += length;
            if at > ATOM_BYTES_MAX {
                return Front::No;
            }
        }
    }

    fn record(&mut self, bytes: &[u8]) -> Front<Kind> {
        self.has_records = true;
        let prefix = match self.prefix(bytes) {
            Front::Is((), length) => length as usize,
            Front::More => return Front::More,
            Front::No => return Front::No,
        };
        let Some(&kind) = bytes.get(prefix) else { return Front::More };
        if (kind, self.dialect) == (TEMPLATE_VALUES, Dialect::Redis) {
            return self.template_values(bytes, prefix + 1);
        }
        let Some(form) = form(self.dialect, kind) else { return Front::No };
        let key_at = prefix + 1;
        let key = match text_length(&bytes[key_at..]) {
            Front::Is((), length) => length,
            Front::More => return Front::More,
            Front::No => return Front::No,
        };
        if key_at as u64 + key > ATOM_BYTES_MAX as u64 {
            let walk = Walk::new(&[Step::Text]);
            self.long = Some(Long { walk, pending: 0, value: Some(form.steps) });
            return Front::Is(Kind::Between, key_at as u64);
        }
        let value_at = key_at + key as usize;
        self.walk.begin(form.steps);
        let mut at = value_at;
        while !self.walk.is_done() {
            match self.walk.next(bytes.get(at..).unwrap_or_default()) {
                Front::Is(_, length) if at as u64 + length > ATOM_BYTES_MAX as u64 => {
                    return self.long_record(bytes, form, (prefix, key, value_at));
                }
                Front::Is(_, length) => at += length as usize,
                Front::More => return Front::More,
                Front::No => return Front::No,
            }
        }
        if at > bytes.len() { Front::More } else { Front::Is(Kind::Record { prefix }, at as u64) }
    }

    /// A record that cannot be told apart without the templates of the dump: it stays where it is.
    fn template_values(&mut self, bytes: &[u8], key_at: usize) -> Front<Kind> {
        let key = match text_length(&bytes[key_at..]) {
            Front::Is((), length) if length <= ATOM_BYTES_MAX as u64 => length as usize,
            Front::More => return Front::More,
            Front::Is(..) | Front::No => return Front::No,
        };
        match self.templates.fields(bytes.get(key_at + key..).unwrap_or_default()) {
            Front::Is(fields, length) => {
                let walk = Walk::repeated(&[Step::Text], fields);
                self.long = Some(Long { walk, pending: 0, value: None });
                Front::Is(Kind::Between, (key_at + key) as u64 + length)
            }
            Front::More => Front::More,
            Front::No => Front::No,
        }
    }

    fn long_record(
        &mut self,
        bytes: &[u8],
        form: &'static Form,
        (prefix, key, value_at): (usize, u64, usize),
    ) -> Front<Kind> {
        if !form.is_table || key > TABLE_KEY_BYTES_MAX {
            self.long = Some(Long { walk: Walk::new(form.steps), pending: 0, value: None });
            return Front::Is(Kind::Between, value_at as u64);
        }
        let mut walk = Walk::new(form.steps);
        let mut at = value_at;
        for step in form.steps {
            let Front::Is(_, length) = walk.next(bytes.get(at..).unwrap_or_default()) else {
                return Front::More;
            };
            at += length as usize;
            if let Step::Each(each) = step {
                self.state = State::Elements(each, walk.left());
            }
        }
        self.table = bytes[prefix];
        Front::Is(Kind::TableHead { prefix }, at as u64)
    }

    fn next_element(&mut self, bytes: &[u8], each: &'static [Step], left: u64) -> Front<Kind> {
        self.walk.begin(each);
        let mut at = 0;
        while !self.walk.is_done() {
            match self.walk.next(bytes.get(at..).unwrap_or_default()) {
                Front::Is(_, length) if at as u64 + length > ATOM_BYTES_MAX as u64 => {
                    self.state = State::Elements(each, left - 1);
                    self.is_bound = true;
                    self.long = Some(Long { walk: Walk::new(each), pending: 0, value: None });
                    return self.next_of_long(bytes);
                }
                Front::Is(_, length) => at += length as usize,
                Front::More => return Front::More,
                Front::No => return Front::No,
            }
        }
        if at > bytes.len() {
            return Front::More;
        }
        self.state = State::Elements(each, left - 1);
        Front::Is(Kind::Element, at as u64)
    }

    fn next_of_long(&mut self, bytes: &[u8]) -> Front<Kind> {
        let Some(long) = &mut self.long else { return Front::No };
        if bytes.is_empty() {
            return Front::More;
        }
        while long.pending == 0 {
            if long.walk.is_done() {
                let Some(steps) = long.value.take() else {
                    self.long = None;
                    return self.next_of_state(bytes);
                };
                long.walk.begin(steps);
                continue;
            }
            match long.walk.next(bytes) {
                Front::Is(Part::Text | Part::Other, length) => long.pending = length,
                Front::More => return Front::More,
                Front::No => return Front::No,
            }
        }
        let length = long.pending.min(bytes.len() as u64);
        long.pending -= length;
        Front::Is(Kind::Between, length)
    }
}
