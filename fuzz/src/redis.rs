//! Dumps of Redis and Valkey, and what is stored of them.

use holdfast::format::bytes::Fields;
use holdfast::format::redis::bits::BitReader;
use holdfast::format::redis::column::{put_block, take_block};
use holdfast::format::redis::command_stream::CommandScanner;
use holdfast::format::redis::dump_parts::{DumpParts, Kind, LOOKAHEAD_BYTES, Next};
use holdfast::format::redis::facts::RecordFacts;
use holdfast::format::redis::frame::head;
use holdfast::format::redis::grammar::Dialect;
use holdfast::format::redis::journal::SegmentReader;
use holdfast::format::redis::order::{self, ByHash};
use holdfast::format::redis::record::{AtomKind, Canonical, Details, Original};
use holdfast::format::redis::server_facts::RedisFacts;
use holdfast::format::redis::stored::{StoredReader, StoredWriter};
use holdfast::format::redis::text::Front;
use holdfast::source::redis::address::Address;
use holdfast::source::redis::payload::Payload;
use holdfast::source::redis::reply::front;

/// What an atom has at most for each byte of the dump: LZF is decoded.
const GROWTH_MAX: usize = 24;

/// Any bytes: parts are all of them, and an atom turns into its own. The first byte chooses a magic,
/// and how many bytes come at once.
pub fn dump(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let magic: &[u8] = match choice % 6 {
        0 => b"",
        1 => b"REDIS0009",
        2 => b"REDIS0012",
        3 => b"REDIS0014",
        4 => b"REDIS0003",
        _ => b"VALKEY080",
    };
    let whole = [magic, data].concat();
    let step = [usize::MAX, 1, 7, 1000][usize::from(choice / 6) % 4].min(whole.len()).max(1);
    let mut parts = DumpParts::default();
    let mut canonical: Option<Canonical> = None;
    let mut inverse = Inverse::new(Dialect::Redis);
    let (mut start, mut end) = (0, 0);
    while start < whole.len() || end < whole.len() {
        end = (end + step).min(whole.len());
        while start < end {
            let bytes = &whole[start..end];
            let Next::Part(kind, length) = parts.next(bytes, end == whole.len()) else {
                assert!(bytes.len() < LOOKAHEAD_BYTES, "a part can be told from so many bytes");
                break;
            };
            assert!((1..=bytes.len()).contains(&length));
            let canonical = canonical.get_or_insert_with(|| {
                inverse = Inverse::new(parts.dialect());
                Canonical::new(parts.dialect())
            });
            inverse.check(canonical, kind, parts.database(), &bytes[..length]);
            start += length;
        }
    }
    let _ = (parts.ending(), parts.created(), parts.is_bound());
}

struct Inverse {
    original: Original,
    writer: StoredWriter,
    reader: StoredReader,
}

impl Inverse {
    fn new(dialect: Dialect) -> Self {
        let (original, reader) = (Original::new(dialect), StoredReader::new(dialect));
        Self { original, writer: StoredWriter::default(), reader }
    }

    fn check(&mut self, canonical: &mut Canonical, kind: Kind, database: u64, bytes: &[u8]) {
        let atom = match kind {
            Kind::Between | Kind::Unknown => return,
            Kind::Record { prefix } => canonical.record(AtomKind::Record, database, bytes, prefix),
            Kind::TableHead { prefix } => canonical.record(AtomKind::Head, database, bytes, prefix),
            Kind::Element => canonical.element(database, bytes),
        };
        let Some((atom, details)) = atom else { return };
        // An element has the key of its table, which is no longer than is allowed to.
        let key = if kind == Kind::Element { 0 } else { atom.key.len() };
        assert!(key + atom.body.len() <= GROWTH_MAX * bytes.len());
        let mut stored = Vec::new();
        self.writer.put(&atom, &mut stored);
        let (read, length) = self.reader.next(&stored).expect("what was stored can be read");
        assert_eq!((read, length), (atom, stored.len()));
        let mut again = Vec::new();
        self.original.put(&read, details, &mut again).expect("what was stored can be put out");
        assert_eq!(again, bytes);
        let mut block = Vec::new();
        put_block(std::slice::from_ref(details), 77, &mut block);
        let read = take_block(&mut Fields::new(&block), 77).expect("a block of our own");
        assert_eq!(read, std::slice::from_ref(details));
    }
}

