//! A cache of limited weight that gives up what was not used for longest.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

struct Kept<V> {
    value: V,
    weight: u64,
    last_use: u64,
}

/// Values by key; their weights together stay below a limit, unless a single one is heavier.
pub struct Lru<K, V> {
    kept: HashMap<K, Kept<V>>,
    by_use: BTreeMap<u64, K>,
    uses: u64,
    weight: u64,
    weight_max: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> Lru<K, V> {
    /// An empty cache.
    #[must_use]
    pub fn new(weight_max: u64) -> Self {
        Self { kept: HashMap::new(), by_use: BTreeMap::new(), uses: 0, weight: 0, weight_max }
    }

    /// The value of a key, used just now.
    pub fn find(&mut self, key: &K) -> Option<V> {
        self.uses += 1;
        let kept = self.kept.get_mut(key)?;
        if let Some(key) = self.by_use.remove(&kept.last_use) {
            self.by_use.insert(self.uses, key);
        }
        kept.last_use = self.uses;
        Some(kept.value.clone())
    }

    /// Whether there is a value; does not count as a use.
    #[must_use]
    pub fn has(&self, key: &K) -> bool {
        self.kept.contains_key(key)
    }

    /// Keeps a value, and gives up others where it gets too much.
    pub fn keep(&mut self, key: K, value: V, weight: u64) {
        self.remove(&key);
        self.uses += 1;
        self.weight += weight;
        self.by_use.insert(self.uses, key.clone());
        self.kept.insert(key, Kept { value, weight, last_use: self.uses });
        while self.weight > self.weight_max && self.kept.len() > 1 {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            if let Some(kept) = self.kept.remove(&oldest) {
                self.weight -= kept.weight;
            }
        }
    }

    /// Gives a value up.
    pub fn remove(&mut self, key: &K) {
        if let Some(kept) = self.kept.remove(key) {
            self.by_use.remove(&kept.last_use);
            self.weight -= kept.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut cache = Lru::new(10);
        cache.keep('a', 1, 4);
        cache.keep('b', 2, 4);
        assert_eq!(cache.find(&'a'), Some(1));
        cache.keep('c', 3, 4);
        assert_eq!(
            (cache.find(&'a'), cache.find(&'b'), cache.find(&'c')),
            (Some(1), None, Some(3))
        );
        cache.keep('c', 4, 6);
        assert_eq!((cache.find(&'a'), cache.find(&'c')), (Some(1), Some(4)));
        cache.remove(&'a');
        assert_eq!((cache.weight, cache.by_use.len(), cache.kept.len()), (6, 1, 1));
    }

    #[test]
    fn one_value_may_be_heavier_than_all_should_be() {
        let mut cache = Lru::new(10);
        cache.keep('a', 1, 4);
        cache.keep('b', 2, 40);
        assert_eq!((cache.has(&'a'), cache.find(&'b'), cache.weight), (false, Some(2), 40));
    }
}
