//! Whom objects are sealed to, and what opens them: age recipients and identities.
//!
//! Nothing here reads files or asks anyone: texts come in, and questions of hardware keys and of
//! encrypted SSH keys go to a [`Prompter`] that the caller supplies.

use std::fmt;
use std::io::Cursor;
use std::str::FromStr;
use std::sync::Arc;

use bech32::{Bech32, Hrp};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroize;

use crate::crypto::secret::{RandomnessError, Secret32};

/// scrypt work factor (log2 N) of passphrases when sealing.
pub const WORK_FACTOR_WRITTEN: u8 = 18;
/// Largest scrypt work factor that is tried when opening: 4 GiB of memory.
pub const WORK_FACTOR_MAX: u8 = 22;

const NATIVE_IDENTITY_PREFIX: Hrp = Hrp::parse_unchecked("age-secret-key-");

/// A text that is no recipient or no identity. Never holds the text of an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Not a recipient of a known kind.
    #[error("{text:?} is not an age or SSH recipient")]
    Recipient {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// A line of an identity file that is no identity.
    #[error("line {line} is not an age identity")]
    Identity {
        /// Line number, from 1.
        line: usize,
    },
    /// An identity file without an identity.
    #[error("no identity found")]
    NoIdentity,
    /// An SSH private key of a kind or with a cipher that age cannot use.
    #[error("this SSH private key cannot be used, only ssh-ed25519 and ssh-rsa")]
    SshKey,
    /// The program of an age plugin is not on the search path.
    #[error("the age plugin {program} was not found")]
    PluginMissing {
        /// Its file name.
        program: String,
    },
}

/// Answers questions of age plugins (hardware keys) and of encrypted SSH keys.
///
/// `None` means that nobody could be asked; the key is then passed over.
pub trait Prompter: Send + Sync {
    /// Shows a text, such as "touch your key".
    fn show(&self, message: &str);
    /// Asks a yes-or-no question whose answers are labelled `yes` and `no`.
    fn confirm(&self, question: &str, yes: &str, no: Option<&str>) -> Option<bool>;
    /// Asks for a text that may be seen.
    fn ask_text(&self, question: &str) -> Option<String>;
    /// Asks for a passphrase or PIN.
    fn ask_secret(&self, question: &str) -> Option<SecretString>;
}

/// Answers nothing: for programs that run unattended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unattended;

impl Prompter for Unattended {
    fn show(&self, _: &str) {}
    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }
    fn ask_text(&self, _: &str) -> Option<String> {
        None
    }
    fn ask_secret(&self, _: &str) -> Option<SecretString> {
        None
    }
}

#[derive(Clone)]
struct Callbacks(Arc<dyn Prompter>);

impl age::Callbacks for Callbacks {
    fn display_message(&self, message: &str) {
        self.0.show(message);
    }
    fn confirm(&self, message: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        self.0.confirm(message, yes, no)
    }
    fn request_public_string(&self, description: &str) -> Option<String> {
        self.0.ask_text(description)
    }
    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        self.0.ask_secret(description)
    }
}

/// Someone to seal to. Cloning shares it.
#[derive(Clone)]
pub struct Recipient {
    text: String,
    age: Arc<dyn age::Recipient + Send + Sync>,
}

impl Recipient {
    /// Reads `age1…`, an OpenSSH public key line of kind ssh-ed25519 or ssh-rsa, or the recipient
    /// of an age plugin (`age1name1…`), which needs the program `age-plugin-name`.
    ///
    /// # Errors
    /// The text is none of these, or the plugin's program is not there.
    pub fn parse(text: &str, prompter: &Arc<dyn Prompter>) -> Result<Self, KeyTextError> {
        let text = text.trim();
        if let Ok(native) = text.parse::<NativeRecipient>() {
            return Ok(native.into());
        }
        if let Ok(ssh) = text.parse::<age::ssh::Recipient>() {
            return Ok(Self { text: text.to_owned(), age: Arc::new(ssh) });
        }
        let plugin = text.parse().map_err(|_| not_a_recipient(text))?;
        Self::of_plugin(plugin, prompter)
    }

    fn of_plugin(
        recipient: age::plugin::Recipient,
        prompter: &Arc<dyn Prompter>,
    ) -> Result<Self, KeyTextError> {
        let text = recipient.to_string();
        let name = recipient.plugin().to_owned();
        let callbacks = Callbacks(Arc::clone(prompter));
        let age = age::plugin::RecipientPluginV1::new(&name, &[recipient], &[], callbacks)
            .map_err(|_| plugin_missing(&name))?;
        Ok(Self { text, age: Arc::new(age) })
    }

