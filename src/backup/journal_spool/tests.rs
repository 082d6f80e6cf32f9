//! What is taken comes back, in segments that begin and end between commands.

use super::*;
use crate::backup::journal_pending::Transactions;
use crate::format::redis::command_stream::encode_command;
use crate::format::redis::journal::{SegmentReader, frame_header};

fn header(start: u64, session: u64) -> SegmentHeader {
    SegmentHeader {
        journal: SegmentHeader::VERSION,
        line: "00112233aabbccdd".into(),
        session,
        replid: "r".into(),
        after: None,
        start,
        db: None,
        begun: 1000,
        live_from: u64::MAX,
    }
}

fn sender(transactions: Transactions) -> Sender {
    Sender { run_id: "run".into(), transactions }
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

/// Session, end, and exact moments of a segment.
type Range = (u64, u64, Option<(u64, u64)>);

/// A spool that is given its clock and what is seen of the server.
struct Taking {
    spool: JournalSpool,
    seen: Sightings,
}

impl Taking {
    fn new(folder: &Path, bytes_max: u64) -> Self {
        let spool = JournalSpool::open(folder, bytes_max).unwrap();
        Self { spool, seen: Sightings::default() }
    }

    fn begin(&mut self, header: SegmentHeader) {
        self.spool.begin(header, sender(Transactions::Done)).unwrap();
    }

    /// The server says at that time that it is there.
    fn see(&mut self, time: u64, offset: u64) {
        self.seen.add("r run", time, time, offset);
    }

    fn take(&mut self, now: u64, bytes: &[u8]) -> Result<bool, JournalSpoolError> {
        self.spool.take(now, bytes, &mut self.seen)
    }

    fn tick(&mut self, now: u64) -> Result<(), JournalSpoolError> {
        self.spool.tick(now, &mut self.seen)
    }

    fn end(&mut self, now: u64) -> Result<(), JournalSpoolError> {
        self.spool.end_connection(now, &mut self.seen)
    }

    fn ranges(&self) -> Vec<Range> {
        let range = |(_, saved): &(String, SavedSegment)| {
            let range = &saved.range;
            (range.session, range.end, range.from.map(|from| (from, range.until)))
        };
        self.spool.unsaved().segments.iter().map(range).collect()
    }
}

#[test]
fn what_was_taken_is_found_again_whatever_was_torn() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Taking::new(folder.path(), u64::MAX);
    one.begin(header(100, 0));
    one.see(990, 100);
    let (first, second) = (set(10), set(20));
    assert!(!one.take(1000, &first).unwrap());
    assert!(one.spool.unsaved().files.is_empty());
    one.take(1020, &second[..5]).unwrap();
    one.tick(1060).unwrap();
    assert!(one.spool.has_unsaved_data());
    let unsaved = one.spool.unsaved();
    assert_eq!(content(&unsaved), [(100, first.clone())]);
    let range = &unsaved.segments[0].1.range;
    assert_eq!((range.from, range.until), (Some(990), 1060));
    one.spool.saved(&unsaved.segments);
    assert!(!one.spool.has_unsaved_data() && one.spool.unsaved().files.is_empty());
    one.take(1200, &second[5..]).unwrap();
    // Its front came then, so it was executed by then.
    assert_eq!(one.ranges()[0].2, Some((990, 1060)));
    // The process is killed within the writing of a frame.
    let path = one.spool.segments[0].path.clone();
    drop(one);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole[..], &frame_header(3000, 50), b"*1"].concat()).unwrap();
    let mut one = Taking::new(folder.path(), u64::MAX);
    let both = [&first[..], &second[..]].concat();
    assert_eq!(content(&one.spool.unsaved()), [(100, both.clone())]);
    assert_eq!(one.ranges(), [(0, 100 + both.len() as u64, Some((990, 1060)))]);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    one.spool.keep_line(Some("other"));
    assert!(one.spool.end().is_none() && !path.exists());
    std::fs::write(&path, "{\"jour").unwrap();
    assert!(JournalSpool::open(folder.path(), u64::MAX).unwrap().end().is_none());
    std::fs::write(&path, "{\"journal\":2}\n").unwrap();
    assert!(JournalSpool::open(folder.path(), u64::MAX).is_err());
}

