//! Packages of the agent: import (check, store), list, remove, serve.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{automatic, runner};
use crate::keys::{IDENTITY, IDENTITY_ROW, Ring, Signer};
use crate::records::HOSTS;
use crate::refusal::{Answer, Refusal, chain};
use crate::served::{CHUNK, Served};
use crate::state::{Change, Plane};
use crate::store::{Read, Rows};
use pf9_hostagent::host::package::{self, Label};
use pf9_hostagent::host::space;
use pf9_hostagent::host::work::long;
use pf9_hostagent::model::{
    AGENT_PACKAGE_BYTES_MAX, AgentPackage, Digest, DocumentKind, Envelope, Fault, FaultCode,
    Hasher, PackageFile, SigningKey, TrustStore,
};
use pf9_hostagent::seam::disk::{self, Options};

/// Versions of the agent, by version.
pub(crate) const RELEASES: Rows<Release> = Rows::new("agent-releases");
/// Where packages are stored, each under its digest.
const DIR: &str = "/agents";
/// Files of one import: more than two versions in all formats.
const FILES_MAX: usize = 16;

/// One version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Release {
    pub(crate) package: AgentPackage,
    pub(crate) imported_at: Timestamp,
    /// The same package, signed: the only proof that it fixes a security fault.
    #[serde(default)]
    pub(crate) envelope: Option<Envelope>,
}

impl Release {
    /// Whether the plane signed that it fixes a security fault.
    pub(super) fn mends(&self, trust: &TrustStore) -> bool {
        let opened = |envelope: &Envelope| envelope.open(DocumentKind::AgentRelease, trust);
        match self.envelope.as_ref().map(opened) {
            Some(Ok(AgentPackage {
                version, security, ..
            })) => security && version == self.package.version,
            Some(Err(e)) => {
                let version = &self.package.version;
                tracing::debug!(%version, why = %e, "the agent release cannot be verified");
                false
            }
            // Imported by a plane that did not sign this yet.
            None => false,
        }
    }

    fn sign(&mut self, key: &Signer) -> Answer<()> {
        let bytes = serde_json::to_vec(&self.package);
        let bytes = bytes.map_err(|e| Refusal::internal("package refused", &e))?;
        self.envelope = Some(key.sign(DocumentKind::AgentRelease, &bytes));
        Ok(())
    }
}

/// The trusted signing keys, from the plane's rows.
pub(crate) fn trusted(rows: &impl Read) -> Answer<TrustStore> {
    let what = "the plane's keys cannot be used";
    let identity = rows.get(&IDENTITY, IDENTITY_ROW)?;
    let ring = identity.map(Ring::load).transpose();
    let ring = ring.map_err(|e| Refusal::internal(what, &e))?;
    let keys = ring.map(|ring| ring.trusted()).unwrap_or_default();
    Ok(TrustStore::new(keys)?)
}

/// The same releases, signed with the current key.
pub(crate) fn sign_anew(
    change: &mut Change<'_>,
    trust: &TrustStore,
    key: &SigningKey,
) -> Answer<()> {
    for (version, mut release) in change.all(&RELEASES)? {
        let Some(envelope) = release.envelope.take_if(|e| e.key_id != key.id()) else {
            continue;
        };
        let bytes = envelope.verify(DocumentKind::AgentRelease, trust);
        let bytes = bytes.map_err(|e| Refusal::from(e.fault("agent release")))?;
        release.envelope = Some(key.sign(DocumentKind::AgentRelease, &bytes));
        change.put(&RELEASES, &version, &release)?;
    }
    Ok(())
}

/// Body of an import.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Import {
    pub(crate) paths: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) security: bool,
}

fn refuse(code: FaultCode, why: impl Into<String>) -> Refusal {
    let fault = Fault::new(code, "package refused", why);
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, fault)
}

/// Imports packages, all or none. Importing the same ones again succeeds.
pub(crate) async fn import(plane: &Arc<Plane>, wanted: Import) -> Answer<Value> {
    if wanted.paths.is_empty() || wanted.paths.len() > FILES_MAX {
        let why = format!("1 to {FILES_MAX} files at a time");
        return Err(refuse(FaultCode::AgentPackageRefused, why));
    }
    let (shared, paths) = (Arc::clone(plane), wanted.paths);
    let work = move || paths.iter().map(|path| keep(&shared, path)).collect();
    let kept: Answer<Vec<(Version, PackageFile)>> = long(work)
        .await
        .map_err(|e| Refusal::internal("the import task failed", &e))?;
    let kept = kept?;
    let (security, files) = (wanted.security, plane.files.clone());
    let key = plane.signing.clone();
    plane
        .change(move |change| {
            for (version, file) in &kept {
                // A version removed since the copy took its files along.
                let gone = |e| Refusal::internal("the import task failed", &e);
                std::fs::metadata(files.at(at(&file.sha256))).map_err(gone)?;
                take(change, version, file, security, &key)?;
            }
            automatic::consider(change)?;
            let rows = kept.iter().map(|(version, file)| {
                json!({"version": version, "format": file.format, "arch": file.arch, "sha256": file.sha256})
            });
            Ok(rows.collect())
        })
        .await
}

