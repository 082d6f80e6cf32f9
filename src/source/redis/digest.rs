//! The digest of all data of a server, and whether it is that of a dump.

use std::time::Duration;

use crate::source::error::SourceError;
use crate::source::redis::connection::{Access, Connection};
use crate::source::redis::error::RedisError;
use crate::source::redis::replication::Position;
use crate::source::redis::reply::Reply;
use crate::source::redis::server::ServerState;
use crate::source::stream::ByteStream;

/// A command that looks at all data takes so long at most.
pub const PATIENCE: Duration = Duration::from_hours(1);

/// Asks a server for the digest of its data, in which time it does nothing else.
///
/// # Errors
/// It may not be asked, or the connection broke.
pub fn digest_of(connection: &mut Connection) -> Result<String, RedisError> {
    connection.set_patience(PATIENCE)?;
    let reply = connection.command(&[b"DEBUG", b"DIGEST"], "asking for the digest")?;
    if let Reply::Line(digest) = reply {
        return Ok(digest);
    }
    let what = "DEBUG DIGEST gives no line".to_owned();
    Err(RedisError::Protocol { address: connection.shown().to_owned(), what })
}

/// The digest of a dump that was taken at that position: of the server, where its history shows
/// that nothing was written since.
///
/// # Errors
/// Why there is none, as text.
pub fn digest_of_dump(access: &Access, position: Option<&Position>) -> Result<String, String> {
    let position = position.ok_or("the server does not say at which position the dump is")?;
    let ask = || {
        let mut connection = access.connect()?;
        let before = ServerState::read(&mut connection)?;
        let digest = digest_of(&mut connection)?;
        let after = ServerState::read(&mut connection)?;
        Ok::<_, RedisError>((before, digest, after))
    };
    let (before, digest, after) = ask().map_err(|error| error.to_string())?;
    let is_there = |state: &ServerState| {
        state.replid() == Some(&*position.replid) && state.offset() == Some(position.offset)
    };
    if is_there(&before) && is_there(&after) {
        return Ok(digest);
    }
    Err(format!("something was written from position {} on", position.offset))
}

/// A stream, and what is done when it was whole.
pub struct Followed {
    /// The stream.
    pub stream: Box<dyn ByteStream>,
    /// What is done then.
    pub then: Box<dyn FnOnce() + Send>,
}

impl ByteStream for Followed {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        self.stream.read(buffer)
    }

    fn finish(self: Box<Self>) -> Result<(), SourceError> {
        self.stream.finish()?;
        (self.then)();
        Ok(())
    }
}
