//! Sealing: the format of `age`, with X25519 keys. One of the private halves opens it, with
//! our programs or with any other: `age -d -i recovery.key NAME.db.age`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use age::stream::{StreamReader, StreamWriter};
use age::x25519::{Identity, Recipient};
use age::{Decryptor, Encryptor};

use crate::host::fs::{Begun, FsError};
use crate::host::part;
use crate::model::{Digest, Fault, FaultCode, Hasher, Secret};

/// What is written at once; `age` seals pieces of 64 KiB.
const PIECE: usize = 64 * 1024;
/// What may wait for the disk at once. etcd wants the same disk for each of its writes, and waits behind this.
const UNSYNCED_MAX: u64 = 8 * 1024 * 1024;
/// A file of private keys, as `age-keygen` writes it: a few lines.
pub const KEY_FILE_MAX: u64 = 16 * 1024;

/// Seals what is written to it into a file that is not in its place yet.
pub struct Sealer(StreamWriter<Counted>);

/// What was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Bytes of the sealed file.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: Digest,
}

/// Counts and digests what passes, and brings it to the disk in small portions.
struct Counted {
    inner: BufWriter<Begun>,
    hasher: Hasher,
    bytes: u64,
    synced: u64,
}

/// A recipient, who can open a seal.
pub type Opener = Box<dyn age::Identity + Send>;

/// Reads public keys.
pub fn recipients(texts: &[String]) -> Result<Vec<Recipient>, Fault> {
    let what = "a backup cannot be sealed";
    if texts.is_empty() {
        let why = "no key could open it: there is neither a plane key nor a recovery key";
        return Err(Fault::new(FaultCode::BackupFailed, what, why).fix(
            "pf9-plane cluster backups NAME set --recovery-recipient age1…, or a plane that has a key \
             for this cluster",
        ));
    }
    let read = |text: &String| {
        text.parse::<Recipient>().map_err(|why| {
            // Not repeated: it may be a private key given by mistake.
            let why = format!("one of the keys is not an age public key (age1…): {why}");
            Fault::new(FaultCode::KeyInvalid, what, why)
                .fix("age-keygen -y FILE prints the public half of the key in FILE")
        })
    };
    texts.iter().map(read).collect()
}

/// A new private key and its public half, as `age-keygen` makes them.
pub fn new_key() -> (Secret<String>, String) {
    use age::secrecy::ExposeSecret;
    let identity = Identity::generate();
    let public = identity.to_public().to_string();
    (
        Secret::new(identity.to_string().expose_secret().to_owned()),
        public,
    )
}

/// The private keys in a text: one a line, `#` begins a comment.
pub fn keys(text: &Secret<String>) -> Result<Vec<Opener>, Fault> {
    let what = "cannot open a backup";
    let lines = text.expose().lines().map(str::trim);
    let lines = lines.filter(|l| !l.is_empty() && !l.starts_with('#'));
    let keys: Result<Vec<Identity>, _> = lines.map(str::parse).collect();
    match keys {
        Ok(keys) if !keys.is_empty() => Ok(keys
            .into_iter()
            .map(|key| Box::new(key) as Opener)
            .collect()),
        // Not the line itself: it may be a key with a slip of the pen.
        Ok(_) | Err(_) => {
            let why = "the file has a line that is not an age private key (AGE-SECRET-KEY-1…), or no line at all";
            Err(Fault::new(FaultCode::KeyInvalid, what, why))
        }
    }
}

impl Sealer {
    /// Seals into this file for these keys.
    pub fn new(file: Begun, recipients: &[Recipient]) -> io::Result<Self> {
        let recipients = recipients.iter().map(|r| r as &dyn age::Recipient);
        let sealer = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
        let counted = Counted {
            inner: BufWriter::with_capacity(PIECE, file),
            hasher: Hasher::new(),
            bytes: 0,
            synced: 0,
        };
        sealer.wrap_output(counted).map(Self)
    }

    /// The end: without it what was sealed cannot be opened. The file still has to be placed.
    pub fn finish(self) -> io::Result<(Begun, Sealed)> {
        let counted = self.0.finish()?;
        let sealed = Sealed {
            bytes: counted.bytes,
            sha256: counted.hasher.finish(),
        };
        let file = counted.inner.into_inner().map_err(|e| e.into_error())?;
        Ok((file, sealed))
    }
}

