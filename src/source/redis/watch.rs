//! How far a server is, and when: what bounds the times at which the commands of its journal were
//! executed, however late they come.
//!
//! A thread of its own asks over a connection of its own. What it hears at one time bounds both
//! sides: commands that end by the position that the server names were executed before the answer
//! came, and all others after the question was sent.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::now_ms;
use crate::source::redis::connection::{Access, is_silence};
use crate::source::redis::error::RedisError;
use crate::source::redis::server::ServerState;

/// How often the server is asked.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// So long after it did not answer.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// An answer takes no longer…
const PATIENCE: Duration = Duration::from_secs(5);
/// …and is waited for so long at a time, at least.
const PATIENCE_MIN: Duration = Duration::from_millis(1);
/// Sightings that are kept: hours of a stream that is late.
const SIGHTINGS_MAX: usize = 1 << 16;

/// A position that a server was at. Times are milliseconds since 1970 by our clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sighting {
    offset: u64,
    /// When the first answer with that position came.
    heard: u64,
    /// When the question for the last one was sent.
    asked: u64,
}

/// Where a server was seen in one history.
#[derive(Debug, Default)]
pub struct Sightings {
    history: String,
    list: VecDeque<Sighting>,
}

impl Sightings {
    /// Takes an answer. Where positions or our clock went back, what was known before is of no use.
    pub fn add(&mut self, history: &str, asked: u64, heard: u64, offset: u64) {
        let last = self.list.back();
        let goes_on = last.is_none_or(|last| last.asked <= asked && last.offset <= offset);
        if self.history != history || !goes_on {
            history.clone_into(&mut self.history);
            self.list.clear();
        }
        if let Some(last) = self.list.back_mut().filter(|last| last.offset == offset) {
            last.asked = asked;
        } else if self.list.len() < SIGHTINGS_MAX {
            // What is left out makes bounds wider, and none wrong.
            self.list.push_back(Sighting { offset, heard, asked });
        }
    }

    /// All up to that position was executed by this time.
    #[must_use]
    pub fn executed_by(&self, history: &str, end: u64) -> Option<u64> {
        let next = self.list.partition_point(|one| one.offset < end);
        self.list.get(next).filter(|_| self.history == history).map(|one| one.heard)
    }

    /// All behind that position was executed after this time.
    #[must_use]
    pub fn executed_after(&self, history: &str, start: u64) -> Option<u64> {
        let next = self.list.partition_point(|one| one.offset <= start);
        let last = next.checked_sub(1).and_then(|last| self.list.get(last));
        last.filter(|_| self.history == history).map(|one| one.asked)
    }

    /// The first position behind `start` at which the server was seen.
    #[must_use]
    pub fn next(&self, history: &str, start: u64) -> Option<u64> {
        let next = self.list.partition_point(|one| one.offset <= start);
        self.list.get(next).filter(|_| self.history == history).map(|one| one.offset)
    }

    /// Forgets what no bound of anything behind that position needs.
    pub fn forget_before(&mut self, start: u64) {
        while self.list.get(1).is_some_and(|second| second.offset <= start) {
            self.list.pop_front();
        }
    }
}

/// What the positions of a server are seen as: replicas of one history are not equally far.
#[must_use]
pub fn history_of(replid: &str, run_id: &str) -> String {
    format!("{replid} {run_id}")
}

/// The thread that asks; it ends when this is dropped.
pub struct Watch {
    sightings: Arc<Mutex<Sightings>>,
    is_over: Arc<AtomicBool>,
}

impl Watch {
    /// Begins to ask the server that `access` leads to.
    #[must_use]
    pub fn start(access: &Access) -> Self {
        let watch = Self { sightings: Arc::default(), is_over: Arc::default() };
        let (sightings, is_over) = (Arc::clone(&watch.sightings), Arc::clone(&watch.is_over));
        let access = access.clone();
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                // Who does not answer was not seen: that is all there is to say of it.
                drop(ask_on(&access, &sightings, &is_over));
                sleep(ASK_AGAIN_AFTER, &is_over);
            }
        });
        watch
    }

    /// What is known; whoever asks must not keep it.
    pub fn sightings(&self) -> MutexGuard<'_, Sightings> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Asks over one connection until that breaks, or nobody wants to know any more. No question waits for
