//! Secrets issued by the plane, and what it stores of them: only digests.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use pf9_hostagent::model::{Digest, Secret};

/// Bytes of a token: not guessable, so a plain digest of it is safe to store.
const TOKEN_BYTES: usize = 32;
/// PBKDF2-HMAC-SHA256 rounds: the number OWASP recommends.
const ROUNDS: u32 = 600_000;
const SALT_BYTES: usize = 16;

/// The stored form of a password.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PasswordHash {
    rounds: u32,
    salt: String,
    hash: String,
}

/// The system has no randomness: nothing can be done safely.
#[derive(Debug, thiserror::Error)]
#[error("the system provides no random bytes")]
pub(super) struct NoRandomness;

/// A new random token, as text.
pub(super) fn fresh() -> Result<Secret<String>, NoRandomness> {
    loop {
        if let Some(text) = text_of(random::<TOKEN_BYTES>()?) {
            return Ok(Secret::new(text));
        }
    }
}

/// None if it would start like an option: one of 64 could not be passed on a command line (`openstack token revoke`).
fn text_of(bytes: [u8; TOKEN_BYTES]) -> Option<String> {
    let text = URL_SAFE_NO_PAD.encode(bytes);
    (!text.starts_with('-')).then_some(text)
}

/// The stored form of a token.
pub(super) fn kept(token: &str) -> String {
    Digest::of(token.as_bytes()).to_string()
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| NoRandomness)?;
    Ok(bytes)
}

impl PasswordHash {
    /// Hashes a password with a new salt. Slow on purpose.
    pub(super) fn of(password: &str) -> Result<Self, NoRandomness> {
        Self::by(ROUNDS, password)
    }

    /// A weak one, for tests that make many.
    #[cfg(test)]
    pub(super) fn cheap(password: &str) -> Self {
        Self::by(1, password).expect("random")
    }

    fn by(rounds: u32, password: &str) -> Result<Self, NoRandomness> {
        let salt = random::<SALT_BYTES>()?;
        let mut hash = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            NonZeroU32::new(rounds).unwrap_or(NonZeroU32::MIN),
            &salt,
            password.as_bytes(),
            &mut hash,
        );
        Ok(Self {
            rounds,
            salt: STANDARD.encode(salt),
            hash: STANDARD.encode(hash),
        })
    }

    /// Hash and attempted password as one message: no two pairs give the same.
    pub(super) fn with(&self, password: &str) -> Vec<u8> {
        let parts = [&self.salt, &self.hash, password];
        let mut message = self.rounds.to_be_bytes().to_vec();
        for part in parts {
            message.extend((part.len() as u64).to_be_bytes());
            message.extend(part.as_bytes());
        }
        message
    }

    /// Whether this is the password, in constant time.
    pub(super) fn matches(&self, password: &str) -> bool {
        let (Ok(salt), Ok(hash), Some(rounds)) = (
            STANDARD.decode(&self.salt),
            STANDARD.decode(&self.hash),
            NonZeroU32::new(self.rounds),
        ) else {
            return false;
        };
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::verify(algorithm, rounds, &salt, password.as_bytes(), &hash).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_begins_as_an_option_does() {
        let mut bytes = [0; TOKEN_BYTES];
        // The first six bits are the first letter.
        for first in 0..64u8 {
            bytes[0] = first << 2;
            let text = text_of(bytes);
            assert_eq!(text.is_none(), first == 62, "{text:?}");
            assert!(text.is_none_or(|t| !t.starts_with('-')));
        }
    }

    #[test]
    fn only_the_password_matches_and_salts_differ() {
        let a = PasswordHash::of("correct horse").expect("hash");
        let b = PasswordHash::of("correct horse").expect("hash");
        assert!(a.matches("correct horse"));
        assert!(!a.matches("correct horsf"));
        assert_ne!(a.hash, b.hash);
    }
}
