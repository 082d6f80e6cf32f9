//! Where the passphrase and the identities come from, in their order; never from the arguments.
//!
//! A place that is named and does not give the secret is an error: the next one is not tried.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use crate::cli::args::GlobalArgs;
use crate::cli::config::{Config, RepositoryConfig, SecretProvider, SecretReference};
use crate::cli::environment::Environment;
use crate::cli::error::CommandError;
use crate::cli::explain::{Explanation, key, usage};
use crate::cli::output::Output;
use crate::cli::secret_file::{
    Ending, FileKind, SecretError, from_bytes, read_descriptor, read_file, read_program,
};
use crate::cli::words;

/// The systemd credential that is looked for where nothing is named.
const CREDENTIAL: &str = "holdfast-password";
/// Fewest characters of a passphrase that is chosen at a prompt.
const NEW_PASSPHRASE_CHARS_MIN: usize = 12;

/// What a passphrase is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To open a repository.
    Open,
    /// To protect a new key file: asked for twice, and not too short.
    Create,
}

/// The text of an identity file, and where it was.
pub struct IdentityText {
    /// The file, for messages.
    pub path: PathBuf,
    /// Its content: age identities or an SSH private key.
    pub text: SecretString,
}

/// The places of one command and one repository.
pub struct Secrets<'a> {
    /// The global options.
    pub global: &'a GlobalArgs,
    /// The environment.
    pub environment: &'a Environment,
    /// The configuration.
    pub config: &'a Config,
    /// The repository's table, where it has one.
    pub repository: Option<&'a RepositoryConfig>,
    /// Takes the warning about `HOLDFAST_PASSWORD`.
    pub output: &'a Output,
}

