//! How many keys of each database a dump has, and how many of them may have expired by a moment.
//!
//! Memory: a fixed number of minutes for each database.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::format::redis::dump_items::Key;

/// Keys that expire later than so many minutes after the beginning count as there: nothing that
/// they are counted for takes so long.
const MINUTES_MAX: i64 = 14 * 24 * 60;
const MINUTE_MS: i64 = 60_000;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counted {
    keys: u64,
    /// Expired at the beginning.
    expired: u64,
    /// Values that may vanish by themselves.
    volatile: u64,
    /// Values without elements.
    empty: u64,
    /// Keys that expire within a minute after the beginning, by its number.
    soon: BTreeMap<i64, u64>,
}

/// Counts keys as they come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCounts {
    start_ms: i64,
    each: BTreeMap<u64, Counted>,
}

impl KeyCounts {
    /// Begins at a moment, in milliseconds since 1970.
    #[must_use]
    pub fn new(start_ms: i64) -> Self {
        Self { start_ms, each: BTreeMap::new() }
    }

    /// The moment that it began at.
    #[must_use]
    pub fn start_ms(&self) -> i64 {
        self.start_ms
    }

    /// Counts a key.
    pub fn add(&mut self, key: &Key) {
        let counted = self.each.entry(key.database).or_default();
        counted.keys += 1;
        if key.is_empty {
            counted.empty += 1;
        } else if key.is_expired(self.start_ms) {
            counted.expired += 1;
        } else if let Some(expiry) = key.expiry_ms {
            let minute = (expiry - self.start_ms) / MINUTE_MS;
            if minute < MINUTES_MAX {
                *counted.soon.entry(minute).or_default() += 1;
            }
        } else if key.is_volatile() {
            counted.volatile += 1;
        }
    }

    /// Numbers of the databases that have any.
    pub fn databases(&self) -> impl Iterator<Item = u64> {
        self.each.keys().copied()
    }

    /// Keys of all databases.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.each.values().map(|counted| counted.keys).sum()
    }

    /// Keys of all databases that had expired at the beginning.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.each.values().map(|counted| counted.expired).sum()
    }

    /// How many keys of a database a server may have at a moment, where expired ones go.
    #[must_use]
    pub fn left(&self, database: u64, now_ms: i64) -> RangeInclusive<u64> {
        let Some(counted) = self.each.get(&database) else { return 0..=0 };
        let there = counted.keys - counted.expired - counted.empty;
        let minute = (now_ms - self.start_ms) / MINUTE_MS;
        let gone: u64 = counted.soon.range(..=minute).map(|(_, keys)| keys).sum();
        there - gone - counted.volatile..=there
    }

    /// How many keys of a database a server has that lets none expire.
    #[must_use]
    pub fn kept(&self, database: u64) -> RangeInclusive<u64> {
        let Some(counted) = self.each.get(&database) else { return 0..=0 };
        let there = counted.keys - counted.empty;
        there - counted.volatile..=there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_may_have_expired_are_allowed_for() {
        let mut counts = KeyCounts::new(1_000_000);
        let key = |expiry_ms: Option<i64>, value_type: u8| Key {
            database: 3,
            name: Vec::new(),
            expiry_ms,
            idle_seconds: None,
            frequency: None,
            metadata: Vec::new(),
            value_type,
            is_empty: false,
        };
        counts.add(&key(None, 0));
        counts.add(&key(Some(999_999), 0));
        counts.add(&key(Some(1_000_001), 0));
        counts.add(&key(Some(1_070_000), 0));
        counts.add(&key(Some(i64::MAX), 0));
        counts.add(&Key { is_empty: true, ..key(None, 2) });
        assert_eq!((counts.total(), counts.expired()), (6, 1));
        assert_eq!(counts.left(3, 1_000_002), 3..=4);
        assert_eq!(counts.left(3, 1_060_000), 2..=4);
        assert_eq!(counts.kept(3), 5..=5);
        counts.add(&key(None, 22));
        assert_eq!(counts.left(3, 1_000_002), 3..=5);
        assert_eq!(counts.kept(3), 5..=6);
        assert_eq!(counts.left(0, 1_000_002), 0..=0);
        assert_eq!(counts.databases().collect::<Vec<_>>(), [3]);
    }
}
