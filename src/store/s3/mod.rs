//! A store in a bucket of an S3 service.
//!
//! Each object is one PUT under `If-None-Match: *` with a SHA-256 of its bytes; nothing is ever
//! uploaded in parts, so nothing is left behind. Calls block; the asynchronous runtime below them
//! is this module's alone. What a service does not keep is found by [`probe`], and said.

mod bandwidth;
mod client;
mod connection;
mod counts;
mod fault;
mod limiter;
mod lock;
mod objects;
pub mod options;
pub mod probe;
mod retry;
mod transfer;

use std::sync::OnceLock;
use std::time::SystemTime;

use hyper::body::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::store::address::S3Address;
use crate::store::capabilities::Capabilities;
use crate::store::name::{check_object_name, check_prefix};
use crate::store::requests::RequestCounts;
use crate::store::s3::connection::Connection;
use crate::store::s3::fault::{Fault, FaultKind};
use crate::store::s3::objects::{Conditions, Whole};
pub use crate::store::s3::options::{Patience, S3Credentials, S3Options};
use crate::store::{Entry, Put, Store, StoreError};

/// Threads that move bytes; the callers' threads wait.
const WORKERS: usize = 2;
/// Bytes of uploads that are held at once.
const UPLOAD_BYTES_MAX: usize = 128 * 1024 * 1024;
/// What one permit of an upload stands for.
const UPLOAD_UNIT_BYTES: usize = 64 * 1024;
/// Uploads of the largest objects that fit below [`UPLOAD_BYTES_MAX`].
const UPLOAD_SLOTS: usize = 4;
/// Reads at once that pay off.
const READ_SLOTS: usize = 16;
/// The key, below the prefix, by which conditions are tried; it stays there.
const CONDITIONS_KEY: &str = "tmp/probe-conditions";

/// A prefix of a bucket.
pub struct S3Store {
    connection: Connection,
    /// The address's prefix with its final `/`, or nothing.
    prefix: String,
    location: String,
    conditions: OnceLock<Conditions>,
    finding_conditions: std::sync::Mutex<()>,
    /// Whether the bucket has Object Lock, once that was asked.
    locks: OnceLock<lock::BucketLock>,
    uploads: Semaphore,
    /// There until the store is dropped.
    runtime: Option<Runtime>,
}

