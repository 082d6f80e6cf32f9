//! The requests for objects, each with what makes its answer one that can be relied on.
//!
//! Keys are those of the service; names, prefixes and locks are the caller's.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::ResponseChecksumValidation;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use data_encoding::BASE64;
use hyper::body::Bytes;
use sha2::{Digest as _, Sha256};

use crate::store::Put;
use crate::store::s3::connection::Connection;
use crate::store::s3::counts::RequestKind;
use crate::store::s3::fault::{Fault, FaultKind};
use crate::store::s3::transfer::{UploadBody, download};

/// A buffer grows beyond this only by bytes that came: no answer's word is taken for its length.
const CAPACITY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Offsets beyond it are beyond every object (5 TiB), and services read them wrongly.
const OFFSET_MAX: u64 = 1 << 53;

/// What a service does with `If-None-Match: *`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// It refuses the second PUT of a name.
    Kept,
    /// It overwrites.
    Ignored,
    /// It refuses requests that carry a condition.
    Rejected,
}

/// Size, time and version of an object.
#[derive(Debug, Clone)]
pub struct Head {
    pub size: u64,
    /// In whole seconds, as every answer of a service has it.
    pub modified: SystemTime,
    pub version: Option<String>,
    pub locked_until: Option<SystemTime>,
    pub is_held: bool,
}

/// One key of a listing.
pub struct Listed {
    pub key: String,
    pub size: u64,
    pub modified: SystemTime,
}

/// An object that may be longer than is wanted.
pub enum Whole {
    /// All of it.
    Bytes(Vec<u8>),
    /// It has so many bytes, which is too many.
    TooLong(u64),
}

impl Connection {
    /// Creates an object under `conditions`; an answer that was lost is settled by comparing.
    pub async fn create(
        &self,
        key: &str,
        bytes: Bytes,
        conditions: Conditions,
    ) -> Result<Put, Fault> {
        if conditions != Conditions::Kept && self.head_if_any(key).await?.is_some() {
            return Ok(Put::Exists);
        }
        let checksum = BASE64.encode(&Sha256::digest(&bytes));
        let is_conditional = conditions != Conditions::Rejected;
        let sent = self
            .run(RequestKind::Put, async |client, made| {
                match self.send(&client, key, &bytes, &checksum, is_conditional).await {
                    Err(fault) if fault.kind == FaultKind::Exists => Ok(Some(made)),
                    sent => sent.map(|()| None),
                }
            })
            .await?;
        match sent {
            None => Ok(Put::Created),
            Some(made) => self.settle(key, &bytes, made).await,
        }
    }

    /// One PUT, with or without the condition.
    async fn send(
        &self,
        client: &Client,
        key: &str,
        bytes: &Bytes,
        checksum: &str,
        is_conditional: bool,
    ) -> Result<(), Fault> {
        let length = bytes.len() as u64;
        let body = UploadBody::stream(bytes.clone(), &self.counters, self.upload.as_ref());
        let request = client
            .put_object()
            .bucket(&self.address.bucket)
            .key(key)
            .set_if_none_match(is_conditional.then(|| "*".to_owned()))
            .content_length(length.cast_signed())
            .checksum_sha256(checksum)
            .body(body)
            .customize()
            // The signature covers the checksum's header, and so the body.
            .disable_payload_signing();
        let send = async { request.send().await.map(drop).map_err(|error| Fault::of(&error)) };
        self.within(length, send).await
    }

    /// Who has made the object that is there: this operation in an attempt whose answer was lost,
    /// or somebody else. Where it cannot be read, nobody can tell: `Exists` claims less.
    async fn settle(&self, key: &str, bytes: &Bytes, made: u32) -> Result<Put, Fault> {
        if made == 0 {
            return Ok(Put::Exists);
        }
        match self.read(key, bytes.len() as u64).await {
            Ok(Whole::Bytes(stored)) if *stored == **bytes => Ok(Put::Created),
            Ok(_) => Ok(Put::Exists),
            Err(fault) if matches!(fault.kind, FaultKind::Refused | FaultKind::Unclear) => {
                Ok(Put::Exists)
            }
            // Made and removed again, by others.
            Err(fault) if fault.kind == FaultKind::Missing => {
                Err(Fault::new(FaultKind::Failed, "the object came and went"))
            }
            Err(fault) => Err(fault),
        }
    }

