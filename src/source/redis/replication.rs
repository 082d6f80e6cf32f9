//! How a replica begins: what it can do, and from where it wants to go on.
//!
//! Source: `replication.c`. `listening-port` and `ip-address` are never sent: a server that nobody
//! can find is not promoted by a Sentinel.

use std::time::{Duration, Instant};

use crate::format::redis::command_stream::encode_command;
use crate::source::redis::connection::{Connection, is_silence};
use crate::source::redis::error::RedisError;
use crate::source::redis::reply::Reply;
use crate::source::redis::server::ServerState;

/// A server at work on a dump says so every second; one that says nothing for so long has gone.
pub const SILENCE_MAX: Duration = Duration::from_mins(2);

/// How often is looked for an answer.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The newest Valkey whose dumps are known here. Without it a server writes the form of old, and
/// breaks off where that cannot hold something: fields of hashes that expire.
const VALKEY_VERSION: &[u8] = b"9.1.0";

/// A place in the stream of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Name of the history.
    pub replid: String,
    /// Bytes before it.
    pub offset: u64,
}

impl Position {
    /// Whether a server that was asked before was further already: a dump of that position is one
    /// that it was at work on for somebody else.
    #[must_use]
    pub fn is_behind(&self, before: &ServerState) -> bool {
        let is_same = before.replid() == Some(&*self.replid);
        is_same && before.offset().is_some_and(|offset| offset > self.offset)
    }
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// A dump, and from its position on the commands. Without a position by an old server.
    Full(Option<Position>),
    /// The commands from the position that was asked for; the history may have a new name.
    Continued(Option<String>),
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// A dump, after which the server may close the connection.
    DumpOnly,
    /// A dump, and the commands after it.
    DumpAndStream,
    /// The commands from there on, else a dump and the commands after it.
    Stream(&'a Position),
}

/// Asks for it; with what comes next, how long ago the server may have said so: a dump is of then,
/// or later.
///
/// # Errors
/// The connection broke, or the server refuses.
pub fn begin(
    connection: &mut Connection,
    wanted: Wanted<'_>,
) -> Result<(Begun, Duration), RedisError> {
    let asked = Instant::now();
    let capabilities: &[&[u8]] = match wanted {
        Wanted::DumpOnly => &[b"REPLCONF", b"capa", b"eof"],
        _ => &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"],
    };
    configure(connection, capabilities)?;
    configure(connection, &[b"REPLCONF", b"version", VALKEY_VERSION])?;
    if wanted == Wanted::DumpOnly {
        // Since 7.0: the server keeps no commands for us meanwhile.
        configure(connection, &[b"REPLCONF", b"rdb-only", b"1"])?;
    }
    let (replid, next) = match wanted {
        Wanted::Stream(position) => (position.replid.as_str(), (position.offset + 1).to_string()),
        _ => ("?", "-1".to_owned()),
    };
    let words: [&[u8]; 3] = [b"PSYNC", replid.as_bytes(), next.as_bytes()];
    // No way takes longer than there and back.
    let there_and_back = asked.elapsed();
    connection.send(&encode_command(&words))?;
    let answer = answer_and_age(connection);
    connection.set_patience(SILENCE_MAX)?;
    match answer {
        Ok((Reply::Line(line), age)) => {
            let begun = begun(&line).ok_or_else(|| {
                let address = connection.shown().to_owned();
                RedisError::Protocol { address, what: format!("an unexpected answer: {line}") }
            });
            begun.map(|begun| (begun, there_and_back + age))
        }
        Ok(_) => {
            let address = connection.shown().to_owned();
            let what = "an unexpected answer to PSYNC".to_owned();
            Err(RedisError::Protocol { address, what })
        }
        // What stands between us and a server may know the older command only.
        Err(RedisError::Server { message, .. })
            if wanted == Wanted::DumpOnly && message.starts_with("ERR unknown command") =>
        {
            connection.send(b"*1\r\n$4\r\nSYNC\r\n")?;
            Ok((Begun::Full(None), there_and_back))
        }
        Err(error) => Err(error),
    }
}

/// The answer, which may take long, and how long it may have waited for us.
fn answer_and_age(connection: &mut Connection) -> Result<(Reply, Duration), RedisError> {
    connection.set_patience(LOOK_EVERY)?;
    loop {
        let looked = Instant::now();
        match connection.answer("asking for replication") {
            Err(error) if is_silence(&error) && connection.silent_for() < SILENCE_MAX => {}
            answer => return answer.map(|answer| (answer, looked.elapsed())),
        }
    }
}

/// What an older server does not know it need not do.
fn configure(connection: &mut Connection, words: &[&[u8]]) -> Result<(), RedisError> {
    match connection.command(words, "saying what we can do") {
        Err(RedisError::Server { message, .. }) if message.starts_with("ERR") => Ok(()),
        other => other.map(drop),
    }
}

fn begun(line: &str) -> Option<Begun> {
    let mut words = line.split_ascii_whitespace();
    match words.next()? {
        "FULLRESYNC" => {
            let replid = words.next()?.to_owned();
            let offset = words.next()?.parse().ok()?;
            Some(Begun::Full(Some(Position { replid, offset })))
        }
        "CONTINUE" => Some(Begun::Continued(words.next().map(str::to_owned))),
        _ => None,
    }
}

/// Says up to where all is durable.
pub fn acknowledge(connection: &mut Connection, offset: u64) -> Result<(), RedisError> {
    let digits = offset.to_string();
    let length = digits.len();
    let text = format!("*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n${length}\r\n{digits}\r\n");
    connection.send(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_was_begun_for_somebody_else_is_known_by_its_position() {
        let before = |replid: &str, offset: u64| {
            let text =
                format!("role:master\nmaster_replid:{replid}\nmaster_repl_offset:{offset}\n");
            ServerState::parse(&text)
        };
        let position = Position { replid: "ab".into(), offset: 100 };
        assert!(position.is_behind(&before("ab", 101)));
        assert!(!position.is_behind(&before("ab", 100)) && !position.is_behind(&before("cd", 500)));
        assert!(!position.is_behind(&ServerState::default()));
    }

    #[test]
    fn answers_are_understood() {
        let at = |offset| Position { replid: "ab".into(), offset };
        let table = [
            ("FULLRESYNC ab 42", Some(Begun::Full(Some(at(42))))),
            ("CONTINUE", Some(Begun::Continued(None))),
            ("CONTINUE cd", Some(Begun::Continued(Some("cd".into())))),
            ("FULLRESYNC ab", None),
            ("OK", None),
        ];
        for (line, expected) in table {
            assert_eq!(begun(line), expected, "{line}");
        }
    }
}
