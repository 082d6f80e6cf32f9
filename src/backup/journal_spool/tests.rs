//! What is taken comes back, in segments that begin and end between commands.

use super::*;
use crate::format::redis::command_stream::encode_command;
use crate::format::redis::journal::{SegmentReader, frame_header};

fn header(start: u64, session: u64) -> SegmentHeader {
    SegmentHeader {
        journal: SegmentHeader::VERSION,
        line: "00112233aabbccdd".into(),
        session,
        replid: "r".into(),
        start,
        db: None,
        begun: 1000,
        live_from: start + 1,
    }
}

fn set(value: usize) -> Vec<u8> {
    encode_command(&[b"SET", b"key", &vec![b'x'; value]])
}

/// The bytes of the stream that the files of all segments hold, up to what counts of each.
fn content(unsaved: &Unsaved) -> Vec<(u64, Vec<u8>)> {
    let of = |(file, (_, segment)): (&LogInput, &(String, SavedSegment))| {
        let LogContent::Front { path, bytes } = &file.content else { panic!("a file") };
        let stored = std::fs::read(path).unwrap();
        let mut reader = SegmentReader::default();
        let mut stream = Vec::new();
        let stored = &stored[..*bytes as usize];
        reader.take(stored, &mut |_, bytes| stream.extend_from_slice(bytes)).unwrap();
        reader.finish().unwrap();
        assert_eq!(reader.header().unwrap().start, segment.range.start);
        stream.truncate((segment.range.end - segment.range.start) as usize);
        (segment.range.start, stream)
    };
    unsaved.files.iter().zip(&unsaved.segments).map(of).collect()
}

#[test]
fn what_was_taken_is_found_again_whatever_was_torn() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = JournalSpool::open(folder.path(), u64::MAX).unwrap();
    spool.begin(header(100, 0)).unwrap();
    let (first, second) = (set(10), set(20));
    assert!(!spool.take(1000, &first).unwrap());
    assert!(spool.unsaved().files.is_empty());
    spool.take(1020, &second[..5]).unwrap();
    spool.tick(1060).unwrap();
    assert!(spool.has_unsaved_data());
    let unsaved = spool.unsaved();
    assert_eq!(content(&unsaved), [(100, first.clone())]);
    let range = &unsaved.segments[0].1.range;
    assert_eq!((range.from, range.until), (Some(1060), 1060));
    spool.saved(&unsaved.segments);
    assert!(!spool.has_unsaved_data() && spool.unsaved().files.is_empty());
    spool.take(1070, &second[5..]).unwrap();
    spool.tick(2000).unwrap();
    // The process is killed within the writing of a frame.
    let path = spool.segments[0].path.clone();
    drop(spool);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole[..], &frame_header(3000, 50), b"*1"].concat()).unwrap();
    let mut spool = JournalSpool::open(folder.path(), u64::MAX).unwrap();
    let both = [&first[..], &second[..]].concat();
    assert_eq!(content(&spool.unsaved()), [(100, both.clone())]);
    let end = spool.end().unwrap();
    assert_eq!((end.offset, end.session), (100 + both.len() as u64, 0));
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    spool.keep_line(Some("other"));
    assert!(spool.end().is_none() && !path.exists());
    std::fs::write(&path, "{\"jour").unwrap();
    assert!(JournalSpool::open(folder.path(), u64::MAX).unwrap().end().is_none());
    std::fs::write(&path, "{\"journal\":2}\n").unwrap();
    assert!(JournalSpool::open(folder.path(), u64::MAX).is_err());
}

#[test]
fn segments_end_between_commands_and_go_when_they_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = JournalSpool::open(folder.path(), u64::MAX).unwrap();
    spool.begin(header(0, 0)).unwrap();
    let command = set(700_000);
    let stream = command.repeat(60);
    for (number, piece) in stream.chunks(200_001).enumerate() {
        spool.take(1000 + number as u64, piece).unwrap();
    }
    spool.tick(100_000).unwrap();
    let unsaved = spool.unsaved();
    let segments = content(&unsaved);
    assert_eq!(segments.len(), 3);
    let mut joined = Vec::new();
    for (start, bytes) in &segments {
        assert_eq!(*start, joined.len() as u64);
        assert_eq!(bytes.len() % command.len(), 0);
        joined.extend_from_slice(bytes);
    }
    assert!(joined == stream);
    spool.saved(&unsaved.segments);
    let files = || {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name() != RESERVE).count()
    };
    assert_eq!(files(), 1);
    spool.end_connection().unwrap();
    assert_eq!(files(), 0);
}

#[test]
fn signs_of_life_are_no_data_and_a_full_spool_takes_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = JournalSpool::open(folder.path(), 100).unwrap();
    spool.begin(header(0, 0)).unwrap();
    spool.take(1000, &encode_command(&[b"PING"])).unwrap();
    spool.tick(2000).unwrap();
    assert!(!spool.has_unsaved_data() && spool.unsaved().files.len() == 1);
    let asks = encode_command(&[b"REPLCONF", b"GETACK", b"*"]);
    assert!(spool.take(2000, &asks).unwrap());
    spool.take(2000, &set(200)).unwrap();
    spool.tick(3000).unwrap();
    spool.take(3000, &set(200)).unwrap();
    assert!(matches!(spool.tick(4000), Err(JournalSpoolError::Full { .. })));
    assert!(spool.end_connection().is_err());
    assert!(spool.take(4000, b"*1").is_ok());
}
