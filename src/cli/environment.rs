//! The environment variables as a value, taken once at the start.
//!
//! A `HOLDFAST_` variable that is unknown or cannot be read is an error that names it: a backup
//! with other settings than its owner meant is worse than none.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::error::CommandError;
use crate::cli::explain::usage;

/// The prefix of the program's own variables; what has it is never passed to children.
pub const PREFIX: &str = "HOLDFAST_";

/// Every variable that the program knows, without the prefix.
const KNOWN: [&str; 17] = [
    "CACHE_DIR",
    "COLOR",
    "CONFIG",
    "IDENTITY_FILE",
    "LOG",
    "PASSWORD",
    "PASSWORD_COMMAND",
    "PASSWORD_FD",
    "PASSWORD_FILE",
    "PROGRESS",
    "REDIS_PASSWORD_COMMAND",
    "REDIS_PASSWORD_FILE",
    "REDIS_SENTINEL_PASSWORD_COMMAND",
    "REDIS_SENTINEL_PASSWORD_FILE",
    "REPO",
    "STATE_DIR",
    "UNITS",
];

/// The variables. Not `Debug`: a passphrase may be among them.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self::new(std::env::vars_os())
    }

    /// Exactly these.
    pub fn new<N: Into<OsString>, V: Into<OsString>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self { variables: variables.collect() }
    }

    /// The value, where it is set and not empty.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|v| !v.is_empty())
    }

    /// The value as a path.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// The value as text.
    ///
    /// # Errors
    /// `HF-USE-002` where it is not UTF-8; the value is not in the message.
    pub fn text(&self, name: &str) -> Result<Option<&str>, CommandError> {
        let as_text = |value: &'_ OsStr| value.to_str().is_none();
        match self.value(name) {
            Some(value) if as_text(value) => Err(wrong(format!("{name} is not UTF-8 text"))),
            value => Ok(value.and_then(OsStr::to_str)),
        }
    }

    /// The value, parsed; `parse` gives what is wrong with it.
    ///
    /// # Errors
    /// `HF-USE-002`, naming the variable.
    pub fn parsed<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, CommandError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        parse(text).map(Some).map_err(|reason| wrong(format!("{name} is wrong: {reason}")))
    }

    /// The value by its `FromStr`.
    ///
    /// # Errors
    /// `HF-USE-002`, naming the variable.
    pub fn from_text<T: FromStr<Err: ToString>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, CommandError> {
        self.parsed(name, |text| text.parse::<T>().map_err(|error| error.to_string()))
    }

    /// Looks for `HOLDFAST_` variables that are neither known nor named in `configured`.
    ///
    /// # Errors
    /// `HF-USE-002`, naming the first.
    pub fn check_names(&self, configured: &[&str]) -> Result<(), CommandError> {
        for name in self.own_names() {
            let text = name.to_string_lossy();
            let known = KNOWN.iter().any(|known| text.strip_prefix(PREFIX) == Some(known));
            if !known && !configured.contains(&&*text) {
                let error = wrong(format!("{text} is not a variable of this program"));
                return Err(match nearest(&text) {
                    Some(near) => error.hint(format!("did you mean {PREFIX}{near}?")),
                    None => error,
                });
            }
        }
        Ok(())
    }

    /// The names of all variables that begin with `HOLDFAST_`.
    pub fn own_names(&self) -> impl Iterator<Item = &OsStr> {
        let own = |name: &&OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        self.variables.keys().map(OsString::as_os_str).filter(own)
    }

    /// The variables for a child: all but the program's own, those in `secret`, and the folder of
    /// systemd's credentials.
    #[must_use]
    pub fn of_child(&self, secret: &[&str]) -> Vec<(OsString, OsString)> {
        let is_kept = |name: &OsStr| {
            !name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
                && name != "CREDENTIALS_DIRECTORY"
                && !secret.iter().any(|secret| name == *secret)
        };
        let kept = self.variables.iter().filter(|(name, _)| is_kept(name));
        kept.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Takes the program's own variables away from a child that is about to be started.
    pub fn scrub(&self, child: &mut std::process::Command) {
        for name in self.own_names() {
            child.env_remove(name);
        }
        child.env_remove("CREDENTIALS_DIRECTORY");
    }
}

fn nearest(name: &str) -> Option<&'static str> {
    let name = name.strip_prefix(PREFIX)?;
    let squeezed = |text: &str| text.replace('_', "");
    KNOWN.into_iter().find(|known| {
        let (a, b) = (squeezed(known), squeezed(name));
        a == b || a.starts_with(&b) || b.starts_with(&a)
    })
}

fn wrong(what: String) -> CommandError {
    CommandError::new(&usage::ENVIRONMENT, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_variables_are_named() {
        let environment = Environment::new([("HOLDFAST_REPOSITORY", "x"), ("PATH", "/bin")]);
        let error = environment.check_names(&[]).unwrap_err();
        assert_eq!(error.what(), "HOLDFAST_REPOSITORY is not a variable of this program");
        assert_eq!(error.hints(), ["did you mean HOLDFAST_REPO?"]);
        assert!(environment.check_names(&["HOLDFAST_REPOSITORY"]).is_ok());
    }

    #[test]
    fn values_that_cannot_be_read_are_named_and_empty_ones_are_unset() {
        let environment = Environment::new([("HOLDFAST_PASSWORD_FD", "x"), ("HOLDFAST_REPO", "")]);
        let error = environment.from_text::<u32>("HOLDFAST_PASSWORD_FD").unwrap_err();
        assert!(error.what().starts_with("HOLDFAST_PASSWORD_FD is wrong: "));
        assert_eq!(environment.path("HOLDFAST_REPO"), None);
    }

    #[test]
    fn children_do_not_see_own_variables() {
        let environment = Environment::new([("HOLDFAST_PASSWORD", "secret"), ("PATH", "/bin")]);
        let mut child = std::process::Command::new("true");
        environment.scrub(&mut child);
        let removed: Vec<_> = child.get_envs().filter(|(_, value)| value.is_none()).collect();
        assert_eq!(removed.len(), 2, "{removed:?}");
        let environment = Environment::new([
            ("HOLDFAST_PASSWORD", "secret"),
            ("CREDENTIALS_DIRECTORY", "/run/credentials"),
            ("MAIN_KEY", "secret"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(environment.of_child(&["MAIN_KEY"]), [("PATH".into(), "/bin".into())]);
    }
}
