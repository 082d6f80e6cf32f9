//! A store in memory that something happens to: a call that is looked at before it is made.

use std::sync::Arc;

use holdfast::store::memory::MemoryStore;
use holdfast::store::recording::OperationKind;
use holdfast::store::requests::RequestCounts;
use holdfast::store::{Entry, Put, Store, StoreError};

/// What is asked before each call: its kind, and the object's name.
type Hook<'a> = Box<dyn Fn(OperationKind, &str) -> Result<(), StoreError> + Send + Sync + 'a>;

/// Passes every call on, unless the hook fails.
pub struct Hooked<'a> {
    on: Arc<MemoryStore>,
    hook: Hook<'a>,
    requests: Option<RequestCounts>,
}

impl<'a> Hooked<'a> {
    pub fn new(
        on: &Arc<MemoryStore>,
        hook: impl Fn(OperationKind, &str) -> Result<(), StoreError> + Send + Sync + 'a,
    ) -> Self {
        Self { on: on.clone(), hook: Box::new(hook), requests: None }
    }

    /// Where requests cost something, so that texts are kept on this host.
    pub fn costly(on: &Arc<MemoryStore>) -> Self {
        Self { requests: Some(RequestCounts::default()), ..Self::new(on, |_, _| Ok(())) }
    }
}

impl Store for Hooked<'_> {
    fn location(&self) -> String {
        self.on.location()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        (self.hook)(OperationKind::Put, name)?;
        self.on.put(name, bytes)
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        (self.hook)(OperationKind::Get, name)?;
        self.on.get(name, bytes_max)
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        (self.hook)(OperationKind::ReadAt, name)?;
        self.on.read_at(name, offset, buffer)
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        (self.hook)(OperationKind::List, prefix)?;
        self.on.list(prefix, visit)
    }

    fn stat(&self, name: &str) -> Result<Entry, StoreError> {
        (self.hook)(OperationKind::Stat, name)?;
        self.on.stat(name)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        (self.hook)(OperationKind::Delete, name)?;
        self.on.delete(name)
    }

    fn requests(&self) -> Option<RequestCounts> {
        self.requests
    }
}
