//! The column beside the records: expiry, last access, frequency, and the order of elements.
//!
//! Blocks end where hashes say so. A block is a count, what kinds of details are in it, for each atom
//! which it has, and the values kind by kind; integers byte by byte of equal weight, so that what is
//! alike stands together.

use crate::format::bytes::{Fields, Truncated};
use crate::format::redis::bits::{BitReader, BitWriter, bits_for, bytes_of};
use crate::format::redis::record::Details;
use crate::format::redis::text::{Front, number, put_number};

/// Atoms of one block, at most.
pub const BLOCK_ATOMS_MAX: usize = 255;

const EXPIRE_MS: u8 = 1;
const EXPIRE_S: u8 = 2;
const IDLE: u8 = 4;
const FREQUENCY: u8 = 8;
const PREFIX: u8 = 16;
const ORDER: u8 = 32;

/// Whether a block of the column ends with the atom of that hash.
#[must_use]
pub fn ends_block(hash: u64) -> bool {
    (hash >> 4).trailing_zeros() >= 5
}

fn kinds(details: &Details) -> u8 {
    let has = |is: bool, kind| if is { kind } else { 0 };
    has(details.expire_ms.is_some(), EXPIRE_MS)
        | has(details.expire_s.is_some(), EXPIRE_S)
        | has(details.idle.is_some(), IDLE)
        | has(details.frequency.is_some(), FREQUENCY)
        | has(!details.prefix.is_empty(), PREFIX)
        | has(!details.order.is_empty(), ORDER)
}

/// Appends a block. An access is stored as the second it took place in, taking the dump to have been
/// made in the second `made`.
pub fn put_block(block: &[Details], made: u32, out: &mut Vec<u8>) {
    debug_assert!((1..=BLOCK_ATOMS_MAX).contains(&block.len()));
    let all = block.iter().fold(0, |all, details| all | kinds(details));
    out.extend_from_slice(&[block.len() as u8, all]);
    if all == 0 {
        return;
    }
    out.extend(block.iter().map(kinds));
    put_planes(block.iter().filter_map(|it| it.expire_ms).map(u64::to_le_bytes), out);
    put_planes(block.iter().filter_map(|it| it.expire_s).map(u32::to_le_bytes), out);
    let last = |idle| made.wrapping_sub(idle).to_le_bytes();
    put_planes(block.iter().filter_map(|it| it.idle).map(last), out);
    out.extend(block.iter().filter_map(|it| it.frequency));
    for details in block {
        if !details.prefix.is_empty() {
            put_number(out, details.prefix.len() as u64);
            out.extend_from_slice(&details.prefix);
        }
    }
    for details in block {
        if !details.order.is_empty() {
            put_number(out, details.order.len() as u64);
            let mut writer = BitWriter::default();
            for place in &details.order {
                writer.put((*place).into(), bits_for(details.order.len()));
            }
            out.extend_from_slice(&writer.finish());
        }
    }
}

fn put_planes<const N: usize>(values: impl Iterator<Item = [u8; N]>, out: &mut Vec<u8>) {
    let values: Vec<[u8; N]> = values.collect();
    for plane in 0..N {
        out.extend(values.iter().map(|value| value[plane]));
    }
}

/// Takes the block at the front apart.
pub fn take_block(fields: &mut Fields<'_>, made: u32) -> Result<Vec<Details>, Truncated> {
    let count = usize::from(fields.u8("count of a block")?);
    let all = fields.u8("kinds of a block")?;
    let mut block = vec![Details::default(); count];
    if all == 0 {
        return Ok(block);
    }
    let kinds = fields.take(count, "kinds of atoms")?;
    let of = |kind: u8| move |(_, kinds): &(&mut Details, &u8)| **kinds & kind != 0;
    let counted = |kind: u8| kinds.iter().filter(|kinds| **kinds & kind != 0).count();
    let times = take_planes::<8>(fields, counted(EXPIRE_MS), "expiry")?;
    for ((details, _), time) in block.iter_mut().zip(kinds).filter(of(EXPIRE_MS)).zip(times) {
        details.expire_ms = Some(u64::from_le_bytes(time));
    }
    let times = take_planes::<4>(fields, counted(EXPIRE_S), "expiry")?;
    for ((details, _), time) in block.iter_mut().zip(kinds).filter(of(EXPIRE_S)).zip(times) {
        details.expire_s = Some(u32::from_le_bytes(time));
    }
    let times = take_planes::<4>(fields, counted(IDLE), "last access")?;
    for ((details, _), time) in block.iter_mut().zip(kinds).filter(of(IDLE)).zip(times) {
        details.idle = Some(made.wrapping_sub(u32::from_le_bytes(time)));
    }
    let values = fields.take(counted(FREQUENCY), "frequency")?;
    for ((details, _), value) in block.iter_mut().zip(kinds).filter(of(FREQUENCY)).zip(values) {
        details.frequency = Some(*value);
    }
    for (details, _) in block.iter_mut().zip(kinds).filter(of(PREFIX)) {
        let length = take_number(fields)?;
        details.prefix = fields.take(length, "what stands before a type")?.to_vec();
    }
    for (details, _) in block.iter_mut().zip(kinds).filter(of(ORDER)) {
        let count = take_number(fields)?;
        let bits = bits_for(count);
        let bytes = fields.take(bytes_of(count.min(usize::MAX >> 6), bits), "order of elements")?;
        let mut reader = BitReader::new(bytes);
        details.order = std::iter::from_fn(|| reader.take(bits.max(1)))
            .take(count)
            .map(|place| place as u32)
            .collect();
    }
    Ok(block)
}

fn take_planes<const N: usize>(
    fields: &mut Fields<'_>,
    count: usize,
    field: &'static str,
) -> Result<impl Iterator<Item = [u8; N]>, Truncated> {
    let planes = fields.take(count * N, field)?;
    Ok((0..count).map(move |value| std::array::from_fn(|plane| planes[plane * count + value])))
}

fn take_number(fields: &mut Fields<'_>) -> Result<usize, Truncated> {
    let mut bytes = Vec::with_capacity(9);
    loop {
        bytes.push(fields.u8("number in a block")?);
        match number(&bytes) {
            Front::Is(value, _) => return Ok(usize::try_from(value).unwrap_or(usize::MAX)),
            Front::More => {}
            // What no number begins with leaves nothing that could follow.
            Front::No => return Ok(usize::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, proptest};

    #[test]
    fn every_detail_comes_back() {
        let block = [
            Details::default(),
            Details { expire_ms: Some(1_763_000_000_123), idle: Some(7), ..Details::default() },
            Details { expire_s: Some(5), frequency: Some(255), ..Details::default() },
            Details { expire_ms: Some(u64::MAX), order: vec![2, 0, 1], ..Details::default() },
            Details { prefix: vec![1, 2, 3], idle: None, ..Details::default() },
            Details { idle: Some(u32::MAX), ..Details::default() },
        ];
        for made in [0, 5, u32::MAX] {
            let mut bytes = Vec::new();
            put_block(&block, made, &mut bytes);
            put_block(&block[..1], made, &mut bytes);
            let mut fields = Fields::new(&bytes);
            assert_eq!(take_block(&mut fields, made).unwrap(), block);
            assert_eq!(take_block(&mut fields, made).unwrap(), block[..1]);
            assert_eq!(fields.left(), 0);
            for cut in 0..bytes.len() - 2 {
                assert!(take_block(&mut Fields::new(&bytes[..cut]), made).is_err(), "{cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = take_block(&mut Fields::new(&bytes), 9);
        }
    }
}
