//! Golden vectors of dumps that are stored as records.

use data_encoding::{BASE64, HEXLOWER};
use holdfast::format::bytes::Fields;
use holdfast::format::redis::column::{put_block, take_block};
use holdfast::format::redis::grammar::Dialect;
use holdfast::format::redis::lzf::Compressor;
use holdfast::format::redis::order;
use holdfast::format::redis::record::{AtomKind, Canonical, Details, Original};
use holdfast::format::redis::stored::{StoredReader, StoredWriter};
use holdfast::format::redis::text::put_number;
use sha2::{Digest as _, Sha256};

/// What the headers of a vector say of a part.
pub struct PartHeaders {
    pub salt: String,
    pub made: String,
    pub column: String,
    /// SHA-256 of hash (8 bytes, big-endian) and bytes of each atom.
    pub atoms: String,
}

const DIALECT: Dialect = Dialect::Redis;

/// Reads the atoms of a part, turns each into its bytes, and writes them again.
pub fn part_again(stored: &[u8], headers: &PartHeaders) -> Result<Vec<u8>, String> {
    let salt = HEXLOWER.decode(headers.salt.as_bytes()).unwrap().try_into().unwrap();
    let made = headers.made.parse().unwrap();
    let column = BASE64.decode(headers.column.as_bytes()).unwrap();
    let mut fields = Fields::new(&column);
    let mut details = Vec::new();
    while fields.left() > 0 {
        details.extend(take_block(&mut fields, made).map_err(|error| error.to_string())?);
    }
    let mut again = Vec::new();
    put_block(&details, made, &mut again);
    assert_eq!(again, column, "the column is written as it was read");
    let mut details = details.into_iter();
    let (mut reader, mut writer) = (StoredReader::new(DIALECT), StoredWriter::default());
    let (mut original, mut canonical) = (Original::new(DIALECT), Canonical::new(DIALECT));
    let (mut rest, mut out, mut sum) = (stored, Vec::new(), Sha256::new());
    while !rest.is_empty() {
        let details = details.next().unwrap_or_default();
        let (atom, length) = reader.next(rest).ok_or("no atom")?;
        let mut bytes = Vec::new();
        original.put(&atom, &details, &mut bytes).ok_or("no bytes of an atom")?;
        sum.update(atom.hash(&salt, DIALECT).to_be_bytes());
        sum.update(&bytes);
        let again = match atom.kind {
            AtomKind::Element => canonical.element(atom.database, &bytes),
            kind => {
                let bare = Details { order: details.order.clone(), ..Details::default() };
                let mut without = Vec::new();
                original.put(&atom, &bare, &mut without).unwrap();
                let prefix = bytes.len() - without.len();
                canonical.record(kind, atom.database, &bytes, prefix)
            }
        };
        let (atom, found) = again.ok_or("an atom does not come back")?;
        assert_eq!(*found, details);
        writer.put(&atom, &mut out);
        rest = &rest[length..];
    }
    let sum = HEXLOWER.encode(&sum.finalize());
    if sum == headers.atoms { Ok(out) } else { Err(format!("the atoms have the sum {sum}")) }
}

/// Reads blocks of the order, and writes them again.
pub fn order_again(blocks: &[u8], bits: u32) -> Result<Vec<u8>, String> {
    let (mut rest, mut out) = (blocks, Vec::new());
    while !rest.is_empty() {
        let mut prefixes = Vec::new();
        let length = order::block(rest, bits, &mut prefixes).ok_or("no block")?;
        let hashes: Vec<u64> = prefixes.iter().map(|prefix| prefix << (64 - bits)).collect();
        order::put_block(&hashes, bits, &mut out);
        rest = &rest[length..];
    }
    Ok(out)
}

/// A part with every form: stored bytes and headers.
pub fn sample() -> (Vec<u8>, PartHeaders) {
    let text = |text: &str| {
        let mut out = Vec::new();
        put_number(&mut out, text.len() as u64);
        [out, text.as_bytes().to_vec()].concat()
    };
    let packed = |plain: &str| {
        let mut body = Vec::new();
        Compressor::default().compress(plain.as_bytes(), &mut body);
        let mut out = vec![0xc3];
        put_number(&mut out, body.len() as u64);
        put_number(&mut out, plain.len() as u64);
        [out, body].concat()
    };
    let long = "abc".repeat(30);
    let dump: [(AtomKind, u64, Vec<u8>, usize); 8] = [
        (AtomKind::Record, 0, [&[0][..], &text("a"), &packed(&long)].concat(), 0),
        (AtomKind::Record, 0, [&[0][..], &text("b"), &[0xc1, 1, 2]].concat(), 0),
        (
            AtomKind::Record,
            0,
            [
                &[0xfc, 1, 2, 3, 4, 5, 6, 7, 8, 0xf8, 0x41, 0][..],
                &[4],
                &text("c"),
                &[3],
                &text("z"),
                &text("1"),
                &text("x"),
                &packed(&long),
                &text("y"),
                &text("3"),
            ]
            .concat(),
            12,
        ),
        (
            AtomKind::Record,
            0,
            [&[0xf9, 7][..], &[18], &text("d"), &[1, 2], &text("lp")].concat(),
            2,
        ),
        (AtomKind::Head, 3, [&[2][..], &text("e"), &[2]].concat(), 0),
        (AtomKind::Element, 3, text("one"), 0),
        (AtomKind::Element, 3, packed(&long), 0),
        (AtomKind::Record, 3, [&[7][..], &text("f"), &[5, 2, 9, 5, 1, b'm', 0]].concat(), 0),
    ];
    let (made, salt) = (1_700_000_000, [7; 16]);
    let mut canonical = Canonical::new(DIALECT);
    let (mut writer, mut stored) = (StoredWriter::default(), Vec::new());
    let (mut details, mut sum): (Vec<Details>, _) = (Vec::new(), Sha256::new());
    for (kind, database, bytes, prefix) in dump {
        let atom = match kind {
            AtomKind::Element => canonical.element(database, &bytes),
            kind => canonical.record(kind, database, &bytes, prefix),
        };
        let (atom, found) = atom.unwrap();
        sum.update(atom.hash(&salt, DIALECT).to_be_bytes());
        sum.update(&bytes);
        writer.put(&atom, &mut stored);
        details.push(found.clone());
    }
    let mut column = Vec::new();
    put_block(&details, made, &mut column);
    let headers = PartHeaders {
        salt: HEXLOWER.encode(&salt),
        made: made.to_string(),
        column: BASE64.encode(&column),
        atoms: HEXLOWER.encode(&sum.finalize()),
    };
    (stored, headers)
}
