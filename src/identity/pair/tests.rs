//! Pairs on the disk, and every instant at which a crash may leave them.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa};

use super::*;
use crate::identity::{Identity, Owners, TlsPolicy, load, save};
use crate::model::{FaultCode, SigningKey};

struct World {
    ca: CertifiedIssuer<'static, KeyPair>,
    host: HostId,
    fs: HostFs,
    _dir: tempfile::TempDir,
}

impl World {
    /// An enrolled host.
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let dir = tempfile::tempdir().expect("tempdir");
        let world = Self {
            ca: CertifiedIssuer::self_signed(params, key).expect("ca"),
            host: HostId::random(),
            fs: HostFs::new(dir.path()),
            _dir: dir,
        };
        let (first, trusted) = (world.pair(), SigningKey::generate().expect("key").0);
        let identity = world.identity(&first, &trusted);
        save(&world.fs, &identity, &Owners::current_user()).expect("save");
        world
    }

    /// What an enrolment brings.
    fn identity(&self, pair: &Pair, trusted: &SigningKey) -> Identity {
        Identity {
            host_id: self.host,
            key: pair.key.clone(),
            certificate: pair.certificate.clone(),
            plane_ca: self.ca.pem(),
            trust: vec![trusted.trusted()],
            endpoints: vec!["wss://127.0.0.1:1".to_owned()],
            trust_version: None,
            machine: crate::model::MachineMarks::default(),
        }
    }

    fn answer(&self, new: &NewKey, name: &str) -> RenewAnswer {
        let mut csr = rcgen::CertificateSigningRequestParams::from_pem(&new.csr).expect("csr");
        csr.params.distinguished_name = rcgen::DistinguishedName::new();
        let names = &mut csr.params.distinguished_name;
        names.push(DnType::CommonName, name);
        RenewAnswer {
            schema: 1,
            certificate: csr.signed_by(&self.ca).expect("sign").pem(),
        }
    }

    fn pair(&self) -> Pair {
        let new = NewKey::make(self.host).expect("key");
        new.with(&self.answer(&new, &self.host.to_string()))
            .expect("pair")
    }

    /// Which certificate comms would show.
    fn shows(&self) -> Digest {
        let identity = load(&self.fs, &TlsPolicy::default()).expect("a pair that works");
        identity.expect("enrolled").certificate
    }
}

/// The plane takes the old pair until it has seen the next one, and only that afterwards: so at
/// every instant before the take-over the old one must be shown, or the next one, which is shown to
/// the plane again; from the first write of the take-over on, the next one.
#[test]
fn a_crash_between_any_two_writes_leaves_a_pair_that_works() {
    for writes in 0..=TAKE_OVER.len() {
        let world = World::new();
        let (old, next) = (world.shows(), world.pair());
        keep_next(&world.fs, &next).expect("kept");
        assert_eq!(world.shows(), old);
        for step in &TAKE_OVER[..writes] {
            step(&world.fs, &next).expect("step");
        }
        let wanted = if writes == 0 { old } else { next.digest };
        assert_eq!(world.shows(), wanted, "after {writes} writes");

        // The next start takes up what was interrupted.
        let waits = settle(&world.fs).expect("settle").map(|p| p.digest);
        assert_eq!(
            waits,
            (writes == 0).then_some(next.digest),
            "after {writes}"
        );
        assert_eq!(world.shows(), wanted);
        let left = world.fs.found(paths::HOST_NEXT).expect("found");
        assert_eq!(left == crate::host::fs::Found::Nothing, writes > 0);
        assert_eq!(settle(&world.fs).expect("twice").map(|p| p.digest), waits);
    }
}

/// `pf9ctl` reads the pair while comms replaces it.
#[test]
fn who_reads_beside_a_renewal_finds_a_pair_that_works() {
    const RENEWALS: usize = 200;
    let world = World::new();
    let pairs: Vec<Pair> = (0..RENEWALS).map(|_| world.pair()).collect();
    std::thread::scope(|scope| {
        let renewing = scope.spawn(|| {
            for next in &pairs {
                keep_next(&world.fs, next).expect("kept");
                take_over(&world.fs, next).expect("taken over");
            }
        });
        while !renewing.is_finished() {
            world.shows();
        }
    });
    assert_eq!(Some(world.shows()), pairs.last().map(|p| p.digest));
}

