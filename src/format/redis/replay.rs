//! The commands of a journal between two positions, as a server is to take them.
//!
//! Signs of life and messages are left out. A command is held until its name is known; a long one
//! is passed on piece by piece. Source: the Redis protocol, and `aof.c` for annotations.

use crate::format::redis::command_stream::{CommandScanner, NoCommand, Word, encode_command};

/// A command that is longer is passed on before its end has come: none that is left out is.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// Takes what a server is to take.
pub trait Replayed {
    /// Why it takes no more.
    type Error;
    /// A command comes that was executed by this time (milliseconds since 1970), outside of a
    /// transaction or as its beginning.
    ///
    /// # Errors
    /// It takes no more.
    fn begin(&mut self, time_ms: u64) -> Result<(), Self::Error>;
    /// Bytes of a command.
    ///
    /// # Errors
    /// It takes no more.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// Why commands cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError<E> {
    /// They are none.
    #[error(transparent)]
    NoCommand(#[from] NoCommand),
    /// Whoever takes them has failed.
    #[error("the commands could not be passed on")]
    Replayed(E),
}

/// Finds the commands between two positions.
pub struct Replay {
    scanner: CommandScanner,
    from: u64,
    to: u64,
    /// Bytes of the command that has not ended, and the position of the first of them.
    held: Vec<u8>,
    held_at: u64,
    is_passed_on: bool,
    /// The database that the next command is for.
    db: Option<u32>,
    has_begun: bool,
    commands: u64,
    database_max: u32,
}

impl Replay {
    /// Begins at `start`, where that database is selected; gives what ends in `from..to`, both ends of
    /// commands outside of transactions.
    #[must_use]
    pub fn new(start: u64, db: Option<u32>, (from, to): (u64, u64)) -> Self {
        Self {
            scanner: CommandScanner::new(start, db),
            from,
            to,
            held: Vec::new(),
            held_at: start,
            is_passed_on: false,
            db,
            has_begun: false,
            commands: 0,
            database_max: db.unwrap_or(0),
        }
    }

    /// Commands that were given so far.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// The highest number of a database that was selected so far.
    #[must_use]
    pub fn database_max(&self) -> u32 {
        self.database_max
    }

    /// Position of the next byte that is taken.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.scanner.position()
    }

