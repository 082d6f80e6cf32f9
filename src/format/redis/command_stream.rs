//! The commands of a replication stream: where each begins and ends, and the few that matter here.
//!
//! A scanner over bytes that come in any pieces. It keeps no arguments but the fronts of the first
//! two words, so a command of any size costs nothing. Source: the Redis protocol, "Arrays" and
//! "Bulk strings".

/// Longest line of a count or a length that is one.
const LINE_BYTES_MAX: usize = 24;
/// What is kept of a word.
const WORD_BYTES_MAX: usize = 32;

/// Bytes that are no commands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stream of commands has no command at {position}")]
pub struct NoCommand {
    /// Bytes of the stream before.
    pub position: u64,
}

/// The front of a word, in lower case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Word {
    bytes: [u8; WORD_BYTES_MAX],
    length: u8,
    is_longer: bool,
}

impl Word {
    fn take(&mut self, bytes: &[u8]) {
        let room = WORD_BYTES_MAX - usize::from(self.length);
        let now = bytes.len().min(room);
        let at = usize::from(self.length);
        self.bytes[at..at + now].copy_from_slice(&bytes[..now]);
        self.bytes[at..at + now].make_ascii_lowercase();
        self.length += now as u8;
        self.is_longer |= now < bytes.len();
    }

    /// Whether it is that word, which is in lower case.
    #[must_use]
    pub fn is(&self, word: &str) -> bool {
        !self.is_longer && &self.bytes[..usize::from(self.length)] == word.as_bytes()
    }

    /// The number that it is.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).ok()?.parse().ok()
    }
}

/// A whole command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Bytes of the stream before it.
    pub start: u64,
    /// Bytes of the stream up to its end.
    pub end: u64,
    /// Its name.
    pub name: Word,
    /// Its first argument.
    pub argument: Word,
    /// It stands between `MULTI` and `EXEC`, or is one of them and does not end the transaction.
    pub is_within: bool,
}

impl Command {
    /// Whether the server asks how far we are.
    #[must_use]
    pub fn asks_for_acknowledgement(&self) -> bool {
        self.name.is("replconf") && self.argument.is("getack")
    }

    /// Whether it changes data, or what later commands mean: not so `PING`, `REPLCONF` and messages
    /// to subscribers.
    #[must_use]
    pub fn is_data(&self) -> bool {
        !["ping", "replconf", "publish", "spublish"].iter().any(|name| self.name.is(name))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// `*3`
    Count,
    /// `$5`
    Length,
    /// That many bytes of a word are left.
    Body(u64),
    /// That many bytes of the line end after a word are left.
    BodyEnd(u8),
}

/// Finds the commands in a stream.
#[derive(Debug, Clone)]
pub struct CommandScanner {
    position: u64,
    boundary: u64,
    start: u64,
    part: Part,
    line: [u8; LINE_BYTES_MAX],
    line_length: usize,
    words_left: u64,
    word: usize,
    words: [Word; 2],
    db: Option<u32>,
    boundary_db: Option<u32>,
    is_in_transaction: bool,
    /// Lines may stand between the commands that begin with `#`.
    has_remarks: bool,
    is_in_remark: bool,
}

impl CommandScanner {
    /// Begins between two commands, `position` bytes into the stream, where that database is
    /// selected.
    #[must_use]
    pub fn new(position: u64, db: Option<u32>) -> Self {
        Self {
            position,
            boundary: position,
            start: position,
            part: Part::Count,
            line: [0; LINE_BYTES_MAX],
            line_length: 0,
            words_left: 0,
            word: 0,
            words: [Word::default(); 2],
            db,
            boundary_db: db,
            is_in_transaction: false,
            has_remarks: false,
            is_in_remark: false,
        }
    }

    /// The same for an append-only file, in which lines such as `#TS:1628217470` may stand between
    /// the commands.
    #[must_use]
    pub fn of_file(position: u64) -> Self {
        Self { has_remarks: true, ..Self::new(position, None) }
    }

    /// Bytes of the stream so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// End of the last whole command that is not within a transaction, or of the last transaction.
    #[must_use]
    pub fn boundary(&self) -> u64 {
        self.boundary
    }

    /// The database that is selected at [`Self::boundary`].
    #[must_use]
    pub fn boundary_db(&self) -> Option<u32> {
        self.boundary_db
    }

