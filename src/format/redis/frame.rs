//! What lies between the atoms of a dump, and where.
//!
//! A sequence of: number of atoms before it, length, bytes (numbers as in dumps). It ends where the
//! bytes do; the last one has the atoms behind it and no bytes.

use crate::format::redis::text::{Front, number, put_number};

/// Appends the head of so many bytes that stand behind `atoms` more atoms.
pub fn put_head(out: &mut Vec<u8>, atoms: u64, bytes: u64) {
    put_number(out, atoms);
    put_number(out, bytes);
}

/// Atoms before the next bytes, how many they are, and the length of this head.
#[must_use]
pub fn head(bytes: &[u8]) -> Front<(u64, u64)> {
    let (atoms, first) = match number(bytes) {
        Front::Is(atoms, length) => (atoms, length),
        Front::More => return Front::More,
        Front::No => return Front::No,
    };
    match number(&bytes[first as usize..]) {
        Front::Is(length, second) => Front::Is((atoms, length), first + second),
        Front::More => Front::More,
        Front::No => Front::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back() {
        let mut bytes = Vec::new();
        put_head(&mut bytes, 460_000, 70);
        assert_eq!(head(&bytes), Front::Is((460_000, 70), 7));
        assert_eq!(head(&bytes[..6]), Front::More);
        assert_eq!(head(&[0xff, 0]), Front::No);
    }
}