    /// What the service does with conditions, by two PUTs under a key that stays: the first of
    /// them is refused where an earlier run has asked already.
    pub async fn find_conditions(&self, key: &str) -> Result<Conditions, Fault> {
        let bytes = Bytes::from_static(b"made to see whether conditions are kept\n");
        let checksum = BASE64.encode(&Sha256::digest(&bytes));
        for _ in 0..2 {
            let sent = self.run(RequestKind::Put, async |client, _| {
                self.send(&client, key, &bytes, &checksum, true).await
            });
            match sent.await {
                Ok(()) => {}
                Err(fault) if fault.kind == FaultKind::Exists => return Ok(Conditions::Kept),
                Err(fault) if fault.kind == FaultKind::Unsupported => {
                    return Ok(Conditions::Rejected);
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(Conditions::Ignored)
    }

    /// Overwrites whatever is there; for the probe alone.
    pub async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), Fault> {
        let checksum = BASE64.encode(&Sha256::digest(&bytes));
        self.run(RequestKind::Put, async |client, _| {
            self.send(&client, key, &bytes, &checksum, false).await
        })
        .await
    }

    /// Reads an object of at most `bytes_max` bytes.
    pub async fn read(&self, key: &str, bytes_max: u64) -> Result<Whole, Fault> {
        self.run(RequestKind::Get, async |client, _| {
            let request = client.get_object().bucket(&self.address.bucket).key(key);
            let send = async { request.send().await.map_err(|error| Fault::of(&error)) };
            let answer = self.within(0, send).await?;
            let length = length_of(&answer)?;
            if length > bytes_max {
                return Ok(Whole::TooLong(length));
            }
            let mut bytes = Vec::with_capacity(length.min(CAPACITY_BYTES_MAX) as usize);
            self.take(answer.body, length, |piece| bytes.extend_from_slice(piece)).await?;
            Ok(Whole::Bytes(bytes))
        })
        .await
    }

    /// Fills `buffer` from `offset` on; gives the object's length where that is too short.
    pub async fn read_range(
        &self,
        key: &str,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<Option<u64>, Fault> {
        let end = offset.saturating_add(buffer.len() as u64);
        if buffer.is_empty() || end > OFFSET_MAX {
            let size = self.head(key).await?.size;
            return Ok((end > size).then_some(size));
        }
        let range = format!("bytes={offset}-{}", end - 1);
        let answer = self
            .run(RequestKind::Get, async |client, _| {
                let request = client.get_object().bucket(&self.address.bucket).key(key);
                // A checksum is one of the whole object, not of a part of it.
                let config = aws_sdk_s3::config::Builder::new()
                    .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
                let request = request.range(&range).customize().config_override(config);
                let send = async { request.send().await.map_err(|error| Fault::of(&error)) };
                let answer = self.within(0, send).await?;
                let whole = check_range(&answer, offset, end)?;
                if whole < end {
                    return Ok(Some(whole));
                }
                let mut filled = 0;
                self.take(answer.body, end - offset, |piece| {
                    buffer[filled..filled + piece.len()].copy_from_slice(piece);
                    filled += piece.len();
                })
                .await?;
                Ok(None)
            })
            .await;
        match answer {
            Err(fault) if fault.kind == FaultKind::Range => {
                let size = self.head(key).await?.size;
                if size >= end {
                    let words = "the service refuses a range that the object has";
                    return Err(Fault::new(FaultKind::Other, words));
                }
                Ok(Some(size))
            }
            other => other,
        }
    }

    /// Takes exactly `length` bytes.
    async fn take(
        &self,
        body: ByteStream,
        length: u64,
        mut put: impl FnMut(&[u8]),
    ) -> Result<(), Fault> {
        let mut taken = 0_u64;
        let stall = self.options.patience.stall;
        download(body, stall, &self.counters, self.download.as_ref(), |piece| {
            if taken + piece.len() as u64 > length {
                return Err(Fault::new(FaultKind::Failed, "the answer is longer than it said"));
            }
            taken += piece.len() as u64;
            put(piece);
            Ok(())
        })
        .await?;
        if taken == length {
            return Ok(());
        }
        let words = format!("the answer ended after {taken} of {length} bytes");
        Err(Fault::new(FaultKind::Failed, words))
    }

    /// Size and time of an object. The answer to HEAD has no body that could say why it is refused:
    /// then a byte of the object is asked for, and that answer's reason counts.
    pub async fn head(&self, key: &str) -> Result<Head, Fault> {
        match self.ask_head(key).await {
            Err(fault) if fault.kind == FaultKind::Unclear => {
                self.ask_byte(key).await?;
                self.ask_head(key).await
            }
            other => other,
        }
    }

    async fn ask_byte(&self, key: &str) -> Result<(), Fault> {
        let asked = self.run(RequestKind::Get, async |client, _| {
            let request = client.get_object().bucket(&self.address.bucket).key(key);
            let send = async {
                let answer = request.range("bytes=0-0").send().await;
                answer.map(drop).map_err(|error| Fault::of(&error))
            };
            self.within(0, send).await
        });
        match asked.await {
            // An empty object, which may be read.
            Err(fault) if fault.kind == FaultKind::Range => Ok(()),
            other => other,
        }
    }

    async fn ask_head(&self, key: &str) -> Result<Head, Fault> {
        self.run(RequestKind::Head, async |client, _| {
            let request = client.head_object().bucket(&self.address.bucket).key(key);
            let send = async { request.send().await.map_err(|error| Fault::of(&error)) };
            let answer = self.within(0, send).await?;
            let size = answer.content_length().and_then(|size| u64::try_from(size).ok());
            let size =
                size.ok_or_else(|| Fault::new(FaultKind::Failed, "no length in an answer"))?;
            let modified = whole_seconds(answer.last_modified())?;
            let until = answer.object_lock_retain_until_date();
            Ok(Head {
                size,
                modified,
                version: answer.version_id().map(str::to_owned),
                locked_until: until.map(|until| whole_seconds(Some(until))).transpose()?,
                is_held: answer
                    .object_lock_legal_hold_status()
                    .is_some_and(|held| held.as_str() == "ON"),
            })
        })
        .await
    }

    /// As [`Connection::head`]; nothing where there is no such object.
    pub async fn head_if_any(&self, key: &str) -> Result<Option<Head>, Fault> {
        match self.head(key).await {
            Ok(head) => Ok(Some(head)),
            Err(fault) if fault.kind == FaultKind::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// One page of the keys that begin with `prefix`, and what the next page begins with.
    pub async fn page(
        &self,
        prefix: &str,
        token: Option<&str>,
    ) -> Result<(Vec<Listed>, Option<String>), Fault> {
        self.run(RequestKind::List, async |client, _| {
            let request = client
                .list_objects_v2()
                .bucket(&self.address.bucket)
                .prefix(prefix)
                .set_max_keys(self.options.list_page.map(i32::from))
                .set_continuation_token(token.map(str::to_owned));
            let send = async { request.send().await.map_err(|error| Fault::of(&error)) };
            let answer = self.within(0, send).await?;
            let mut page = Vec::new();
            for object in answer.contents() {
                let size = object.size().and_then(|size| u64::try_from(size).ok());
                let (Some(key), Some(size)) = (object.key(), size) else {
                    return Err(Fault::new(FaultKind::Failed, "a listing without keys or sizes"));
                };
                let modified = whole_seconds(object.last_modified())?;
                page.push(Listed { key: key.to_owned(), size, modified });
            }
            let next = answer.next_continuation_token().map(str::to_owned);
            match (answer.is_truncated().unwrap_or(false), next) {
                (false, _) => Ok((page, None)),
                (true, Some(next)) if Some(next.as_str()) != token => Ok((page, Some(next))),
                (true, _) => Err(Fault::new(FaultKind::Failed, "a listing that does not go on")),
            }
        })
        .await
    }

    /// Removes an object, or one version of it.
    pub async fn remove(&self, key: &str, version: Option<&str>) -> Result<(), Fault> {
        let removed = self.run(RequestKind::Delete, async |client, _| {
            let request = client
                .delete_object()
                .bucket(&self.address.bucket)
                .key(key)
                .set_version_id(version.map(str::to_owned));
            let send = async { request.send().await.map(drop).map_err(|error| Fault::of(&error)) };
            self.within(0, send).await
        });
        match removed.await {
            Err(fault) if fault.kind == FaultKind::Missing => Ok(()),
            other => other,
        }
    }
}

fn length_of(answer: &GetObjectOutput) -> Result<u64, Fault> {
    let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
    length.ok_or_else(|| Fault::new(FaultKind::Failed, "no length in an answer"))
}

/// Checks that an answer holds the range from `offset` to `end`, or what the object has of it;
/// gives the object's length.
fn check_range(answer: &GetObjectOutput, offset: u64, end: u64) -> Result<u64, Fault> {
    let wrong = |what: &str| Fault::new(FaultKind::Failed, format!("an answer with {what}"));
    let Some(range) = answer.content_range() else {
        return Err(wrong("the whole object where a range was asked for"));
    };
    let (first, last, whole) =
        parse_content_range(range).ok_or_else(|| wrong("a range that cannot be read"))?;
    let is_asked = first == offset && last + 1 == end.min(whole);
    if is_asked && length_of(answer)? == last + 1 - first {
        Ok(whole)
    } else {
        Err(wrong("another range than the one asked for"))
    }
}

/// `bytes 0-9/100`: first, last, length of the whole.
fn parse_content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, whole) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, whole) = (first.parse().ok()?, last.parse().ok()?, whole.parse().ok()?);
    (first <= last && last < whole).then_some((first, last, whole))
}

fn whole_seconds(time: Option<&DateTime>) -> Result<SystemTime, Fault> {
    let seconds = time.and_then(|time| u64::try_from(time.secs()).ok());
    let time =
        seconds.and_then(|secs| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(secs)));
    time.ok_or_else(|| Fault::new(FaultKind::Failed, "an answer without the object's time"))
}

#[cfg(test)]
mod tests {
    use super::parse_content_range;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 0-9/100"), Some((0, 9, 100)));
        for bad in
            ["bytes */100", "bytes 5-4/100", "bytes 0-100/100", "items 0-9/100", "", "bytes 0-9/*"]
        {
            assert_eq!(parse_content_range(bad), None, "{bad:?}");
        }
    }
}
