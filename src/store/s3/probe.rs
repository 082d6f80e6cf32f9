//! Looks what a service really does: several ignore or invert conditions, whatever they say.
//!
//! It writes below `tmp/probe-<random>/` only, which no reader takes for objects, and removes what
//! it wrote as far as the credentials may.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;
use std::time::SystemTime;

use hyper::body::Bytes;

use crate::store::capabilities::{Capabilities, CreateIfAbsent, LockCapability};
use crate::store::s3::S3Store;
use crate::store::s3::fault::{Fault, FaultKind};
use crate::store::s3::objects::Conditions;
use crate::store::{Put, StoreError};

/// How many make one name at once.
const RACERS: usize = 20;
const FIRST: &[u8] = b"the first of two\n";

/// Probes a service: some 35 requests.
///
/// # Errors
/// What keeps anything from being stored at all: no credentials, no bucket, no answer, a clock that
/// is too wrong.
pub fn probe(store: &S3Store) -> Result<Capabilities, StoreError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| StoreError::Io {
        action: "probe",
        path: (&store.location).into(),
        source: std::io::Error::other(error.to_string()),
    })?;
    let folder = format!("tmp/probe-{}", data_encoding::HEXLOWER.encode(&random));
    let probe = Probe { store, folder };
    let begun = SystemTime::now();
    let create = probe.two_puts()?;
    let (can_overwrite, clock_skew_seconds) = (probe.overwrite()?, probe.clock(begun)?);
    let (create_if_absent, winners_of_20) = match create {
        CreateIfAbsent::Atomic => probe.race()?,
        other => (other, None),
    };
    let capabilities = Capabilities {
        create_if_absent,
        winners_of_20,
        ranges: probe.ranges()?,
        list_after_put: probe.list()?,
        can_overwrite,
        lock: probe.lock(),
        clock_skew_seconds,
        free_bytes: None,
        open_to_others: None,
        can_delete: probe.clean()?,
    };
    Ok(capabilities)
}

struct Probe<'a> {
    store: &'a S3Store,
    folder: String,
}

