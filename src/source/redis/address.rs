//! Where a server is, from an address as `redis-cli -u` takes it, without a password.
//!
//! `redis://[user@]host[:port][/db]`, the same with `rediss://` for TLS, `redis+unix:///path` or
//! `unix:///path` for a socket of this host. All databases are saved, whichever is named. After a
//! `?` stand `verify=full|ca|none` and `cacert=FILE`.
//!
//! `redis+sentinel://[user@]host[:port][,…]/name` is the server that sentinels name, with
//! `prefer=replica` one of its replicas; `redis+cluster://[user@]host[:port][,…]` are all primaries
//! of a cluster. Both also with `rediss`.

use std::path::PathBuf;

use crate::source::redis::error::RedisError;
use crate::source::tls::TlsMode;

const PORT_DEFAULT: u16 = 6379;
const SENTINEL_PORT_DEFAULT: u16 = 26379;

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Name or number, and port.
    Tcp(String, u16),
    /// A socket of this host.
    Socket(PathBuf),
    /// The server that these name.
    Sentinel(Sentinels),
    /// All primaries of the cluster that any of these nodes is of: names or numbers, and ports.
    Cluster(Vec<(String, u16)>),
}

/// Which of the servers that sentinels know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preferred {
    /// The primary.
    Primary,
    /// A replica that is in step; the primary where there is none.
    Replica,
}

/// Sentinels, and what they are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinels {
    /// Names or numbers, and ports: asked one after another.
    pub places: Vec<(String, u16)>,
    /// The name that they have for the primary.
    pub primary: String,
    /// Our user at the sentinels.
    pub user: Option<String>,
    /// Which server.
    pub preferred: Preferred,
}

/// Where, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Where.
    pub host: Host,
    /// The user of the access list; none for the default one.
    pub user: Option<String>,
    /// How much the server must prove: [`TlsMode::Disable`] without TLS.
    pub tls: TlsMode,
    /// Certificates to trust instead of the system's.
    pub root_certificates: Option<PathBuf>,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Sentinel(sentinels) => {
                write!(f, "{} of the sentinels {}", sentinels.primary, listed(&sentinels.places))
            }
            Self::Cluster(nodes) => write!(f, "{}", listed(nodes)),
        }
    }
}

fn listed(places: &[(String, u16)]) -> String {
    let texts = places.iter().map(|(host, port)| Host::Tcp(host.clone(), *port).to_string());
    texts.collect::<Vec<_>>().join(",")
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// [`RedisError::Address`], [`RedisError::PasswordShown`].
    pub fn parse(text: &str) -> Result<Self, RedisError> {
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| wrong("redis://HOST:PORT is one"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, place) = match place.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(RedisError::PasswordShown),
            Some((user, place)) => (Some(decoded(user)?).filter(|user| !user.is_empty()), place),
            None => (None, place),
        };
        let host = match scheme {
            "redis" | "rediss" => tcp(place)?,
            "redis+sentinel" | "rediss+sentinel" => sentinels(place)?,
            "redis+cluster" | "rediss+cluster" => Host::Cluster(places(place, PORT_DEFAULT)?),
            "redis+unix" | "unix" if place.starts_with('/') => Host::Socket(decoded(place)?.into()),
            "redis+unix" | "unix" => return Err(wrong("the path of a socket begins with /")),
            _ => return Err(wrong(&format!("{scheme}:// is not known"))),
        };
        let tls = if scheme.starts_with("rediss") { TlsMode::VerifyFull } else { TlsMode::Disable };
        let mut address = Self { host, user, tls, root_certificates: None };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            address.set(name, &decoded(value)?)?;
        }
        Ok(address)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), RedisError> {
        match (name, value) {
            ("password" | "pass", _) => return Err(RedisError::PasswordShown),
            ("verify" | "cacert", _) if self.tls == TlsMode::Disable => {
                return Err(wrong(&format!("{name} is for rediss:// only")));
            }
            ("verify", "full") => self.tls = TlsMode::VerifyFull,
            ("verify", "ca") => self.tls = TlsMode::VerifyCa,
            ("verify", "none") => self.tls = TlsMode::Prefer,
            ("prefer" | "sentinel-user", value) => {
                let Host::Sentinel(sentinels) = &mut self.host else {
                    return Err(wrong(&format!("{name} is for redis+sentinel:// only")));
                };
                match (name, value) {
                    ("prefer", "replica") => sentinels.preferred = Preferred::Replica,
                    ("prefer", "primary") => sentinels.preferred = Preferred::Primary,
                    ("sentinel-user", user) if !user.is_empty() => {
                        sentinels.user = Some(user.to_owned());
                    }
                    _ => return Err(wrong(&format!("{name}={value} is not known here"))),
                }
            }
            ("cacert", file) if !file.is_empty() => self.root_certificates = Some(file.into()),
            _ => return Err(wrong(&format!("the parameter {name} is not known here"))),
        }
        Ok(())
    }
}

