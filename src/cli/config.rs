//! The configuration: TOML, `version = 1`, unknown keys are errors with their line.
//!
//! Several files add up by the names of their tables; the same name twice is an error. Secrets are
//! references (`secret:NAME`), never values.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::cli::source_config::SourceConfig;
use crate::units::{parse_size, parse_span};

/// The version of the form.
const VERSION: u32 = 1;

/// Why a configuration is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("line {line}: {message}")]
    Toml {
        /// Line, from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// Of another version.
    #[error("version {found} of the configuration is unknown, this program reads {VERSION}")]
    Version {
        /// The version given.
        found: u32,
    },
    /// The same table, or the same key of `[global]`, in two files.
    #[error("{table} is defined in two files")]
    Duplicate {
        /// The table or key.
        table: String,
    },
    /// A table whose values do not go together.
    #[error("{table}: {reason}")]
    Table {
        /// The table.
        table: String,
        /// What is wrong.
        reason: String,
    },
}

/// One file, or several added up.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    version: u32,
    /// `[global]`
    #[serde(default)]
    pub global: GlobalConfig,
    /// `[secrets]`: where each secret comes from.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretProvider>,
    /// `[repositories.NAME]`
    #[serde(default)]
    pub repositories: BTreeMap<String, RepositoryConfig>,
    /// `[sources.NAME]`
    #[serde(default)]
    pub sources: BTreeMap<String, SourceConfig>,
    /// `[retention.NAME]`; `default` holds where no other is named.
    #[serde(default)]
    pub retention: BTreeMap<String, RetentionConfig>,
}

/// `[global]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GlobalConfig {
    /// Folder of the local state.
    pub state_dir: Option<PathBuf>,
    /// Folder of caches.
    pub cache_dir: Option<PathBuf>,
    /// Level of zstd.
    pub compression: Option<Compression>,
    /// The repository that is meant where none is named.
    pub repository: Option<String>,
}

/// `compression = "zstd:3"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// Level of zstd, -7 to 19.
    pub level: i32,
}

impl<'de> Deserialize<'de> for Compression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let level = text.strip_prefix("zstd:").and_then(|level| level.parse().ok());
        match level {
            Some(level @ -7..=19) => Ok(Self { level }),
            _ => Err(D::Error::custom("expected \"zstd:LEVEL\" with a level from -7 to 19")),
        }
    }
}

/// Where a secret comes from; exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretProvider {
    /// A systemd credential: a file below `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// A file that only its owner can read.
    File(PathBuf),
    /// A program and its arguments, run without a shell, that prints it.
    Command(Vec<String>),
    /// An environment variable.
    Env(String),
}

/// `secret:NAME`, a reference into `[secrets]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretReference(pub String);

/// What is said where a secret itself may have been written. The parser's own words for a wrong
/// value repeat it, so values are taken as they come and looked at here.
const NOT_HERE: &str = "a secret does not stand here";

impl<'de> Deserialize<'de> for SecretReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        let name = value.as_str().and_then(|text| text.strip_prefix("secret:"));
        name.filter(|name| !name.is_empty()).map(|name| Self(name.to_owned())).ok_or_else(|| {
            let form = "name it, \"secret:NAME\", and say in [secrets] where it is";
            D::Error::custom(format!("{NOT_HERE}: {form}"))
        })
    }
}

impl<'de> Deserialize<'de> for SecretProvider {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        Self::from_toml(&value).ok_or_else(|| {
            let form = "say where it is: { credential = \"…\" }, { file = \"…\" }, \
                { command = [\"…\"] } or { env = \"…\" }, exactly one";
            D::Error::custom(format!("{NOT_HERE}: {form}"))
        })
    }
}

impl SecretProvider {
    fn from_toml(value: &toml::Value) -> Option<Self> {
        let table = value.as_table().filter(|table| table.len() == 1)?;
        let (kind, value) = table.iter().next()?;
        let text = || value.as_str().map(str::to_owned);
        match kind.as_str() {
            "credential" => text().map(Self::Credential),
            "file" => text().map(PathBuf::from).map(Self::File),
            "env" => text().map(Self::Env),
            "command" => {
                let words = value.as_array().filter(|words| !words.is_empty())?;
                let words = words.iter().map(|word| word.as_str().map(str::to_owned));
                words.collect::<Option<_>>().map(Self::Command)
            }
            _ => None,
        }
    }
}

/// `[repositories.NAME]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RepositoryConfig {
    /// Where it is.
    pub url: String,
    /// S3: URL of the service.
    pub endpoint: Option<String>,
    /// S3: region.
    pub region: Option<String>,
    /// S3: profile of the shared AWS configuration.
    pub profile: Option<String>,
    /// S3: whether the bucket stands in the path.
    pub path_style: Option<bool>,
    /// How long what a backup needs is locked in the store, as `35d`.
    pub lock_for: Option<String>,
    /// S3: bytes a second sent at most.
    #[serde(default, deserialize_with = "optional_size")]
    pub limit_upload: Option<u64>,
    /// S3: bytes a second received at most.
    #[serde(default, deserialize_with = "optional_size")]
    pub limit_download: Option<u64>,
    /// Its passphrase.
    pub password: Option<SecretReference>,
    /// An identity that opens it.
    pub identity_file: Option<PathBuf>,
}

