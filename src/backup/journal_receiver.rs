//! Takes a server's commands as they come: into the spool, whatever is saved meanwhile.
//!
//! Never waits for the repository: a server cuts off who reads slowly. It hears from us what is
//! durable, and nothing else: at once where it asks or something became durable, else seldom, so
//! that a store that is away makes a late replica of us.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backup::journal_pending::{Sender, Transactions};
use crate::backup::journal_spool::{JournalSpool, JournalSpoolError};
use crate::clock::now_ms;
use crate::format::redis::journal::SegmentHeader;
use crate::source::redis::connection::{Connection, READ_BYTES, is_silence};
use crate::source::redis::error::RedisError;
use crate::source::redis::replication::{SILENCE_MAX, acknowledge};
use crate::source::redis::server::ServerState;
use crate::source::redis::watch::Watch;

/// How long is waited for bytes before something else is looked at.
const TICK: Duration = Duration::from_millis(50);
/// The server hears from us at least so often: it cuts off who says nothing for a minute.
const REPLY_AFTER: Duration = Duration::from_secs(20);

/// And so often as long as it has sent nothing.
const KNOCK_AFTER: Duration = Duration::from_millis(100);

/// What the thread that takes and the one that saves have in common.
pub struct Receiving {
    /// What came and is not saved.
    pub spool: Mutex<JournalSpool>,
    /// Everything before this position is durable.
    pub durable: AtomicU64,
    /// The thread that takes is to end.
    pub is_stopping: AtomicBool,
    /// Who sends.
    sender: Mutex<Sender>,
}

/// Why nothing comes any more.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The connection broke.
    #[error(transparent)]
    Server(#[from] RedisError),
    /// What came could not be kept.
    #[error(transparent)]
    Spool(#[from] JournalSpoolError),
}

impl Receiving {
    /// With what an earlier process has left.
    #[must_use]
    pub fn new(spool: JournalSpool) -> Self {
        let sender = Sender { run_id: String::new(), transactions: Transactions::AtWork };
        Self {
            spool: Mutex::new(spool),
            durable: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
            sender: Mutex::new(sender),
        }
    }

    /// Says who sends over the next connection.
    pub fn set_sender(&self, state: &ServerState) {
        let early = state.sends_early();
        let transactions = if early { Transactions::AtWork } else { Transactions::Done };
        let sender = Sender { run_id: state.run_id().to_owned(), transactions };
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = sender;
    }

    /// The spool, for a moment.
    pub fn spool(&self) -> MutexGuard<'_, JournalSpool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what comes over a connection until told to stop, into segments that begin as `header`
    /// says. What `watch` sees of the same server bounds the times of what comes.
    ///
    /// # Errors
    /// [`ReceiveError`]; what came until then is in the spool.
    pub fn receive(
        &self,
        connection: &mut Connection,
        watch: &Watch,
        header: SegmentHeader,
    ) -> Result<(), ReceiveError> {
        let outcome = self.take_all(connection, watch, header);
        let ended = self.spool().end_connection(now_ms(), &mut watch.sightings());
        outcome.and(ended.map_err(ReceiveError::from))
    }

    fn take_all(
        &self,
        connection: &mut Connection,
        watch: &Watch,
        header: SegmentHeader,
    ) -> Result<(), ReceiveError> {
        connection.set_patience(TICK)?;
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.spool().begin(header, sender)?;
        let mut buffer = vec![0; READ_BYTES];
        let mut has_heard = false;
        let (mut heard, mut replied) = (Instant::now(), Instant::now());
        let mut told = None;
        while !self.is_stopping.load(Ordering::Relaxed) {
            let mut is_asked = false;
            match connection.read(&mut buffer, "taking the commands") {
                Ok(length) => {
                    (heard, has_heard) = (Instant::now(), true);
                    let mut spool = self.spool();
                    let mut seen = watch.sightings();
                    is_asked = spool.take(now_ms(), &buffer[..length], &mut seen)?;
                }
                Err(error) if is_silence(&error) && heard.elapsed() < SILENCE_MAX => {
                    self.spool().tick(now_ms(), &mut watch.sightings())?;
                }
                Err(error) => return Err(error.into()),
            }
            // Who asks again and again is not to wait for what his questions are.
            let durable = self.spool().quiet_end(self.durable.load(Ordering::Relaxed));
            // A server that has sent its dump without a file sends nothing before it hears from us.
            let silence = if has_heard { REPLY_AFTER } else { KNOCK_AFTER };
            if is_asked || told < Some(durable) || replied.elapsed() >= silence {
                acknowledge(connection, durable)?;
                (replied, told) = (Instant::now(), Some(durable));
            }
        }
        Ok(())
    }
}
