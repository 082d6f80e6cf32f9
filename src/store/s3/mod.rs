//! A store in a bucket of an S3 service.

use std::time::SystemTime;

use crate::store::address::S3Address;
use crate::store::{Entry, Put, Store, StoreError};

/// How the service is used.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// Bytes a second sent at most.
    pub limit_upload: Option<u64>,
    /// Bytes a second received at most.
    pub limit_download: Option<u64>,
}

/// A bucket, or a part of it.
pub struct S3Store {
    address: S3Address,
}

impl S3Store {
    /// Makes a client; nothing is asked of the service yet.
    pub fn open(address: &S3Address, options: S3Options) -> Result<Self, StoreError> {
        let _ = options;
        Ok(Self { address: address.clone() })
    }

    fn todo<T>(&self) -> Result<T, StoreError> {
        Err(StoreError::Unsupported { location: self.location(), what: "S3" })
    }
}

impl Store for S3Store {
    fn location(&self) -> String {
        self.address.to_string()
    }
    fn put(&self, _: &str, _: &[u8]) -> Result<Put, StoreError> {
        self.todo()
    }
    fn get(&self, _: &str, _: u64) -> Result<Vec<u8>, StoreError> {
        self.todo()
    }
    fn read_at(&self, _: &str, _: u64, _: &mut [u8]) -> Result<(), StoreError> {
        self.todo()
    }
    fn list(&self, _: &str, _: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        self.todo()
    }
    fn stat(&self, _: &str) -> Result<Entry, StoreError> {
        self.todo()
    }
    fn delete(&self, _: &str) -> Result<(), StoreError> {
        self.todo()
    }
    fn lock_until(&self, _: &str, _: SystemTime) -> Result<(), StoreError> {
        self.todo()
    }
}
