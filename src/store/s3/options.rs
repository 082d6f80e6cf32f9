//! What a user or a test may set of a store in S3: credentials, limits, patience.
//!
//! The defaults are those of a long run over a bad line; tests make them short.

use std::time::Duration;

use secrecy::SecretString;

/// How a store in S3 behaves; where it is says its address.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// Bytes a second that all uploads together may take; none: no limit.
    pub limit_upload: Option<u64>,
    /// Bytes a second that all downloads together may take; none: no limit.
    pub limit_download: Option<u64>,
    /// Credentials that are given; none: as the AWS SDK finds them (environment, profile, process,
    /// single sign-on, web identity, the metadata service of the machine).
    pub credentials: Option<S3Credentials>,
    /// Whether the service refuses a second PUT of a name under `If-None-Match: *`, as a probe has
    /// recorded it; none: the store finds out before its first PUT.
    pub conditional_put: Option<bool>,
    /// Whether locks are of the kind that nobody, not even the account's owner, can take away
    /// (compliance), also where the bucket's default says otherwise.
    pub lock_compliance: bool,
    /// How long, and how often, it tries.
    pub patience: Patience,
    /// Names in one page of a listing; none: as many as the service gives (1,000).
    pub list_page: Option<u16>,
}

/// A key of a service, and its secret.
#[derive(Debug, Clone)]
pub struct S3Credentials {
    /// The access key's id; no secret.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: SecretString,
    /// The token of temporary credentials.
    pub session_token: Option<SecretString>,
}

/// Times and numbers that decide when an operation fails.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Until a connection must stand.
    pub connect: Duration,
    /// Until the head of an answer must have come, without the time that the body of the request
    /// may take at [`Patience::slowest_bytes_per_second`].
    pub answer: Duration,
    /// How long a body may stand still, either way.
    pub stall: Duration,
    /// Slowest line that is worth waiting for.
    pub slowest_bytes_per_second: u64,
    /// Longest time that one operation takes with all its attempts; the last one may end later.
    pub operation: Duration,
    /// Attempts of one operation.
    pub attempts_max: u32,
    /// Attempts while the service has not answered at all yet: an address may simply be wrong.
    pub first_contact_attempts_max: u32,
    /// Upper bound of the first wait; each following one has twice the bound.
    pub delay: Duration,
    /// Upper bound of every wait that this side chooses.
    pub delay_max: Duration,
    /// Longest `Retry-After` that is obeyed.
    pub retry_after_max: Duration,
    /// Retries that all operations together may have open; ten successes give one back.
    pub retry_budget: u32,
}

impl Patience {
    /// Where another copy can be asked instead: who waits for one that hangs gets nothing.
    #[must_use]
    pub fn with_other_copies() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(15),
            operation: Duration::from_secs(40),
            attempts_max: 5,
            first_contact_attempts_max: 1,
            delay_max: Duration::from_secs(5),
            ..Self::default()
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_mins(1),
            stall: Duration::from_secs(20),
            slowest_bytes_per_second: 64 * 1024,
            operation: Duration::from_mins(5),
            attempts_max: 10,
            first_contact_attempts_max: 4,
            delay: Duration::from_millis(200),
            delay_max: Duration::from_secs(20),
            retry_after_max: Duration::from_mins(1),
            retry_budget: 200,
        }
    }
}
