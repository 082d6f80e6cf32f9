//! A store that remembers what was asked of another one, so that tests can count requests.
//!
//! Calls pass unchanged; one that fails is recorded too.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::{Entry, Put, Store, StoreError, pass_on};

/// The kinds of call a store takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// [`Store::put`]
    Put,
    /// [`Store::get`]
    Get,
    /// [`Store::read_at`]
    ReadAt,
    /// [`Store::list`]
    List,
    /// [`Store::stat`]
    Stat,
    /// [`Store::delete`]
    Delete,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What was asked.
    pub kind: OperationKind,
    /// Of which object, or of which prefix for a listing.
    pub name: String,
    /// Bytes offered (put), returned (get) or asked for (`read_at`); else 0.
    pub bytes: u64,
}

/// Passes every call on and records it.
pub struct RecordingStore<S> {
    inner: S,
    operations: Mutex<Vec<Operation>>,
}

impl<S: Store> RecordingStore<S> {
    /// Records what `inner` is asked from now on.
    pub fn new(inner: S) -> Self {
        Self { inner, operations: Mutex::default() }
    }

    /// The store behind.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Takes the calls recorded since the last time, in the order in which they ended.
    pub fn take_operations(&self) -> Vec<Operation> {
        std::mem::take(&mut *self.lock())
    }

    /// Number of recorded calls of one kind.
    pub fn count(&self, kind: OperationKind) -> usize {
        self.lock().iter().filter(|operation| operation.kind == kind).count()
    }

    /// Bytes of the recorded calls of one kind.
    pub fn bytes(&self, kind: OperationKind) -> u64 {
        let operations = self.lock();
        operations.iter().filter(|operation| operation.kind == kind).map(|one| one.bytes).sum()
    }

    fn record(&self, kind: OperationKind, name: &str, bytes: u64) {
        self.lock().push(Operation { kind, name: name.to_owned(), bytes });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Store> Store for RecordingStore<S> {
    pass_on!(self => self.inner);

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        let answer = self.inner.put(name, bytes);
        self.record(OperationKind::Put, name, bytes.len() as u64);
        answer
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let answer = self.inner.get(name, bytes_max);
        let bytes = answer.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.record(OperationKind::Get, name, bytes);
        answer
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let answer = self.inner.read_at(name, offset, buffer);
        self.record(OperationKind::ReadAt, name, buffer.len() as u64);
        answer
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        let answer = self.inner.list(prefix, visit);
        self.record(OperationKind::List, prefix, 0);
        answer
    }

    fn stat(&self, name: &str) -> Result<Entry, StoreError> {
        let answer = self.inner.stat(name);
        self.record(OperationKind::Stat, name, 0);
        answer
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let answer = self.inner.delete(name);
        self.record(OperationKind::Delete, name, 0);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::{OperationKind, RecordingStore};
    use crate::store::memory::MemoryStore;
    use crate::store::{Store, conformance};

    #[test]
    fn conforms() {
        conformance::run(|| Box::new(RecordingStore::new(MemoryStore::new())));
    }

    #[test]
    fn counts_calls_and_bytes() {
        let store = RecordingStore::new(MemoryStore::new());
        store.put("a", b"12345").unwrap();
        store.read_at("a", 1, &mut [0; 3]).unwrap();
        store.read_at("missing", 1, &mut [0; 3]).unwrap_err();
        assert_eq!(store.count(OperationKind::Put), 1);
        assert_eq!(store.count(OperationKind::ReadAt), 2);
        assert_eq!(store.bytes(OperationKind::ReadAt), 6);
        assert_eq!(store.take_operations().len(), 3);
        assert_eq!(store.count(OperationKind::Put), 0);
    }
}