/// Adds one file to the row of its version.
fn take(
    change: &mut Change<'_>,
    version: &Version,
    file: &PackageFile,
    security: bool,
    signer: &Signer,
) -> Answer<()> {
    let key = version.to_string();
    let mut release = change.get(&RELEASES, &key)?.unwrap_or(Release {
        package: AgentPackage {
            version: version.clone(),
            packages: Vec::new(),
            security: false,
        },
        imported_at: change.now,
        envelope: None,
    });
    release.package.security |= security;
    require_same(&release.package, file)?;
    if release.package.file(file.format, &file.arch).is_none() {
        release.package.packages.push(file.clone());
    }
    release.sign(signer)?;
    tracing::info!(%version, format = file.format.as_str(), arch = file.arch, sha256 = %file.sha256, "agent imported");
    Ok(change.put(&RELEASES, &key, &release)?)
}

/// A version has one content.
fn require_same(package: &AgentPackage, file: &PackageFile) -> Answer<()> {
    let other = package.file(file.format, &file.arch);
    let Some(other) = other.filter(|other| other.sha256 != file.sha256) else {
        return Ok(());
    };
    let (format, arch, version) = (file.format.as_str(), &file.arch, &package.version);
    let why = format!(
        "another {format} of {version} for {arch} was imported: {}",
        other.sha256
    );
    Err(refuse(FaultCode::AgentVersionTaken, why)
        .fix("a version has one content: build the agent with a new version"))
}

fn at(digest: &Digest) -> PathBuf {
    Path::new(DIR).join(digest.to_string())
}

/// Copies a package and checks the copy: the checked bytes are the served bytes.
fn keep(plane: &Plane, from: &Path) -> Answer<(Version, PackageFile)> {
    let temp = plane
        .files
        .at(Path::new(DIR).join(format!("{}.part", uuid::Uuid::new_v4())));
    let kept = copy(from, &temp).and_then(|(label, sha256, bytes)| {
        let file = PackageFile {
            format: label.format,
            arch: label.arch.into(),
            sha256,
            bytes,
            path: format!("v1/agents/{sha256}/package"),
        };
        // The row decides; this early check avoids writing a file that no row would name.
        if let Some(package) = find(&plane.read()?, &label.version)? {
            require_same(&package, &file)?;
        }
        let target = plane.files.at(at(&sha256));
        place(&temp, &target).map_err(|e| unwritable(&target, &e))?;
        Ok((label.version, file))
    });
    if kept.is_err() {
        // The file is ours; the refusal matters more.
        drop(disk::remove_file(&temp));
    }
    kept
}

fn place(temp: &Path, target: &Path) -> std::io::Result<()> {
    disk::rename(temp, target)?;
    disk::sync_dir(target.parent().unwrap_or(target))
}

fn unwritable(path: &Path, e: &std::io::Error) -> Refusal {
    let code = space::code_of(e, FaultCode::StackUnwritable);
    refuse(code, format!("{}: {e}", path.display()))
}

fn copy(from: &Path, temp: &Path) -> Answer<(Label, Digest, u64)> {
    let named = |why: String| {
        refuse(
            FaultCode::AgentPackageRefused,
            format!("{}: {why}", from.display()),
        )
    };
    let unreadable = |e: std::io::Error| named(e.to_string());
    let failed = |e: std::io::Error| unwritable(temp, &e);
    let source = std::fs::File::open(from).map_err(unreadable)?;
    let mut source = source.take(AGENT_PACKAGE_BYTES_MAX + 1);
    let mut out = Options::write()
        .read()
        .create_new(0o600)
        .open(temp)
        .map_err(failed)?;
    let (mut hasher, mut bytes) = (Hasher::new(), 0u64);
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = source.read(&mut buffer).map_err(unreadable)?;
        let Some(part) = buffer.get(..n).filter(|p| !p.is_empty()) else {
            break;
        };
        bytes += n as u64;
        hasher.update(part);
        out.write_all(part).map_err(failed)?;
    }
    if bytes > AGENT_PACKAGE_BYTES_MAX {
        return Err(named(format!(
            "it has more than {AGENT_PACKAGE_BYTES_MAX} bytes"
        )));
    }
    let label = package::read(&mut out).map_err(|e| named(chain(&e)))?;
    out.sync_all().map_err(failed)?;
    Ok((label, hasher.finish(), bytes))
}

/// All versions, oldest first.
pub(crate) fn list(rows: &impl Read) -> Answer<Vec<Release>> {
    let mut all: Vec<Release> = rows.all(&RELEASES)?.into_iter().map(|(_, r)| r).collect();
    all.sort_by(|a, b| a.package.version.cmp(&b.package.version));
    Ok(all)
}