/// `[retention.NAME]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RetentionConfig {
    /// `keep = { … }`
    pub keep: KeepConfig,
}

/// What to keep; as `--keep-…`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct KeepConfig {
    /// The newest N.
    pub last: Option<u32>,
    /// One an hour for N hours.
    pub hourly: Option<u32>,
    /// One a day for N days.
    pub daily: Option<u32>,
    /// One a week for N weeks.
    pub weekly: Option<u32>,
    /// One a month for N months.
    pub monthly: Option<u32>,
    /// One a year for N years.
    pub yearly: Option<u32>,
    /// All of this span before the newest, as `30d`.
    pub within: Option<SpanText>,
    /// One an hour of this span.
    pub within_hourly: Option<SpanText>,
    /// One a day of this span.
    pub within_daily: Option<SpanText>,
    /// One a week of this span.
    pub within_weekly: Option<SpanText>,
    /// One a month of this span.
    pub within_monthly: Option<SpanText>,
    /// One a year of this span.
    pub within_yearly: Option<SpanText>,
    /// All with one of these tags (`a,b`: both).
    pub tags: Vec<String>,
}

/// A span of time that has been parsed, with its text.
#[derive(Debug, Clone)]
pub struct SpanText {
    /// As it was written.
    pub text: String,
    /// What it means.
    pub span: jiff::Span,
}

impl PartialEq for SpanText {
    fn eq(&self, other: &Self) -> bool {
        self.span.fieldwise() == other.span.fieldwise()
    }
}

impl<'de> Deserialize<'de> for SpanText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span = parse_span(&text).map_err(D::Error::custom)?;
        Ok(Self { text, span })
    }
}

/// A size with a unit, where there is one.
pub(crate) fn optional_size<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_size(&text).map(Some).map_err(D::Error::custom)
}

