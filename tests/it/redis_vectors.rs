//! Golden vectors of dumps that are stored as records.

use data_encoding::{BASE64, HEXLOWER};
use holdfast::crypto::ids::content_hasher;
use holdfast::format::bytes::Fields;
use holdfast::format::redis::column::{put_block, take_block};
use holdfast::format::redis::crc64::Crc64;
use holdfast::format::redis::facts::{DumpOrder, RecordFacts};
use holdfast::format::redis::frame::put_head;
use holdfast::format::redis::grammar::Dialect;
use holdfast::format::redis::lzf::Compressor;
use holdfast::format::redis::order;
use holdfast::format::redis::record::{AtomKind, Canonical, Details, Original};
use holdfast::format::redis::stored::{StoredReader, StoredWriter};
use holdfast::format::redis::text::put_number;
use sha2::{Digest as _, Sha256};

/// What the headers of a vector say of a part.
pub struct PartHeaders {
    pub dialect: String,
    pub salt: String,
    pub made: String,
    pub column: String,
    /// SHA-256 of hash (8 bytes, big-endian) and bytes of each atom.
    pub atoms: String,
}

fn dialect(word: &str) -> Dialect {
    match word {
        "redis" => Dialect::Redis,
        "valkey" => Dialect::Valkey,
        other => panic!("no dialect: {other}"),
    }
}

