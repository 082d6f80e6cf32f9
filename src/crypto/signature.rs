//! Ed25519 keys and SSH signatures over texts (OpenSSH, PROTOCOL.sshsig).
//!
//! A signature has exactly one accepted form: for a key, a namespace and the 64 signature bytes
//! all else in the armored block is fixed, and is compared byte for byte.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use ed25519_dalek::Signer;
use sha2::{Digest, Sha512};

use crate::crypto::secret::{RandomnessError, Secret32};

const KEY_KIND: &str = "ssh-ed25519";
const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;
const HASH: &str = "sha512";
const ARMOR_COLUMNS: usize = 70;
const ARMOR_BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";
const ARMOR_END: &str = "-----END SSH SIGNATURE-----\n";
const SIGNATURE_BYTES: usize = 64;

/// Why a signature is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not an armored SSH signature of this key in this namespace, in the one accepted form.
    #[error("not an SSH signature of the expected key in namespace {namespace}")]
    Form {
        /// The namespace asked for.
        namespace: String,
    },
    /// The signature does not fit the message.
    #[error("the signature does not fit the message")]
    Mismatch,
    /// Not the one-line form of an Ed25519 public key.
    #[error("{text:?} is not an ssh-ed25519 public key")]
    Key {
        /// The text, cut to 100 characters.
        text: String,
    },
}

/// An Ed25519 key pair. Its seed is wiped on drop.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// Draws a new key pair.
    ///
    /// # Errors
    /// The operating system gave no random bytes.
    pub fn generate() -> Result<Self, RandomnessError> {
        Ok(Self::from_seed(&Secret32::random()?))
    }

    /// The key pair of a seed (RFC 8032, section 5.1.5).
    #[must_use]
    pub fn from_seed(seed: &Secret32) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed.expose_secret()))
    }

    /// The seed, to be kept.
    #[must_use]
    pub fn seed(&self) -> Secret32 {
        Secret32::from_bytes(self.0.as_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// Signs a message: an armored SSH signature, LF at the end. Deterministic.
    #[must_use]
    pub fn sign(&self, namespace: &str, message: &[u8]) -> String {
        let signature = self.0.sign(&signed_bytes(namespace, message)).to_bytes();
        armor(&signature_block(&self.verifying_key(), namespace, &signature))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.verifying_key())
    }
}

/// An Ed25519 public key; its text is the OpenSSH form without a comment, `ssh-ed25519 AAAA…`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// Takes the 32 bytes of a key; `None` where they are no point, or one of small order.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).ok()?;
        (!key.is_weak()).then_some(Self(key))
    }

    /// The 32 bytes of the key; their BLAKE3 is the repository id where it is ROOT.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Checks an armored SSH signature over `message`.
    ///
    /// # Errors
    /// Another key, namespace or form ([`SignatureError::Form`]), or another message.
    pub fn verify(
        &self,
        namespace: &str,
        message: &[u8],
        armored: &[u8],
    ) -> Result<(), SignatureError> {
        let malformed = || SignatureError::Form { namespace: namespace.to_owned() };
        let signature = signature_of(armored).ok_or_else(malformed)?;
        if armor(&signature_block(self, namespace, &signature)).as_bytes() != armored {
            return Err(malformed());
        }
        let signature = ed25519_dalek::Signature::from_bytes(&signature);
        self.0
            .verify_strict(&signed_bytes(namespace, message), &signature)
            .map_err(|_| SignatureError::Mismatch)
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KEY_KIND} {}", BASE64.encode(&key_block(self)))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

impl FromStr for VerifyingKey {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let key = text
            .strip_prefix(KEY_KIND)
            .and_then(|rest| rest.strip_prefix(' '))
            .filter(|base64| base64.len() == 68)
            .and_then(|base64| BASE64.decode(base64.as_bytes()).ok())
            .and_then(|block| block.last_chunk::<32>().copied())
            .and_then(|bytes| Self::from_bytes(&bytes))
            .filter(|key| key.to_string() == text);
        key.ok_or_else(|| SignatureError::Key { text: text.chars().take(100).collect() })
    }
}

/// Appends a string of RFC 4251, section 5: length in four bytes, big-endian, then the bytes.
fn push_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn key_block(key: &VerifyingKey) -> Vec<u8> {
    let mut block = Vec::with_capacity(51);
    push_string(&mut block, KEY_KIND.as_bytes());
    push_string(&mut block, key.as_bytes());
    block
}

fn signed_bytes(namespace: &str, message: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    push_string(&mut bytes, namespace.as_bytes());
    push_string(&mut bytes, b"");
    push_string(&mut bytes, HASH.as_bytes());
    push_string(&mut bytes, &Sha512::digest(message));
    bytes
}

fn signature_block(
    key: &VerifyingKey,
    namespace: &str,
    signature: &[u8; SIGNATURE_BYTES],
) -> Vec<u8> {
    let mut inner = Vec::new();
    push_string(&mut inner, KEY_KIND.as_bytes());
    push_string(&mut inner, signature);
    let mut block = MAGIC.to_vec();
    block.extend_from_slice(&VERSION.to_be_bytes());
    push_string(&mut block, &key_block(key));
    push_string(&mut block, namespace.as_bytes());
    push_string(&mut block, b"");
    push_string(&mut block, HASH.as_bytes());
    push_string(&mut block, &inner);
    block
}

fn armor(block: &[u8]) -> String {
    let base64 = BASE64.encode(block);
    let mut text = String::from(ARMOR_BEGIN);
    for (i, digit) in base64.chars().enumerate() {
        if i > 0 && i % ARMOR_COLUMNS == 0 {
            text.push('\n');
        }
        text.push(digit);
    }
    text.push('\n');
    text.push_str(ARMOR_END);
    text
}

