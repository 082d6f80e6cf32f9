//! Thirty-two secret bytes, and randomness of the operating system.
//!
//! The bytes are wiped when the value is dropped and never appear in a debug text.

use std::fmt;

use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use zeroize::Zeroizing;

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct RandomnessError(#[source] getrandom::Error);

/// Fills an array with random bytes of the operating system.
///
/// # Errors
/// The system call failed; nothing may be made with what is in the array then.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], RandomnessError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(RandomnessError)?;
    Ok(bytes)
}

/// A secret of 32 bytes: a domain secret, an Ed25519 seed. Heap-allocated, so that moving the
/// value leaves no copies; wiped on drop.
pub struct Secret32(SecretBox<[u8; 32]>);

impl Secret32 {
    /// Draws a new secret.
    ///
    /// # Errors
    /// The operating system gave no random bytes.
    pub fn random() -> Result<Self, RandomnessError> {
        let bytes = Zeroizing::new(random_bytes()?);
        Ok(Self::from_bytes(&bytes))
    }

    /// Copies the secret; the caller wipes its own copy.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(SecretBox::init_with_mut(|secret: &mut [u8; 32]| *secret = *bytes))
    }

    /// Reads exactly 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 {
            return None;
        }
        let mut bytes = Zeroizing::new([0; 32]);
        HEXLOWER.decode_mut(text.as_bytes(), bytes.as_mut_slice()).ok()?;
        Some(Self::from_bytes(&bytes))
    }

    /// The 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> SecretString {
        SecretString::from(HEXLOWER.encode(self.expose_secret()))
    }

    /// The bytes themselves.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8; 32] {
        self.0.expose_secret()
    }
}

impl Clone for Secret32 {
    fn clone(&self) -> Self {
        Self::from_bytes(self.expose_secret())
    }
}

impl fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret32(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_exact_and_debug_shows_nothing() {
        let secret = Secret32::from_bytes(&[0xab; 32]);
        let digits = "ab".repeat(32);
        assert_eq!(secret.to_hex().expose_secret(), digits);
        assert_eq!(Secret32::from_hex(&digits).unwrap().expose_secret(), &[0xab; 32]);
        assert!(!format!("{secret:?}").contains("ab"));
        for wrong in
            [String::new(), "ab".repeat(31), "ab".repeat(33), "AB".repeat(32), "zz".repeat(32)]
        {
            assert!(Secret32::from_hex(&wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn two_draws_differ() {
        let (one, other) = (Secret32::random().unwrap(), Secret32::random().unwrap());
        assert_ne!(one.expose_secret(), other.expose_secret());
    }
}