impl Config {
    /// Reads one file's text.
    ///
    /// # Errors
    /// With the line, where there is one. No message has a value of the text in it that could be a
    /// secret.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.get(..at).unwrap_or(text).matches('\n').count();
            ConfigError::Toml { line, message: error.message().to_owned() }
        })?;
        if config.version != VERSION {
            return Err(ConfigError::Version { found: config.version });
        }
        for (name, source) in &config.sources {
            source.validate().map_err(|reason| ConfigError::Table {
                table: format!("[sources.{name}]"),
                reason: reason.to_owned(),
            })?;
        }
        Ok(config)
    }

    /// Adds what another file has.
    ///
    /// # Errors
    /// Something that both have.
    pub fn add(&mut self, other: Self) -> Result<(), ConfigError> {
        let Self { version: _, global, secrets, repositories, sources, retention } = other;
        let mine = &mut self.global;
        add_key(&mut mine.state_dir, global.state_dir, "state-dir of [global]")?;
        add_key(&mut mine.cache_dir, global.cache_dir, "cache-dir of [global]")?;
        add_key(&mut mine.compression, global.compression, "compression of [global]")?;
        add_key(&mut mine.repository, global.repository, "repository of [global]")?;
        add_tables(&mut self.secrets, secrets, "secrets")?;
        add_tables(&mut self.repositories, repositories, "repositories")?;
        add_tables(&mut self.sources, sources, "sources")?;
        add_tables(&mut self.retention, retention, "retention")
    }

    /// Looks that every name that is referred to exists; to be called when all files are added.
    ///
    /// # Errors
    /// The first reference to nothing.
    pub fn check_references(&self) -> Result<(), ConfigError> {
        let dangling = |table: String, reason: String| Err(ConfigError::Table { table, reason });
        for (name, repository) in &self.repositories {
            if let Some(SecretReference(secret)) = &repository.password
                && !self.secrets.contains_key(secret)
            {
                let reason = format!("there is no secret {secret:?} in [secrets]");
                return dangling(format!("[repositories.{name}]"), reason);
            }
        }
        for (name, source) in &self.sources {
            if let Some(SecretReference(secret)) = &source.password
                && !self.secrets.contains_key(secret)
            {
                let reason = format!("there is no secret {secret:?} in [secrets]");
                return dangling(format!("[sources.{name}]"), reason);
            }
        }
        match &self.global.repository {
            Some(name) if !self.repositories.contains_key(name) => {
                dangling("[global]".into(), format!("there is no [repositories.{name}]"))
            }
            _ => Ok(()),
        }
    }

    /// The repository that is meant where none is named: the one that `[global]` names, or the
    /// only one there is.
    #[must_use]
    pub fn default_repository(&self) -> Option<(&str, &RepositoryConfig)> {
        let only = || self.repositories.iter().next().filter(|_| self.repositories.len() == 1);
        match &self.global.repository {
            Some(name) => self.repositories.get_key_value(name),
            None => only(),
        }
        .map(|(name, repository)| (name.as_str(), repository))
    }

    /// The names of the environment variables that `[secrets]` refers to.
    pub fn secret_variables(&self) -> impl Iterator<Item = &str> {
        self.secrets.values().filter_map(|provider| match provider {
            SecretProvider::Env(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

fn add_key<T>(mine: &mut Option<T>, other: Option<T>, name: &str) -> Result<(), ConfigError> {
    match (mine.is_some(), other) {
        (true, Some(_)) => Err(ConfigError::Duplicate { table: name.to_owned() }),
        (false, other @ Some(_)) => {
            *mine = other;
            Ok(())
        }
        (_, None) => Ok(()),
    }
}

fn add_tables<T>(
    mine: &mut BTreeMap<String, T>,
    other: BTreeMap<String, T>,
    group: &str,
) -> Result<(), ConfigError> {
    for (name, table) in other {
        match mine.entry(name) {
            Entry::Occupied(taken) => {
                return Err(ConfigError::Duplicate { table: format!("[{group}.{}]", taken.key()) });
            }
            Entry::Vacant(free) => free.insert(table),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
version = 1
[global]
state-dir = "/var/lib/holdfast"
compression = "zstd:3"
[secrets]
main = { credential = "repo-main" }
other = { command = ["pass", "holdfast"] }
env = { env = "HOLDFAST_MAIN_KEY" }
[repositories.main]
url = "/srv/repo"
password = "secret:main"
[sources.etc]
kind = "files"
paths = ["/etc"]
exclude-larger-than = "1GiB"
[sources.shop]
kind = "command"
command = ["pg_dump", "shop"]
name = "shop.sql"
[retention.default]
keep = { last = 3, daily = 14, within = "30d" }
"#;

    #[test]
    fn a_whole_file() {
        let config = Config::parse(WHOLE).unwrap();
        config.check_references().unwrap();
        assert_eq!(config.default_repository().unwrap().0, "main");
        assert_eq!(config.sources["etc"].exclude_larger_than, Some(1 << 30));
        assert_eq!(config.retention["default"].keep.daily, Some(14));
        assert_eq!(config.secret_variables().collect::<Vec<_>>(), ["HOLDFAST_MAIN_KEY"]);
        assert_eq!(config.global.compression, Some(Compression { level: 3 }));
    }

    #[test]
    fn mistakes_have_a_line() {
        let cases = [
            ("version = 1\n[global]\nstate_dir = \"/x\"\n", "line 3: "),
            ("version = 1\n[globl]\n", "line 2: "),
            ("version = 1\n[repositories.a]\nurl = 7\n", "line 3: "),
            (
                "version = 1\n[sources.a]\nkind = \"files\"\npaths = [\"/\"]\nexlude = []\n",
                "line 5: ",
            ),
            ("version = 1\n[secrets]\na = { file = \"x\", env = \"Y\" }\n", "line 3: "),
            ("version = 2\n", "version 2 "),
            ("[global]\n", "line 1: "),
            ("version = 1\n[sources.a]\nkind = \"files\"\n", "[sources.a]: "),
            ("version = 1\n[retention.default]\nkeep = { within = \"soon\" }\n", "line 3: "),
        ];
        for (text, start) in cases {
            let message = Config::parse(text).unwrap_err().to_string();
            assert!(message.starts_with(start), "{text}: {message}");
        }
    }

    #[test]
    fn a_secret_in_the_file_is_refused_and_not_repeated() {
        let repository = "version = 1\n[repositories.a]\nurl = \"/x\"\npassword =";
        let secrets = "version = 1\n\n[secrets]\na =";
        for (before, value) in [
            (repository, "\"4711-hunter2\""),
            (repository, "4711"),
            (repository, "[\"4711\"]"),
            (secrets, "\"4711-hunter2\""),
            (secrets, "4711"),
            (secrets, "{ value = \"4711\" }"),
            (secrets, "{ env = 4711 }"),
        ] {
            let message = Config::parse(&format!("{before} {value}\n")).unwrap_err().to_string();
            assert!(message.starts_with("line 4: a secret does not stand here"), "{message}");
            assert!(!message.contains("4711"), "{message}");
        }
    }

    #[test]
    fn files_add_up_and_names_are_unique() {
        let mut config = Config::parse(WHOLE).unwrap();
        let more = "version = 1\n[repositories.b]\nurl = \"/b\"\n[global]\ncache-dir = \"/c\"\n";
        config.add(Config::parse(more).unwrap()).unwrap();
        assert_eq!(config.repositories.len(), 2);
        assert!(config.default_repository().is_none());
        for again in [more, "version = 1\n[global]\nstate-dir = \"/c\"\n"] {
            assert!(config.add(Config::parse(again).unwrap()).is_err(), "{again}");
        }
        let dangling = "version = 1\n[repositories.z]\nurl = \"/\"\npassword = \"secret:none\"\n";
        config.add(Config::parse(dangling).unwrap()).unwrap();
        assert!(config.check_references().is_err());
    }
}