    /// The selected database; none as long as no `SELECT` has come.
    #[must_use]
    pub fn db(&self) -> Option<u32> {
        self.db
    }

    /// Whether a transaction has begun that has not ended.
    #[must_use]
    pub fn is_in_transaction(&self) -> bool {
        self.is_in_transaction
    }

    /// Takes the next bytes; every command that ends in them is given to `found`.
    ///
    /// # Errors
    /// [`NoCommand`]; nothing after it can be understood.
    pub fn take(&mut self, bytes: &[u8], found: &mut dyn FnMut(&Command)) -> Result<(), NoCommand> {
        self.take_until(u64::MAX, bytes, found).map(drop)
    }

    /// The same up to the first boundary behind the present one; gives how many bytes that are.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_to_boundary(
        &mut self,
        bytes: &[u8],
        found: &mut dyn FnMut(&Command),
    ) -> Result<usize, NoCommand> {
        self.take_until(self.boundary, bytes, found)
    }

    /// Takes bytes as long as the boundary is not beyond `boundary`; gives how many.
    fn take_until(
        &mut self,
        boundary: u64,
        mut bytes: &[u8],
        found: &mut dyn FnMut(&Command),
    ) -> Result<usize, NoCommand> {
        let all = bytes.len();
        while let Some(first) = bytes.first()
            && self.boundary <= boundary
        {
            match self.part {
                Part::Body(left) => {
                    let now = left.min(bytes.len() as u64) as usize;
                    if let Some(word) = self.words.get_mut(self.word) {
                        word.take(&bytes[..now]);
                    }
                    bytes = &bytes[now..];
                    self.position += now as u64;
                    let left = left - now as u64;
                    self.part = if left == 0 { Part::BodyEnd(2) } else { Part::Body(left) };
                }
                Part::BodyEnd(left) => {
                    if *first != (if left == 2 { b'\r' } else { b'\n' }) {
                        return Err(NoCommand { position: self.position });
                    }
                    bytes = &bytes[1..];
                    self.position += 1;
                    self.part = Part::BodyEnd(left - 1);
                    if left == 1 {
                        self.end_word(found);
                    }
                }
                Part::Count | Part::Length => {
                    bytes = &bytes[1..];
                    self.position += 1;
                    let is_at_start = self.line_length == 0 && self.part == Part::Count;
                    if self.is_in_remark || (self.has_remarks && is_at_start && *first == b'#') {
                        self.is_in_remark = *first != b'\n';
                        self.start = self.position;
                    } else if *first != b'\n' {
                        self.add_to_line(*first)?;
                    } else if let Some(number) = self.end_line()? {
                        self.begin_part(number, found);
                    }
                }
            }
        }
        Ok(all - bytes.len())
    }

    fn add_to_line(&mut self, byte: u8) -> Result<(), NoCommand> {
        let mark = if self.part == Part::Count { b'*' } else { b'$' };
        if self.line_length == 0 && byte != mark {
            return Err(NoCommand { position: self.position });
        }
        let place = self.line.get_mut(self.line_length);
        *place.ok_or(NoCommand { position: self.position })? = byte;
        self.line_length += 1;
        Ok(())
    }

    /// The number of the line that ends; none for the empty line by which an idle server is alive.
    fn end_line(&mut self) -> Result<Option<u64>, NoCommand> {
        let line = &self.line[..self.line_length];
        self.line_length = 0;
        if line.is_empty() && self.part == Part::Count {
            self.start = self.position;
            self.end_unit();
            return Ok(None);
        }
        let mark = if self.part == Part::Count { b'*' } else { b'$' };
        let number = match line {
            [first, digits @ .., b'\r'] if *first == mark => std::str::from_utf8(digits).ok(),
            _ => None,
        };
        let number = number.and_then(|digits| digits.parse().ok());
        number.map(Some).ok_or(NoCommand { position: self.position })
    }

    fn begin_part(&mut self, number: u64, found: &mut dyn FnMut(&Command)) {
        if self.part == Part::Length {
            self.part = if number == 0 { Part::BodyEnd(2) } else { Part::Body(number) };
            return;
        }
        self.words = [Word::default(); 2];
        (self.word, self.words_left) = (0, number);
        if number == 0 {
            self.end_command(found);
        } else {
            self.part = Part::Length;
        }
    }