#[test]
fn what_comes_late_has_the_time_at_which_it_was_executed() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Taking::new(folder.path(), u64::MAX);
    one.begin(header(0, 0));
    let command = set(100);
    let length = command.len() as u64;
    // The server does one command in 200 ms; all of them come ten seconds later.
    for number in 0..50 {
        one.see(1000 + 200 * number, length * number);
    }
    one.take(20_000, &command.repeat(49)).unwrap();
    one.tick(20_100).unwrap();
    assert_eq!(one.ranges(), [(0, 49 * length, Some((1000, 10_800)))]);
    let unsaved = one.spool.unsaved();
    let LogContent::Front { path, .. } = &unsaved.files[0].content else { panic!("a file") };
    let mut frames = Vec::new();
    let mut reader = SegmentReader::default();
    let stored = std::fs::read(path).unwrap();
    reader.take(&stored, &mut |time, bytes| frames.push((time, bytes.len()))).unwrap();
    assert_eq!((frames.len(), frames[9]), (49, (3000, command.len())));
}

#[test]
fn a_time_in_which_nothing_was_seen_is_no_part_of_what_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Taking::new(folder.path(), u64::MAX);
    one.begin(header(0, 7));
    let command = set(100);
    let length = command.len() as u64;
    // Of the backlog nobody knows when it was executed.
    one.see(1000, length);
    one.take(1010, &command.repeat(2)).unwrap();
    one.tick(1100).unwrap();
    one.see(1200, 2 * length);
    assert_eq!(one.ranges(), [(7, length, None), (1100, 2 * length, Some((1000, 1100)))]);
    // Within a command the process stands still for three seconds.
    one.take(1300, &command[..50]).unwrap();
    one.tick(1360).unwrap();
    one.take(4400, &[&command[50..], &command[..]].concat()).unwrap();
    one.tick(4500).unwrap();
    one.see(4600, 4 * length);
    one.take(4700, &command).unwrap();
    one.tick(4800).unwrap();
    let expected = [
        (7, length, None),
        (1100, 3 * length, Some((1000, 1360))),
        (4500, 4 * length, None),
        (4800, 5 * length, Some((4600, 4800))),
    ];
    assert_eq!(one.ranges(), expected);
    drop(one);
    assert_eq!(Taking::new(folder.path(), u64::MAX).ranges(), expected);
}

#[test]
fn what_a_script_of_an_old_server_does_is_of_its_end() {
    for (transactions, until) in [(Transactions::AtWork, 9000), (Transactions::Done, 1060)] {
        let folder = tempfile::tempdir().unwrap();
        let mut one = Taking::new(folder.path(), u64::MAX);
        one.spool.begin(header(0, 7), sender(transactions)).unwrap();
        one.see(990, 0);
        let multi = [encode_command(&[b"MULTI"]), set(5)].concat();
        one.take(1000, &multi).unwrap();
        one.tick(1060).unwrap();
        one.take(9000, &[set(6), encode_command(&[b"EXEC"])].concat()).unwrap();
        one.end(9100).unwrap();
        assert_eq!(one.ranges()[0].2, Some((990, until)));
    }
}

#[test]
fn a_server_that_is_nearly_too_far_away_makes_few_parts() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Taking::new(folder.path(), u64::MAX);
    one.begin(header(0, 7));
    let command = set(100);
    let length = command.len() as u64;
    for number in 0..1000 {
        let now = 100 * number;
        // Every other second it is seen in time.
        if now / 1000 % 2 == 0 {
            one.see(now, length * number);
        } else if now % 1000 == 0 {
            one.seen = Sightings::default();
        }
        one.take(now, &command).unwrap();
    }
    one.end(100_000).unwrap();
    let parts = one.ranges().len();
    assert!((2..60).contains(&parts), "{parts}");
}

#[test]
fn what_is_left_is_in_the_order_of_its_parts_and_ends_at_damage() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Taking::new(folder.path(), u64::MAX);
    let command = set(100);
    let length = command.len() as u64;
    // The second part is older by a clock that was put back.
    for (session, now) in [(0, 90_000), (91_000, 50_000)] {
        one.begin(header(if session == 0 { 0 } else { 2 * length }, session));
        one.take(now, &command.repeat(2)).unwrap();
        one.end(now + 100).unwrap();
    }
    let paths: Vec<_> = one.spool.segments.iter().map(|one| one.path.clone()).collect();
    drop(one);
    let mut one = Taking::new(folder.path(), u64::MAX);
    let end = one.spool.end().unwrap();
    assert_eq!((end.session, end.offset), (91_000, 4 * length));
    drop(one);
    // The front of the second command of the first part is damaged.
    let mut bytes = std::fs::read(&paths[0]).unwrap();
    let at = bytes.len() - command.len();
    bytes[at..at + 5].fill(0);
    std::fs::write(&paths[0], bytes).unwrap();
    one = Taking::new(folder.path(), u64::MAX);
    one.spool.keep_beyond(&BTreeMap::new()).unwrap();
    assert_eq!(one.spool.end().unwrap().offset, length);
    assert_eq!(one.ranges().len(), 1);
    assert!(paths[0].exists() && !paths[1].exists());
    // What comes again from the same place is in its stead.
    one.begin(header(0, 0));
    one.take(95_000, &command.repeat(2)).unwrap();
    one.end(95_100).unwrap();
    assert_eq!(one.ranges(), [(0, 2 * length, None)]);
}

