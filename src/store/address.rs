//! Where an S3 store is, as text: `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`.
//!
//! What is not said there, the AWS SDK finds: environment, profiles, the host's own role. No secret
//! has a place in an address.

use std::fmt::{self, Write as _};
use std::str::FromStr;

/// Longest name of a bucket (S3: general purpose buckets have 3 to 63 characters).
const BUCKET_BYTES_MAX: usize = 255;
/// Longest prefix: names of objects must fit behind it into a key of 1024 bytes.
const PREFIX_BYTES_MAX: usize = 512;
/// Longest value of a setting.
const VALUE_BYTES_MAX: usize = 1024;

/// The address of a store in S3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Address {
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with, without a slash at its ends; empty for the whole bucket.
    pub prefix: String,
    /// `http://…` or `https://…`, where it is not AWS.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Profile of the shared AWS configuration.
    pub profile: Option<String>,
    /// Whether the bucket stands in the path instead of the host name; where nothing says it, with
    /// an endpoint it does.
    pub path_style: Option<bool>,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an S3 address: {reason}")]
pub struct AddressError {
    /// The text, shortened.
    pub text: String,
    /// What is wrong.
    pub reason: &'static str,
}

impl S3Address {
    /// What tells this place from others: bucket and prefix, `s3://BUCKET/PREFIX`.
    #[must_use]
    pub fn place(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("s3://{}{slash}{}", self.bucket, self.prefix)
    }

    /// Takes what `other` says and this address leaves open.
    pub fn complete(&mut self, other: &Self) {
        let fill = |own: &mut Option<String>, value: &Option<String>| {
            if own.is_none() {
                own.clone_from(value);
            }
        };
        fill(&mut self.endpoint, &other.endpoint);
        fill(&mut self.region, &other.region);
        fill(&mut self.profile, &other.profile);
        self.path_style = self.path_style.or(other.path_style);
    }
}

impl fmt::Display for S3Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place())?;
        let path_style = self.path_style.map(|value| value.to_string());
        let settings = [
            ("endpoint", &self.endpoint),
            ("region", &self.region),
            ("profile", &self.profile),
            ("path-style", &path_style),
        ];
        let mut sign = '?';
        for (name, value) in settings {
            if let Some(value) = value {
                write!(f, "{sign}{name}={}", escape(value))?;
                sign = '&';
            }
        }
        Ok(())
    }
}

impl FromStr for S3Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |reason| AddressError { text: text.chars().take(200).collect(), reason };
        let rest = text.strip_prefix("s3://").ok_or_else(|| wrong("it begins with s3://"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if bucket.is_empty() || bucket.len() > BUCKET_BYTES_MAX || !bucket.bytes().all(plain) {
            return Err(wrong("the name of the bucket is missing or cannot be one"));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_folder = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
        if prefix.len() > PREFIX_BYTES_MAX
            || (!prefix.is_empty() && !prefix.split('/').all(is_folder))
        {
            return Err(wrong("a prefix is made of letters, digits, `.`, `_`, `-` and `/`"));
        }
        let mut this =
            Self { bucket: bucket.to_owned(), prefix: prefix.to_owned(), ..Self::default() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| wrong("NAME=VALUE"))?;
            let value = unescape(value)
                .filter(|value| !value.is_empty() && value.len() <= VALUE_BYTES_MAX)
                .ok_or_else(|| wrong("a value is empty or wrongly escaped"))?;
            this.set(name, value).map_err(wrong)?;
        }
        Ok(this)
    }
}

impl S3Address {
    fn set(&mut self, name: &str, value: String) -> Result<(), &'static str> {
        match name {
            "endpoint" => {
                check_endpoint(&value)?;
                self.endpoint = Some(value);
            }
            "region" => self.region = Some(value),
            "profile" => self.profile = Some(value),
            "path-style" => {
                self.path_style = Some(value.parse().map_err(|_| "path-style is true or false")?);
            }
            _ => return Err("it has endpoint, region, profile and path-style"),
        }
        Ok(())
    }
}

/// Looks that an endpoint is a URL without a secret in it.
///
/// # Errors
/// What is wrong, in words.
pub fn check_endpoint(url: &str) -> Result<(), &'static str> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let rest = rest.ok_or("an endpoint begins with http:// or https://")?;
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return Err("credentials do not stand in an endpoint");
    }
    let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\');
    if host.is_empty() || !rest.chars().all(legal) {
        return Err("an endpoint is http://HOST:PORT");
    }
    Ok(())
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn unescape(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for text in [
            "s3://bucket",
            "s3://bucket/a/b-c",
            "s3://bucket/a?endpoint=http://127.0.0.1:8333&region=eu",
            "s3://bucket?profile=two%20words&path-style=false",
        ] {
            assert_eq!(text.parse::<S3Address>().unwrap().to_string(), text);
        }
        let address: S3Address = "s3://b/p/?region=eu".parse().unwrap();
        assert_eq!((address.place(), address.prefix.as_str()), ("s3://b/p".into(), "p"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "s3://",
            "s3:///p",
            "s3://b u",
            "s3://b/../c",
            "s3://b//c",
            "s3://b?x=1",
            "s3://b?endpoint=ftp://h",
            "s3://b?endpoint=http://key:secret@h",
            "s3://b?region=",
            "s3://b?region=%f",
            "s3://b?path-style=maybe",
            "http://b",
        ] {
            assert!(text.parse::<S3Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_left_open_is_completed() {
        let mut address: S3Address = "s3://b?region=eu".parse().unwrap();
        address.complete(&"s3://b?region=us&endpoint=http://h:1".parse().unwrap());
        assert_eq!(address.to_string(), "s3://b?endpoint=http://h:1&region=eu");
    }
}