    fn end_word(&mut self, found: &mut dyn FnMut(&Command)) {
        self.word += 1;
        self.words_left -= 1;
        self.part = Part::Length;
        if self.words_left == 0 {
            self.end_command(found);
        }
    }

    fn end_command(&mut self, found: &mut dyn FnMut(&Command)) {
        let [name, argument] = self.words;
        if name.is("multi") {
            self.is_in_transaction = true;
        } else if name.is("exec") || name.is("discard") {
            self.is_in_transaction = false;
        } else if name.is("select") {
            self.db = argument.number().or(self.db);
        }
        self.end_unit();
        let (start, end) = (self.start, self.position);
        found(&Command { start, end, name, argument, is_within: self.is_in_transaction });
        self.start = self.position;
        self.part = Part::Count;
    }

    fn end_unit(&mut self) {
        if !self.is_in_transaction {
            self.boundary = self.position;
            self.boundary_db = self.db;
        }
    }
}

/// A command as a server takes it.
#[must_use]
pub fn encode_command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*1\r\n$4\r\nPING\r\n\n*1\r\n$5\r\nMULTI\r\n\
        *3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\n*1\r\n$4\r\nEXEC\r\n\
        *3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n";

    fn commands(pieces: &[&[u8]]) -> (Vec<Command>, CommandScanner) {
        let mut scanner = CommandScanner::new(100, None);
        let mut found = Vec::new();
        for piece in pieces {
            scanner.take(piece, &mut |command| found.push(*command)).unwrap();
        }
        (found, scanner)
    }

    #[test]
    fn commands_are_found_whatever_the_pieces() {
        let (whole, scanner) = commands(&[STREAM]);
        assert_eq!(whole.len(), 6);
        assert!(whole[0].name.is("select") && scanner.db() == Some(3));
        assert_eq!((whole[0].start, whole[0].end), (100, 123));
        // The empty line belongs to no command, and counts.
        assert_eq!((whole[1].end, whole[2].start), (137, 138));
        let within: Vec<bool> = whole.iter().map(|command| command.is_within).collect();
        assert_eq!(within, [false, false, true, true, false, false]);
        assert!(whole[5].asks_for_acknowledgement() && !whole[5].is_data());
        assert_eq!(scanner.position(), 100 + STREAM.len() as u64);
        assert_eq!(scanner.boundary(), scanner.position());
        for cut in 0..STREAM.len() {
            assert_eq!(commands(&[&STREAM[..cut], &STREAM[cut..]]).0, whole);
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(commands(&bytes).0, whole);
    }

    #[test]
    fn a_boundary_is_never_within_a_transaction() {
        for cut in 0..=STREAM.len() {
            let (found, scanner) = commands(&[&STREAM[..cut]]);
            let last = found.iter().rev().find(|command| !command.is_within);
            let end = last.map_or(100, |command| command.end);
            // An empty line, which is whole in itself, stands behind the second command.
            let has_empty_line = end == 137 && cut > 37;
            assert_eq!(scanner.boundary(), end + u64::from(has_empty_line), "{cut}");
        }
    }

    #[test]
    fn units_are_taken_one_by_one() {
        let (mut scanner, mut ends) = (CommandScanner::new(100, None), Vec::new());
        let (mut rest, mut commands) = (STREAM, 0);
        while !rest.is_empty() {
            let length = scanner.take_to_boundary(rest, &mut |_| commands += 1).unwrap();
            rest = &rest[length..];
            ends.push(scanner.boundary());
        }
        assert_eq!(ends, [123, 137, 138, 196, 233]);
        assert_eq!((commands, scanner.boundary_db()), (6, Some(3)));
        let mut scanner = CommandScanner::new(100, None);
        assert_eq!(scanner.take_to_boundary(&STREAM[..7], &mut |_| {}), Ok(7));
    }

    #[test]
    fn what_is_no_command_is_an_error() {
        for bytes in [&b"PING\r\n"[..], b"*1\r\n:4\r\n", b"*x\r\n", b"*1\r\n$1\r\nabc", b"*-1\r\n"]
        {
            let mut scanner = CommandScanner::new(0, None);
            assert!(scanner.take(bytes, &mut |_| {}).is_err(), "{bytes:?}");
        }
        let long = [b'*'; 100];
        assert!(CommandScanner::new(0, None).take(&long, &mut |_| {}).is_err());
        assert_eq!(encode_command(&[b"SELECT", b"3"]), &STREAM[..23]);
    }
}
