//! Password checks. They are slow on purpose, so they run in turns.
//!
//! Wrong passwords delay only their sender: each origin has its own queue and rate limit for wrong ones. The right one
//! does not wait for them: a password that was right before is recognised immediately, by a keyed digest held only in
//! memory, under a key that ends with the process.
//!
//! An account is locked per origin, after this many wrong attempts from there: nobody locks others out by guessing, and
//! an attacker guessing at one account is slower than a user who mistypes at several.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

use super::fair::{Fair, Origin, Shares};
use super::secrets::{NoRandomness, PasswordHash};
use pf9_hostagent::host::work::brief;
use pf9_hostagent::model::{Digest, Secret};

/// Concurrent slow checks: the rest of two cores moves bytes.
const CHECKS_MAX: usize = 2;
/// Waiting checks, half a minute of them. Beyond that the caller with most of them gets Retry-After.
const WAITING_MAX: usize = 256;
/// Burst of wrong passwords per origin: a whole team behind one address may mistype, and NIST SP 800-63B allows a
/// hundred in a row.
const WRONG_BURST: u32 = 100;
/// Time until one more is allowed: ten thousand guesses a day, against passwords that are never so few.
const WRONG_EVERY: Duration = Duration::from_secs(8);
/// Burst of wrong passwords for one account from one origin: below the origin's, so that guessing at one account does
/// not lock its neighbours out of theirs; above what a team that shares an account mistypes.
const WRONG_HERE_BURST: u32 = 75;
/// Time until one more is allowed: fewer than fifteen hundred guesses a day at one account.
const WRONG_HERE_EVERY: Duration = Duration::from_secs(60);
/// Burst of tokens per user: a script that logs in for each call.
const LOGINS_BURST: u32 = 300;
/// Time until one more is allowed. Each is a write, and writes are serialised.
const LOGINS_EVERY: Duration = Duration::from_millis(200);
/// Retry-After while the queue is full.
const BUSY: Duration = Duration::from_secs(5);
/// Users whose password is recognised.
const RECOGNISED_MAX: usize = 1024;

/// State of all password checks.
pub(super) struct Passwords {
    turns: Fair,
    /// Wrong attempts; times count from `began`.
    wrong: Mutex<Shares<Origin>>,
    /// The same per account and origin; by digest, because the account name comes from an unauthenticated caller.
    wrong_here: Mutex<Shares<(Origin, Digest)>>,
    began: Instant,
    /// Issued tokens, by user.
    logins: Mutex<Shares<String>>,
    key: hmac::Key,
    /// By user: a keyed digest of the stored hash and the password that was right for it.
    right: Mutex<BTreeMap<String, hmac::Tag>>,
}

/// Not checked; how long until the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooOften {
    /// Too many wrong attempts from this origin.
    Wrong(Duration),
    /// Too many wrong attempts for this account from this origin.
    WrongHere(Duration),
    /// Too many tokens for this user.
    Logins(Duration),
    /// The queue is full.
    Busy(Duration),
}