impl Secrets<'_> {
    /// The passphrase: from the first place that is named, else asked for on the terminal.
    ///
    /// # Errors
    /// `HF-KEY-002` where no place is named and there is no terminal; `HF-KEY-003` and `-004` where
    /// the place does not give it; `HF-KEY-005` and `-009` for a new one that is not accepted.
    pub fn passphrase(&self, purpose: Purpose) -> Result<SecretString, CommandError> {
        match self.named_passphrase()? {
            Some(secret) => Ok(secret),
            None => prompt(purpose),
        }
    }

    /// The passphrase where a place is named for it; never asks.
    ///
    /// # Errors
    /// As [`Self::passphrase`].
    pub fn named_passphrase(&self) -> Result<Option<SecretString>, CommandError> {
        if let Some(secret) = self.of_options()? {
            return Ok(Some(secret));
        }
        if let Some(secret) = self.of_environment()? {
            return Ok(Some(secret));
        }
        if let Some(reference) = self.repository.and_then(|table| table.password.as_ref()) {
            return self.configured(reference).map(Some);
        }
        if let Some(path) = self.credential_path(CREDENTIAL).filter(|path| path.exists()) {
            return file(&path, FileKind::Credential, Ending::Line).map(Some);
        }
        if let Some(value) = self.environment.value("HOLDFAST_PASSWORD") {
            self.output.warning(
                "HOLDFAST_PASSWORD can be seen by other processes of this user; \
                 prefer HOLDFAST_PASSWORD_FILE",
            );
            let secret = from_bytes(value.as_encoded_bytes(), "HOLDFAST_PASSWORD", Ending::Whole);
            return secret.map(Some).map_err(|error| unusable(&error));
        }
        Ok(None)
    }

    /// The identity files: those of the options, else that of the environment, else that of the
    /// configuration.
    ///
    /// # Errors
    /// `HF-KEY-003` and `-004`.
    pub fn identities(&self) -> Result<Vec<IdentityText>, CommandError> {
        let configured = || self.repository.and_then(|table| table.identity_file.clone());
        let paths = if self.global.identity_file.is_empty() {
            self.environment
                .path("HOLDFAST_IDENTITY_FILE")
                .or_else(configured)
                .into_iter()
                .collect()
        } else {
            self.global.identity_file.clone()
        };
        paths.into_iter().map(identity).collect()
    }

    /// A secret that the configuration refers to.
    ///
    /// # Errors
    /// `HF-USE-003` where `[secrets]` does not have it; `HF-KEY-003` and `-004`.
    pub fn configured(&self, reference: &SecretReference) -> Result<SecretString, CommandError> {
        let SecretReference(name) = reference;
        let provider = self.config.secrets.get(name).ok_or_else(|| {
            CommandError::new(&usage::CONFIG, format!("there is no secret {name:?} in [secrets]"))
        })?;
        match provider {
            SecretProvider::File(path) => file(path, FileKind::Private, Ending::Line),
            SecretProvider::Credential(name) => {
                let path = self.credential_path(name).ok_or_else(|| {
                    let what = format!("the credential {name:?} needs CREDENTIALS_DIRECTORY");
                    CommandError::new(&key::FILE_UNREADABLE, what)
                        .hint(format!("LoadCredential={name}:/path in the unit of systemd"))
                })?;
                file(&path, FileKind::Credential, Ending::Line)
            }
            SecretProvider::Command(argv) => {
                read_program(argv, self.environment).map_err(|error| unusable(&error))
            }
            SecretProvider::Env(name) => {
                let value = self.environment.value(name).unwrap_or_default();
                from_bytes(value.as_encoded_bytes(), name, Ending::Whole)
                    .map_err(|error| unusable(&error))
            }
        }
    }

    fn of_options(&self) -> Result<Option<SecretString>, CommandError> {
        let GlobalArgs { password_file, password_command, password_fd, .. } = self.global;
        self.first_of(password_file.as_deref(), password_command.as_deref(), *password_fd)
    }

    fn of_environment(&self) -> Result<Option<SecretString>, CommandError> {
        let environment = self.environment;
        let path = environment.path("HOLDFAST_PASSWORD_FILE");
        let command = environment.text("HOLDFAST_PASSWORD_COMMAND")?;
        let descriptor = environment.from_text("HOLDFAST_PASSWORD_FD")?;
        self.first_of(path.as_deref(), command, descriptor)
    }

    /// The secret that a file, a command or a descriptor gives: the first that is named.
    ///
    /// # Errors
    /// `HF-KEY-003` and `-004`; `HF-USE-001` for a command whose quotes do not close.
    pub fn first_of(
        &self,
        path: Option<&Path>,
        command: Option<&str>,
        descriptor: Option<u32>,
    ) -> Result<Option<SecretString>, CommandError> {
        if let Some(path) = path {
            return file(path, FileKind::Private, Ending::Line).map(Some);
        }
        if let Some(command) = command {
            let argv = words::split(command).map_err(|error| {
                CommandError::new(&usage::ARGUMENT, "the password command is wrong").because(&error)
            })?;
            return read_program(&argv, self.environment).map(Some).map_err(|e| unusable(&e));
        }
        descriptor.map(|number| read_descriptor(number).map_err(|e| unusable(&e))).transpose()
    }

    /// The systemd credential of that name, where there is one.
    ///
    /// # Errors
    /// `HF-KEY-003` and `-004`.
    pub fn credential(&self, name: &str) -> Result<Option<SecretString>, CommandError> {
        let path = self.credential_path(name).filter(|path| path.exists());
        path.map(|path| file(&path, FileKind::Credential, Ending::Line)).transpose()
    }

    fn credential_path(&self, name: &str) -> Option<PathBuf> {
        // One component: a name with a slash could lead anywhere.
        let folder = self.environment.path("CREDENTIALS_DIRECTORY")?;
        (!name.contains('/') && name != "..").then(|| folder.join(name))
    }
}

fn identity(path: PathBuf) -> Result<IdentityText, CommandError> {
    let text = file(&path, FileKind::Private, Ending::Whole)?;
    Ok(IdentityText { path, text })
}

fn file(path: &Path, kind: FileKind, ending: Ending) -> Result<SecretString, CommandError> {
    read_file(path, kind, ending).map_err(|error| unusable(&error))
}

fn unusable(error: &SecretError) -> CommandError {
    let kind: &'static Explanation = match error {
        SecretError::Exposed { .. } | SecretError::ForeignOwner { .. } => &key::FILE_EXPOSED,
        _ => &key::FILE_UNREADABLE,
    };
    let this = CommandError::new(kind, "the secret is not used").because(error);
    match error {
        SecretError::Exposed { place, .. } => this.hint(format!("chmod 600 {place}")),
        _ => this,
    }
}