/// Reads the atoms of a part, turns each into its bytes, and writes them again.
pub fn part_again(stored: &[u8], headers: &PartHeaders) -> Result<Vec<u8>, String> {
    let salt = HEXLOWER.decode(headers.salt.as_bytes()).unwrap().try_into().unwrap();
    let dialect = dialect(&headers.dialect);
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
    let (mut reader, mut writer) = (StoredReader::new(dialect), StoredWriter::default());
    let (mut original, mut canonical) = (Original::new(dialect), Canonical::new(dialect));
    let (mut rest, mut out, mut sum) = (stored, Vec::new(), Sha256::new());
    while !rest.is_empty() {
        let details = details.next().unwrap_or_default();
        let (atom, length) = reader.next(rest).ok_or("no atom")?;
        let mut bytes = Vec::new();
        original.put(&atom, &details, &mut bytes).ok_or("no bytes of an atom")?;
        sum.update(atom.hash(&salt, dialect).to_be_bytes());
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

/// An atom: what it is, its database, its bytes in the dump, and how many stand before its type.
type DumpAtom = (AtomKind, u64, Vec<u8>, usize);

/// The stored bytes and headers of these atoms, in this order.
fn part_of(word: &str, dump: &[DumpAtom], order: DumpOrder) -> (Vec<u8>, PartHeaders) {
    let (made, salt) = (1_700_000_000, [7; 16]);
    let mut canonical = Canonical::new(dialect(word));
    let mut original = Original::new(dialect(word));
    let (mut writer, mut stored) = (StoredWriter::default(), Vec::new());
    let (mut details, mut sum): (Vec<Details>, _) = (Vec::new(), Sha256::new());
    for (kind, database, bytes, prefix) in dump {
        let atom = match kind {
            AtomKind::Element => canonical.element(*database, bytes),
            kind => canonical.record(*kind, *database, bytes, *prefix),
        };
        let (atom, found) = atom.unwrap();
        let mut found = found.clone();
        if order == DumpOrder::Keys {
            found.order.clear();
        }
        let mut again = Vec::new();
        original.put(&atom, &found, &mut again).unwrap();
        sum.update(atom.hash(&salt, dialect(word)).to_be_bytes());
        sum.update(&again);
        writer.put(&atom, &mut stored);
        details.push(found);
    }
    let mut column = Vec::new();
    put_block(&details, made, &mut column);
    let headers = PartHeaders {
        dialect: word.to_owned(),
        salt: HEXLOWER.encode(&salt),
        made: made.to_string(),
        column: BASE64.encode(&column),
        atoms: HEXLOWER.encode(&sum.finalize()),
    };
    (stored, headers)
}

/// A part with every form: stored bytes and headers.
pub fn sample() -> (Vec<u8>, PartHeaders) {
    part_of("redis", &atoms(), DumpOrder::Server)
}

/// A part with what Valkey 9 writes.
pub fn valkey_sample() -> (Vec<u8>, PartHeaders) {
    let timed = |field: &[u8], expiry: i64| [field, &expiry.to_le_bytes()].concat();
    let hash = [b"\x16\x01h\x02".to_vec(), timed(b"\x01z\x011", -1), timed(b"\x01a\x012", 99)];
    let dump = [
        (AtomKind::Record, 0, hash.concat(), 0),
        (AtomKind::Head, 0, b"\xfc\x08\x07\x06\x05\x04\x03\x02\x01\x16\x01i\x02".to_vec(), 9),
        (AtomKind::Element, 0, timed(b"\x01a\xc0\x07", -1), 0),
        (AtomKind::Element, 0, timed(b"\x01b\x03two", 1 << 40), 0),
        (AtomKind::Record, 0, stream(21, 16), 0),
    ];
    part_of("valkey", &dump, DumpOrder::Server)
}

/// A part with streams, hashes with times, metadata before a key, and what only old servers write.
pub fn old_and_new_sample() -> (Vec<u8>, PartHeaders) {
    let record = |bytes: &[u8], prefix| (AtomKind::Record, 0, bytes.to_vec(), prefix);
    let dump = [
        record(&stream(15, 8), 0),
        record(&stream(19, 8), 0),
        record(&stream(21, 16), 0),
        record(b"\x18\x01h\x01\x02\x03\x04\x05\x06\x07\x08\x02\x05\x01z\x011\x00\x01a\x012", 0),
        record(b"\x19\x01i\x01\x02\x03\x04\x05\x06\x07\x08\x03lpx", 0),
        record(b"\xf3\x01abcd\x05\x03xyz\x00\x00\x01m\x01v", 12),
        record(b"\xfd\x01\x02\x03\x04\x03\x01n\x03\x01a\x031.5\x01b\xfd\x01c\xff", 5),
        record(b"\x05\x01o\x01\x01a\x01\x02\x03\x04\x05\x06\x07\x08", 0),
        record(b"\x01\x01p\x02\x01b\xc2\x01\x02\x03\x04", 0),
    ];
    part_of("redis", &dump, DumpOrder::Server)
}

/// A part with what Redis writes since 8.6: streams, arrays, hashes of templates, metadata.
pub fn newest_sample() -> (Vec<u8>, PartHeaders) {
    let record = |bytes: &[u8], prefix| (AtomKind::Record, 0, bytes.to_vec(), prefix);
    let array = b"\x1c\x01t\x04\x01\x07\x00\x03\x01a\x01\x01xxxxxxxx\x02\x02yyyyyyyy\x80\x00\x01\x86\xa0\x00";
    let mut packed = Vec::new();
    Compressor::default().compress(&[b'q'; 300], &mut packed);
    let mut long = array.to_vec();
    long.push(0xc3);
    put_number(&mut long, packed.len() as u64);
    put_number(&mut long, 300);
    long.extend_from_slice(&packed);
    let dump = [
        record(&stream(26, 16), 0),
        record(&stream(27, 16), 0),
        record(&long, 0),
        record(b"\x1c\x01u\x01\x00\x05\x03\x02zz", 0),
        record(b"\x1c\x01v\x00\x00", 0),
        record(
            b"\xfc\x01\x02\x03\x04\x05\x06\x07\x08\xf3\x01abcd\x05\x03xyz\x00\x1e\x01w\x02lp",
            21,
        ),
    ];
    part_of("redis", &dump, DumpOrder::Server)
}

/// A stream of that type, with a group, a pending entry and a consumer; with a producer and what was
/// given back, where it has such.
pub fn stream(kind: u8, times_bytes: usize) -> Vec<u8> {
    let mut out = vec![kind, 1, b's', 1, 4, 1, 2, 3, 4, 3, b'a', b'b', b'c', 1, 2, 3];
    out.extend_from_slice(if kind == 15 { &[] } else { &[1, 1, 0, 0, 5] });
    out.extend_from_slice(b"\x01\x01g\x02\x03");
    out.extend_from_slice(if kind == 15 { b"" } else { b"\x40\x41" });
    out.push(1);
    out.extend_from_slice(&[9; 24]);
    out.extend_from_slice(b"\x07\x01\x01c");
    out.extend_from_slice(&vec![8; times_bytes]);
    out.push(1);
    out.extend_from_slice(&[9; 16]);
    if kind == 27 {
        out.push(2);
        out.extend_from_slice(&[7; 32]);
    }
    if kind >= 26 {
        out.extend_from_slice(
            b"\x40\x64\x40\x64\x01\x01p\x02\x02i1\x41\x00\x00\x02i2\x05\x06\x02\x01",
        );
    }
    out
}

/// What a dump by keys is stored as, and the dump.
pub struct DumpSample {
    pub records: Vec<u8>,
    pub headers: PartHeaders,
    pub frame: Vec<u8>,
    pub dump: Vec<u8>,
    pub facts: RecordFacts,
}

/// The atoms of [`sample`], by keys; stored in another order, which means nothing.
pub fn dump_sample() -> DumpSample {
    let mut atoms = atoms();
    let head = b"REDIS0012\xfa\x05ctime\xc2\x01\x02\x03\x04\xfe\x03\xfb\x01\x00";
    let mut frame = Vec::new();
    put_head(&mut frame, 0, head.len() as u64);
    frame.extend_from_slice(head);
    put_head(&mut frame, atoms.len() as u64, 9);
    frame.extend_from_slice(b"\xffan8bytes");
    let mut dump = head.to_vec();
    // The elements of the hash `c` are sorted, all else is as it was.
    let hash = &mut atoms[2].2;
    let z = hash.windows(4).position(|window| window == b"\x01z\x011").unwrap();
    let element: Vec<u8> = hash.drain(z..z + 4).collect();
    hash.extend_from_slice(&element);
    for (database, atoms) in [(0, &atoms[..4]), (3, &atoms[4..])] {
        dump.extend_from_slice(&[0xfe, database]);
        for (_, _, bytes, _) in atoms {
            dump.extend_from_slice(bytes);
        }
    }
    dump.push(0xff);
    let mut sum = Crc64::default();
    sum.update(&dump);
    dump.extend_from_slice(&sum.value().to_le_bytes());
    atoms.rotate_left(4);
    let (records, headers) = part_of("redis", &atoms, DumpOrder::Keys);
    let mut hasher = content_hasher();
    hasher.update(&frame);
    for (_, _, bytes, _) in &atoms {
        hasher.update(bytes);
    }
    let facts = RecordFacts {
        form: 1,
        dialect: "redis".into(),
        bytes: dump.len() as u64,
        hash: hasher.content_hash(),
        order: DumpOrder::Keys,
        salt: headers.salt.clone(),
        atoms: atoms.len() as u64,
        order_bits: 16,
        order_files: 0,
        part_bits: 0,
        made: headers.made.parse().unwrap(),
        unknown_bytes: 0,
    };
    DumpSample { records, headers, frame, dump, facts }
}

fn atoms() -> Vec<DumpAtom> {
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
    vec![
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
    ]
}