/// The first byte says of what the others are.
pub fn stored(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 8 {
        0 => atoms(Dialect::Redis, data),
        1 => atoms(Dialect::Valkey, data),
        2 => {
            let mut fields = Fields::new(data);
            while fields.left() > 0 {
                let Ok(block) = take_block(&mut fields, 9) else { break };
                if (1..=255).contains(&block.len()) {
                    let mut again = Vec::new();
                    put_block(&block, 9, &mut again);
                    let read = take_block(&mut Fields::new(&again), 9);
                    assert_eq!(read.expect("what was written can be read"), block);
                }
            }
        }
        3 => orders(data),
        4 => {
            let mut rest = data;
            while let Front::Is((_, length), head) = head(rest) {
                let Some(after) = rest.get(head as usize..) else { break };
                rest = after.get(length.min(after.len() as u64) as usize..).unwrap_or_default();
            }
            if let Ok(facts) = serde_json::from_slice(data) {
                let _ = (RecordFacts::of(Some(&facts)), RedisFacts::decode(&facts));
            }
        }
        5 => {
            let mut seen = 0;
            let mut reader = SegmentReader::default();
            for bytes in data.chunks(usize::from(*kind) + 1) {
                if reader.take(bytes, &mut |_, bytes| seen += bytes.len()).is_err() {
                    break;
                }
            }
            assert!(seen <= data.len());
            let _ = (reader.finish(), reader.whole());
        }
        6 => {
            let mut whole = CommandScanner::new(5, None);
            let mut found = Vec::new();
            let is_whole = whole.take(data, &mut |command| found.push(*command));
            let mut pieces = CommandScanner::new(5, None);
            let mut again = Vec::new();
            let mut in_pieces = Ok(());
            for bytes in data.chunks(usize::from(*kind) + 1) {
                in_pieces = pieces.take(bytes, &mut |command| again.push(*command));
                if in_pieces.is_err() {
                    break;
                }
            }
            assert_eq!((is_whole, found), (in_pieces, again));
            assert!(whole.boundary() <= whole.position());
        }
        _ => from_servers(data),
    }
}

/// Atoms as a hostile writer stores them: read, put out, and in the end found out by the hash.
fn atoms(dialect: Dialect, data: &[u8]) {
    let (mut reader, mut original) = (StoredReader::new(dialect), Original::new(dialect));
    let (mut rest, mut out) = (data, Vec::new());
    while let Some((atom, length)) = reader.next(rest) {
        let _ = atom.hash(&[1; 16], dialect);
        out.clear();
        let put = original.put(&atom, &Details::default(), &mut out);
        // Compressing makes a text longer by a 32nd at most; what many share is said once.
        assert!(put.is_none() || out.len() <= 2 * data.len() + 32);
        rest = &rest[length..];
    }
}

fn orders(data: &[u8]) {
    let Some((bits, data)) = data.split_first() else { return };
    let bits = u32::from(bits % 49);
    let (mut rest, mut prefixes) = (data, Vec::new());
    while let Some(length) = order::block(rest, bits, &mut prefixes) {
        rest = &rest[length..];
    }
    let hashes = data.chunks_exact(2).map(|pair| u64::from(pair[0]) << 56 | u64::from(pair[1]));
    let mut by_hash = ByHash::new(hashes, bits);
    if by_hash.read_ties(&mut BitReader::new(data)).is_some() {
        for prefix in prefixes.iter().take(1000) {
            let _ = by_hash.next(*prefix);
        }
    }
}

fn from_servers(data: &[u8]) {
    let _ = front(data);
    let mut payload = Payload::default();
    let mut dump = Vec::new();
    for bytes in data.chunks(13) {
        if payload.is_done() || payload.take(bytes, &mut dump).is_err() {
            break;
        }
    }
    assert!(dump.len() <= data.len());
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Address::parse(text);
    }
}