/// The signature bytes are the last ones of the block.
fn signature_of(armored: &[u8]) -> Option<[u8; SIGNATURE_BYTES]> {
    let lines = armored
        .strip_prefix(ARMOR_BEGIN.as_bytes())?
        .strip_suffix(ARMOR_END.as_bytes())
        .filter(|lines| lines.len() < 1024)?;
    let base64: Vec<u8> = lines.iter().copied().filter(|byte| *byte != b'\n').collect();
    BASE64.decode(&base64).ok()?.last_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::path::Path;
    use std::process::{Command, Stdio};

    const NAMESPACE: &str = "holdfast.test@v1";

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&Secret32::from_bytes(&[seed; 32]))
    }

    #[test]
    fn the_public_key_has_one_text() {
        let key = key(1).verifying_key();
        let text = key.to_string();
        let expected =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
        assert_eq!(text, expected);
        assert_eq!(text.parse(), Ok(key));
        let wrong = [
            String::new(),
            text.replace("ssh-ed25519 ", ""),
            text.replace(' ', "  "),
            text.replace("ssh-ed25519", "ssh-rsa"),
            text[..text.len() - 1].to_owned(),
            format!("{text} comment"),
            format!("{text}\n"),
            text.replace("AAAAC3", "AAAAC4"),
            format!("ssh-ed25519 {}", BASE64.encode(&[0; 51])),
        ];
        for text in wrong {
            assert!(text.parse::<VerifyingKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn weak_keys_are_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        for bytes in [[0; 32], one] {
            assert_eq!(VerifyingKey::from_bytes(&bytes), None);
        }
    }

    #[test]
    fn a_signature_fits_one_message_key_and_namespace() {
        let armored = key(1).sign(NAMESPACE, b"message\n");
        let verify = |seed: u8, namespace, message| {
            key(seed).verifying_key().verify(namespace, message, armored.as_bytes())
        };
        assert_eq!(verify(1, NAMESPACE, b"message\n"), Ok(()));
        assert_eq!(verify(1, NAMESPACE, b"massage\n"), Err(SignatureError::Mismatch));
        assert!(matches!(verify(2, NAMESPACE, b"message\n"), Err(SignatureError::Form { .. })));
        assert!(matches!(verify(1, "file", b"message\n"), Err(SignatureError::Form { .. })));
    }

    #[test]
    fn every_changed_byte_of_a_signature_is_refused() {
        let armored = key(1).sign(NAMESPACE, b"message\n").into_bytes();
        let public = key(1).verifying_key();
        for at in 0..armored.len() {
            for mask in [0x01, 0x20, 0x80] {
                let mut changed = armored.clone();
                changed[at] ^= mask;
                assert!(public.verify(NAMESPACE, b"message\n", &changed).is_err(), "byte {at}");
            }
            assert!(public.verify(NAMESPACE, b"message\n", &armored[..at]).is_err(), "cut {at}");
        }
        for added in [&b"\n"[..], b"x", b" ", &armored] {
            let longer = [&armored[..], added].concat();
            assert!(public.verify(NAMESPACE, b"message\n", &longer).is_err());
        }
        let text = String::from_utf8(armored).unwrap();
        for other in [text.replace('\n', "\r\n"), text.replacen("\nU", "\n\nU", 1)] {
            assert_ne!(other, text);
            assert!(public.verify(NAMESPACE, b"message\n", other.as_bytes()).is_err());
        }
    }

    /// `ssh-keygen` with arguments and standard input; `None`, said aloud, where there is none.
    #[allow(clippy::print_stderr)]
    fn ssh_keygen(arguments: &[&str], input: &[u8]) -> Option<(bool, Vec<u8>)> {
        let spawned = Command::new("ssh-keygen")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                eprintln!("SKIPPED: ssh-keygen cannot be run ({error}); nothing was compared");
                return None;
            }
        };
        // The command may refuse its arguments and be gone before it reads.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        Some((output.status.success(), output.stdout))
    }

    fn text(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    #[test]
    fn ssh_keygen_verifies_what_is_signed_here() {
        let folder = tempfile::tempdir().unwrap();
        let (allowed, file) = (folder.path().join("allowed"), folder.path().join("signature"));
        std::fs::write(&allowed, format!("writer {}\n", key(3).verifying_key())).unwrap();
        std::fs::write(&file, key(3).sign(NAMESPACE, b"a message\n")).unwrap();
        let arguments = |namespace| {
            let (allowed, file) = (text(&allowed), text(&file));
            ["-Y", "verify", "-f", allowed, "-I", "writer", "-n", namespace, "-s", file]
        };
        let table = [
            (NAMESPACE, &b"a message\n"[..], true),
            (NAMESPACE, b"another message\n", false),
            ("file", b"a message\n", false),
        ];
        for (namespace, message, expected) in table {
            let Some((success, _)) = ssh_keygen(&arguments(namespace), message) else { return };
            assert_eq!(success, expected, "{namespace}");
        }
    }

    #[test]
    fn what_ssh_keygen_signs_is_verified_here() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let new = ["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", text(&file)];
        let Some((success, _)) = ssh_keygen(&new, b"") else { return };
        assert!(success);
        let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
        let public: VerifyingKey = public.trim_end().parse().unwrap();
        for message in [&b""[..], b"a message\n", &[b'x'; 5_000]] {
            let sign = ["-Y", "sign", "-f", text(&file), "-n", NAMESPACE];
            let (_, armored) = ssh_keygen(&sign, message).unwrap();
            assert_eq!(public.verify(NAMESPACE, message, &armored), Ok(()));
        }
    }
}