    /// Whoever knows the passphrase. Must be the only recipient of what is sealed.
    #[must_use]
    pub fn passphrase(passphrase: SecretString) -> Self {
        let mut age = age::scrypt::Recipient::new(passphrase);
        age.set_work_factor(WORK_FACTOR_WRITTEN);
        Self { text: "passphrase".to_owned(), age: Arc::new(age) }
    }

    /// The recipient as it was given; `passphrase` for a passphrase.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn as_age(&self) -> &dyn age::Recipient {
        &*self.age
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.text)
    }
}

impl From<NativeRecipient> for Recipient {
    fn from(native: NativeRecipient) -> Self {
        Self { text: native.to_string(), age: Arc::new(native.0) }
    }
}

/// An X25519 recipient, `age1…` in lower case: the public half of a [`ReadIdentity`].
#[derive(Clone, PartialEq, Eq)]
pub struct NativeRecipient(age::x25519::Recipient);

impl FromStr for NativeRecipient {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        let parsed: age::x25519::Recipient = text.parse().map_err(|_| not_a_recipient(text))?;
        if parsed.to_string() != text {
            return Err(not_a_recipient(text));
        }
        Ok(Self(parsed))
    }
}

impl fmt::Display for NativeRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NativeRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NativeRecipient({self})")
    }
}

/// Something that opens sealed objects. Cloning shares it.
#[derive(Clone)]
pub struct Identity(Arc<dyn age::Identity + Send + Sync>);

impl Identity {
    /// Reads the content of an identity file: an SSH private key, or lines of age and plugin
    /// identities with `#` comments, as `age-keygen` writes them. At least one identity.
    ///
    /// An encrypted SSH key asks `prompter` for its passphrase when an object is sealed to it.
    ///
    /// # Errors
    /// A line is something else, or a plugin's program is not there.
    pub fn parse_file(text: &str, prompter: &Arc<dyn Prompter>) -> Result<Vec<Self>, KeyTextError> {
        if text.starts_with("-----BEGIN ") {
            return Ok(vec![Self::of_ssh_key(text, prompter)?]);
        }
        let identities = text
            .lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(number, line)| Self::of_line(line, number, prompter))
            .collect::<Result<Vec<_>, _>>()?;
        if identities.is_empty() {
            return Err(KeyTextError::NoIdentity);
        }
        Ok(identities)
    }

    fn of_line(
        line: &str,
        number: usize,
        prompter: &Arc<dyn Prompter>,
    ) -> Result<Self, KeyTextError> {
        if let Some(native) = ReadIdentity::parse(line) {
            return Ok(native.to_identity());
        }
        let plugin: age::plugin::Identity =
            line.parse().map_err(|_| KeyTextError::Identity { line: number })?;
        let name = plugin.plugin().to_owned();
        let callbacks = Callbacks(Arc::clone(prompter));
        let age = age::plugin::IdentityPluginV1::new(&name, &[plugin], callbacks)
            .map_err(|_| plugin_missing(&name))?;
        Ok(Self(Arc::new(age)))
    }

    fn of_ssh_key(text: &str, prompter: &Arc<dyn Prompter>) -> Result<Self, KeyTextError> {
        let key = age::ssh::Identity::from_buffer(Cursor::new(text), None)
            .map_err(|_| KeyTextError::SshKey)?;
        if let age::ssh::Identity::Unsupported(_) = key {
            return Err(KeyTextError::SshKey);
        }
        Ok(Self(Arc::new(key.with_callbacks(Callbacks(Arc::clone(prompter))))))
    }

    /// Opens what was sealed to the passphrase with a work factor of at most [`WORK_FACTOR_MAX`].
    #[must_use]
    pub fn passphrase(passphrase: SecretString) -> Self {
        let mut age = age::scrypt::Identity::new(passphrase);
        age.set_max_work_factor(WORK_FACTOR_MAX);
        Self(Arc::new(age))
    }

    pub(crate) fn as_age(&self) -> &dyn age::Identity {
        &*self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(not shown)")
    }
}

/// An X25519 key pair of age: the read key of an epoch, a maintainer's, a domain's for its index.
#[derive(Clone)]
pub struct ReadIdentity(age::x25519::Identity);

impl ReadIdentity {
    /// Draws a new key pair.
    ///
    /// # Errors
    /// The operating system gave no random bytes.
    pub fn generate() -> Result<Self, RandomnessError> {
        Ok(Self::from_secret(&Secret32::random()?))
    }