impl Passwords {
    pub(super) fn new() -> Result<Self, NoRandomness> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Ok(Self {
            turns: Fair::new(CHECKS_MAX, WAITING_MAX),
            wrong: Mutex::new(Shares::new(WRONG_EVERY, WRONG_BURST)),
            wrong_here: Mutex::new(Shares::new(WRONG_HERE_EVERY, WRONG_HERE_BURST)),
            logins: Mutex::new(Shares::new(LOGINS_EVERY, LOGINS_BURST)),
            began: Instant::now(),
            key: key.map_err(|_| NoRandomness)?,
            right: Mutex::default(),
        })
    }

    /// Whether `tried` is the password whose hash is `kept` for `user`. Without a hash (there is no such user) `decoy`
    /// is checked and the answer is no: it takes as long.
    pub(super) async fn check(
        &self,
        origin: Origin,
        account: &str,
        user: Option<(&str, &PasswordHash)>,
        decoy: &PasswordHash,
        tried: &Secret<String>,
    ) -> Result<bool, TooOften> {
        let here = (origin, Digest::of(account.as_bytes()));
        self.may_try(&here)?;
        if user.is_some_and(|(name, kept)| self.recognises(name, kept, tried)) {
            return Ok(true);
        }
        let turn = self.turns.place(origin).await;
        let _turn = turn.map_err(|_| TooOften::Busy(BUSY))?;
        // Attempts before it in the queue may have used up the limit.
        self.may_try(&here)?;
        let hash = user.map_or(decoy, |(_, kept)| kept).clone();
        let secret = tried.clone();
        let matches = brief(move || hash.matches(secret.expose())).await;
        let matches = matches.unwrap_or(false);
        match user.filter(|_| matches) {
            Some((name, kept)) => {
                self.recognise(name, kept, tried);
                Ok(true)
            }
            None => {
                let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
                // Concurrent attempts may exceed what was left: then the bucket is empty.
                let now = self.began.elapsed();
                let _none_left = wrong.take(origin, now).is_err();
                let mut of_account = self.here();
                let _none_left = of_account.take(here, now).is_err();
                Ok(false)
            }
        }
    }

    /// Whether a user may get one more token; counts it.
    pub(super) fn may_log_in(&self, user: &str) -> Result<(), TooOften> {
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = logins.take(user.to_owned(), self.began.elapsed());
        taken.map_err(TooOften::Logins)
    }

    /// Hashes a new password, in the same queue as the checks: it takes as long.
    pub(super) async fn hash(
        &self,
        origin: Origin,
        secret: Secret<String>,
    ) -> Result<Result<PasswordHash, NoRandomness>, TooOften> {
        let turn = self.turns.place(origin).await;
        let _turn = turn.map_err(|_| TooOften::Busy(BUSY))?;
        let hash = brief(move || PasswordHash::of(secret.expose())).await;
        Ok(hash.unwrap_or(Err(NoRandomness)))
    }

    fn may_try(&self, here: &(Origin, Digest)) -> Result<(), TooOften> {
        let now = self.began.elapsed();
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.has(&here.0, now).map_err(TooOften::Wrong)?;
        self.here().has(here, now).map_err(TooOften::WrongHere)
    }

    fn here(&self) -> MutexGuard<'_, Shares<(Origin, Digest)>> {
        self.wrong_here
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
            self.tries_as(USER, n, what).await
        }

        async fn tries_as(&self, user: &str, n: u8, what: &str) -> Result<bool, TooOften> {
            self.passwords
                .check(
                    origin(n),
                    user,
                    Some((user, &self.kept)),
                    &self.kept,
                    &secret(what),
                )
                .await
        }
    }

    #[tokio::test]
    async fn only_the_stored_password_is_right_and_an_unknown_user_has_none() {
        let world = World::new();
        assert_eq!(world.tries(1, "wrong").await, Ok(false));
        for _ in 0..2 {
            assert_eq!(world.tries(1, "right").await, Ok(true));
            assert_eq!(world.tries(1, "wrong").await, Ok(false));
        }
        let right = secret("right");
        let nobody = world
            .passwords
            .check(origin(1), "x", None, &world.kept, &right);
        assert_eq!(nobody.await, Ok(false));
        // The stored hash changed: the old digest no longer matches.
        let other = PasswordHash::cheap("other");
        let user = Some((USER, &other));
        let before = world.passwords.check(origin(1), USER, user, &other, &right);
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
        // No slot is free, and none becomes free.
        assert_eq!(world.tries(1, "right").await, Ok(true));
        assert_eq!(world.tries(2, "right").await, Ok(true));
    }

    #[tokio::test]
    async fn an_origin_with_too_many_wrong_ones_is_not_checked_and_others_are() {
        let world = World::new();
        for n in 0..WRONG_BURST {
            let user = format!("user {}", n % 2);
            assert_eq!(world.tries_as(&user, 1, "wrong").await, Ok(false));
        }
        let refused = world.tries(1, "right").await;
        assert!(matches!(refused, Err(TooOften::Wrong(wait)) if wait <= WRONG_EVERY));
        assert_eq!(world.tries(2, "right").await, Ok(true));
    }

    #[test]
    fn a_user_with_many_tokens_waits_and_others_do_not() {
        let world = World::new();
        for _ in 0..LOGINS_BURST {
            assert_eq!(world.passwords.may_log_in("robot"), Ok(()));
        }
        // Some tokens came back if this took its time.
        let refused = (0..LOGINS_BURST).find_map(|_| world.passwords.may_log_in("robot").err());
        assert!(matches!(refused, Some(TooOften::Logins(wait)) if wait <= LOGINS_EVERY));
        assert_eq!(world.passwords.may_log_in("alice"), Ok(()));
    }

    #[tokio::test]
    async fn an_account_is_locked_where_it_was_guessed_at_and_nowhere_else() {
        let world = World::new();
        for _ in 0..WRONG_HERE_BURST {
            assert_eq!(world.tries(1, "wrong").await, Ok(false));
        }
        // The right one is not even checked: the answer would confirm the guess.
        let refused = world.tries(1, "right").await;
        assert!(matches!(refused, Err(TooOften::WrongHere(wait)) if wait <= WRONG_HERE_EVERY));
        assert_eq!(world.tries_as("neighbour", 1, "right").await, Ok(true));
        assert_eq!(world.tries(2, "right").await, Ok(true));
    }
}
