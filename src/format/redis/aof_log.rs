//! How far an append-only file may be kept: up to the last whole command that is not within a
//! transaction. It may begin with a dump, as files of servers before 7 do.
//!
//! Pure: bytes go in from the first on, in any pieces.

use crate::format::redis::command_stream::CommandScanner;
use crate::format::redis::dump_end::Ending;
use crate::format::redis::dump_parts::{DumpParts, Kind, Next, is_dump};

/// Why a file is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AofLogError {
    /// Neither a command nor a dump.
    #[error("it has no command at byte {position}")]
    NoCommand {
        /// Bytes before.
        position: u64,
    },
    /// The dump at its beginning is not whole, or damaged.
    #[error("the dump that it begins with is damaged before byte {position}")]
    Dump {
        /// Bytes before.
        position: u64,
    },
}

#[derive(Debug)]
enum State {
    /// Bytes that may be the beginning of a dump.
    First(Vec<u8>),
    /// A dump: bytes of it that are passed, and those behind.
    Dump(Box<DumpParts>, u64, Vec<u8>),
    Commands(Box<CommandScanner>),
}

/// Reads a file once.
#[derive(Debug)]
pub struct AofLog {
    state: State,
    database_max: u32,
}

impl Default for AofLog {
    fn default() -> Self {
        Self { state: State::First(Vec::new()), database_max: 0 }
    }
}

impl AofLog {
    /// Bytes that may be kept so far.
    #[must_use]
    pub fn boundary(&self) -> u64 {
        match &self.state {
            State::First(_) => 0,
            State::Dump(_, passed, _) => *passed,
            State::Commands(scanner) => scanner.boundary(),
        }
    }

    /// The highest number of a database that stood in it.
    #[must_use]
    pub fn database_max(&self) -> u32 {
        self.database_max
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`AofLogError`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), AofLogError> {
        match &mut self.state {
            State::First(held) => {
                held.extend_from_slice(bytes);
                let held = match is_dump(held) {
                    None => return Ok(()),
                    Some(_) => std::mem::take(held),
                };
                self.begin(&held)
            }
            State::Dump(_, _, held) => {
                held.extend_from_slice(bytes);
                self.pass(Rest::MayCome)
            }
            State::Commands(scanner) => {
                let database_max = &mut self.database_max;
                let taken = scanner.take(bytes, &mut |command| {
                    if command.name.is("select") {
                        *database_max = command.argument.number().unwrap_or(0).max(*database_max);
                    }
                });
                taken.map_err(|error| AofLogError::NoCommand { position: error.position })
            }
        }
    }

    fn begin(&mut self, bytes: &[u8]) -> Result<(), AofLogError> {
        self.state = match is_dump(bytes) {
            Some(true) => State::Dump(Box::default(), 0, Vec::new()),
            _ => State::Commands(Box::new(CommandScanner::of_file(0))),
        };
        self.take(bytes)
    }

    /// There is no more; bytes that may be kept.
    ///
    /// # Errors
    /// [`AofLogError`].
    pub fn finish(&mut self) -> Result<u64, AofLogError> {
        if let State::First(held) = &mut self.state {
            let held = std::mem::take(held);
            self.begin(&held)?;
        }
        self.pass(Rest::Nothing)?;
        Ok(self.boundary())
    }

    /// Passes what of a dump is there.
    fn pass(&mut self, rest: Rest) -> Result<(), AofLogError> {
        let State::Dump(parts, passed, held) = &mut self.state else { return Ok(()) };
        let mut at = 0;
        let is_end = rest == Rest::Nothing;
        while at < held.len() {
            match parts.next(&held[at..], is_end) {
                Next::Part(Kind::Unknown, _) => {
                    if parts.ending() != Ending::Whole {
                        return Err(AofLogError::Dump { position: *passed + at as u64 });
                    }
                    let scanner = CommandScanner::of_file(*passed + at as u64);
                    let commands = held.split_off(at);
                    self.state = State::Commands(Box::new(scanner));
                    return self.take(&commands);
                }
                Next::Part(_, length) => {
                    let database = u32::try_from(parts.database()).unwrap_or(0);
                    self.database_max = self.database_max.max(database);
                    at += length;
                }
                Next::More => break,
            }
        }
        held.drain(..at);
        *passed += at as u64;
        if is_end && parts.ending() != Ending::Whole {
            return Err(AofLogError::Dump { position: *passed });
        }
        Ok(())
    }
}

