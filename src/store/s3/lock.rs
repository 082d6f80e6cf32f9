//! Object Lock: objects that nobody can remove before a time, by the word of the service.
//!
//! A lock is extended and never shortened. Its mode is the bucket's own; where the bucket has no
//! default, it is governance, unless the options say compliance.

use std::time::SystemTime;

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{DefaultRetention, ObjectLockRetention, ObjectLockRetentionMode};

use crate::store::StoreError;
use crate::store::s3::S3Store;
use crate::store::s3::connection::Connection;
use crate::store::s3::counts::RequestKind;
use crate::store::s3::fault::{Fault, FaultKind};

/// Versions of one object that a delete removes; more are another's doing, and are left.
const VERSIONS_MAX: u32 = 16;

/// What a bucket says of Object Lock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BucketLock {
    /// Objects can be locked.
    pub is_enabled: bool,
    /// The mode that new objects get, such as `COMPLIANCE`; nothing where they get no lock.
    pub default_mode: Option<String>,
    /// How many days new objects are locked.
    pub default_days: Option<u32>,
}

impl Connection {
    /// The configuration of the bucket's Object Lock.
    pub async fn bucket_lock(&self) -> Result<BucketLock, Fault> {
        let asked = self.run(RequestKind::Other, async |client, _| {
            let request = client.get_object_lock_configuration().bucket(&self.address.bucket);
            let send = async { request.send().await.map_err(|error| Fault::of(&error)) };
            self.within(0, send).await
        });
        let answer = match asked.await {
            Ok(answer) => answer,
            // "ObjectLockConfigurationNotFoundError" is a 404, and some services know no locks.
            Err(fault) if matches!(fault.kind, FaultKind::Missing | FaultKind::Unsupported) => {
                return Ok(BucketLock::default());
            }
            Err(fault) => return Err(fault),
        };
        let Some(configuration) = answer.object_lock_configuration() else {
            return Ok(BucketLock::default());
        };
        let rule = configuration.rule().and_then(|rule| rule.default_retention());
        let years = rule.and_then(DefaultRetention::years).map(|years| years.saturating_mul(365));
        let days = rule.and_then(DefaultRetention::days).or(years);
        Ok(BucketLock {
            is_enabled: configuration
                .object_lock_enabled()
                .is_some_and(|on| on.as_str() == "Enabled"),
            default_mode: rule.and_then(|rule| rule.mode()).map(|mode| mode.as_str().to_owned()),
            default_days: days.and_then(|days| u32::try_from(days).ok()),
        })
    }

    async fn retain(
        &self,
        key: &str,
        mode: &ObjectLockRetentionMode,
        until: SystemTime,
    ) -> Result<(), Fault> {
        let retention = ObjectLockRetention::builder()
            .mode(mode.clone())
            .retain_until_date(DateTime::from(until))
            .build();
        self.run(RequestKind::Other, async |client, _| {
            let request = client
                .put_object_retention()
                .bucket(&self.address.bucket)
                .key(key)
                .retention(retention.clone());
            let send = async { request.send().await.map(drop).map_err(|error| Fault::of(&error)) };
            self.within(0, send).await
        })
        .await
    }
}

impl S3Store {
    /// The bucket's Object Lock.
    ///
    /// # Errors
    /// What the service says; credentials may be refused this question.
    pub fn bucket_lock(&self) -> Result<BucketLock, StoreError> {
        let lock = self.wait(self.connection.bucket_lock());
        lock.map_err(|fault| self.failure("read", "the bucket's lock configuration", fault))
    }

    /// Whether objects can be locked; not, where the credentials may not ask.
    pub(super) fn has_locks(&self) -> bool {
        self.known_lock().is_enabled
    }

    /// Asked once; none, where the credentials may not ask.
    fn known_lock(&self) -> &BucketLock {
        self.locks.get_or_init(|| self.bucket_lock().unwrap_or_default())
    }

    pub(super) fn extend_lock(&self, name: &str, until: SystemTime) -> Result<(), StoreError> {
        let key = self.key(name);
        let lock = self.known_lock();
        let extend = async {
            let head = self.connection.head(&key).await?;
            if head.locked_until.is_some_and(|locked| locked >= until) {
                return Ok(());
            }
            let is_compliance = lock.default_mode.as_deref() == Some("COMPLIANCE")
                || self.connection.options.lock_compliance;
            let mode = if is_compliance {
                ObjectLockRetentionMode::Compliance
            } else {
                ObjectLockRetentionMode::Governance
            };
            self.connection.retain(&key, &mode, until).await
        };
        self.wait(extend).map_err(|fault| self.failure("lock", name, fault))
    }

    /// Removes an object under any name, also one that stores keep for themselves.
    pub(super) fn delete_any(&self, name: &str) -> Result<(), StoreError> {
        let key = self.key(name);
        let removed = if self.has_locks() {
            self.wait(self.remove_versions(&key))
        } else {
            self.wait(self.connection.remove(&key, None))
        };
        removed.map_err(|fault| self.failure("delete", name, fault))
    }

    /// Removes what is under the key, version by version, until nothing is.
    async fn remove_versions(&self, key: &str) -> Result<(), Fault> {
        for _ in 0..VERSIONS_MAX {
            let Some(head) = self.connection.head_if_any(key).await? else { return Ok(()) };
            let removed = self.connection.remove(key, head.version.as_deref()).await;
            let locked = head.locked_until.filter(|until| *until > SystemTime::now());
            match (removed, locked) {
                (Err(fault), Some(until)) if fault.kind == FaultKind::Refused => {
                    let until = crate::store::s3::fault::shown_time(until);
                    let words = format!("the object is locked until {until}");
                    return Err(Fault::new(FaultKind::Refused, words));
                }
                (Err(fault), None) if fault.kind == FaultKind::Refused && head.is_held => {
                    return Err(Fault::new(FaultKind::Refused, "the object is under a legal hold"));
                }
                (removed, _) => removed?,
            }
        }
        Err(Fault::new(FaultKind::Refused, format!("more than {VERSIONS_MAX} versions of it")))
    }
}
