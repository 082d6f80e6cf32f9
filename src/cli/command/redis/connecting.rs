//! The beginning of a connection of `redis stream`: in a thread of its own, so that whoever waits for a
//! silent server can be told to stop.

use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};

use crate::cli::redis::ready_state_of;
use crate::cli::signals::signals;
use crate::clock::now_ms;
use crate::format::redis::journal::SegmentHeader;
use crate::source::redis::connection::{Access, Connection};
use crate::source::redis::error::RedisError;
use crate::source::redis::replication::{Begun, Position, Wanted, begin};
use crate::source::redis::server::ServerState;

/// How often is looked whether we were told to stop.
const TICK: Duration = Duration::from_millis(50);

/// A server that sends what was asked for.
pub struct Connected {
    /// Where that comes.
    pub connection: Connection,
    /// How the server was before.
    pub state: ServerState,
    /// What comes.
    pub begun: Begun,
    /// A dump is of no earlier than so long ago.
    pub age: Duration,
}

/// Connects, and asks for the commands from a position on, for a dump and all after it without one.
/// Nothing where we were told to stop.
///
/// # Errors
/// Nobody answers, or the server refuses.
pub fn connect(
    access: &Access,
    position: Option<Position>,
) -> Result<Option<Connected>, RedisError> {
    let (said, heard) = bounded(1);
    let access = access.clone();
    std::thread::spawn(move || drop(said.send(connect_now(&access, position.as_ref()))));
    loop {
        match heard.recv_timeout(TICK) {
            Ok(connected) => return connected.map(Some),
            Err(RecvTimeoutError::Timeout) if signals().came().is_none() => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// How the first segment of a connection begins, as far as that is known before anything came.
#[must_use]
pub fn first_header(position: Position, line: String) -> SegmentHeader {
    SegmentHeader {
        journal: SegmentHeader::VERSION,
        line,
        session: 0,
        replid: position.replid,
        after: None,
        start: position.offset,
        db: None,
        begun: now_ms(),
        live_from: u64::MAX,
    }
}

fn connect_now(access: &Access, position: Option<&Position>) -> Result<Connected, RedisError> {
    // One connection: the next one may be to another replica.
    let mut connection = access.connect()?;
    let mut asked = Instant::now();
    // The backlog does not wait for what would only delay a dump.
    if position.is_none() {
        drop(ready_state_of(&mut connection)?);
        asked = Instant::now();
    }
    let state = ServerState::read(&mut connection)?;
    state.require_ready(connection.shown())?;
    let took = asked.elapsed();
    let wanted = position.map_or(Wanted::DumpAndStream, Wanted::Stream);
    let (begun, age) = begin(&mut connection, wanted)?;
    Ok(Connected { connection, state, begun, age: took + age })
}
