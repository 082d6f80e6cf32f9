//! Commands sent without waiting for each answer; every answer is looked at, and the first error
//! ends it.
//!
//! Memory: what is sent at once, and a number for each command on its way.

use std::collections::VecDeque;

use crate::source::redis::connection::Connection;
use crate::source::redis::error::RedisError;
use crate::source::redis::reply::Reply;

/// Commands on their way at most: their answers fit into what a socket holds.
const WINDOW_MAX: usize = 1024;
/// Bytes that are sent at once.
const OUT_BYTES: usize = 256 * 1024;

/// A connection that commands go into.
pub struct Pipeline {
    connection: Connection,
    out: Vec<u8>,
    /// What each command on its way counts for.
    awaited: VecDeque<u64>,
    acknowledged: u64,
    doing: &'static str,
}

impl Pipeline {
    /// Over that connection, on which nothing is awaited.
    #[must_use]
    pub fn new(connection: Connection, doing: &'static str) -> Self {
        let (out, awaited) = (Vec::with_capacity(OUT_BYTES * 2), VecDeque::new());
        Self { connection, out, awaited, acknowledged: 0, doing }
    }

    /// The connection, when nothing is awaited any more.
    ///
    /// # Errors
    /// An answer is an error, or the connection broke.
    pub fn settled(&mut self) -> Result<&mut Connection, RedisError> {
        self.settle(0)?;
        Ok(&mut self.connection)
    }

    /// Host and port, or the path of the socket.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.connection.shown()
    }

    /// The sum of what the commands count for that were answered without an error.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The next bytes of a command.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), RedisError> {
        self.out.extend_from_slice(bytes);
        if self.out.len() < OUT_BYTES { Ok(()) } else { self.flush() }
    }

    /// A word of a command, with its length.
    pub fn put_word(&mut self, word: &[u8]) -> Result<(), RedisError> {
        self.put_length(word.len() as u64)?;
        self.put(word)?;
        self.put(b"\r\n")
    }

    /// The length of a word that comes next.
    pub fn put_length(&mut self, bytes: u64) -> Result<(), RedisError> {
        self.put(format!("${bytes}\r\n").as_bytes())
    }

    /// The number of words of a command that comes next.
    pub fn put_words(&mut self, words: usize) -> Result<(), RedisError> {
        self.put(format!("*{words}\r\n").as_bytes())
    }

    /// A command has ended, which counts for `weight`.
    pub fn end_command(&mut self, weight: u64) -> Result<(), RedisError> {
        self.awaited.push_back(weight);
        if self.awaited.len() < WINDOW_MAX { Ok(()) } else { self.settle(WINDOW_MAX / 2) }
    }

    fn settle(&mut self, awaited_max: usize) -> Result<(), RedisError> {
        self.flush()?;
        while self.awaited.len() > awaited_max {
            self.take_answer()?;
        }
        Ok(())
    }

    fn take_answer(&mut self) -> Result<(), RedisError> {
        let reply = self.connection.answer(self.doing)?;
        if let Some(message) = error_within(reply) {
            return Err(self.connection.said(message));
        }
        self.acknowledged += self.awaited.pop_front().unwrap_or(0);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), RedisError> {
        let sent = self.connection.send(&self.out);
        self.out.clear();
        let Err(broken) = sent else { return Ok(()) };
        // What it has said before it closed the connection tells more.
        while !self.awaited.is_empty() {
            match self.take_answer() {
                Ok(()) => {}
                Err(said @ RedisError::Server { .. }) => return Err(said),
                Err(_) => break,
            }
        }
        Err(broken)
    }
}

/// The first error in an answer: a transaction has those of its commands in a list.
fn error_within(reply: Reply) -> Option<String> {
    match reply {
        Reply::Error(message) => Some(message),
        Reply::Array(elements) => elements.into_iter().find_map(error_within),
        _ => None,
    }
}
