//! Counts of what was asked of the service, attempts that failed included: people pay for them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::requests::RequestCounts;

/// The kinds of request, as services put them on their bills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// An object is stored.
    Put,
    /// An object or a range of it is read.
    Get,
    /// One page of a listing.
    List,
    /// Size and time of an object.
    Head,
    /// An object is removed.
    Delete,
    /// Locks and the like.
    Other,
}

/// Counts that many threads add to.
#[derive(Debug, Default)]
pub struct Counters {
    kinds: [AtomicU64; 6],
    retries: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Counters {
    /// One more attempt of a kind.
    pub fn request(&self, kind: RequestKind) {
        self.kinds[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// One attempt was a repetition.
    pub fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of a body have been handed to the connection.
    pub fn up(&self, bytes: usize) {
        self.bytes_up.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of a body have come.
    pub fn down(&self, bytes: usize) {
        self.bytes_down.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The counts now.
    pub fn snapshot(&self) -> RequestCounts {
        let of = |kind: RequestKind| self.kinds[kind as usize].load(Ordering::Relaxed);
        RequestCounts {
            puts: of(RequestKind::Put),
            gets: of(RequestKind::Get),
            lists: of(RequestKind::List),
            heads: of(RequestKind::Head),
            deletes: of(RequestKind::Delete),
            other: of(RequestKind::Other),
            retries: self.retries.load(Ordering::Relaxed),
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
        }
    }
}
