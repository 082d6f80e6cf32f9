//! Why a request failed: what the service answered, or that it did not.
//!
//! The kind decides whether it is tried again and which [`StoreError`] it ends as. Its words are
//! for people and hold no secret.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_types::date_time::Format;

use crate::store::StoreError;

/// What a failure is to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// No such object.
    Missing,
    /// There is an object of that name: a condition was not met.
    Exists,
    /// The range lies outside the object.
    Range,
    /// The service asks for fewer requests.
    Slow,
    /// The service failed, or what came was cut off or damaged on its way.
    Failed,
    /// There was no connection, or no answer in time.
    NoAnswer,
    /// The credentials have expired.
    Expired,
    /// A refusal without its reason, as the answer to HEAD has no body.
    Unclear,
    /// The clocks of this host and of the service differ too much.
    Skewed,
    /// The service refuses.
    Refused,
    /// There are no credentials.
    NoCredentials,
    /// There is no such bucket.
    NoBucket,
    /// The bucket is full.
    Full,
    /// The service cannot do what was asked.
    Unsupported,
    /// Anything else; asking again would not help.
    Other,
}

/// One failure.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub struct Fault {
    /// What it is.
    pub kind: FaultKind,
    /// What the service said, in one line.
    words: String,
    /// How long the service wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A failure that no answer of the service stands behind.
    pub fn new(kind: FaultKind, words: impl Into<String>) -> Self {
        Self { kind, words: words.into(), retry_after: None }
    }

    /// Whether asking again may help.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind, FaultKind::Slow | FaultKind::Failed | FaultKind::NoAnswer)
    }

    /// Adds that there was more than one attempt.
    pub fn after(mut self, attempts: u32) -> Self {
        if attempts > 1 {
            self.words = format!("{} (after {attempts} attempts)", self.words);
        }
        self
    }

    /// What the SDK says of a request.
    pub fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(answer) => {
                let metadata = answer.err();
                Self::of_answer(answer.raw(), metadata.code(), metadata.message())
            }
            SdkError::ResponseError(answer) => {
                let words = format!("the answer makes no sense: {}", causes(error));
                let fault = Self::of_answer(answer.raw(), None, None);
                if fault.kind == FaultKind::Other {
                    Self::new(FaultKind::Failed, words)
                } else {
                    fault
                }
            }
            SdkError::TimeoutError(_) => Self::new(FaultKind::NoAnswer, causes(error)),
            SdkError::DispatchFailure(failure) => {
                let words = causes(error);
                let kind = if failure.is_user() { FaultKind::Other } else { FaultKind::NoAnswer };
                Self::without_credentials(&words).unwrap_or(Self::new(kind, words))
            }
            _ => {
                let words = causes(error);
                Self::without_credentials(&words).unwrap_or(Self::new(FaultKind::Other, words))
            }
        }
    }

    /// The provider of credentials fails before anything is sent.
    fn without_credentials(words: &str) -> Option<Self> {
        let about = ["credentials", "identity", "CredentialsNotLoaded", "ProviderError"];
        about.iter().any(|word| words.contains(word)).then(|| {
            let hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a --profile";
            Self::new(FaultKind::NoCredentials, format!("no credentials: {words}; {hint}"))
        })
    }

    fn of_answer(answer: &HttpResponse, code: Option<&str>, message: Option<&str>) -> Self {
        let status = answer.status().as_u16();
        let code = code.unwrap_or_default();
        // Garage has no code of its own for a full bucket.
        let is_full = message.is_some_and(|message| message.contains("quota is reached"));
        let kind = if is_full { FaultKind::Full } else { kind_of(status, code) };
        let words = match kind {
            FaultKind::Skewed => skew_words(answer),
            FaultKind::Expired => {
                format!(
                    "the credentials have expired ({status} {code}): renew them, and run it again"
                )
            }
            FaultKind::NoBucket => "there is no such bucket: make it first".to_owned(),
            _ => plain_words(status, code, message, answer.headers().get("x-amz-bucket-region")),
        };
        let retry_after = answer.headers().get("retry-after").and_then(parse_retry_after);
        Self { kind, words, retry_after }
    }

    /// The error that a caller of the store sees.
    pub fn into_store_error(self, action: &'static str, location: &str, name: &str) -> StoreError {
        let name = name.to_owned();
        let kind = match self.kind {
            FaultKind::Missing => return StoreError::NotFound { name },
            FaultKind::Full => {
                let source = io::Error::new(io::ErrorKind::QuotaExceeded, self);
                return StoreError::NoSpace { name, source };
            }
            FaultKind::Expired
            | FaultKind::Unclear
            | FaultKind::Skewed
            | FaultKind::Refused
            | FaultKind::NoCredentials => {
                let source = io::Error::new(io::ErrorKind::PermissionDenied, self);
                return StoreError::Refused { name, source };
            }
            FaultKind::Slow | FaultKind::Failed | FaultKind::NoAnswer => io::ErrorKind::TimedOut,
            FaultKind::NoBucket => io::ErrorKind::NotFound,
            FaultKind::Exists => io::ErrorKind::AlreadyExists,
            FaultKind::Unsupported => io::ErrorKind::Unsupported,
            FaultKind::Range | FaultKind::Other => io::ErrorKind::Other,
        };
        let path = PathBuf::from(format!("{location}: {name}"));
        StoreError::Io { action, path, source: io::Error::new(kind, self) }
    }
}