#[test]
fn a_pair_that_does_not_work_leaves_nothing_behind() {
    let world = World::new();
    let (old, next) = (world.shows(), world.pair());
    keep_next(&world.fs, &next).expect("kept");
    drop_next(&world.fs).expect("dropped");
    drop_next(&world.fs).expect("twice is harmless");
    assert!(settle(&world.fs).expect("settle").is_none());
    assert_eq!(world.shows(), old);

    // What cannot be used is as good as nothing, and does not stay.
    let attrs = Attrs::mode(0o400);
    for text in ["", "nonsense", next.certificate.as_str(), next.key.expose()] {
        world
            .fs
            .write(paths::HOST_NEXT, text.as_bytes(), &attrs)
            .expect("write");
        assert!(settle(&world.fs).expect("settle").is_none(), "{text}");
        let left = world.fs.found(paths::HOST_NEXT).expect("found");
        assert_eq!(left, crate::host::fs::Found::Nothing);
        assert_eq!(world.shows(), old);
    }
}

#[test]
fn files_of_two_pairs_are_no_pair_without_the_next_one() {
    let world = World::new();
    let (next, other) = (world.pair(), world.pair());
    TAKE_OVER[0](&world.fs, &next).expect("its key");
    let fault = load(&world.fs, &TlsPolicy::default())
        .err()
        .expect("damaged");
    assert_eq!(fault.fault("x").code, FaultCode::IdentityDamaged);
    keep_next(&world.fs, &other).expect("kept");
    let fault = load(&world.fs, &TlsPolicy::default())
        .err()
        .expect("another one's");
    assert_eq!(fault.fault("x").code, FaultCode::IdentityDamaged);
}

#[test]
fn an_answer_that_does_not_fit_is_no_pair() {
    let world = World::new();
    let (new, other) = (
        NewKey::make(world.host).expect("key"),
        NewKey::make(world.host).expect("key"),
    );
    let name = world.host.to_string();
    let good = world.answer(&new, &name);
    assert!(new.with(&good).is_ok());
    let bad = |answer: RenewAnswer| new.with(&answer).expect_err("refused");
    let said = bad(RenewAnswer { schema: 2, ..good });
    assert!(said.contains("is not 1"), "{said}");
    assert!(bad(world.answer(&other, &name)).contains("another key"));
    let foreign = HostId::random().to_string();
    assert!(bad(world.answer(&new, &foreign)).contains("the host certificate names"));
}

#[test]
fn possession_is_proved_for_one_enrolment_with_the_key_in_use() {
    let world = World::new();
    let token = Secret::new("t".to_owned());
    let proof = possession(&world.fs, &token, world.host, "csr").expect("proof");
    let (_, block) = x509_parser::pem::parse_x509_pem(proof.as_bytes()).expect("pem");
    let (_, csr) =
        x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents)
            .expect("csr");
    csr.verify_signature().expect("signed");
    let present = present(&world.fs).expect("read").expect("enrolled");
    let key = KeyPair::from_pem(present.key.expose()).expect("key");
    let shown = &csr
        .certification_request_info
        .subject_pki
        .subject_public_key;
    assert_eq!(shown.data.as_ref(), key.public_key_raw());
    let statement = EnrolRequest::possession(&token, world.host, "csr").to_string();
    let subject = csr.certification_request_info.subject.to_string();
    assert_eq!(subject, format!("CN={statement}"));
    let other = Secret::new("u".to_owned());
    assert_ne!(
        EnrolRequest::possession(&other, world.host, "csr").to_string(),
        statement
    );

    let bare = HostFs::new(world.fs.at("/nothing"));
    assert_eq!(possession(&bare, &token, world.host, "csr"), None);
}

