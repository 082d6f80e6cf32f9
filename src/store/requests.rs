//! How many requests a store has made: people pay for them.

use std::ops::Sub;

use serde::Serialize;

/// Requests by kind, failed ones and repeated ones among them, and the bytes of their bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    /// Objects put.
    pub puts: u64,
    /// Objects or parts of them read.
    pub gets: u64,
    /// Pages of listings.
    pub lists: u64,
    /// Sizes asked for.
    pub heads: u64,
    /// Objects deleted.
    pub deletes: u64,
    /// Anything else: locks, settings of the bucket.
    pub other: u64,
    /// Of all these, those that repeat a request that failed.
    pub retries: u64,
    /// Bytes sent as bodies.
    pub bytes_up: u64,
    /// Bytes received as bodies.
    pub bytes_down: u64,
}

impl RequestCounts {
    /// All requests.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.puts + self.gets + self.lists + self.heads + self.deletes + self.other
    }
}

impl Sub for RequestCounts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            puts: self.puts - before.puts,
            gets: self.gets - before.gets,
            lists: self.lists - before.lists,
            heads: self.heads - before.heads,
            deletes: self.deletes - before.deletes,
            other: self.other - before.other,
            retries: self.retries - before.retries,
            bytes_up: self.bytes_up - before.bytes_up,
            bytes_down: self.bytes_down - before.bytes_down,
        }
    }
}