fn kind_of(status: u16, code: &str) -> FaultKind {
    match code {
        "NoSuchBucket" => return FaultKind::NoBucket,
        "RequestTimeTooSkewed" => return FaultKind::Skewed,
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired" => {
            return FaultKind::Expired;
        }
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "BandwidthLimitExceeded"
        | "RequestThrottled" => {
            return FaultKind::Slow;
        }
        // Damaged or cut off on the way: the service did not take it.
        "RequestTimeout"
        | "BadDigest"
        | "IncompleteBody"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "InternalError"
        | "ServiceUnavailable" => {
            return FaultKind::Failed;
        }
        "QuotaExceeded"
        | "InsufficientStorage"
        | "InsufficientCapacity"
        | "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded"
        | "StorageLimitExceeded" => return FaultKind::Full,
        "NotImplemented" => return FaultKind::Unsupported,
        _ => {}
    }
    match status {
        404 => FaultKind::Missing,
        412 => FaultKind::Exists,
        416 => FaultKind::Range,
        429 | 503 => FaultKind::Slow,
        507 => FaultKind::Full,
        400 | 403 if code.is_empty() => FaultKind::Unclear,
        401 | 403 | 405 => FaultKind::Refused,
        501 => FaultKind::Unsupported,
        // 409: two at once on one name; the service wants the loser to ask again.
        408 | 409 | 500.. => FaultKind::Failed,
        _ => FaultKind::Other,
    }
}

fn plain_words(status: u16, code: &str, message: Option<&str>, region: Option<&str>) -> String {
    let mut words = format!("the service answers {status}");
    if !code.is_empty() {
        words = format!("{words} {code}");
    }
    if let Some(message) = message.filter(|message| !message.is_empty()) {
        words = format!("{words}: {message}");
    }
    if let Some(region) = region {
        words = format!("{words} (the bucket is in region {region})");
    }
    words
}

fn skew_words(answer: &HttpResponse) -> String {
    let here = shown_time(SystemTime::now());
    let there = answer.headers().get("date").unwrap_or("an unknown time");
    format!("this host's clock says {here}, the service's {there}: set the wrong one right")
}

/// A time for people, in whole seconds.
pub fn shown_time(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Seconds, or a date (RFC 9110, 10.2.3).
fn parse_retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = aws_smithy_types::DateTime::from_str(text.trim(), Format::HttpDate).ok()?;
    let date = SystemTime::try_from(date).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// An error and what caused it, in one line, without repeating.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        next = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_before_states() {
        let cases = [
            (403, "AccessDenied", FaultKind::Refused),
            (403, "RequestTimeTooSkewed", FaultKind::Skewed),
            (400, "ExpiredToken", FaultKind::Expired),
            (403, "", FaultKind::Unclear),
            (404, "NoSuchKey", FaultKind::Missing),
            (404, "NoSuchBucket", FaultKind::NoBucket),
            (404, "", FaultKind::Missing),
            (409, "ConditionalRequestConflict", FaultKind::Failed),
            (412, "PreconditionFailed", FaultKind::Exists),
            (429, "", FaultKind::Slow),
            (500, "InternalError", FaultKind::Failed),
            (500, "SlowDown", FaultKind::Slow),
            (501, "NotImplemented", FaultKind::Unsupported),
            (502, "", FaultKind::Failed),
            (507, "", FaultKind::Full),
            (403, "QuotaExceeded", FaultKind::Full),
            (400, "BadDigest", FaultKind::Failed),
            (400, "InvalidArgument", FaultKind::Other),
        ];
        for (status, code, kind) in cases {
            assert_eq!(kind_of(status, code), kind, "{status} {code}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(parse_retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon"), None);
    }
}