impl Write for Sealer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..taken]);
        self.bytes += taken as u64;
        if self.bytes - self.synced >= UNSYNCED_MAX {
            self.inner.flush()?;
            self.inner.get_ref().sync()?;
            self.synced = self.bytes;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A sealed file, opened: a reader of the plain bytes. A byte that was changed is an error of the
/// read, and so is an end that comes too early.
pub fn open(sealed: &Path, keys: &[Opener]) -> Result<StreamReader<BufReader<File>>, Fault> {
    let what = format!("cannot open {}", sealed.display());
    let file =
        File::open(sealed).map_err(|e| Fault::new(FaultCode::File, what.clone(), e.to_string()))?;
    let opened: Result<StreamReader<_>, age::DecryptError> =
        Decryptor::new_buffered(BufReader::with_capacity(PIECE, file))
            .and_then(|d| d.decrypt(keys.iter().map(|key| &**key as &dyn age::Identity)));
    opened.map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => {
            let why = "it was not sealed for this key";
            Fault::new(FaultCode::KeyRefused, what, why).fix("use the recovery key of its time")
        }
        other => Fault::new(FaultCode::BackupBroken, what, other.to_string()).fix(ANOTHER),
    })
}

/// The remedy for an unusable backup.
pub const ANOTHER: &str = "use another one: pf9ctl etcd list";

/// The SHA-256 and the size of a file.
pub fn digest(path: &Path) -> io::Result<Sealed> {
    let (hasher, bytes) = part::hashed(path)?.ok_or(io::ErrorKind::NotFound)?;
    Ok(Sealed {
        bytes,
        sha256: hasher.finish(),
    })
}

/// Copies to the end; what `from` finds wrong is an error.
pub fn copy(from: &mut impl Read, to: &mut Begun) -> Result<u64, FsError> {
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        match from.read(&mut piece).map_err(|e| to.failed(e))? {
            0 => return Ok(bytes),
            n => {
                to.write_all(&piece[..n]).map_err(|e| to.failed(e))?;
                bytes += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::host::fs::{Attrs, HostFs};

    fn sealed(dir: &Path, plain: &[u8], recipients: &[String]) -> (PathBuf, Sealed) {
        let fs = HostFs::new(dir);
        let file = fs.begin("/x.db.age", &Attrs::mode(0o600)).expect("begin");
        let recipients = super::recipients(recipients).expect("keys");
        let mut sealer = Sealer::new(file, &recipients).expect("sealer");
        sealer.write_all(plain).expect("write");
        let (file, sealed) = sealer.finish().expect("finish");
        file.place().expect("place");
        (fs.at("/x.db.age"), sealed)
    }

    fn opened(path: &Path, key: &Secret<String>) -> Result<Vec<u8>, String> {
        let keys = keys(key).map_err(|f| f.to_string())?;
        let mut reader = open(path, &keys).map_err(|f| f.to_string())?;
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Each of the two keys opens it; no bit may be another and no byte may be missing.
        #[test]
        fn either_key_opens_and_nothing_may_be_changed(
            length in 0usize..200_000, bit in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>(),
        ) {
            let dir = tempfile::tempdir().expect("tempdir");
            let plain: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let (plane, of_plane) = new_key();
            let (recovery, of_recovery) = new_key();
            let (path, size) = sealed(dir.path(), &plain, &[of_plane, of_recovery]);
            prop_assert_eq!(digest(&path).expect("digest"), size);
            prop_assert_eq!(opened(&path, &plane), Ok(plain.clone()));
            prop_assert_eq!(opened(&path, &recovery), Ok(plain));
            prop_assert!(opened(&path, &new_key().0).is_err());
            let good = std::fs::read(&path).expect("read");
            let mut bad = good.clone();
            let at = bit.index(good.len() * 8);
            bad[at / 8] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).expect("write");
            // A bit of one recipient's part of the head fails with the other's key, too: the head has a
            // checksum of its own.
            prop_assert!(opened(&path, &plane).is_err() && opened(&path, &recovery).is_err());
            std::fs::write(&path, &good[..cut.index(good.len())]).expect("write");
            prop_assert!(opened(&path, &recovery).is_err());
        }
    }

    #[test]
    fn a_file_of_keys_is_read_as_people_write_it_and_never_shown() {
        let (key, public) = new_key();
        let text = format!(
            "# made today\n# public key: {public}\n\n{}\r\n",
            key.expose()
        );
        assert_eq!(keys(&Secret::new(text)).expect("keys").len(), 1);
        for bad in ["", "# nothing\n", "AGE-SECRET-KEY-1NOTAKEY\n"] {
            let fault = keys(&Secret::new(bad.to_owned())).err().expect(bad);
            assert!(!fault.to_string().contains("NOTAKEY"), "{fault}");
        }
    }

    #[test]
    fn without_anybody_who_can_open_it_nothing_is_sealed() {
        let fault = recipients(&[]).map(drop).expect_err("nobody");
        assert_eq!(fault.code, FaultCode::BackupFailed);
        let fault = recipients(&["age1qqq".into()])
            .map(drop)
            .expect_err("no key");
        assert_eq!(fault.code, FaultCode::KeyInvalid);
    }
}
