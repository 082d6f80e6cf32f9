//! When a failed request is tried again, and how long it waits before: exponential back-off with
//! full jitter, within a time and a budget.
//!
//! Decisions only; the waiting is done by the caller.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::store::s3::fault::{Fault, FaultKind};
use crate::store::s3::options::Patience;

/// Successes that give one retry back.
const SUCCESSES_PER_RETRY: u32 = 10;

/// Retries that are left to all operations of a store: a service that is down is not hammered by
/// every one of them to its end.
#[derive(Debug)]
pub struct RetryBudget {
    /// In tenths of a retry.
    left: AtomicU32,
    most: u32,
}

impl RetryBudget {
    /// A full budget.
    pub fn new(retries: u32) -> Self {
        let most = retries.saturating_mul(SUCCESSES_PER_RETRY);
        Self { left: AtomicU32::new(most), most }
    }

    /// One retry, if there is one.
    pub fn take(&self) -> bool {
        let take = |left: u32| left.checked_sub(SUCCESSES_PER_RETRY);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Something went well.
    pub fn give_back(&self) {
        let give = |left: u32| (left < self.most).then_some(left + 1);
        // Full already is not a failure.
        let _full = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
    }
}

/// The state of one operation.
#[derive(Debug)]
pub struct Attempts<'a> {
    patience: &'a Patience,
    /// Attempts made.
    pub made: u32,
}

impl<'a> Attempts<'a> {
    /// None made yet.
    pub fn new(patience: &'a Patience) -> Self {
        Self { patience, made: 0 }
    }

    /// How long to wait before the next attempt; none: it is not worth one. `jitter` is in 0..1,
    /// `elapsed` since the operation began, `is_answered` says whether the service ever answered.
    pub fn wait(
        &self,
        fault: &Fault,
        elapsed: Duration,
        jitter: f64,
        is_answered: bool,
    ) -> Option<Duration> {
        let patience = self.patience;
        let most = if is_answered || fault.kind != FaultKind::NoAnswer {
            patience.attempts_max
        } else {
            patience.first_contact_attempts_max.min(patience.attempts_max)
        };
        if !fault.is_passing() || self.made >= most {
            return None;
        }
        let doubled = 1_u32.checked_shl(self.made.saturating_sub(1)).unwrap_or(u32::MAX);
        let bound = patience.delay.saturating_mul(doubled).min(patience.delay_max);
        let asked = fault.retry_after.unwrap_or_default().min(patience.retry_after_max);
        let wait = asked.saturating_add(bound.mul_f64(jitter));
        (elapsed.saturating_add(wait) < patience.operation).then_some(wait)
    }
}

/// A number in 0..1 that no two hosts share.
pub fn jitter() -> f64 {
    // Without randomness the waits are the longest ones, which is safe.
    getrandom::u32().map_or(1.0, |random| f64::from(random) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_ends_and_comes_back_slowly() {
        let budget = RetryBudget::new(2);
        budget.give_back();
        assert!(budget.take() && budget.take());
        assert!(!budget.take());
        (0..SUCCESSES_PER_RETRY).for_each(|_| budget.give_back());
        assert!(budget.take());
        assert!(!budget.take());
    }

    #[test]
    fn waits_double_up_to_an_end() {
        let patience = Patience::default();
        let fault = Fault::new(FaultKind::Failed, "x");
        let wait =
            |made, elapsed| Attempts { patience: &patience, made }.wait(&fault, elapsed, 1.0, true);
        let zero = Duration::ZERO;
        assert_eq!(wait(1, zero), Some(patience.delay));
        assert_eq!(wait(3, zero), Some(patience.delay * 4));
        assert_eq!(wait(9, zero), Some(patience.delay_max));
        assert_eq!(wait(patience.attempts_max, zero), None);
        assert_eq!(wait(1, patience.operation), None, "the time is over");
    }

    #[test]
    fn what_the_service_asks_for_is_done_within_reason() {
        let patience = Patience::default();
        let mut fault = Fault::new(FaultKind::Slow, "x");
        let attempts = Attempts { patience: &patience, made: 1 };
        fault.retry_after = Some(Duration::from_secs(7));
        let wait = attempts.wait(&fault, Duration::ZERO, 0.0, true);
        assert_eq!(wait, Some(Duration::from_secs(7)));
        fault.retry_after = Some(Duration::from_hours(5));
        let wait = attempts.wait(&fault, Duration::ZERO, 0.0, true);
        assert_eq!(wait, Some(patience.retry_after_max));
    }

    #[test]
    fn refusals_are_final_and_a_wrong_address_is_soon() {
        let patience = Patience::default();
        let wait = |kind, made, is_answered| {
            let attempts = Attempts { patience: &patience, made };
            attempts.wait(&Fault::new(kind, "x"), Duration::ZERO, 0.5, is_answered)
        };
        for kind in [FaultKind::Refused, FaultKind::Missing, FaultKind::Full, FaultKind::Other] {
            assert_eq!(wait(kind, 1, true), None, "{kind:?}");
        }
        let first = patience.first_contact_attempts_max;
        assert_eq!(wait(FaultKind::NoAnswer, first, false), None);
        assert!(wait(FaultKind::NoAnswer, first, true).is_some());
        assert!((0.0..1.0).contains(&jitter()));
    }
}
