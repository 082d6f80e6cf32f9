//! Atoms as the parts of a snapshot have them, one after another, in the order of their keys.
//!
//! Each begins with its type (a record) or a mark; what many share, database and table, is said once
//! before the first of them.

use crate::format::redis::grammar::{Dialect, Step, Walk, form};
use crate::format::redis::record::{Atom, AtomKind, elements_of, walked};
use crate::format::redis::text::{Front, number, put_number};

const DATABASE: u8 = 0xe0;
const TABLE: u8 = 0xe1;
const ELEMENT: u8 = 0xe2;
const HEAD: u8 = 0xe3;

/// What is said once.
#[derive(Debug, Default)]
struct Shared {
    database: u64,
    /// Type and key of the table that elements belong to.
    table: Option<(u8, Vec<u8>)>,
}

/// Writes the atoms of a part.
#[derive(Debug, Default)]
pub struct StoredWriter(Shared);

impl StoredWriter {
    /// Appends an atom.
    pub fn put(&mut self, atom: &Atom<'_>, out: &mut Vec<u8>) {
        if atom.database != self.0.database {
            out.push(DATABASE);
            put_number(out, atom.database);
            self.0 = Shared { database: atom.database, table: None };
        }
        match atom.kind {
            AtomKind::Record => out.push(atom.record_type),
            AtomKind::Head => out.extend_from_slice(&[HEAD, atom.record_type]),
            AtomKind::Element => {
                let is_same = self
                    .0
                    .table
                    .as_ref()
                    .is_some_and(|(table, key)| *table == atom.record_type && key == atom.key);
                if !is_same {
                    out.extend_from_slice(&[TABLE, atom.record_type]);
                    out.extend_from_slice(atom.key);
                    self.0.table = Some((atom.record_type, atom.key.to_vec()));
                }
                out.push(ELEMENT);
                out.extend_from_slice(atom.body);
                return;
            }
        }
        out.extend_from_slice(atom.key);
        out.extend_from_slice(atom.body);
    }
}

/// Reads the atoms of a part.
#[derive(Debug)]
pub struct StoredReader {
    dialect: Dialect,
    shared: Shared,
    walk: Walk,
}

impl StoredReader {
    /// Of a dump of that kind.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, shared: Shared::default(), walk: Walk::default() }
    }

    /// The atom at the front of `bytes`, and its length with what is said before it; `None` where there is none.
    pub fn next<'a>(&'a mut self, mut bytes: &'a [u8]) -> Option<(Atom<'a>, usize)> {
        let whole = bytes.len();
        loop {
            let (first, rest) = bytes.split_first()?;
            match *first {
                DATABASE => {
                    let Front::Is(database, length) = number(rest) else { return None };
                    self.shared = Shared { database, table: None };
                    bytes = rest.get(length as usize..)?;
                }
                TABLE => {
                    let (table, rest) = rest.split_first()?;
                    let key = walked(&mut self.walk, &[Step::Text], rest)?;
                    self.shared.table = Some((*table, rest[..key].to_vec()));
                    bytes = &rest[key..];
                }
                ELEMENT => return self.element(rest).map(|(atom, left)| (atom, whole - left)),
                HEAD => {
                    let (record_type, rest) = rest.split_first()?;
                    let read = self.keyed(AtomKind::Head, *record_type, rest);
                    return read.map(|(atom, left)| (atom, whole - left));
                }
                record_type => {
                    let read = self.keyed(AtomKind::Record, record_type, rest);
                    return read.map(|(atom, left)| (atom, whole - left));
                }
            }
        }
    }

    /// With the number of bytes behind it.
    fn element<'a>(&'a mut self, bytes: &'a [u8]) -> Option<(Atom<'a>, usize)> {
        let (record_type, key) = self.shared.table.as_ref()?;
        let each = form(self.dialect, *record_type).and_then(elements_of)?;
        let length = walked(&mut self.walk, each, bytes)?;
        let (body, rest) = bytes.split_at(length);
        let (kind, database) = (AtomKind::Element, self.shared.database);
        Some((Atom { kind, database, record_type: *record_type, key, body }, rest.len()))
    }

    fn keyed<'a>(
        &'a mut self,
        kind: AtomKind,
        record_type: u8,
        bytes: &'a [u8],
    ) -> Option<(Atom<'a>, usize)> {
        let form = form(self.dialect, record_type)?;
        let length = walked(&mut self.walk, &[Step::Text], bytes)?;
        let (key, value) = bytes.split_at(length);
        let length = match kind {
            AtomKind::Head => {
                elements_of(form)?;
                let before = walked(&mut self.walk, &form.steps[..form.steps.len() - 1], value)?;
                before + walked(&mut self.walk, &[Step::Number], &value[before..])?
            }
            _ => walked(&mut self.walk, form.steps, value)?,
        };
        let (body, rest) = value.split_at(length);
        let database = self.shared.database;
        Some((Atom { kind, database, record_type, key, body }, rest.len()))
    }
}
