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

/// Bytes of the command that a server sends its replicas now and then.
const PING_BYTES: u64 = 14;
/// What `INFO` counts of changes.
const CHANGES: [&str; 5] =
    ["rdb_changes_since_last_save", "rdb_last_save_time", "expired_keys", "evicted_keys", "run_id"];

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
/// that nothing was written since. `before` is how it was before the dump.
///
/// # Errors
/// Why there is none, as text.
pub fn digest_of_dump(
    access: &Access,
    before: &ServerState,
    position: Option<&Position>,
) -> Result<String, String> {
    let position = position.ok_or("the server does not say at which position the dump is")?;
    let ask = || {
        let mut connection = access.connect()?;
        let digest = digest_of(&mut connection)?;
        let after = ServerState::read(&mut connection)?;
        Ok::<_, RedisError>((digest, after))
    };
    let (digest, after) = ask().map_err(|error| error.to_string())?;
    if is_unchanged(before, position, &after) {
        return Ok(digest);
    }
    Err(format!("something was written from position {} on", position.offset))
}

/// Whether nothing was written between a position and a later state. The history may be longer by
/// what keeps a connection alive; then no count of changes may be another than before.
fn is_unchanged(before: &ServerState, position: &Position, after: &ServerState) -> bool {
    let longer = after.offset().and_then(|offset| offset.checked_sub(position.offset));
    let Some(longer) = longer.filter(|_| after.replid() == Some(&*position.replid)) else {
        return false;
    };
    let is_same = |name: &str| {
        let (before, after) = (before.field(name), after.field(name));
        before.is_some() && before == after
    };
    longer == 0 || (longer % PING_BYTES == 0 && CHANGES.iter().all(|name| is_same(name)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_that_is_longer_by_pings_only_holds_nothing_new() {
        let state = |offset: u64, changes: u32, expired: u32| {
            ServerState::parse(&format!(
                "role:master\nmaster_replid:ab\nmaster_repl_offset:{offset}\nrun_id:r\n\
                 rdb_changes_since_last_save:{changes}\nrdb_last_save_time:5\n\
                 expired_keys:{expired}\nevicted_keys:0\n"
            ))
        };
        let position = Position { replid: "ab".into(), offset: 100 };
        let other = Position { replid: "cd".into(), offset: 100 };
        let before = state(90, 7, 1);
        assert!(is_unchanged(&before, &position, &state(100, 7, 1)));
        assert!(is_unchanged(&before, &position, &state(128, 7, 1)));
        for after in [state(99, 7, 1), state(127, 7, 1), state(128, 8, 1), state(128, 7, 2)] {
            assert!(!is_unchanged(&before, &position, &after));
        }
        assert!(!is_unchanged(&before, &other, &state(100, 7, 1)));
        assert!(!is_unchanged(&ServerState::default(), &position, &state(128, 7, 1)));
    }
}
