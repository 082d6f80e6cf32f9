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
