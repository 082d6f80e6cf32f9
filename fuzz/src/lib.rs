//! What the fuzz targets do with their input.
//!
//! Whatever the bytes are, a decoder returns. What it accepts, it must be able to write: encoding a
//! decoded value and decoding it again gives the same value, and where the form is canonical the
//! same bytes. A target never allocates more than the decoder itself does, so the fuzzer's limit of
//! memory is a limit for the decoder.

pub mod redis;

use std::fmt::Debug;
use std::io::Read;
use std::sync::LazyLock;

use holdfast::cli::config::Config;
use holdfast::cli::selector::Selector;
use holdfast::cli::time::Moment;
use holdfast::crypto::ids::repository_id;
use holdfast::crypto::recipient::{Identity, NativeRecipient, ReadIdentity, Recipient};
use holdfast::crypto::seal::{ObjectSize, Sealer};
use holdfast::crypto::secret::Secret32;
use holdfast::crypto::signature::{SigningKey, VerifyingKey};
use holdfast::crypto::small::open_small;
use holdfast::crypto::unseal::{open_stream, open_whole};
use holdfast::format::attestation::Attestation;
use holdfast::format::commit::{Commit, ObjectName};
use holdfast::format::index_segment::IndexSegment;
use holdfast::format::keyfile::{DomainFile, EpochFile, MaintainerFile, OperatorKeys, WriterFile};
use holdfast::format::pack::PackTable;
use holdfast::format::postgres::dump_toc::DumpToc;
use holdfast::format::postgres::history_file::parse_history;
use holdfast::format::postgres::increment::IncrementFront;
use holdfast::format::postgres::lsn::{Lsn, Timeline};
use holdfast::format::postgres::manifest::{ManifestRewriter, ManifestSummary};
use holdfast::format::postgres::segment::{SegmentBytes, WalFile};
use holdfast::format::postgres::wal_page::SegmentHead;
use holdfast::format::postgres::wal_records::WalRecords;
use holdfast::format::refs::Refs;
use holdfast::format::roster::Roster;
use holdfast::format::signed_text::TextError;
use holdfast::format::snapshot::Snapshot;
use holdfast::format::tombstone::Tombstone;
use holdfast::format::tree::{
    LeafBuilder, decode_index, decode_leaf, decode_list, encode_index, encode_list,
};
use holdfast::id::RepositoryId;
use holdfast::repo::bundle::WriterBundle;
use holdfast::restore::postgres::control_file::guard;
use holdfast::source::postgres::address::Address;
use holdfast::source::postgres::wire::Inbox;
use holdfast::units::{parse_rate, parse_size, parse_span};
use secrecy::{ExposeSecret, SecretString};

/// Content of a small object that is decoded at most.
const CONTENT_BYTES_MAX: u64 = 1 << 20;

/// The signed texts.
#[derive(Clone, Copy)]
pub enum Kind {
    /// `roster/…`
    Roster,
    /// `log/…`
    Commit,
    /// `tombs/…`
    Tombstone,
    /// `attest/…`
    Attestation,
}

/// The key of the vectors for that kind, so that they are seeds that pass.
fn signing_key(kind: Kind) -> SigningKey {
    let seed = match kind {
        Kind::Roster => 1,
        Kind::Commit => 2,
        Kind::Tombstone => 3,
        Kind::Attestation => 4,
    };
    SigningKey::from_seed(&Secret32::from_bytes(&[seed; 32]))
}

static REPOSITORY: LazyLock<RepositoryId> =
    LazyLock::new(|| repository_id(&signing_key(Kind::Roster).verifying_key()));
static READER: LazyLock<(Identity, Recipient)> = LazyLock::new(|| {
    let identity = ReadIdentity::from_secret(&Secret32::from_bytes(&[9; 32]));
    (identity.to_identity(), identity.recipient().into())
});

/// Signs the message before reading it: the parser is what is tried, not the signature.
pub fn signed_text(kind: Kind, message: &[u8]) {
    let key = signing_key(kind);
    let public = key.verifying_key();
    let sign = |namespace: &str| {
        let mut whole = message.to_vec();
        whole.extend_from_slice(key.sign(namespace, message).as_bytes());
        whole
    };
    match kind {
        Kind::Roster => again(
            |whole| Roster::open(whole, *REPOSITORY),
            &sign("holdfast.roster@v1"),
            |value| value.encode_and_sign(&key),
        ),
        Kind::Commit => again(
            |whole| Commit::open(whole, &public, *REPOSITORY),
            &sign("holdfast.commit@v1"),
            |value| value.encode_and_sign(&key),
        ),
        Kind::Tombstone => again(
            |whole| Tombstone::open(whole, &public, *REPOSITORY),
            &sign("holdfast.tombstone@v1"),
            |value| value.encode_and_sign(&key),
        ),
        Kind::Attestation => again(
            |whole| Attestation::open(whole, &public, *REPOSITORY),
            &sign("holdfast.attestation@v1"),
            |value| value.encode_and_sign(&key),
        ),
    }
}

