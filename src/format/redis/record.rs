//! Records: parts of a dump in the form in which they are sorted and stored, and back.
//!
//! An atom is what is sorted: a record, the head of a large table, or one element of it. Its body
//! has texts decoded and, where the server's table has no order of its own, elements sorted; what
//! that loses stands in its [`Details`]. [`Canonical`] gives nothing that [`Original`] does not turn
//! back into the very same bytes.

use sha2::{Digest as _, Sha256};

use crate::format::redis::grammar::{Dialect, Form, Part, Step, Walk, form};
use crate::format::redis::lzf::Compressor;
use crate::format::redis::opcode::{EXPIRE_MS, EXPIRE_S, FREQUENCY, IDLE};
use crate::format::redis::text::{
    Front, number, put_canonical, put_number, put_original, text_length,
};

/// Length of the salt of the hashes that atoms are found by.
pub const SALT_BYTES: usize = 16;

/// What an atom is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AtomKind {
    /// A whole record.
    Record,
    /// Type, key, and number of the elements of a large table.
    Head,
    /// One element of it.
    Element,
}

/// What of an atom stands apart from its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Expiry in milliseconds since 1970, as eight bytes say it.
    pub expire_ms: Option<u64>,
    /// Expiry in seconds since 1970.
    pub expire_s: Option<u32>,
    /// Seconds since the last access.
    pub idle: Option<u32>,
    /// Frequency of access.
    pub frequency: Option<u8>,
    /// What stands before the type, where it is none of the usual; the others are empty then.
    pub prefix: Vec<u8>,
    /// The place among the sorted elements that each has, in the order of the dump; empty where that
    /// is their order.
    pub order: Vec<u32>,
}

impl Details {
    /// Takes apart what stands before the type of a record.
    fn of_prefix(prefix: &[u8]) -> Self {
        let mut details = Self::default();
        let mut rest = prefix;
        if let [EXPIRE_MS, time @ ..] = rest
            && let Some((time, after)) = time.split_first_chunk()
        {
            details.expire_ms = Some(u64::from_le_bytes(*time));
            rest = after;
        } else if let [EXPIRE_S, time @ ..] = rest
            && let Some((time, after)) = time.split_first_chunk()
        {
            details.expire_s = Some(u32::from_le_bytes(*time));
            rest = after;
        }
        if let [IDLE, idle @ ..] = rest
            && let Front::Is(seconds, length) = number(idle)
            && let Ok(seconds) = u32::try_from(seconds)
        {
            details.idle = Some(seconds);
            rest = &idle[length as usize..];
        } else if let [FREQUENCY, frequency, after @ ..] = rest {
            details.frequency = Some(*frequency);
            rest = after;
        }
        let mut again = Vec::with_capacity(prefix.len());
        details.put_prefix(&mut again);
        if rest.is_empty() && again == prefix {
            return details;
        }
        Self { prefix: prefix.to_vec(), ..Self::default() }
    }

    fn put_prefix(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        if let Some(time) = self.expire_ms {
            out.push(EXPIRE_MS);
            out.extend_from_slice(&time.to_le_bytes());
        }
        if let Some(time) = self.expire_s {
            out.push(EXPIRE_S);
            out.extend_from_slice(&time.to_le_bytes());
        }
        if let Some(seconds) = self.idle {
            out.push(IDLE);
            put_number(out, seconds.into());
        }
        if let Some(frequency) = self.frequency {
            out.extend_from_slice(&[FREQUENCY, frequency]);
        }
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An atom, its bytes elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Atom<'a> {
    /// What it is.
    pub kind: AtomKind,
    /// Number of its database.
    pub database: u64,
    /// Type of the record, or of the table that the element belongs to.
    pub record_type: u8,
    /// Its key, or that of the table, as records have it.
    pub key: &'a [u8],
    /// The value of a record; of a head what stands before the elements; the element.
    pub body: &'a [u8],
}

impl Atom<'_> {
    /// By what the order of the dump names it: the first 8 bytes, as a big-endian number, of the
    /// SHA-256 of salt, 0 (1: an element), database (8 bytes, little-endian), key, and of an element
    /// its first text.
    #[must_use]
    pub fn hash(&self, salt: &[u8; SALT_BYTES], dialect: Dialect) -> u64 {
        let mut hasher = Sha256::new();
        hasher.update(salt);
        hasher.update([u8::from(self.kind == AtomKind::Element)]);
        hasher.update(self.database.to_le_bytes());
        hasher.update(self.key);
        if self.kind == AtomKind::Element {
            hasher.update(name_of(dialect, self.record_type, self.body));
        }
        let first = hasher.finalize().first_chunk().copied().unwrap_or_default();
        u64::from_be_bytes(first)
    }
}