/// The same as JSON, with the number of hosts on each.
pub(crate) fn list_json(rows: &impl Read) -> Answer<Value> {
    let (running, trust) = (runner::running(rows)?, trusted(rows)?);
    let shown = list(rows)?.into_iter().map(|release| {
        let version = &release.package.version;
        let files = release.package.packages.iter();
        let files = files.map(|f| format!("{} {}", f.format.as_str(), f.arch));
        let hosts = running.values().filter(|v| *v == version).count();
        json!({
            "version": version,
            "packages": files.collect::<Vec<_>>(),
            "security": release.mends(&trust),
            "imported_at": release.imported_at,
            "hosts": hosts,
            "files": release.package.packages,
        })
    });
    Ok(shown.collect())
}

/// A version's packages, if present.
pub(super) fn find(rows: &impl Read, version: &Version) -> Answer<Option<AgentPackage>> {
    Ok(rows
        .get(&RELEASES, &version.to_string())?
        .map(|r| r.package))
}

/// The refusal for a version that is not present.
pub(super) fn unknown(what: &str, version: &str) -> Refusal {
    let version: String = version.chars().take(80).collect();
    let why = format!("no package of agent {version} was imported");
    Refusal::missing(FaultCode::AgentVersionUnknown, what, why)
        .fix("see pf9-plane agent list, import it with pf9-plane agent import")
}

/// Removes a version that no host has an order to run.
pub(crate) async fn remove(plane: &Arc<Plane>, version: String) -> Answer<Value> {
    let files = plane.files.clone();
    let gone = plane
        .change(move |change| {
            let what = "nothing was removed";
            let Some(release) = change.get(&RELEASES, &version)? else {
                return Err(unknown(what, &version));
            };
            let names = &release.package.version;
            for (id, host) in change.all(&HOSTS)? {
                let order = host.agent.as_ref();
                let told = order.is_some_and(|o| {
                    o.target.version == *names
                        || o.previous.as_ref().is_some_and(|p| p.version == *names)
                });
                if told {
                    let why =
                        format!("host {id} is ordered to download it, run it or roll back to it");
                    return Err(Refusal::conflict(FaultCode::RollNotNow, what, why)
                        .fix("upgrade the fleet to another version first"));
                }
            }
            change.remove(&RELEASES, &version)?;
            // Under the store's lock: a concurrent import of the same version would lose its file. If a full disk keeps
            // the row, a new import completes it.
            for file in &release.package.packages {
                let gone = files.remove_file(at(&file.sha256));
                gone.map_err(|e| Refusal::internal(what, &e))?;
            }
            Ok(release.package.version)
        })
        .await?;
    tracing::info!(version = %gone, "agent removed");
    Ok(json!({"removed": gone}))
}

/// A package, or the part of it that `Range` asks for.
pub(crate) async fn package(plane: &Plane, digest: &str, headers: &HeaderMap) -> Answer<Response> {
    let releases = list(&plane.read()?)?;
    let mut files = releases.iter().flat_map(|r| &r.package.packages);
    let file = files
        .find(|f| f.sha256.to_string() == digest)
        .ok_or_else(|| {
            let why = "no package of the agent has this digest";
            Refusal::missing(FaultCode::AgentVersionUnknown, "package not found", why)
        })?;
    let served = Served {
        path: plane.files.at(at(&file.sha256)),
        bytes: file.bytes,
        sha256: file.sha256,
        media: "application/octet-stream",
    };
    served.answer(headers).await
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::compute::tests::now;

    /// The plane's key.
    fn key() -> &'static SigningKey {
        static KEY: OnceLock<SigningKey> = OnceLock::new();
        KEY.get_or_init(|| SigningKey::generate().expect("key").0)
    }

    fn release(version: &str, security: bool) -> Release {
        let package = AgentPackage {
            version: version.parse().expect("version"),
            packages: Vec::new(),
            security,
        };
        let bytes = serde_json::to_vec(&package).expect("json");
        Release {
            package,
            imported_at: now(),
            envelope: Some(key().sign(DocumentKind::AgentRelease, &bytes)),
        }
    }

    /// A row alone proves nothing, nor does a signature by another key or over something else.
    #[test]
    fn only_the_planes_signature_proves_a_security_fix() {
        let trust = TrustStore::new([key().trusted()]).expect("trust");
        let signed = || release("0.2.2", true);
        assert!(signed().mends(&trust));
        let plain = release("0.2.2", false);
        assert!(!plain.mends(&trust));
        let mut unsigned = signed();
        unsigned.envelope = None;
        let mut of_the_plain = signed();
        of_the_plain.envelope = plain.envelope.clone();
        let mut of_another = signed();
        of_another.envelope = release("0.2.1", true).envelope;
        let (stranger, _) = SigningKey::generate().expect("key");
        let bytes = serde_json::to_vec(&signed().package).expect("json");
        let mut foreign = signed();
        foreign.envelope = Some(stranger.sign(DocumentKind::AgentRelease, &bytes));
        let mut of_a_kind = signed();
        of_a_kind.envelope = Some(key().sign(DocumentKind::StackManifest, &bytes));
        let mut changed = plain;
        let envelope = changed.envelope.as_mut().expect("signed");
        envelope.payload = signed().envelope.expect("signed").payload;
        for forged in [
            unsigned,
            of_the_plain,
            of_another,
            foreign,
            of_a_kind,
            changed,
        ] {
            assert!(!forged.mends(&trust), "{forged:?}");
        }
    }
}