fn again<T: PartialEq + Debug>(
    open: impl Fn(&[u8]) -> Result<T, TextError>,
    whole: &[u8],
    sign: impl Fn(&T) -> Result<Vec<u8>, TextError>,
) {
    if let Ok(value) = open(whole) {
        let printed = sign(&value).expect("what was read can be printed");
        assert_eq!(open(&printed).expect("what was printed can be read"), value);
    }
}

/// The text as it is in a store, its signature included.
pub fn signature(whole: &[u8]) {
    let key = signing_key(Kind::Commit).verifying_key();
    let _ = Roster::open(whole, *REPOSITORY);
    let _ = Commit::open(whole, &key, *REPOSITORY);
    let _ = key.verify("holdfast.commit@v1", b"message", whole);
}

/// All texts that hold keys.
pub fn key_file(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let text = SecretString::from(text);
    same_text(OperatorKeys::parse(&text).map(|keys| keys.print()), |t| {
        OperatorKeys::parse(t).is_ok()
    });
    same_text(DomainFile::parse(&text).map(|keys| keys.print()), |t| DomainFile::parse(t).is_ok());
    same_text(EpochFile::parse(&text).map(|keys| keys.print()), |t| EpochFile::parse(t).is_ok());
    same_text(WriterFile::parse(&text).map(|keys| keys.print()), |t| WriterFile::parse(t).is_ok());
    same_text(MaintainerFile::parse(&text).map(|keys| keys.print()), |t| {
        MaintainerFile::parse(t).is_ok()
    });
    same_text(WriterBundle::parse(&text).map(|bundle| bundle.print()), |t| {
        WriterBundle::parse(t).is_ok()
    });
}

fn same_text(printed: Result<SecretString, TextError>, is_read: impl Fn(&SecretString) -> bool) {
    if let Ok(printed) = printed {
        assert!(is_read(&printed), "{} is printed and not read", printed.expose_secret());
    }
}

/// A footer: canonical.
pub fn pack_footer(bytes: &[u8]) {
    if let Some(end) = bytes.last_chunk::<8>() {
        let _ = PackTable::footer_frame_length(*end);
    }
    if let Ok((owner, table)) = PackTable::decode_footer(bytes) {
        let mut out = Vec::new();
        table.encode_footer(&owner, &mut out);
        assert_eq!(out, bytes);
    }
}

/// A segment: canonical.
pub fn index_segment(bytes: &[u8]) {
    if let Ok(segment) = IndexSegment::decode(bytes) {
        assert_eq!(segment.encode(), bytes);
    }
}

/// A leaf; keys that a reader does not know are not kept.
pub fn leaf(bytes: &[u8]) {
    let Ok(entries) = decode_leaf(bytes) else { return };
    let mut builder = LeafBuilder::default();
    for (key, node) in &entries {
        builder.push(&key.dir, node);
    }
    if let Some((again, first, count)) = builder.finish() {
        let again = decode_leaf(&again).expect("what was written can be read");
        assert_eq!(count, entries.len() as u64);
        assert_eq!(first, entries[0].0);
        assert_eq!(again, entries);
    }
}

/// The first byte chooses the level.
pub fn index_node(input: &[u8]) {
    let Some((level, bytes)) = input.split_first() else { return };
    if let Ok(children) = decode_index(bytes, *level) {
        let again = decode_index(&encode_index(*level, &children), *level);
        assert_eq!(again.expect("what was written can be read"), children);
    }
}

/// The first byte chooses the depth.
pub fn list(input: &[u8]) {
    let Some((depth, bytes)) = input.split_first() else { return };
    if let Ok(runs) = decode_list(bytes, *depth) {
        let again = decode_list(&encode_list(*depth, &runs), *depth);
        assert_eq!(again.expect("what was written can be read"), runs);
    }
}

/// Refs; keys that a reader does not know are not kept.
pub fn refs(bytes: &[u8]) {
    if let Ok(refs) = Refs::decode(bytes) {
        assert_eq!(Refs::decode(&refs.encode()).expect("what was written can be read"), refs);
    }
}