    /// Whether all has come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.scanner.position() >= self.to
    }

    /// Takes the next bytes, which came by that time.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn take<R: Replayed>(
        &mut self,
        time_ms: u64,
        bytes: &[u8],
        out: &mut R,
    ) -> Result<(), ReplayError<R::Error>> {
        let room = self.to.saturating_sub(self.scanner.position());
        let bytes = &bytes[..(bytes.len() as u64).min(room) as usize];
        let mut found = Vec::new();
        self.scanner.take(bytes, &mut |command| found.push(*command))?;
        self.held.extend_from_slice(bytes);
        for command in found {
            if command.end > self.from && (self.is_passed_on || command.is_data()) {
                if !self.is_passed_on {
                    self.announce(time_ms, &command.name, command.is_within, out)?;
                    self.commands += 1;
                }
                let start = command.start.max(self.held_at);
                let (start, end) = (start - self.held_at, command.end - self.held_at);
                let whole = &self.held[start as usize..end as usize];
                out.bytes(whole).map_err(ReplayError::Replayed)?;
            }
            if command.name.is("select") {
                self.db = command.argument.number().or(self.db);
                self.database_max = self.database_max.max(self.db.unwrap_or(0));
            }
            self.held.drain(..(command.end - self.held_at) as usize);
            self.held_at = command.end;
            self.is_passed_on = false;
        }
        let is_wanted = self.held_at >= self.from;
        if is_wanted && (self.is_passed_on || self.held.len() > HELD_BYTES_MAX) {
            if !self.is_passed_on {
                let is_within = self.scanner.boundary() < self.held_at;
                self.announce(time_ms, &Word::default(), is_within, out)?;
                self.commands += 1;
                self.is_passed_on = true;
            }
            out.bytes(&self.held).map_err(ReplayError::Replayed)?;
            self.held_at += self.held.len() as u64;
            self.held.clear();
        }
        Ok(())
    }

    /// Says that a command comes, and before the first one which database it is for.
    fn announce<R: Replayed>(
        &mut self,
        time_ms: u64,
        name: &Word,
        is_within: bool,
        out: &mut R,
    ) -> Result<(), ReplayError<R::Error>> {
        let ends_transaction = name.is("exec") || name.is("discard");
        if name.is("multi") || !(is_within || ends_transaction) {
            out.begin(time_ms).map_err(ReplayError::Replayed)?;
        }
        if !std::mem::replace(&mut self.has_begun, true)
            && !name.is("select")
            && let Some(db) = self.db
        {
            let select = encode_command(&[b"SELECT", db.to_string().as_bytes()]);
            out.bytes(&select).map_err(ReplayError::Replayed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Taken {
        bytes: Vec<u8>,
        begun: Vec<u64>,
    }

    impl Replayed for Taken {
        type Error = std::convert::Infallible;

        fn begin(&mut self, time_ms: u64) -> Result<(), Self::Error> {
            self.begun.push(time_ms);
            Ok(())
        }

        fn bytes(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
            self.bytes.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn set(key: &str, length: usize) -> Vec<u8> {
        encode_command(&[b"SET", key.as_bytes(), &vec![b'v'; length]])
    }

    fn replayed(stream: &[u8], range: (usize, usize), piece: usize) -> (Taken, u64) {
        let range = (1000 + range.0 as u64, 1000 + range.1 as u64);
        let mut replay = Replay::new(1000, Some(7), range);
        let mut taken = Taken::default();
        for (number, bytes) in stream.chunks(piece).enumerate() {
            replay.take(number as u64, bytes, &mut taken).unwrap();
        }
        assert!(replay.is_done());
        (taken, replay.commands())
    }

    #[test]
    fn data_come_whatever_the_pieces_and_signs_of_life_do_not() {
        let ping = encode_command(&[b"PING"]);
        let select = encode_command(&[b"SELECT", b"2"]);
        let multi = encode_command(&[b"MULTI"]);
        let exec = encode_command(&[b"EXEC"]);
        let long = set("long", 200_000);
        let ask = encode_command(&[b"REPLCONF", b"GETACK", b"*"]);
        let parts: [&[u8]; 10] = [
            &set("a", 1),
            &ping,
            b"\n",
            &select,
            &multi,
            &set("b", 3),
            &exec,
            &ask,
            &long,
            &set("c", 0),
        ];
        let stream = parts.concat();
        let at = |count: usize| parts[..count].concat().len();
        let chosen =
            |wanted: &[usize]| wanted.iter().map(|i| parts[*i]).collect::<Vec<_>>().concat();
        for piece in [1, 7, 64, 70_000, stream.len()] {
            let (all, commands) = replayed(&stream, (0, stream.len()), piece);
            let select_7 = encode_command(&[b"SELECT", b"7"]);
            assert_eq!(
                all.bytes,
                [&select_7[..], &chosen(&[0, 3, 4, 5, 6, 8, 9])].concat(),
                "{piece}"
            );
            assert_eq!((commands, all.begun.len()), (7, 5), "{piece}");
            let (later, _) = replayed(&stream, (at(7), at(9)), piece);
            let select_2 = encode_command(&[b"SELECT", b"2"]);
            assert_eq!(later.bytes, [select_2, chosen(&[8])].concat(), "{piece}");
            let (selected, _) = replayed(&stream, (at(2), at(7)), piece);
            assert_eq!(selected.bytes, chosen(&[3, 4, 5, 6]), "{piece}");
        }
        let mut replay = Replay::new(0, None, (0, 100));
        let outcome = replay.take(0, b"+OK\r\n", &mut Taken::default());
        assert!(matches!(outcome, Err(ReplayError::NoCommand(_))));
    }
}