/// Asks for a new passphrase, twice; a place that is named is that of the old one.
///
/// # Errors
/// `HF-KEY-002` without a terminal, `HF-KEY-005`, `HF-KEY-009`.
pub fn ask_new_passphrase() -> Result<SecretString, CommandError> {
    prompt(Purpose::Create)
}

/// Reads a new passphrase from a file that only its owner can read.
///
/// # Errors
/// `HF-KEY-003`, `HF-KEY-004`.
pub fn new_passphrase_of_file(path: &Path) -> Result<SecretString, CommandError> {
    file(path, FileKind::Private, Ending::Line)
}

fn prompt(purpose: Purpose) -> Result<SecretString, CommandError> {
    if purpose == Purpose::Open {
        return ask("Passphrase: ");
    }
    let first = ask("New passphrase: ")?;
    if first.expose_secret().chars().count() < NEW_PASSPHRASE_CHARS_MIN {
        let what = format!("the passphrase has fewer than {NEW_PASSPHRASE_CHARS_MIN} characters");
        return Err(CommandError::new(&key::WEAK, what));
    }
    let second = ask("The same again: ")?;
    if first.expose_secret() == second.expose_secret() {
        Ok(first)
    } else {
        Err(CommandError::new(&key::MISMATCH, "the two passphrases differ"))
    }
}

fn ask(question: &str) -> Result<SecretString, CommandError> {
    rpassword::prompt_password(question).map(SecretString::from).map_err(|error| {
        CommandError::new(
            &key::NONE,
            "no passphrase or identity was given, and there is no terminal to ask on",
        )
        .because(&error)
        .hint("--password-file FILE, or HOLDFAST_PASSWORD_FILE")
        .hint("--identity-file FILE, or HOLDFAST_IDENTITY_FILE")
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::output::OutputOptions;

    fn place(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn the_order_of_places() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| place(folder.path(), name);
        at("holdfast-password");
        let mut global = GlobalArgs {
            password_file: Some(at("option-file")),
            password_command: Some("printf option-command".into()),
            ..GlobalArgs::default()
        };
        let mut variables = vec![
            ("HOLDFAST_PASSWORD_FILE", at("variable-file").into_os_string()),
            ("HOLDFAST_PASSWORD_COMMAND", "printf variable-command".into()),
            ("CREDENTIALS_DIRECTORY", folder.path().into()),
            ("HOLDFAST_PASSWORD", "variable".into()),
        ];
        let table = RepositoryConfig {
            url: String::new(),
            password: Some(SecretReference("main".into())),
            ..RepositoryConfig::default()
        };
        let mut config = Config::default();
        config.secrets.insert("main".into(), SecretProvider::File(at("configured")));
        let output = Output::to(OutputOptions::default(), Box::new(std::io::sink()));
        let mut repository = Some(&table);
        let expected = [
            "option-file",
            "option-command",
            "variable-file",
            "variable-command",
            "configured",
            "holdfast-password",
            "variable",
        ];
        for (step, name) in expected.into_iter().enumerate() {
            let environment = Environment::new(variables.clone());
            let secrets = Secrets {
                global: &global,
                environment: &environment,
                config: &config,
                repository,
                output: &output,
            };
            let found = secrets.named_passphrase().unwrap().unwrap();
            assert_eq!(found.expose_secret(), name);
            match step {
                0 => global.password_file = None,
                1 => global.password_command = None,
                2 | 3 | 5 => drop(variables.remove(0)),
                _ => repository = None,
            }
        }
    }

    #[test]
    fn a_named_place_that_fails_is_the_end() {
        let global =
            GlobalArgs { password_file: Some("/nonexistent".into()), ..Default::default() };
        let environment = Environment::new([("HOLDFAST_PASSWORD", "x")]);
        let output = Output::to(OutputOptions::default(), Box::new(std::io::sink()));
        let secrets = Secrets {
            global: &global,
            environment: &environment,
            config: &Config::default(),
            repository: None,
            output: &output,
        };
        assert_eq!(secrets.passphrase(Purpose::Open).unwrap_err().id(), "HF-KEY-004");
    }
}
