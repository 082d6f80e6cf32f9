//! A limit of bytes a second, shared by all bodies of one direction.
//!
//! Bytes get their turns one after another, so the sum over a few seconds keeps the limit whatever
//! the number of connections.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(200);
/// Most bytes that take one turn.
const TURN_BYTES_MAX: usize = 64 * 1024;

/// Bytes a second, dealt out in turns.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_second: u64,
    /// When the bytes dealt out so far are through.
    through: Mutex<Option<Instant>>,
}

impl Bandwidth {
    /// At most `bytes_per_second`; 0 is taken as 1.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), through: Mutex::new(None) }
    }

    /// Bytes that should take one turn: a tenth of a second's, so that a slow line flows.
    pub fn turn_bytes(&self) -> usize {
        ((self.bytes_per_second / 10) as usize).clamp(1, TURN_BYTES_MAX)
    }

    /// The limit.
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// Takes the turn of `bytes`: from when on they may go.
    pub fn reserve(&self, bytes: usize) -> Instant {
        self.reserve_at(bytes, Instant::now())
    }

    fn reserve_at(&self, bytes: usize, now: Instant) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        // Each critical section is one assignment: a panic elsewhere leaves it whole.
        let mut through = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = through.map_or(earliest, |through| through.max(earliest));
        *through = Some(start + takes);
        start.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_keep_the_limit_and_idle_time_is_not_saved_up() {
        let bandwidth = Bandwidth::new(1000);
        let now = Instant::now();
        assert_eq!(bandwidth.reserve_at(200, now), now, "the burst");
        assert_eq!(bandwidth.reserve_at(500, now), now);
        assert_eq!(bandwidth.reserve_at(500, now), now + Duration::from_millis(500));
        assert_eq!(bandwidth.reserve_at(1, now), now + Duration::from_secs(1));
        let later = now + Duration::from_hours(1);
        bandwidth.reserve_at(1000, later);
        assert_eq!(bandwidth.reserve_at(1, later), later + Duration::from_millis(800));
    }

    #[test]
    fn a_slow_line_has_small_turns() {
        assert_eq!(Bandwidth::new(0).turn_bytes(), 1);
        assert_eq!(Bandwidth::new(10_000).turn_bytes(), 1000);
        assert_eq!(Bandwidth::new(1 << 40).turn_bytes(), TURN_BYTES_MAX);
    }
}