impl Probe<'_> {
    fn name(&self, last: &str) -> String {
        format!("{}/{last}", self.folder)
    }

    fn put(&self, last: &str, bytes: &'static [u8], conditions: Conditions) -> Result<Put, Fault> {
        let key = self.store.key(&self.name(last));
        let bytes = Bytes::from_static(bytes);
        self.store.wait(self.store.connection.create(&key, bytes, conditions))
    }

    fn fail(&self, last: &str) -> impl FnOnce(Fault) -> StoreError {
        let (store, name) = (self.store, self.name(last));
        move |fault| store.failure("probe", &name, fault)
    }

    /// A refusal is an answer that the credentials may not have.
    fn if_allowed<T>(&self, last: &str, answer: Result<T, Fault>) -> Result<Option<T>, StoreError> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(fault) if is_refusal(&fault) => Ok(None),
            Err(fault) => Err(self.fail(last)(fault)),
        }
    }

    fn two_puts(&self) -> Result<CreateIfAbsent, StoreError> {
        match self.put("two", FIRST, Conditions::Kept) {
            Err(fault) if fault.kind == FaultKind::Unsupported => {
                let bare = self.put("two", FIRST, Conditions::Rejected);
                return bare.map(|_| CreateIfAbsent::Rejected).map_err(self.fail("two"));
            }
            first => drop(first.map_err(self.fail("two"))?),
        }
        match self.put("two", b"the second of two\n", Conditions::Kept) {
            Ok(Put::Exists) => Ok(CreateIfAbsent::Atomic),
            Ok(Put::Created) => Ok(CreateIfAbsent::Ignored),
            // No right to put what exists is as good.
            Err(fault) if is_refusal(&fault) => Ok(CreateIfAbsent::Atomic),
            Err(fault) => Err(self.fail("two")(fault)),
        }
    }

    fn race(&self) -> Result<(CreateIfAbsent, Option<u32>), StoreError> {
        let barrier = Barrier::new(RACERS);
        let answers: Vec<Result<Put, Fault>> = thread::scope(|scope| {
            let race = || {
                barrier.wait();
                // The same bytes from all: a retry after a lost answer would count twice.
                self.put("race", b"one of twenty\n", Conditions::Kept)
            };
            let threads: Vec<_> = (0..RACERS).map(|_| scope.spawn(race)).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        let mut winners = 0;
        for answer in answers {
            match answer {
                Ok(Put::Created) => winners += 1,
                Ok(Put::Exists) => {}
                Err(fault) if is_refusal(&fault) => {}
                Err(fault) => return Err(self.fail("race")(fault)),
            }
        }
        let kind =
            if winners <= 1 { CreateIfAbsent::Atomic } else { CreateIfAbsent::OneAfterAnother };
        Ok((kind, Some(winners)))
    }

    fn ranges(&self) -> Result<Option<bool>, StoreError> {
        let key = self.store.key(&self.name("whole"));
        self.put("whole", FIRST, Conditions::Kept).map_err(self.fail("whole"))?;
        let mut part = [0; 5];
        let read = self.store.wait(self.store.connection.read_range(&key, 4, &mut part));
        match read {
            Err(fault) if is_refusal(&fault) => Ok(None),
            Err(fault) if fault.kind == FaultKind::Failed => Ok(Some(false)),
            Err(fault) => Err(self.fail("whole")(fault)),
            Ok(short) => Ok(Some(short.is_none() && part == FIRST[4..9])),
        }
    }

    fn list(&self) -> Result<Option<bool>, StoreError> {
        let mut found = BTreeSet::new();
        let prefix = format!("{}/", self.folder);
        let listed = self.store.list_any(&prefix, |entry| {
            found.insert(entry.name);
        });
        match listed {
            Err(StoreError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(Some(found.contains(&self.name("two")))),
        }
    }

    fn overwrite(&self) -> Result<Option<bool>, StoreError> {
        let key = self.store.key(&self.name("two"));
        let bytes = Bytes::from_static(b"overwritten\n");
        let done = self.store.wait(self.store.connection.overwrite(&key, bytes));
        match done {
            Ok(()) => Ok(Some(true)),
            Err(fault) if is_refusal(&fault) => Ok(Some(false)),
            Err(fault) => Err(self.fail("two")(fault)),
        }
    }

    /// How far the time that the service gave the object lies outside the time that it took.
    fn clock(&self, begun: SystemTime) -> Result<Option<i64>, StoreError> {
        let ended = SystemTime::now();
        let key = self.store.key(&self.name("two"));
        let head = self.if_allowed("two", self.store.wait(self.store.connection.head(&key)))?;
        Ok(head.map(|head| {
            let seconds = |time: SystemTime| {
                let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                since.as_secs().cast_signed()
            };
            let there = seconds(head.modified);
            if there < seconds(begun) {
                there - seconds(begun)
            } else {
                (there - seconds(ended)).max(0)
            }
        }))
    }

    fn lock(&self) -> Option<LockCapability> {
        // Whoever may not ask cannot lock either.
        let lock = self.store.bucket_lock().ok()?;
        Some(LockCapability {
            is_enabled: lock.is_enabled,
            default_mode: lock.default_mode,
            default_days: lock.default_days,
        })
    }

    /// Removes what the probe has written; says whether that is allowed.
    fn clean(&self) -> Result<Option<bool>, StoreError> {
        for last in ["two", "race", "whole"] {
            match self.store.delete_any(&self.name(last)) {
                Ok(()) => {}
                Err(StoreError::Refused { .. }) => return Ok(Some(false)),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(true))
    }
}

fn is_refusal(fault: &Fault) -> bool {
    matches!(fault.kind, FaultKind::Refused | FaultKind::Unclear)
}
