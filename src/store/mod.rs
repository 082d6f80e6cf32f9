//! The place with named immutable objects: a directory, memory, a prefix in S3.
//!
//! A store knows names and bytes only. Objects are created once and never overwritten; what is
//! acknowledged is durable. Nothing here parses, decrypts or decides.

pub mod address;
pub mod capabilities;
pub mod conformance;
pub mod fallback;
pub mod faulty;
pub mod local;
mod local_probe;
pub mod memory;
pub mod name;
mod open_files;
mod publish;
pub mod recording;
pub mod requests;
#[cfg(feature = "s3")]
pub mod s3;
pub mod shared_blocks;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::store::capabilities::Capabilities;
use crate::store::requests::RequestCounts;

/// What `put` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is new and durable.
    Created,
    /// An object of that name was there before; nothing was written. Its bytes were not compared.
    Exists,
}

/// One object as `list` and `stat` see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Full name, `/`-separated.
    pub name: String,
    /// Stored length in bytes.
    pub size: u64,
    /// When the store took the object in, by the store's own clock; never the writer's claim.
    pub first_seen: SystemTime,
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object of that name.
    #[error("object {name} does not exist")]
    NotFound {
        /// Its name.
        name: String,
    },
    /// The object is longer than the caller allows, or shorter than the range asked for.
    #[error("object {name} has {actual_bytes} bytes where {expected_bytes} were expected")]
    WrongSize {
        /// Its name.
        name: String,
        /// What the caller said.
        expected_bytes: u64,
        /// What the store has.
        actual_bytes: u64,
    },
    /// A name that no object can have (empty component, `..`, a byte outside `[a-zA-Z0-9._/-]`).
    #[error("{name:?} is not an object name")]
    BadName {
        /// The text.
        name: String,
    },
    /// There is no room left.
    #[error("no space left for object {name}")]
    NoSpace {
        /// The object that did not fit.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store refuses: permission, read-only, lock.
    #[error("the store refuses access to {name}")]
    Refused {
        /// Object or folder.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// This kind of store, or this service, cannot do that.
    #[error("{location} does not offer {what}")]
    Unsupported {
        /// The store.
        location: String,
        /// What was asked for.
        what: &'static str,
    },
    /// Anything else the system said.
    #[error("{action} {path} failed")]
    Io {
        /// What was tried, as a verb: `write`, `read`, `list`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StoreError {
    /// Whether the medium itself does not give the bytes back: damage of this object, while others
    /// may be whole.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
    }
}

/// A store. All calls may be made from any thread at any time.
pub trait Store: Send + Sync {
    /// Where it is, for people and for the local state (`/srv/repo`); no secret in it.
    fn location(&self) -> String;

    /// Creates the object if no object of that name exists.
    ///
    /// When it returns [`Put::Created`] the bytes and the name survive a power loss. A crash before
    /// leaves nothing under the name. Of several at once exactly one gets `Created`.
    ///
    /// # Errors
    /// Every failure leaves nothing under the name.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError>;

    /// As [`Store::put`], for whoever needs the bytes no longer: a store that sends them away keeps
    /// them without a copy.
    fn put_owned(&self, name: &str, bytes: Vec<u8>) -> Result<Put, StoreError> {
        self.put(name, &bytes)
    }

    /// Reads a whole object of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::WrongSize`] when it is longer, and system errors.
    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] when the object ends before the buffer is full.
    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError>;

    /// Calls `visit` for every object whose name begins with `prefix` (a folder ending in `/`, or
    /// empty for all), in no certain order. Unfinished uploads are not objects.
    ///
    /// # Errors
    /// A folder that does not exist is an empty one; any other failure ends the listing.
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError>;

    /// Size and time of one object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and system errors.
    fn stat(&self, name: &str) -> Result<Entry, StoreError>;

    /// Removes an object; one that is not there is removed already.
    ///
    /// # Errors
    /// System errors; then the object may be there or not.
    fn delete(&self, name: &str) -> Result<(), StoreError>;

    /// Smallest read in bytes that is worth a request: ranges are widened to multiples of it.
    fn read_quantum_bytes(&self) -> u64 {
        64 * 1024
    }

    /// Bytes that may still be stored, where the store can tell; a hint, others use the space too.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// How many puts at once pay off: one where the disk is the limit, several where the way is long.
    fn upload_slots(&self) -> usize {
        1
    }

    /// How many reads at once pay off beyond one for each core.
    fn read_slots(&self) -> usize {
        1
    }

    /// Requests made so far, where they cost anything.
    fn requests(&self) -> Option<RequestCounts> {
        None
    }

    /// Which of several copies an object is read from next; 0 where there is only one.
    fn trusted_copy(&self, name: &str) -> usize {
        let _ = name;
        0
    }

    /// Takes note that the bytes of an object, read while [`Store::trusted_copy`] was `copy`, are not
    /// the right ones. Whether there is another copy to read.
    fn distrust(&self, name: &str, copy: usize) -> bool {
        let _ = (name, copy);
        false
    }

    /// Whether objects are created only if absent, atomically; nothing where that is not known yet.
    fn keeps_conditions(&self) -> Option<bool> {
        None
    }

    /// Tries what the store really keeps of this contract; leaves nothing behind that is an object.
    ///
    /// # Errors
    /// What keeps anything from being stored; [`StoreError::Unsupported`] where there is nothing to
    /// try.
    fn probe(&self) -> Result<Capabilities, StoreError> {
        Err(StoreError::Unsupported { location: self.location(), what: "a probe" })
    }

    /// Whether objects can be locked against deletion for a time.
    fn can_lock(&self) -> bool {
        false
    }

    /// Keeps an object from being deleted before that time; a longer lock stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] where [`Store::can_lock`] is false.
    fn lock_until(&self, name: &str, until: SystemTime) -> Result<(), StoreError> {
        let _ = (name, until);
        Err(StoreError::Unsupported { location: self.location(), what: "locks on objects" })
    }

    /// Until when the object is locked; nothing where it is not.
    fn locked_until(&self, name: &str) -> Result<Option<SystemTime>, StoreError> {
        let _ = name;
        Ok(None)
    }
}