/// A snapshot; keys that a reader does not know are not kept.
pub fn snapshot(bytes: &[u8]) {
    if let Ok(snapshot) = Snapshot::decode(bytes) {
        let again = Snapshot::decode(&snapshot.encode());
        assert_eq!(again.expect("what was written can be read"), snapshot);
    }
}

/// A sealed object as it is in a store. Both ways of opening it agree.
pub fn sealed(object: &[u8]) {
    let identities = [&READER.0];
    let mut whole = Vec::new();
    let opened = open_whole(&identities, object, &mut whole).is_ok();
    let streamed = open_stream(&identities, std::io::Cursor::new(object)).ok().and_then(|mut s| {
        let mut plain = Vec::new();
        s.read_to_end(&mut plain).ok().map(|_| plain)
    });
    assert_eq!(opened, streamed.is_some());
    if let Some(plain) = streamed {
        assert_eq!(plain, whole);
    }
}

/// What is inside a small object.
pub fn small_content(plain: &[u8]) {
    let mut sealer = Sealer::begin(&[&READER.1], Vec::new(), ObjectSize::Free).expect("sealed");
    sealer.write(plain).expect("sealed");
    if let Ok(content) = open_small(&[&READER.0], &sealer.finish(), CONTENT_BYTES_MAX) {
        assert!(content.len() as u64 <= CONTENT_BYTES_MAX);
    }
}

/// What a person types or configures, and names of objects.
pub fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let now = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
    let _ = Selector::parse(text, &now);
    if let Ok(moment) = Moment::parse(text, &now) {
        let _ = (moment.start(&now), moment.end(&now));
    }
    let _ = (parse_size(text), parse_rate(text), parse_span(text));
    let _ = Config::parse(text);
    let _ = text.parse::<VerifyingKey>();
    let _ = text.parse::<NativeRecipient>();
    if let Ok(name) = text.parse::<ObjectName>() {
        assert_eq!(name.to_string(), text);
    }
}

/// Bytes of a `PostgreSQL` server: the first one says of what.
pub fn postgres(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 7 {
        0 => {
            let mut inbox = Inbox::default();
            for part in rest.chunks(usize::from(*kind) + 1) {
                inbox.buffer().extend_from_slice(part);
                while let Ok(Some(_)) = inbox.take() {}
            }
        }
        1 => {
            if let Ok(way) = parse_history(Timeline(7), rest) {
                assert!(way.last().is_some_and(|last| last.timeline == Timeline(7)));
                assert!(way.windows(2).all(|pair| pair[0].end == Some(pair[1].begin)));
            }
        }
        2 => {
            let mut ends = WalRecords::default();
            let middle = rest.len() / 2;
            ends.take(&rest[..middle], false, &mut |_| {});
            ends.take(&rest[middle..], true, &mut |_| {});
            drop(SegmentHead::parse(rest));
        }
        3 => drop(DumpToc::decode(rest)),
        4 => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            drop(Address::parse(text, &|_: &str| None));
            if let Some(WalFile::Segment(segment)) = WalFile::parse(text, SegmentBytes::DEFAULT) {
                assert_eq!(segment.name(SegmentBytes::DEFAULT), text);
            }
            if let Ok(lsn) = text.parse::<Lsn>() {
                assert_eq!(lsn.to_string().parse(), Ok(lsn));
            }
        }
        5 => increment_and_manifest(rest),
        _ => {
            let mut control = rest.to_vec();
            if guard(&mut control).is_ok() {
                assert_eq!(guard(&mut control), Ok(()));
            }
        }
    }
}

fn increment_and_manifest(data: &[u8]) {
    const PAGE_BYTES: u32 = 64;
    const SEGMENT_PAGES: u32 = 4096;
    if let Some((front, rest)) = data.split_first_chunk() {
        let front = IncrementFront::decode(front, data.len() as u64, PAGE_BYTES, SEGMENT_PAGES);
        if let Ok(front) = front
            && let Some(rest) = rest.get(..front.rest_bytes(PAGE_BYTES) as usize)
            && let Ok(increment) = front.numbers(rest, SEGMENT_PAGES)
        {
            assert!(increment.pages <= SEGMENT_PAGES);
            assert!(increment.changed.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!(increment.changed.len(), front.count as usize);
        }
    }
    let mut rewriter = ManifestRewriter::new(ManifestSummary::default());
    let mut out = Vec::new();
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        if rewriter.take(line, &mut out).is_err() {
            return;
        }
    }
    // What was made of a list is a list.
    let mut summary = ManifestSummary::default();
    for line in out.split_inclusive(|byte| *byte == b'\n') {
        summary.take(line).expect("a line of our own is understood");
    }
}