impl S3Store {
    /// Gets ready to talk to a service; nothing is asked of it yet.
    pub fn open(address: &S3Address, options: S3Options) -> Result<Self, StoreError> {
        let location = S3Address { profile: None, ..address.clone() }.to_string();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("holdfast-s3")
            .enable_all()
            .build()
            .map_err(|source| StoreError::Io {
                action: "open",
                path: (&location).into(),
                source,
            })?;
        let conditions = OnceLock::new();
        if let Some(kept) = options.conditional_put {
            let known = if kept { Conditions::Kept } else { Conditions::Ignored };
            conditions.get_or_init(|| known);
        }
        let prefix = address.prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self {
            connection: runtime.block_on(Connection::new(address.clone(), options)),
            prefix,
            location,
            conditions,
            finding_conditions: std::sync::Mutex::new(()),
            locks: OnceLock::new(),
            uploads: Semaphore::new(UPLOAD_BYTES_MAX / UPLOAD_UNIT_BYTES),
            runtime: Some(runtime),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &S3Address {
        &self.connection.address
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("the runtime stays until the drop").block_on(work)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn failure(&self, action: &'static str, name: &str, fault: Fault) -> StoreError {
        fault.into_store_error(action, &self.location, name)
    }

    /// What the service does with conditions; asked once.
    fn conditions(&self) -> Result<Conditions, StoreError> {
        if let Some(known) = self.conditions.get() {
            return Ok(*known);
        }
        let _one =
            self.finding_conditions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = self.conditions.get() {
            return Ok(*known);
        }
        let found = match self.wait(self.connection.find_conditions(&self.key(CONDITIONS_KEY))) {
            Ok(found) => found,
            // Credentials for certain names only: looking before each PUT is right anywhere.
            Err(fault) if matches!(fault.kind, FaultKind::Refused | FaultKind::Unclear) => {
                Conditions::Ignored
            }
            Err(fault) => return Err(self.failure("write", CONDITIONS_KEY, fault)),
        };
        Ok(*self.conditions.get_or_init(|| found))
    }

    /// Creates an object under any name, also one that stores keep for themselves.
    fn put_any(&self, name: &str, bytes: impl Into<Bytes>) -> Result<Put, StoreError> {
        let bytes = bytes.into();
        let conditions = self.conditions()?;
        let units =
            bytes.len().div_ceil(UPLOAD_UNIT_BYTES).min(UPLOAD_BYTES_MAX / UPLOAD_UNIT_BYTES);
        let put = async {
            // The semaphore is never closed.
            let _room = self.uploads.acquire_many(units as u32).await.ok();
            self.connection.create(&self.key(name), bytes, conditions).await
        };
        self.wait(put).map_err(|fault| self.failure("write", name, fault))
    }

    fn get_any(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let read = self.wait(self.connection.read(&self.key(name), bytes_max));
        match read.map_err(|fault| self.failure("read", name, fault))? {
            Whole::Bytes(bytes) => Ok(bytes),
            Whole::TooLong(actual_bytes) => {
                let name = name.to_owned();
                Err(StoreError::WrongSize { name, expected_bytes: bytes_max, actual_bytes })
            }
        }
    }

    fn list_any(&self, prefix: &str, mut visit: impl FnMut(Entry)) -> Result<(), StoreError> {
        let full = self.key(prefix);
        let mut token = None;
        loop {
            let page = self.wait(self.connection.page(&full, token.as_deref()));
            let (keys, next) = page.map_err(|fault| self.failure("list", prefix, fault))?;
            for listed in keys {
                // A service that gives other keys than those asked for, or an object's folder.
                if let Some(name) = listed.key.strip_prefix(&self.prefix)
                    && name.starts_with(prefix)
                {
                    let (size, first_seen) = (listed.size, listed.modified);
                    visit(Entry { name: name.to_owned(), size, first_seen });
                }
            }
            match next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Whoever holds the store has no call open; what is left are idle connections.
            runtime.shutdown_background();
        }
    }
}

impl Store for S3Store {
    fn location(&self) -> String {
        self.location.clone()
    }

    /// Where the service ignores conditions, the store looks before it puts: that is not atomic.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        check_object_name(name)?;
        self.put_any(name, Bytes::copy_from_slice(bytes))
    }

    fn put_owned(&self, name: &str, bytes: Vec<u8>) -> Result<Put, StoreError> {
        check_object_name(name)?;
        self.put_any(name, bytes)
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        check_object_name(name)?;
        self.get_any(name, bytes_max)
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        check_object_name(name)?;
        let expected_bytes = offset.saturating_add(buffer.len() as u64);
        let read = self.wait(self.connection.read_range(&self.key(name), offset, buffer));
        match read.map_err(|fault| self.failure("read", name, fault))? {
            None => Ok(()),
            Some(actual_bytes) => {
                let name = name.to_owned();
                Err(StoreError::WrongSize { name, expected_bytes, actual_bytes })
            }
        }
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        check_prefix(prefix)?;
        self.list_any(prefix, |entry| {
            if check_object_name(&entry.name).is_ok() {
                visit(entry);
            }
        })
    }

    fn stat(&self, name: &str) -> Result<Entry, StoreError> {
        check_object_name(name)?;
        let head = self.wait(self.connection.head(&self.key(name)));
        let head = head.map_err(|fault| self.failure("stat", name, fault))?;
        Ok(Entry { name: name.to_owned(), size: head.size, first_seen: head.modified })
    }

    /// In a bucket with Object Lock it removes the versions, so that space is freed and a lock
    /// refuses; in a bucket with versions alone it leaves a marker, and the versions stay.
    fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_object_name(name)?;
        self.delete_any(name)
    }

    /// A request costs as much as a megabyte or more.
    fn read_quantum_bytes(&self) -> u64 {
        1024 * 1024
    }

    fn upload_slots(&self) -> usize {
        UPLOAD_SLOTS
    }

    fn read_slots(&self) -> usize {
        READ_SLOTS
    }

    fn requests(&self) -> Option<RequestCounts> {
        Some(self.connection.counters.snapshot())
    }

    fn keeps_conditions(&self) -> Option<bool> {
        self.conditions.get().map(|found| *found == Conditions::Kept)
    }

    fn probe(&self) -> Result<Capabilities, StoreError> {
        probe::probe(self)
    }

    fn can_lock(&self) -> bool {
        self.has_locks()
    }

    fn lock_until(&self, name: &str, until: SystemTime) -> Result<(), StoreError> {
        check_object_name(name)?;
        self.extend_lock(name, until)
    }

    fn locked_until(&self, name: &str) -> Result<Option<SystemTime>, StoreError> {
        check_object_name(name)?;
        let head = self.wait(self.connection.head(&self.key(name)));
        Ok(head.map_err(|fault| self.failure("stat", name, fault))?.locked_until)
    }
}