#[test]
fn what_another_start_of_the_system_has_left_unfinished_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Taking::new(folder.path(), u64::MAX);
    let command = set(100);
    let length = command.len() as u64;
    for (session, now) in [(0, 1000), (3000, 3000)] {
        one.begin(header(if session == 0 { 0 } else { 2 * length }, session));
        one.take(now, &command.repeat(2)).unwrap();
        one.end(now + 100).unwrap();
    }
    drop(one);
    assert_eq!(Taking::new(folder.path(), u64::MAX).ranges().len(), 2);
    std::fs::write(folder.path().join(BOOT), "another one").unwrap();
    let one = Taking::new(folder.path(), u64::MAX);
    assert_eq!(one.spool.end().unwrap().offset, 2 * length);
    drop(one);
    assert_eq!(Taking::new(folder.path(), u64::MAX).ranges().len(), 1);
}

#[test]
fn a_clock_that_is_put_back_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Taking::new(folder.path(), u64::MAX);
    one.begin(header(0, 7));
    let command = set(100);
    let length = command.len() as u64;
    one.see(100_000, 0);
    one.take(100_010, &command).unwrap();
    one.tick(100_100).unwrap();
    one.take(50_000, &command).unwrap();
    one.tick(50_100).unwrap();
    one.see(50_200, 2 * length);
    one.take(50_300, &command).unwrap();
    one.end(50_400).unwrap();
    let expected = [
        (7, length, Some((100_000, 100_100))),
        (50_100, 2 * length, None),
        (50_400, 3 * length, Some((50_200, 50_400))),
    ];
    assert_eq!(one.ranges(), expected);
}

#[test]
fn segments_end_between_commands_and_go_when_they_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Taking::new(folder.path(), u64::MAX);
    one.begin(header(0, 0));
    let command = set(700_000);
    let stream = command.repeat(60);
    for (number, piece) in stream.chunks(200_001).enumerate() {
        one.take(1000 + number as u64, piece).unwrap();
    }
    one.tick(100_000).unwrap();
    let unsaved = one.spool.unsaved();
    let segments = content(&unsaved);
    assert_eq!(segments.len(), 3);
    let mut joined = Vec::new();
    for (start, bytes) in &segments {
        assert_eq!(*start, joined.len() as u64);
        assert_eq!(bytes.len() % command.len(), 0);
        joined.extend_from_slice(bytes);
    }
    assert!(joined == stream);
    one.spool.saved(&unsaved.segments);
    let files = || {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.filter(|name| name != RESERVE && name != BOOT).count()
    };
    assert_eq!(files(), 1);
    one.end(100_000).unwrap();
    assert_eq!(files(), 0);
}

#[test]
fn signs_of_life_are_no_data_and_a_full_spool_takes_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Taking::new(folder.path(), 100);
    one.begin(header(0, 0));
    one.take(1000, &encode_command(&[b"PING"])).unwrap();
    one.tick(2000).unwrap();
    assert!(!one.spool.has_unsaved_data() && one.spool.unsaved().files.len() == 1);
    let asks = encode_command(&[b"REPLCONF", b"GETACK", b"*"]);
    assert!(one.take(2000, &asks).unwrap());
    let quiet = (encode_command(&[b"PING"]).len() + asks.len()) as u64;
    assert_eq!((one.spool.quiet_end(0), one.spool.quiet_end(5)), (0, quiet));
    one.take(2000, &set(200)).unwrap();
    assert_eq!(one.spool.quiet_end(5), 5);
    one.tick(3000).unwrap();
    one.take(3000, &set(200)).unwrap();
    assert!(matches!(one.tick(4000), Err(JournalSpoolError::Full { .. })));
    assert!(one.end(4000).is_err());
    assert!(one.take(4000, b"*1").is_ok());
}
