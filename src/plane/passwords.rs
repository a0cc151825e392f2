//! Whether a password is right. The check is slow on purpose, so it is done by turns.
//!
//! Who tries wrong ones delays himself: each origin has its own turn and so many wrong ones in a time.
//! And the right one does not wait for them: what was right before is recognised at once, by a keyed
//! digest that is in memory only, under a key that ends with the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

use super::fair::{Fair, Origin, Shares};
use super::secrets::{NoRandomness, PasswordHash};
use crate::model::Secret;

/// Slow checks at a time: what is left of two cores moves bytes.
const CHECKS_MAX: usize = 2;
/// Checks that wait, half a minute of them. Beyond that whoever asks most is told to come again.
const WAITING_MAX: usize = 256;
/// Wrong passwords that an origin may try at once: a whole team behind one address may mistype, and
/// NIST SP 800-63B allows a hundred in a row.
const WRONG_BURST: u32 = 100;
/// One more comes back in this time: ten thousand guesses a day, of passwords that are never so few.
const WRONG_EVERY: Duration = Duration::from_secs(8);
/// When to come again where too many wait.
const BUSY: Duration = Duration::from_secs(5);
/// Users whose password is recognised.
const RECOGNISED_MAX: usize = 1024;

/// The checks of all passwords.
pub(super) struct Passwords {
    turns: Fair,
    /// Wrong ones; times count from `began`.
    wrong: Mutex<Shares<Origin>>,
    began: Instant,
    key: hmac::Key,
    /// By user: the digest of what is kept and of the password that was right for it.
    right: Mutex<BTreeMap<String, hmac::Tag>>,
}

/// It was not looked at; how long until it may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooOften {
    /// This origin tried too many wrong ones.
    Wrong(Duration),
    /// More are asked than can be checked.
    Busy(Duration),
}

impl Passwords {
    pub(super) fn new() -> Result<Self, NoRandomness> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Ok(Self {
            turns: Fair::new(CHECKS_MAX, WAITING_MAX),
            wrong: Mutex::new(Shares::new(WRONG_EVERY, WRONG_BURST)),
            began: Instant::now(),
            key: key.map_err(|_| NoRandomness)?,
            right: Mutex::default(),
        })
    }

    /// Whether `tried` is the password that is `kept` for `user`. Without one that is kept (there is no
    /// such user) `decoy` is checked and the answer is no: it takes as long.
    pub(super) async fn check(
        &self,
        origin: Origin,
        user: Option<(&str, &PasswordHash)>,
        decoy: &PasswordHash,
        tried: &Secret<String>,
    ) -> Result<bool, TooOften> {
        self.may_try(origin)?;
        if user.is_some_and(|(name, kept)| self.recognises(name, kept, tried)) {
            return Ok(true);
        }
        let turn = self.turns.place(origin).await;
        let _turn = turn.map_err(|_| TooOften::Busy(BUSY))?;
        // Those before it may have used up what there was.
        self.may_try(origin)?;
        let hash = user.map_or(decoy, |(_, kept)| kept).clone();
        let secret = tried.clone();
        let matches = tokio::task::spawn_blocking(move || hash.matches(secret.expose()));
        let matches = matches.await.unwrap_or(false);
        match user.filter(|_| matches) {
            Some((name, kept)) => {
                self.recognise(name, kept, tried);
                Ok(true)
            }
            None => {
                let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
                // Those that were under way together may be more than were left: then it is empty.
                let _none_left = wrong.take(origin, self.began.elapsed()).is_err();
                Ok(false)
            }
        }
    }

    fn may_try(&self, origin: Origin) -> Result<(), TooOften> {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong
            .has(&origin, self.began.elapsed())
            .map_err(TooOften::Wrong)
    }

    fn recognises(&self, name: &str, kept: &PasswordHash, tried: &Secret<String>) -> bool {
        let right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        let message = kept.with(tried.expose());
        right
            .get(name)
            .is_some_and(|tag| hmac::verify(&self.key, &message, tag.as_ref()).is_ok())
    }

    fn recognise(&self, name: &str, kept: &PasswordHash, tried: &Secret<String>) {
        let tag = hmac::sign(&self.key, &kept.with(tried.expose()));
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() < RECOGNISED_MAX || right.contains_key(name) {
            right.insert(name.to_owned(), tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "admin";

    fn origin(n: u8) -> Origin {
        Origin::of(([10, 0, 0, n], 1).into())
    }

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    struct World {
        passwords: Passwords,
        kept: PasswordHash,
    }

    impl World {
        fn new() -> Self {
            Self {
                passwords: Passwords::new().expect("random"),
                kept: PasswordHash::cheap("right"),
            }
        }

        async fn tries(&self, n: u8, what: &str) -> Result<bool, TooOften> {
            let user = Some((USER, &self.kept));
            self.passwords
                .check(origin(n), user, &self.kept, &secret(what))
                .await
        }
    }

    #[tokio::test]
    async fn only_the_kept_one_is_right_and_a_user_who_is_not_there_has_none() {
        let world = World::new();
        assert_eq!(world.tries(1, "wrong").await, Ok(false));
        for _ in 0..2 {
            assert_eq!(world.tries(1, "right").await, Ok(true));
            assert_eq!(world.tries(1, "wrong").await, Ok(false));
        }
        let right = secret("right");
        let nobody = world.passwords.check(origin(1), None, &world.kept, &right);
        assert_eq!(nobody.await, Ok(false));
        // Another one is kept since: what was right is not any more.
        let other = PasswordHash::cheap("other");
        let user = Some((USER, &other));
        let before = world.passwords.check(origin(1), user, &other, &right);
        assert_eq!(before.await, Ok(false));
    }

    #[tokio::test]
    async fn the_right_one_does_not_wait_behind_wrong_ones() {
        let world = World::new();
        assert_eq!(world.tries(1, "right").await, Ok(true));
        let mut held = Vec::new();
        for _ in 0..CHECKS_MAX {
            held.push(world.passwords.turns.place(origin(2)).await.expect("free"));
        }
        // No place is free, and none becomes free.
        assert_eq!(world.tries(1, "right").await, Ok(true));
        assert_eq!(world.tries(2, "right").await, Ok(true));
    }

    #[tokio::test]
    async fn who_tries_too_many_is_not_looked_at_and_others_are() {
        let world = World::new();
        for _ in 0..WRONG_BURST {
            assert_eq!(world.tries(1, "wrong").await, Ok(false));
        }
        let refused = world.tries(1, "right").await;
        assert!(matches!(refused, Err(TooOften::Wrong(wait)) if wait <= WRONG_EVERY));
        assert_eq!(world.tries(2, "right").await, Ok(true));
    }
}