/// What is behind the bytes at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    MayCome,
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::redis::crc64::Crc64;

    const COMMANDS: &[u8] = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n#TS:1628217470\r\n\
        *3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*1\r\n$5\r\nMULTI\r\n\
        *2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*1\r\n$4\r\nEXEC\r\n";

    fn dump() -> Vec<u8> {
        let mut dump = b"REDIS0009\xfa\x03abc\x01x\xfe\x00\x00\x01k\x01v\xff".to_vec();
        let mut crc = Crc64::default();
        crc.update(&dump);
        dump.extend(crc.value().to_le_bytes());
        dump
    }

    fn kept(pieces: &[&[u8]]) -> Result<u64, AofLogError> {
        let mut log = AofLog::default();
        for piece in pieces {
            log.take(piece)?;
        }
        log.finish()
    }

    /// Ends of whole commands outside of a transaction.
    fn boundaries(front: usize) -> Vec<usize> {
        let text = String::from_utf8_lossy(COMMANDS).into_owned();
        let after = |word: &str| front + text.find(word).unwrap() + word.len();
        vec![front, after("$1\r\n0\r\n"), after("$1\r\nv\r\n"), front + COMMANDS.len()]
    }

    #[test]
    fn commands_are_kept_up_to_the_last_whole_one() {
        for front in [Vec::new(), dump()] {
            let file = [&front[..], COMMANDS].concat();
            for cut in front.len()..=file.len() {
                let expected = boundaries(front.len()).into_iter().rfind(|end| *end <= cut);
                let whole = kept(&[&file[..cut]]).unwrap();
                assert_eq!(Some(whole as usize), expected, "{cut}");
                for size in [1, 7] {
                    let pieces: Vec<&[u8]> = file[..cut].chunks(size).collect();
                    assert_eq!(kept(&pieces).unwrap(), whole);
                }
            }
        }
        assert_eq!(kept(&[]).unwrap(), 0);
    }

    #[test]
    fn the_databases_of_dump_and_commands_are_known() {
        let front =
            [b"REDIS0009\xfe\x12\x00\x01k\x01v\xfe\x03\x00\x01k\x01v\xff", &[0; 8][..]].concat();
        for (bytes, expected) in
            [(&front[..], 18), (COMMANDS, 0), (b"*2\r\n$6\r\nselect\r\n$2\r\n40\r\n", 40)]
        {
            let mut log = AofLog::default();
            log.take(bytes).unwrap();
            log.finish().unwrap();
            assert_eq!(log.database_max(), expected);
        }
    }

    #[test]
    fn a_dump_in_front_must_be_whole() {
        let file = [&dump()[..], COMMANDS].concat();
        for cut in 1..dump().len() {
            assert!(kept(&[&file[..cut]]).is_err(), "{cut}");
        }
        for at in 0..dump().len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x40;
            assert!(kept(&[&damaged]).is_err(), "{at}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused_where_it_stands() {
        let zeros = [COMMANDS, &[0; 100]].concat();
        for bytes in [&zeros[..], &[COMMANDS, b"SET k v\r\n"].concat()] {
            let error = kept(&[bytes]).unwrap_err();
            let AofLogError::NoCommand { position } = error else { panic!("{error:?}") };
            assert!((COMMANDS.len()..=bytes.len()).contains(&(position as usize)), "{error:?}");
        }
        assert!(kept(&[b"REDIX"]).is_err());
    }
}