/// The text that names an element.
fn name_of(dialect: Dialect, record_type: u8, element: &[u8]) -> &[u8] {
    let Some(each) = form(dialect, record_type).and_then(elements_of) else { return element };
    let (mut walk, mut at) = (Walk::new(each), 0);
    while !walk.is_done() {
        let rest = element.get(at..).unwrap_or_default();
        match walk.next(rest) {
            Front::Is(Part::Text, length) => {
                return rest.get(..length as usize).unwrap_or(rest);
            }
            Front::Is(Part::Other, length) => at += length as usize,
            Front::More | Front::No => break,
        }
    }
    element
}

/// The steps of one element of a table.
#[must_use]
pub fn elements_of(form: &Form) -> Option<&'static [Step]> {
    match form.steps.last() {
        Some(Step::Each(each)) if form.is_table => Some(each),
        _ => None,
    }
}

/// Length of the parts that these steps have at the front of `bytes`.
#[must_use]
pub fn walked(walk: &mut Walk, steps: &'static [Step], bytes: &[u8]) -> Option<usize> {
    walk.begin(steps);
    let mut at = 0;
    while !walk.is_done() {
        let Front::Is(_, length) = walk.next(bytes.get(at..)?) else { return None };
        at = at.checked_add(usize::try_from(length).ok()?)?;
    }
    (at <= bytes.len()).then_some(at)
}

/// Copies the parts of these steps, their texts changed by `text`; what is behind them.
fn copied<'a>(
    walk: &mut Walk,
    steps: &'static [Step],
    mut bytes: &'a [u8],
    out: &mut Vec<u8>,
    text: &mut dyn FnMut(&[u8], &mut Vec<u8>),
) -> Option<&'a [u8]> {
    walk.begin(steps);
    while !walk.is_done() {
        let Front::Is(part, length) = walk.next(bytes) else { return None };
        let (passed, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
        match part {
            Part::Text => text(passed, out),
            Part::Other => out.extend_from_slice(passed),
        }
        bytes = rest;
    }
    Some(bytes)
}

/// Turns parts of a dump into atoms.
#[derive(Debug)]
pub struct Canonical {
    dialect: Dialect,
    original: Original,
    walk: Walk,
    key: Vec<u8>,
    table_key: Vec<u8>,
    table: u8,
    body: Vec<u8>,
    elements: Vec<u8>,
    again: Vec<u8>,
    details: Details,
}

