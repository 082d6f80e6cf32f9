//! An atom as it is spooled: never stored, so its form is an affair of one run.

use crate::format::redis::record::{Atom, AtomKind, Details};
use crate::format::redis::text::{Front, number, put_number};

/// Bytes that come from the memory at once.
const LINE_BYTES: usize = 64;
/// What is behind so many is fetched as it is read.
const TOUCHED_LINES_MAX: usize = 8;

/// A spooled atom.
#[derive(Debug, Clone, Copy)]
pub struct SpooledAtom<'a> {
    /// Hash by which the order names it.
    pub hash: u64,
    /// The atom.
    pub atom: Atom<'a>,
    details: &'a [u8],
}

/// Appends an atom.
pub fn put_entry(out: &mut Vec<u8>, hash: u64, atom: &Atom<'_>, details: &Details) {
    out.extend_from_slice(&hash.to_le_bytes());
    put_number(out, atom.database);
    let kind = match atom.kind {
        AtomKind::Record => 0,
        AtomKind::Head => 1,
        AtomKind::Element => 2,
    };
    out.extend_from_slice(&[kind, atom.record_type]);
    for part in [atom.key, atom.body] {
        put_number(out, part.len() as u64);
        out.extend_from_slice(part);
    }
    if details.is_empty() {
        out.push(0);
        return;
    }
    let mut bytes = Vec::new();
    put_details(&mut bytes, details);
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(&bytes);
}

/// A number at the front, and what is behind it.
fn take_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    match number(bytes) {
        Front::Is(value, length) => Some((value, &bytes[length as usize..])),
        Front::More | Front::No => None,
    }
}

/// What stands behind its length at the front, and what is behind it.
fn take_part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = take_number(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

fn put_details(out: &mut Vec<u8>, details: &Details) {
    let flag = |is: bool, bit: u8| if is { bit } else { 0 };
    out.push(
        flag(details.expire_ms.is_some(), 1)
            | flag(details.expire_s.is_some(), 2)
            | flag(details.idle.is_some(), 4)
            | flag(details.frequency.is_some(), 8),
    );
    out.extend_from_slice(&details.expire_ms.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&details.expire_s.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&details.idle.unwrap_or(0).to_le_bytes());
    out.push(details.frequency.unwrap_or(0));
    out.extend_from_slice(&(details.prefix.len() as u32).to_le_bytes());
    out.extend_from_slice(&details.prefix);
    for place in &details.order {
        out.extend_from_slice(&place.to_le_bytes());
    }
}

/// The atom at the front, and what is behind it; `None` at the end.
#[must_use]
pub fn entry(bytes: &[u8]) -> Option<(SpooledAtom<'_>, &[u8])> {
    let (hash, rest) = bytes.split_first_chunk()?;
    let (database, rest) = take_number(rest)?;
    let ([kind, record_type], rest) = rest.split_first_chunk()?;
    let (key, rest) = take_part(rest)?;
    let (body, rest) = take_part(rest)?;
    let (details, rest) = take_part(rest)?;
    let kind = match kind {
        0 => AtomKind::Record,
        1 => AtomKind::Head,
        _ => AtomKind::Element,
    };
    let atom = Atom { kind, database, record_type: *record_type, key, body };
    Some((SpooledAtom { hash: u64::from_le_bytes(*hash), atom, details }, rest))
}

impl SpooledAtom<'_> {
    /// Whether something stands apart.
    #[must_use]
    pub fn has_details(&self) -> bool {
        !self.details.is_empty()
    }

    /// Some of its bytes, added up: has its memory fetched.
    #[must_use]
    pub fn touch(&self) -> u8 {
        let lines = self.atom.body.iter().step_by(LINE_BYTES).take(TOUCHED_LINES_MAX);
        lines.chain(self.atom.key.first()).fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// What stands apart.
    #[must_use]
    pub fn details(&self) -> Details {
        self.try_details().unwrap_or_default()
    }

    fn try_details(&self) -> Option<Details> {
        let (flags, rest) = self.details.split_first()?;
        let (expire_ms, rest) = rest.split_first_chunk()?;
        let (expire_s, rest) = rest.split_first_chunk()?;
        let (idle, rest) = rest.split_first_chunk()?;
        let (frequency, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (prefix, order) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let has = |bit: u8| flags & bit != 0;
        Some(Details {
            expire_ms: has(1).then_some(u64::from_le_bytes(*expire_ms)),
            expire_s: has(2).then_some(u32::from_le_bytes(*expire_s)),
            idle: has(4).then_some(u32::from_le_bytes(*idle)),
            frequency: has(8).then_some(*frequency),
            prefix: prefix.to_vec(),
            order: order.as_chunks().0.iter().map(|place| u32::from_le_bytes(*place)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atoms_come_back() {
        let atom = Atom {
            kind: AtomKind::Element,
            database: 7,
            record_type: 4,
            key: b"\x01k",
            body: b"\x01f\x01v",
        };
        let all = Details {
            expire_ms: Some(9),
            idle: Some(3),
            prefix: vec![1, 2],
            order: vec![1, 0],
            ..Details::default()
        };
        let mut bytes = Vec::new();
        put_entry(&mut bytes, 5, &atom, &Details::default());
        put_entry(&mut bytes, 6, &Atom { kind: AtomKind::Record, ..atom }, &all);
        let (first, rest) = entry(&bytes).unwrap();
        assert_eq!((first.hash, first.atom, first.details()), (5, atom, Details::default()));
        let (second, rest) = entry(rest).unwrap();
        assert_eq!((second.hash, second.details()), (6, all));
        assert!(entry(rest).is_none());
    }
}
