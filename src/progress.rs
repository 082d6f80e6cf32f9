//! What a long operation tells whoever watches it: counters, and events about single items.
//!
//! The library never prints: it counts here, and the command line (or a test) looks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counters of a running operation. All may be read at any time from any thread.
#[derive(Debug, Default)]
pub struct Progress {
    /// Items (files, streams, packs) that are done.
    pub items_done: AtomicU64,
    /// Items known so far; 0 while unknown.
    pub items_total: AtomicU64,
    /// Plain bytes that are done.
    pub bytes_done: AtomicU64,
    /// Plain bytes known so far; 0 while unknown.
    pub bytes_total: AtomicU64,
    /// Stored bytes written or read.
    pub stored_bytes: AtomicU64,
    /// Troubles reported by [`Progress::warn`].
    pub warnings: AtomicU64,
    current: Mutex<String>,
    messages: Mutex<Vec<String>>,
    cancelled: AtomicBool,
}

impl Progress {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Relaxed);
    }

    /// Says which item is being worked on.
    pub fn set_current(&self, item: &str) {
        if let Ok(mut current) = self.current.try_lock() {
            item.clone_into(&mut current);
        }
    }

    /// The item being worked on.
    #[must_use]
    pub fn current(&self) -> String {
        self.current.lock().map(|text| text.clone()).unwrap_or_default()
    }

    /// Reports a trouble with one item that does not end the operation (exit code 3 in the end).
    pub fn warn(&self, message: String) {
        tracing::warn!("{message}");
        Self::add(&self.warnings, 1);
        if let Ok(mut messages) = self.messages.lock() {
            messages.push(message);
        }
    }

    /// Takes the messages reported since the last call, in order.
    #[must_use]
    pub fn take_messages(&self) -> Vec<String> {
        self.messages.lock().map(|mut list| std::mem::take(&mut *list)).unwrap_or_default()
    }

    /// Asks the operation to stop at the next safe point (signal handler).
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether it was asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }
}
