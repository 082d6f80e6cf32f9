//! The configuration as text, as it is understood; secrets as `***`.

use std::fmt::Write as _;
use std::path::Path;

use crate::cli::config::{Config, KeepConfig, RepositoryConfig, SecretProvider};
use crate::cli::source_config::{PostgresMethod, SourceConfig, SourceKind};

/// Tables and keys in the order of the documentation; valid TOML but for the `***`.
#[must_use]
pub fn config_text(config: &Config) -> String {
    let mut text = String::from("version = 1\n");
    let global = &config.global;
    let _ = writeln!(text, "\n[global]");
    path(&mut text, "state-dir", global.state_dir.as_deref());
    path(&mut text, "cache-dir", global.cache_dir.as_deref());
    let level = global.compression.map(|compression| format!("zstd:{}", compression.level));
    string(&mut text, "compression", level.as_deref());
    string(&mut text, "repository", global.repository.as_deref());
    if !config.secrets.is_empty() {
        let _ = writeln!(text, "\n[secrets]");
    }
    for (name, provider) in &config.secrets {
        let _ = writeln!(text, "{} = {{ {} = \"***\" }}", key(name), provider_kind(provider));
    }
    for (name, repository) in &config.repositories {
        let _ = writeln!(text, "\n[repositories.{}]", key(name));
        repository_text(&mut text, repository);
    }
    for (name, source) in &config.sources {
        let _ = writeln!(text, "\n[sources.{}]", key(name));
        source_text(&mut text, source);
    }
    for (name, retention) in &config.retention {
        let _ = writeln!(text, "\n[retention.{}]", key(name));
        let _ = writeln!(text, "keep = {{ {} }}", keep_text(&retention.keep));
    }
    text
}

const fn provider_kind(provider: &SecretProvider) -> &'static str {
    match provider {
        SecretProvider::Credential(_) => "credential",
        SecretProvider::File(_) => "file",
        SecretProvider::Command(_) => "command",
        SecretProvider::Env(_) => "env",
    }
}

fn repository_text(text: &mut String, repository: &RepositoryConfig) {
    string(text, "url", Some(&without_user_information(&repository.url)));
    string(text, "endpoint", repository.endpoint.as_deref());
    string(text, "region", repository.region.as_deref());
    string(text, "profile", repository.profile.as_deref());
    string(text, "lock-for", repository.lock_for.as_deref());
    if let Some(value) = repository.path_style {
        let _ = writeln!(text, "path-style = {value}");
    }
    for (name, bytes) in
        [("limit-upload", repository.limit_upload), ("limit-download", repository.limit_download)]
    {
        string(text, name, bytes.map(|bytes| bytes.to_string()).as_deref());
    }
    string(text, "password", repository.password.as_ref().map(|_| "***"));
    path(text, "identity-file", repository.identity_file.as_deref());
}

fn source_text(text: &mut String, source: &SourceConfig) {
    let kind = match source.kind {
        SourceKind::Files => "files",
        SourceKind::Command => "command",
        SourceKind::Postgres => "postgres",
        SourceKind::Redis => "redis",
    };
    string(text, "kind", Some(kind));
    let of_paths = |paths: &[std::path::PathBuf]| -> Vec<String> {
        paths.iter().map(|path| path.to_string_lossy().into_owned()).collect()
    };
    list(text, "paths", &of_paths(&source.paths));
    list(text, "exclude", &source.exclude);
    list(text, "iexclude", &source.iexclude);
    list(text, "exclude-file", &of_paths(&source.exclude_file));
    list(text, "ignore-file", &source.ignore_file);
    list(text, "exclude-if-present", &source.exclude_if_present);
    for (name, set) in
        [("exclude-caches", source.exclude_caches), ("one-file-system", source.one_file_system)]
    {
        if set {
            let _ = writeln!(text, "{name} = true");
        }
    }
    let size = source.exclude_larger_than.map(|bytes| bytes.to_string());
    string(text, "exclude-larger-than", size.as_deref());
    list(text, "command", &source.command);
    string(text, "name", source.name.as_deref());
    string(text, "connection", source.connection.as_deref());
    string(text, "password", source.password.as_ref().map(|_| "***"));
    let method = source.method.map(|method| match method {
        PostgresMethod::Dump => "dump",
        PostgresMethod::Base => "base",
    });
    string(text, "method", method);
    list(text, "tags", &source.tags);
}

fn keep_text(keep: &KeepConfig) -> String {
    let counts = [
        ("last", keep.last),
        ("hourly", keep.hourly),
        ("daily", keep.daily),
        ("weekly", keep.weekly),
        ("monthly", keep.monthly),
        ("yearly", keep.yearly),
    ];
    let spans = [
        ("within", &keep.within),
        ("within-hourly", &keep.within_hourly),
        ("within-daily", &keep.within_daily),
        ("within-weekly", &keep.within_weekly),
        ("within-monthly", &keep.within_monthly),
        ("within-yearly", &keep.within_yearly),
    ];
    let counts = counts.into_iter().filter_map(|(name, n)| Some(format!("{name} = {}", n?)));
    let spans = spans
        .into_iter()
        .filter_map(|(name, span)| Some(format!("{name} = {}", quoted(&span.as_ref()?.text))));
    let tags = (!keep.tags.is_empty()).then(|| format!("tags = {}", quoted_list(&keep.tags)));
    counts.chain(spans).chain(tags).collect::<Vec<_>>().join(", ")
}

fn string(text: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        let _ = writeln!(text, "{name} = {}", quoted(value));
    }
}

fn path(text: &mut String, name: &str, value: Option<&Path>) {
    string(text, name, value.map(Path::to_string_lossy).as_deref());
}

fn list(text: &mut String, name: &str, values: &[String]) {
    if !values.is_empty() {
        let _ = writeln!(text, "{name} = {}", quoted_list(values));
    }
}

fn quoted_list(values: &[String]) -> String {
    format!("[{}]", values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", "))
}

/// A string of TOML: what JSON writes is one.
fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !name.is_empty() && name.bytes().all(bare) { name.to_owned() } else { quoted(name) }
}

/// An address without what stands between `://` and `@`.
fn without_user_information(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host_end = rest.find('/').unwrap_or(rest.len());
    match rest[..host_end].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read_again_but_for_secrets() {
        let text = r#"version = 1

[global]
state-dir = "/var/lib/holdfast"

[sources."a b"]
kind = "files"
paths = ["/etc"]
exclude-larger-than = "1024"
tags = ["x"]

[retention.default]
keep = { last = 3, within = "30d" }
"#;
        assert_eq!(config_text(&Config::parse(text).unwrap()), text);
    }

    #[test]
    fn secrets_are_stars() {
        let text = "version = 1\n[secrets]\nm = { command = [\"echo\", \"hunter2\"] }\n\
            [repositories.a]\nurl = \"https://me:hunter2@host/x\"\npassword = \"secret:m\"\n";
        let shown = config_text(&Config::parse(text).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("url = \"https://***@host/x\"\npassword = \"***\"\n"), "{shown}");
    }
}
