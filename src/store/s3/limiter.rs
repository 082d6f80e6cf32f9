//! How many requests are under way at once: more while all goes well, half when the service asks
//! for less.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Requests at once in the beginning.
const START: usize = 8;
/// Most requests at once.
pub const IN_FLIGHT_MAX: usize = 32;

/// Additive increase, multiplicative decrease, over all kinds of request.
#[derive(Debug)]
pub struct Limiter {
    slots: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Slots that are to be taken away when they come free.
    debt: usize,
    /// Successes since the last change.
    successes: usize,
    /// Requests that began before it have been accounted for.
    halved: Option<Instant>,
}

/// The right to have one request under way; given back when it is dropped.
pub struct Slot<'a> {
    limiter: &'a Limiter,
    permit: Option<SemaphorePermit<'a>>,
    begun: Instant,
}

impl Default for Limiter {
    fn default() -> Self {
        let state = State { limit: START, debt: 0, successes: 0, halved: None };
        Self { slots: Semaphore::new(START), state: Mutex::new(state) }
    }
}

impl Limiter {
    /// Waits for a slot.
    pub async fn slot(&self) -> Slot<'_> {
        // The semaphore is never closed.
        let permit = self.slots.acquire().await.ok();
        Slot { limiter: self, permit, begun: Instant::now() }
    }

    /// Requests that may be under way now.
    #[cfg(test)]
    pub fn limit(&self) -> usize {
        self.lock().limit
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Only numbers change, each in one step: a panic elsewhere leaves them whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot<'_> {
    /// The service answered as it should.
    pub fn succeeded(&self) {
        let mut state = self.limiter.lock();
        state.successes += 1;
        if state.successes < state.limit || state.limit == IN_FLIGHT_MAX {
            return;
        }
        state.successes = 0;
        state.limit += 1;
        if state.debt > 0 {
            state.debt -= 1;
        } else {
            self.limiter.slots.add_permits(1);
        }
    }

    /// The service asked for less: half as many from now on. Requests that were under way together
    /// count once.
    pub fn slowed(&self) {
        let mut state = self.limiter.lock();
        if state.halved.is_some_and(|halved| self.begun <= halved) {
            return;
        }
        state.halved = Some(Instant::now());
        state.successes = 0;
        let fewer = state.limit / 2;
        state.limit -= fewer;
        state.debt += fewer - self.limiter.slots.forget_permits(fewer);
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.limiter.lock();
        if state.debt > 0 {
            state.debt -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(limiter: &Limiter) -> Slot<'_> {
        let permit = limiter.slots.try_acquire().ok();
        assert!(permit.is_some(), "no slot free");
        Slot { limiter, permit, begun: Instant::now() }
    }

    #[test]
    fn grows_by_one_a_round_up_to_its_end() {
        let limiter = Limiter::default();
        for _ in 0..START {
            take(&limiter).succeeded();
        }
        assert_eq!(limiter.limit(), START + 1);
        for _ in 0..10_000 {
            take(&limiter).succeeded();
        }
        assert_eq!((limiter.limit(), limiter.slots.available_permits()), (IN_FLIGHT_MAX, 32));
    }

    #[test]
    fn halves_once_for_all_that_were_under_way() {
        let limiter = Limiter::default();
        let slots: Vec<_> = (0..START).map(|_| take(&limiter)).collect();
        slots.iter().for_each(Slot::slowed);
        assert_eq!(limiter.limit(), START / 2);
        drop(slots);
        assert_eq!(limiter.slots.available_permits(), START / 2);
        std::thread::sleep(std::time::Duration::from_millis(1));
        for expected in [2, 1, 1] {
            take(&limiter).slowed();
            assert_eq!(limiter.limit(), expected);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(limiter.slots.available_permits(), 1);
    }
}