impl Canonical {
    /// For dumps of that kind.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            original: Original::new(dialect),
            walk: Walk::default(),
            key: Vec::new(),
            table_key: Vec::new(),
            table: 0,
            body: Vec::new(),
            elements: Vec::new(),
            again: Vec::new(),
            details: Details::default(),
        }
    }

    /// The atom of a record, or of the head of a table, and what stands apart; `None` where it would
    /// not come back as it was.
    pub fn record(
        &mut self,
        kind: AtomKind,
        database: u64,
        bytes: &[u8],
        prefix: usize,
    ) -> Option<(Atom<'_>, &Details)> {
        let (before, rest) = bytes.split_at_checked(prefix)?;
        let (&record_type, rest) = rest.split_first()?;
        let Front::Is((), key) = text_length(rest) else { return None };
        let (key, value) = rest.split_at_checked(usize::try_from(key).ok()?)?;
        self.details = Details::of_prefix(before);
        let form = form(self.dialect, record_type)?;
        let is_same = [put_canonical as fn(&[u8], &mut Vec<u8>), keep].into_iter().any(|text| {
            self.key.clear();
            text(key, &mut self.key);
            let made = if kind == AtomKind::Record {
                self.value(form, value, text)
            } else {
                self.body.clear();
                self.body.extend_from_slice(value);
                Some(())
            };
            let (key, body) = (&self.key[..], &self.body[..]);
            let atom = Atom { kind, database, record_type, key, body };
            self.again.clear();
            made.and_then(|()| self.original.put(&atom, &self.details, &mut self.again)).is_some()
                && self.again == bytes
        });
        if kind == AtomKind::Head {
            self.set_table(record_type, key);
        }
        let (key, body) = (&self.key[..], &self.body[..]);
        is_same.then_some((Atom { kind, database, record_type, key, body }, &self.details))
    }

    /// Says to which table the next elements belong, by its key in the dump.
    pub fn set_table(&mut self, record_type: u8, key: &[u8]) {
        self.table = record_type;
        self.table_key.clear();
        put_canonical(key, &mut self.table_key);
        self.again.clear();
        put_original(&self.table_key, &mut self.original.compressor, &mut self.again);
        if self.again != key {
            self.table_key.clear();
            self.table_key.extend_from_slice(key);
        }
    }

    /// The atom of an element of the table whose head came last, or that was set.
    pub fn element(&mut self, database: u64, bytes: &[u8]) -> Option<(Atom<'_>, &Details)> {
        let (kind, record_type) = (AtomKind::Element, self.table);
        let each = form(self.dialect, record_type).and_then(elements_of)?;
        self.details = Details::default();
        let is_same = [put_canonical as fn(&[u8], &mut Vec<u8>), keep].into_iter().any(|text| {
            self.body.clear();
            let rest = copied(&mut self.walk, each, bytes, &mut self.body, &mut |part, out| {
                text(part, out);
            });
            let (key, body) = (&self.table_key[..], &self.body[..]);
            let atom = Atom { kind, database, record_type, key, body };
            self.again.clear();
            rest.is_some()
                && self.original.put(&atom, &self.details, &mut self.again).is_some()
                && self.again == bytes
        });
        let (key, body) = (&self.table_key[..], &self.body[..]);
        is_same.then_some((Atom { kind, database, record_type, key, body }, &self.details))
    }

    fn value(
        &mut self,
        form: &'static Form,
        value: &[u8],
        text: fn(&[u8], &mut Vec<u8>),
    ) -> Option<()> {
        self.body.clear();
        self.details.order.clear();
        let mut text = |part: &[u8], out: &mut Vec<u8>| text(part, out);
        let Some(each) = elements_of(form) else {
            let rest = copied(&mut self.walk, form.steps, value, &mut self.body, &mut text)?;
            return rest.is_empty().then_some(());
        };
        let before = &form.steps[..form.steps.len() - 1];
        let mut rest = copied(&mut self.walk, before, value, &mut self.body, &mut text)?;
        let Front::Is(count, length) = number(rest) else { return None };
        self.body.extend_from_slice(rest.get(..length as usize)?);
        rest = &rest[length as usize..];
        self.elements.clear();
        let mut places = Vec::with_capacity(usize::try_from(count).ok()?.min(value.len()));
        for number in 0..count {
            let start = self.elements.len();
            rest = copied(&mut self.walk, each, rest, &mut self.elements, &mut text)?;
            places.push((start, self.elements.len(), number as u32));
        }
        let elements = &self.elements;
        places.sort_by(|a, b| elements[a.0..a.1].cmp(&elements[b.0..b.1]));
        let is_sorted = places.iter().zip(0..).all(|((_, _, number), place)| *number == place);
        if !is_sorted {
            self.details.order.resize(places.len(), 0);
            for ((_, _, number), place) in places.iter().zip(0..) {
                self.details.order[*number as usize] = place;
            }
        }
        for (start, end, _) in places {
            self.body.extend_from_slice(&self.elements[start..end]);
        }
        rest.is_empty().then_some(())
    }
}

fn keep(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(text);
}

/// Turns atoms back into parts of a dump.
#[derive(Debug)]
pub struct Original {
    dialect: Dialect,
    compressor: Compressor,
    walk: Walk,
    places: Vec<(usize, usize)>,
}

impl Original {
    /// For dumps of that kind.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        let (compressor, walk, places) = (Compressor::default(), Walk::default(), Vec::new());
        Self { dialect, compressor, walk, places }
    }

    /// Appends the bytes of an atom; `None` where it is none.
    pub fn put(&mut self, atom: &Atom<'_>, details: &Details, out: &mut Vec<u8>) -> Option<()> {
        let form = form(self.dialect, atom.record_type)?;
        let compressor = &mut self.compressor;
        let mut text = |part: &[u8], out: &mut Vec<u8>| put_original(part, compressor, out);
        if atom.kind == AtomKind::Element {
            let each = elements_of(form)?;
            let rest = copied(&mut self.walk, each, atom.body, out, &mut text)?;
            return rest.is_empty().then_some(());
        }
        details.put_prefix(out);
        out.push(atom.record_type);
        text(atom.key, out);
        if atom.kind == AtomKind::Head {
            out.extend_from_slice(atom.body);
            return Some(());
        }
        let mut body = atom.body;
        if let (Some(each), false) = (elements_of(form), details.order.is_empty()) {
            let before = &form.steps[..form.steps.len() - 1];
            body = copied(&mut self.walk, before, body, out, &mut text)?;
            let Front::Is(count, length) = number(body) else { return None };
            let (count_bytes, elements) = body.split_at_checked(length as usize)?;
            out.extend_from_slice(count_bytes);
            if count != details.order.len() as u64 {
                return None;
            }
            self.places.clear();
            let mut at = 0;
            for _ in 0..count {
                let length = walked(&mut self.walk, each, elements.get(at..)?)?;
                self.places.push((at, at + length));
                at += length;
            }
            for place in &details.order {
                let (start, end) = *self.places.get(*place as usize)?;
                copied(&mut self.walk, each, &elements[start..end], out, &mut text)?;
            }
            return (at == elements.len()).then_some(());
        }
        let rest = copied(&mut self.walk, form.steps, body, out, &mut text)?;
        rest.is_empty().then_some(())
    }
}