/// The next pair, kept, seen by the plane and taken over, broken at every point: see [`crate::seam::walk`].
#[cfg(feature = "fault")]
pub(crate) mod walk {
    use std::collections::BTreeMap;

    use super::*;
    use crate::host::ours::paths::WRITTEN_BY_ROOT;
    use crate::host::temps;
    use crate::seam::walk::{Scenario, files, walk};

    pub(crate) struct Renewal;

    pub(crate) struct Renewing {
        world: World,
        old: Digest,
        next: Pair,
    }

    impl Scenario for Renewal {
        const NAME: &'static str = "renewal of the tunnel's certificate";
        type World = Renewing;

        async fn begin(&self) -> Renewing {
            let world = World::new();
            let (old, next) = (world.shows(), world.pair());
            Renewing { world, old, next }
        }

        async fn life(&self, w: &mut Renewing, _starts: bool) -> bool {
            temps::collect(&w.world.fs, WRITTEN_BY_ROOT);
            // At every start there is a pair that works, and it is one of the two.
            let shown = w.world.shows();
            assert!(shown == w.old || shown == w.next.digest);
            let fs = &w.world.fs;
            let renew = || -> Result<(), IdentityError> {
                let waits = settle(fs)?;
                if w.world.shows() != w.next.digest {
                    if waits.is_none() {
                        keep_next(fs, &w.next)?;
                    }
                    take_over(fs, &w.next)?;
                }
                Ok(())
            };
            renew().is_ok() && settle(fs).is_ok_and(|waits| waits.is_none())
        }

        async fn end(&self, w: &mut Renewing) -> BTreeMap<String, String> {
            assert_eq!(w.world.shows(), w.next.digest);
            let mut end = files(&w.world.fs, |path| path.contains('.'));
            end.retain(|path, _| !path.starts_with(paths::TRUST_DIR));
            end
        }
    }

    /// A host enrols again, with another signing key of the plane; a first time it does less of the same.
    pub(crate) struct Enrolment;

    pub(crate) struct Enrolling {
        world: World,
        old: Digest,
        new: Pair,
        trusted: SigningKey,
    }

    impl Scenario for Enrolment {
        const NAME: &'static str = "enrolment";
        type World = Enrolling;

        async fn begin(&self) -> Enrolling {
            let world = World::new();
            let (old, new) = (world.shows(), world.pair());
            let trusted = SigningKey::generate().expect("key").0;
            Enrolling {
                world,
                old,
                new,
                trusted,
            }
        }

        async fn life(&self, w: &mut Enrolling, _starts: bool) -> bool {
            let fs = &w.world.fs;
            temps::collect(fs, WRITTEN_BY_ROOT);
            // Of one of the two, or not enrolled: no start finds parts of both.
            let now = load(fs, &TlsPolicy::default()).expect("whole or none");
            let now = now.map(|identity| identity.certificate);
            assert!(now.is_none_or(|c| c == w.old || c == w.new.digest));
            let identity = w.world.identity(&w.new, &w.trusted);
            now == Some(w.new.digest) || save(fs, &identity, &Owners::current_user()).is_ok()
        }

        async fn end(&self, w: &mut Enrolling) -> BTreeMap<String, String> {
            assert_eq!(w.world.shows(), w.new.digest);
            let trust = crate::identity::trust(&w.world.fs).expect("trust");
            assert!(trust.knows(&w.trusted.trusted().id), "the new key");
            let trusts = w.world.fs.list(paths::TRUST_DIR).expect("list").len();
            let mut end = files(&w.world.fs, |path| path.contains('.'));
            end.retain(|path, _| !path.starts_with(paths::TRUST_DIR));
            end.insert("keys that are trusted".to_owned(), trusts.to_string());
            end
        }
    }

    #[tokio::test]
    async fn an_enrolment_broken_anywhere_is_the_old_one_none_or_the_new_one() {
        walk(&Enrolment, 60).await;
    }

    #[tokio::test]
    async fn a_renewal_broken_anywhere_ends_with_the_new_pair() {
        walk(&Renewal, 60).await;
    }
}