fn wrong(what: &str) -> RedisError {
    RedisError::Address { what: what.to_owned() }
}

fn tcp(place: &str) -> Result<Host, RedisError> {
    let (place, db) = place.split_once('/').unwrap_or((place, ""));
    if !db.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong("a database is a number"));
    }
    let (host, port) = host_and_port(place, PORT_DEFAULT)?;
    Ok(Host::Tcp(host, port))
}

/// Some, with commas between.
fn places(text: &str, port_default: u16) -> Result<Vec<(String, u16)>, RedisError> {
    let text = text.strip_suffix('/').unwrap_or(text);
    text.split(',').map(|place| host_and_port(place, port_default)).collect()
}

fn sentinels(text: &str) -> Result<Host, RedisError> {
    let (hosts, name) = text.split_once('/').unwrap_or((text, ""));
    if name.is_empty() || name.contains('/') {
        return Err(wrong("redis+sentinel://HOST:PORT,HOST:PORT/NAME is one"));
    }
    Ok(Host::Sentinel(Sentinels {
        places: places(hosts, SENTINEL_PORT_DEFAULT)?,
        primary: decoded(name)?,
        user: None,
        preferred: Preferred::Primary,
    }))
}

fn host_and_port(place: &str, port_default: u16) -> Result<(String, u16), RedisError> {
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
        None => place.split_once(':').unwrap_or((place, "")),
    };
    if host.is_empty() || host.contains('/') {
        return Err(wrong("it names no host"));
    }
    let port = if port.is_empty() { Ok(port_default) } else { port.parse() };
    Ok((decoded(host)?, port.map_err(|_| wrong("a port is no number"))?))
}

fn decoded(text: &str) -> Result<String, RedisError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.filter(|byte| *byte != 0).ok_or_else(|| wrong("a wrong % escape"))?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let tcp = |host: &str, port| Host::Tcp(host.to_owned(), port);
        let table = [
            ("redis://cache", tcp("cache", 6379), None, TlsMode::Disable),
            ("redis://cache:7000/3", tcp("cache", 7000), None, TlsMode::Disable),
            ("redis://backup@[::1]:1", tcp("::1", 1), Some("backup"), TlsMode::Disable),
            ("rediss://a%40b@h", tcp("h", 6379), Some("a@b"), TlsMode::VerifyFull),
            ("rediss://h?verify=ca&cacert=/ca", tcp("h", 6379), None, TlsMode::VerifyCa),
            ("unix:///run/r.sock", Host::Socket("/run/r.sock".into()), None, TlsMode::Disable),
            ("redis+unix://u@/r%20s", Host::Socket("/r s".into()), Some("u"), TlsMode::Disable),
        ];
        for (text, host, user, tls) in table {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.host, address.user.as_deref(), address.tls), (host, user, tls));
        }
        assert_eq!(tcp("::1", 5).to_string(), "[::1]:5");
    }

    #[test]
    fn several_hosts_are_read() {
        let address = "rediss+sentinel://app@s1,[::1]:5,s3:7/my%20db?prefer=replica\
            &sentinel-user=watcher&verify=ca";
        let address = Address::parse(address).unwrap();
        assert_eq!((address.user.as_deref(), address.tls), (Some("app"), TlsMode::VerifyCa));
        let places = vec![("s1".to_owned(), 26379), ("::1".to_owned(), 5), ("s3".to_owned(), 7)];
        let expected = Sentinels {
            places,
            primary: "my db".into(),
            user: Some("watcher".into()),
            preferred: Preferred::Replica,
        };
        assert_eq!(address.host, Host::Sentinel(expected));
        let shown = "my db of the sentinels s1:26379,[::1]:5,s3:7";
        assert_eq!(address.host.to_string(), shown);
        let cluster = Address::parse("redis+cluster://a:1,b").unwrap();
        let nodes = vec![("a".to_owned(), 1), ("b".to_owned(), 6379)];
        assert_eq!((cluster.host, cluster.tls), (Host::Cluster(nodes), TlsMode::Disable));
    }

    #[test]
    fn passwords_and_what_is_not_known_are_refused() {
        for text in ["redis://u:secret@h", "redis://:secret@h:1", "redis://h?password=x"] {
            assert!(matches!(Address::parse(text), Err(RedisError::PasswordShown)), "{text}");
        }
        for text in [
            "cache",
            "http://h",
            "redis://",
            "redis://h:x",
            "redis://h/a",
            "redis://h?verify=none",
            "rediss://h?verify=maybe",
            "unix://run/r.sock",
            "redis://%zz",
            "redis://h?prefer=replica",
            "redis+cluster://h?prefer=replica",
            "redis+cluster://",
            "redis+cluster://a,,b",
            "redis+cluster://a/3",
            "redis+sentinel://h",
            "redis+sentinel://h/a?prefer=nobody",
            "redis+sentinel:///a",
        ] {
            assert!(matches!(Address::parse(text), Err(RedisError::Address { .. })), "{text}");
        }
    }
}