    /// The key pair of a 32-byte X25519 secret.
    #[must_use]
    pub fn from_secret(secret: &Secret32) -> Self {
        let mut text = bech32::encode::<Bech32>(NATIVE_IDENTITY_PREFIX, secret.expose_secret())
            .expect("32 bytes are within the length of a Bech32 text");
        text.make_ascii_uppercase();
        let identity = Self::parse(&text).expect("the text was encoded just now");
        text.zeroize();
        identity
    }

    /// Reads `AGE-SECRET-KEY-1…`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let identity = Self(text.parse().ok()?);
        let canonical = identity.to_secret_text();
        (canonical.expose_secret() == text).then_some(identity)
    }

    /// `AGE-SECRET-KEY-1…`.
    #[must_use]
    pub fn to_secret_text(&self) -> SecretString {
        self.0.to_string()
    }

    /// The public half.
    #[must_use]
    pub fn recipient(&self) -> NativeRecipient {
        NativeRecipient(self.0.to_public())
    }

    /// The public half as text, `age1…`; its BLAKE3 stands in the roster.
    #[must_use]
    pub fn recipient_text(&self) -> String {
        self.recipient().to_string()
    }

    /// The secret half, to open objects with.
    #[must_use]
    pub fn to_identity(&self) -> Identity {
        Identity(Arc::new(self.0.clone()))
    }
}

impl fmt::Debug for ReadIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadIdentity({})", self.recipient())
    }
}

fn not_a_recipient(text: &str) -> KeyTextError {
    // Somebody may have pasted the secret half; it must not reach a log.
    let text = if text.to_ascii_uppercase().contains("AGE-SECRET-KEY") {
        "(a secret key)".to_owned()
    } else {
        text.chars().take(80).collect()
    };
    KeyTextError::Recipient { text }
}

fn plugin_missing(name: &str) -> KeyTextError {
    KeyTextError::PluginMissing { program: format!("age-plugin-{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The pair in the test vectors of the age crate.
    const SECRET: &str =
        "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
    const PUBLIC: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

    fn unattended() -> Arc<dyn Prompter> {
        Arc::new(Unattended)
    }

    #[test]
    fn a_secret_gives_its_recipient() {
        let identity = ReadIdentity::parse(SECRET).unwrap();
        assert_eq!(identity.recipient_text(), PUBLIC);
        assert_eq!(identity.to_secret_text().expose_secret(), SECRET);
        assert_eq!(ReadIdentity::parse(&SECRET.to_lowercase()).map(|i| i.recipient_text()), None);
    }

    #[test]
    fn recipients_are_told_apart() {
        let ssh =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
        for text in [PUBLIC, ssh] {
            assert_eq!(Recipient::parse(text, &unattended()).unwrap().text(), text);
        }
        let hrp = Hrp::parse("age1holdfastnone").unwrap();
        let plugin = bech32::encode::<Bech32>(hrp, &[1, 2, 3]).unwrap();
        let program = "age-plugin-holdfastnone".to_owned();
        assert_eq!(
            Recipient::parse(&plugin, &unattended()).unwrap_err(),
            KeyTextError::PluginMissing { program }
        );
        for wrong in ["", "age1", &PUBLIC.to_uppercase(), "ssh-dss AAAA", "someone"] {
            let error = Recipient::parse(wrong, &unattended()).unwrap_err();
            assert!(matches!(error, KeyTextError::Recipient { .. }), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_pasted_secret_is_in_no_message() {
        for text in [SECRET.to_owned(), SECRET.to_lowercase(), format!("x{SECRET}")] {
            let error = Recipient::parse(&text, &unattended()).unwrap_err();
            assert!(!format!("{error} {error:?}").to_uppercase().contains("1GQ9778"), "{error}");
        }
        let file = format!("# comment\n\n{SECRET}x\n");
        let error = Identity::parse_file(&file, &unattended()).unwrap_err();
        assert_eq!(error, KeyTextError::Identity { line: 3 });
    }

    #[test]
    fn identity_files_have_comments() {
        let file = format!("# created: 2026-01-01\n# public key: {PUBLIC}\n\n{SECRET}\n{SECRET}\n");
        assert_eq!(Identity::parse_file(&file, &unattended()).unwrap().len(), 2);
        let error = Identity::parse_file("# nothing\n", &unattended()).unwrap_err();
        assert_eq!(error, KeyTextError::NoIdentity);
        let ssh = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
        assert_eq!(Identity::parse_file(ssh, &unattended()).unwrap_err(), KeyTextError::SshKey);
    }
}
