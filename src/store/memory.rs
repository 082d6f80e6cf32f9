//! A store in memory, for tests: the contract without a disk, a clock that tests set, and ways to
//! damage what is stored.
//!
//! Objects are never overwritten through the trait; [`MemoryStore::overwrite`] is damage.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::clock::{Clock, SystemClock};
use crate::store::name::{check_object_name, check_prefix};
use crate::store::{Entry, Put, Store, StoreError};

#[derive(Clone)]
struct Object {
    bytes: Arc<[u8]>,
    first_seen: SystemTime,
}

/// Objects in memory; gone with the value.
pub struct MemoryStore {
    location: String,
    clock: Arc<dyn Clock>,
    objects: Mutex<BTreeMap<String, Object>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store that takes `first_seen` from the host's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store that takes `first_seen` from `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::at("memory", clock)
    }

    /// An empty store that says it is at `location`, for tests of several places.
    #[must_use]
    pub fn at(location: &str, clock: Arc<dyn Clock>) -> Self {
        Self { location: location.to_owned(), clock, objects: Mutex::default() }
    }

    /// As [`Self::image`], at another place.
    #[must_use]
    pub fn image_at(&self, location: &str) -> Self {
        Self { location: location.to_owned(), ..self.image() }
    }

    /// An independent store with the same objects, as a copy of the disk at this moment.
    #[must_use]
    pub fn image(&self) -> Self {
        let (location, clock) = (self.location.clone(), Arc::clone(&self.clock));
        Self { location, clock, objects: Mutex::new(self.lock().clone()) }
    }

    /// Names of all objects, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Puts other bytes under a name, past the contract: damage, rollback and swaps for tests.
    /// `first_seen` stays what it was.
    pub fn overwrite(&self, name: &str, bytes: &[u8]) {
        let now = self.clock.now();
        let mut objects = self.lock();
        let first_seen = objects.get(name).map_or(now, |object| object.first_seen);
        objects.insert(name.to_owned(), Object { bytes: bytes.into(), first_seen });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        // Every critical section is one map operation: a panic elsewhere leaves the map whole.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Result<Object, StoreError> {
        check_object_name(name)?;
        let found = self.lock().get(name).cloned();
        found.ok_or_else(|| StoreError::NotFound { name: name.to_owned() })
    }
}

fn entry(name: &str, object: &Object) -> Entry {
    let size = object.bytes.len() as u64;
    Entry { name: name.to_owned(), size, first_seen: object.first_seen }
}

impl Store for MemoryStore {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        check_object_name(name)?;
        let object = Object { bytes: bytes.into(), first_seen: self.clock.now() };
        let mut objects = self.lock();
        if objects.contains_key(name) {
            return Ok(Put::Exists);
        }
        objects.insert(name.to_owned(), object);
        Ok(Put::Created)
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let object = self.find(name)?;
        let actual_bytes = object.bytes.len() as u64;
        if actual_bytes > bytes_max {
            let name = name.to_owned();
            return Err(StoreError::WrongSize { name, expected_bytes: bytes_max, actual_bytes });
        }
        Ok(object.bytes.to_vec())
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let object = self.find(name)?;
        let expected_bytes = offset.saturating_add(buffer.len() as u64);
        let actual_bytes = object.bytes.len() as u64;
        if expected_bytes > actual_bytes {
            let name = name.to_owned();
            return Err(StoreError::WrongSize { name, expected_bytes, actual_bytes });
        }
        // Both ends are at most the length of a slice, so they fit usize.
        buffer.copy_from_slice(&object.bytes[offset as usize..expected_bytes as usize]);
        Ok(())
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        check_prefix(prefix)?;
        // Collected first: the visitor may call the store.
        let found: Vec<Entry> = self
            .lock()
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, object)| entry(name, object))
            .collect();
        found.into_iter().for_each(visit);
        Ok(())
    }

    fn stat(&self, name: &str) -> Result<Entry, StoreError> {
        Ok(entry(name, &self.find(name)?))
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_object_name(name)?;
        self.lock().remove(name);
        Ok(())
    }

    fn read_quantum_bytes(&self) -> u64 {
        1
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::MemoryStore;
    use crate::clock::ManualClock;
    use crate::store::{Store, conformance};

    #[test]
    fn conforms() {
        conformance::run(|| Box::new(MemoryStore::new()));
    }

    #[test]
    fn first_seen_is_the_clock_at_creation() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let clock = Arc::new(ManualClock::new(start));
        let store = MemoryStore::with_clock(clock.clone());
        store.put("a", b"1").unwrap();
        clock.advance(Duration::from_secs(5));
        store.put("a", b"1").unwrap();
        store.put("b", b"2").unwrap();
        assert_eq!(store.stat("a").unwrap().first_seen, start);
        assert_eq!(store.stat("b").unwrap().first_seen, start + Duration::from_secs(5));
    }

    #[test]
    fn an_image_goes_its_own_way() {
        let store = MemoryStore::new();
        store.put("a", b"1").unwrap();
        let image = store.image();
        store.put("b", b"2").unwrap();
        image.overwrite("a", b"damaged");
        assert_eq!(image.names(), ["a"]);
        assert_eq!(store.get("a", 9).unwrap(), b"1");
        assert_eq!(image.get("a", 9).unwrap(), b"damaged");
    }
}
