//! Several copies of one repository as one store to read: what the first does not give, the next may.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::requests::RequestCounts;
use crate::store::{Entry, Put, Store, StoreError};

/// Failures in a row after which a copy is not asked any more.
const FAILURES_MAX: u64 = 3;

/// The copies, the preferred one first. It is read only.
pub struct FallbackStore {
    copies: Vec<(String, Arc<dyn Store>)>,
    served: Vec<AtomicU64>,
    /// Failures in a row of each, other than that an object is not there.
    failures: Vec<AtomicU64>,
    /// Objects of which the copies before that number are not to be believed.
    distrusted: Mutex<HashMap<String, usize>>,
}

impl FallbackStore {
    /// Reads from these, in this order.
    #[must_use]
    pub fn new(copies: Vec<(String, Arc<dyn Store>)>) -> Self {
        let served = copies.iter().map(|_| AtomicU64::new(0)).collect();
        let failures = copies.iter().map(|_| AtomicU64::new(0)).collect();
        Self { copies, served, failures, distrusted: Mutex::default() }
    }

    /// How many answers each copy gave, by name.
    #[must_use]
    pub fn served(&self) -> Vec<(String, u64)> {
        let names = self.copies.iter().map(|(name, _)| name.clone());
        names.zip(self.served.iter().map(|count| count.load(Relaxed))).collect()
    }

    fn any<T>(
        &self,
        name: &str,
        mut read: impl FnMut(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let first = self.trusted_copy(name);
        let mut failure = None;
        for (index, (_, store)) in self.copies.iter().enumerate().skip(first) {
            let is_down = self.failures[index].load(Relaxed) >= FAILURES_MAX;
            if is_down && index + 1 < self.copies.len() {
                continue;
            }
            match read(&**store) {
                Ok(answer) => {
                    self.failures[index].store(0, Relaxed);
                    self.served[index].fetch_add(1, Relaxed);
                    return Ok(answer);
                }
                Err(error @ StoreError::BadName { .. }) => return Err(error),
                Err(error) => {
                    if !matches!(error, StoreError::NotFound { .. } | StoreError::WrongSize { .. })
                    {
                        self.failures[index].fetch_add(1, Relaxed);
                    }
                    // What the preferred copy says is what is reported.
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| StoreError::NotFound { name: name.to_owned() }))
    }

    fn read_only<T>(&self) -> Result<T, StoreError> {
        Err(StoreError::Unsupported {
            location: self.location(),
            what: "writing through several copies",
        })
    }
}

impl Store for FallbackStore {
    fn location(&self) -> String {
        self.copies.first().map(|(_, store)| store.location()).unwrap_or_default()
    }

    fn put(&self, _: &str, _: &[u8]) -> Result<Put, StoreError> {
        self.read_only()
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.any(name, |store| store.get(name, bytes_max))
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.any(name, |store| store.read_at(name, offset, buffer))
    }

    /// The listing of the first copy that gives one.
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        let found = self.any(prefix, |store| {
            let mut found = Vec::new();
            store.list(prefix, &mut |entry| found.push(entry)).map(|()| found)
        })?;
        found.into_iter().for_each(visit);
        Ok(())
    }

    fn stat(&self, name: &str) -> Result<Entry, StoreError> {
        self.any(name, |store| store.stat(name))
    }

    fn delete(&self, _: &str) -> Result<(), StoreError> {
        self.read_only()
    }

    fn read_quantum_bytes(&self) -> u64 {
        self.copies.iter().map(|(_, store)| store.read_quantum_bytes()).max().unwrap_or(1)
    }

    fn read_slots(&self) -> usize {
        self.copies.iter().map(|(_, store)| store.read_slots()).max().unwrap_or(1)
    }

    fn requests(&self) -> Option<RequestCounts> {
        self.copies.iter().find_map(|(_, store)| store.requests())
    }

    fn trusted_copy(&self, name: &str) -> usize {
        let distrusted = self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        distrusted.get(name).copied().unwrap_or(0)
    }

    fn distrust(&self, name: &str, copy: usize) -> bool {
        let mut distrusted = self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        let first = distrusted.entry(name.to_owned()).or_insert(0);
        // Of several readers that fail on the same copy, one moves on for all.
        if *first == copy && copy + 1 < self.copies.len() {
            *first += 1;
        }
        *first > copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn two() -> FallbackStore {
        let (one, two) = (MemoryStore::new(), MemoryStore::new());
        one.put("a", b"one").unwrap();
        two.put("a", b"two").unwrap();
        two.put("b", b"two").unwrap();
        FallbackStore::new(vec![
            ("one".into(), Arc::new(one) as Arc<dyn Store>),
            ("two".into(), Arc::new(two)),
        ])
    }

    #[test]
    fn the_next_copy_gives_what_the_first_has_not() {
        let store = two();
        assert_eq!(store.get("a", 9).unwrap(), b"one");
        assert_eq!(store.get("b", 9).unwrap(), b"two");
        assert!(matches!(store.get("c", 9), Err(StoreError::NotFound { .. })));
        assert_eq!(store.served(), [("one".to_owned(), 1), ("two".to_owned(), 1)]);
        assert!(store.put("d", b"").is_err() && store.delete("a").is_err());
    }

    #[test]
    fn a_copy_that_is_not_believed_is_not_asked_again() {
        let store = two();
        assert!(store.distrust("a", 0));
        assert!(store.distrust("a", 0), "another reader of the first copy skips none");
        assert_eq!(store.trusted_copy("a"), 1);
        assert_eq!(store.get("a", 9).unwrap(), b"two");
        assert!(!store.distrust("a", 1), "there is no third copy");
        assert_eq!(store.get("a", 9).unwrap(), b"two", "the last one is still read");
    }
}