/// the answer to the one before: over a long way that would be seldom.
fn ask_on(
    access: &Access,
    sightings: &Mutex<Sightings>,
    is_over: &AtomicBool,
) -> Result<(), RedisError> {
    let mut connection = access.connect()?;
    let run_id = ServerState::read(&mut connection)?.run_id().to_owned();
    let mut asked = VecDeque::new();
    let mut next = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            asked.push_back(now_ms());
            ServerState::ask_for_replication(&mut connection)?;
            next = now + ASK_EVERY;
        }
        connection.set_patience(next.saturating_duration_since(now).max(PATIENCE_MIN))?;
        match ServerState::answered(&mut connection) {
            Ok(state) => {
                let (heard, asked) = (now_ms(), asked.pop_front());
                if let (Some(asked), Some(history), Some(offset)) =
                    (asked, state.replid(), state.offset())
                {
                    let mut sightings = sightings.lock().unwrap_or_else(PoisonError::into_inner);
                    sightings.add(&history_of(history, &run_id), asked, heard, offset);
                }
            }
            Err(error) if is_silence(&error) && connection.silent_for() < PATIENCE => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn sleep(time: Duration, is_over: &AtomicBool) {
    let until = Instant::now() + time;
    while !is_over.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(ASK_EVERY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(list: &[(u64, u64, u64)]) -> Sightings {
        let mut sightings = Sightings::default();
        for (asked, heard, offset) in list {
            sightings.add("h", *asked, *heard, *offset);
        }
        sightings
    }

    #[test]
    fn what_was_heard_bounds_the_times_of_commands() {
        let mut seen = seen(&[(10, 12, 100), (20, 21, 100), (30, 33, 150), (40, 41, 200)]);
        let table =
            [(99, Some(12)), (100, Some(12)), (101, Some(33)), (200, Some(41)), (201, None)];
        for (end, expected) in table {
            assert_eq!(seen.executed_by("h", end), expected, "{end}");
        }
        let table =
            [(99, None), (100, Some(20)), (149, Some(20)), (150, Some(30)), (500, Some(40))];
        for (start, expected) in table {
            assert_eq!(seen.executed_after("h", start), expected, "{start}");
        }
        assert_eq!((seen.next("h", 0), seen.next("h", 100)), (Some(100), Some(150)));
        assert_eq!((seen.next("h", 200), seen.next("other", 0)), (None, None));
        assert_eq!((seen.executed_by("other", 1), seen.executed_after("other", 500)), (None, None));
        seen.forget_before(160);
        assert_eq!(
            (seen.executed_after("h", 149), seen.executed_after("h", 160)),
            (None, Some(30))
        );
    }

    #[test]
    fn what_goes_back_makes_all_before_it_void() {
        for (history, asked, offset) in [("h", 5, 200), ("h", 50, 40), ("other", 50, 200)] {
            let mut seen = seen(&[(10, 12, 100), (20, 21, 150)]);
            seen.add(history, asked, asked + 1, offset);
            assert_eq!(seen.executed_by(history, 1), Some(asked + 1));
            assert_eq!(seen.executed_after(history, 150), (offset <= 150).then_some(asked));
        }
    }

    #[test]
    fn a_stream_that_is_late_for_days_takes_no_more_memory() {
        let mut seen = Sightings::default();
        for number in 0..SIGHTINGS_MAX as u64 + 100 {
            seen.add("h", number, number, number);
        }
        assert_eq!(seen.list.len(), SIGHTINGS_MAX);
        assert_eq!(seen.executed_by("h", SIGHTINGS_MAX as u64 + 50), None);
    }
}