/// The calls that a decorator passes on unchanged: `pass_on!(self => self.inner);`, where it has a
/// say in which copy is trusted `pass_on!(self => self.inner, but copies);`.
macro_rules! pass_on {
    ($self:ident => $inner:expr) => {
        pass_on!($self => $inner, but copies);

        fn trusted_copy(&$self, name: &str) -> usize {
            $inner.trusted_copy(name)
        }

        fn distrust(&$self, name: &str, copy: usize) -> bool {
            $inner.distrust(name, copy)
        }
    };
    ($self:ident => $inner:expr, but copies) => {
        fn location(&$self) -> String {
            $inner.location()
        }

        fn read_quantum_bytes(&$self) -> u64 {
            $inner.read_quantum_bytes()
        }

        fn free_bytes(&$self) -> Option<u64> {
            $inner.free_bytes()
        }

        fn upload_slots(&$self) -> usize {
            $inner.upload_slots()
        }

        fn read_slots(&$self) -> usize {
            $inner.read_slots()
        }

        fn requests(&$self) -> Option<$crate::store::requests::RequestCounts> {
            $inner.requests()
        }

        fn keeps_conditions(&$self) -> Option<bool> {
            $inner.keeps_conditions()
        }

        fn probe(
            &$self,
        ) -> Result<$crate::store::capabilities::Capabilities, $crate::store::StoreError> {
            $inner.probe()
        }

        fn can_lock(&$self) -> bool {
            $inner.can_lock()
        }

        fn lock_until(
            &$self,
            name: &str,
            until: std::time::SystemTime,
        ) -> Result<(), $crate::store::StoreError> {
            $inner.lock_until(name, until)
        }

        fn locked_until(
            &$self,
            name: &str,
        ) -> Result<Option<std::time::SystemTime>, $crate::store::StoreError> {
            $inner.locked_until(name)
        }
    };
}
pub(crate) use pass_on;

macro_rules! store_behind_pointer {
    ($($pointer:ident),*) => {$(
        impl<S: Store + ?Sized> Store for $pointer<S> {
            pass_on!(self => (**self));

            fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
                (**self).put(name, bytes)
            }

            fn put_owned(&self, name: &str, bytes: Vec<u8>) -> Result<Put, StoreError> {
                (**self).put_owned(name, bytes)
            }

            fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
                (**self).get(name, bytes_max)
            }

            fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
                (**self).read_at(name, offset, buffer)
            }

            fn list(&self, prefix: &str, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
                (**self).list(prefix, visit)
            }

            fn stat(&self, name: &str) -> Result<Entry, StoreError> {
                (**self).stat(name)
            }

            fn delete(&self, name: &str) -> Result<(), StoreError> {
                (**self).delete(name)
            }
        }
    )*};
}

store_behind_pointer!(Box, Arc);
