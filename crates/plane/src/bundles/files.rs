//! The bytes of support bundles: received from a host, sent to an operator.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Write as _};
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use age::stream::StreamReader;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use uuid::Uuid;

use super::{Row, Stage, arrived, file, none, room, row};
use crate::events;
use crate::guard::Person;
use crate::hostapi::Caller;
use crate::http::Path;
use crate::refusal::{Answer, Refusal};
use crate::resmgr::host_id;
use crate::served::CHUNK;
use crate::state::Plane;
use pf9_hostagent::host::fs::{Attrs, Begun, HostFs};
use pf9_hostagent::host::work::brief;
use pf9_hostagent::model::{Digest, Fault, FaultCode, Hasher, HostId, Secret};

/// Longest silence of a sending host: it prepares the next entry meanwhile, each within a shorter bound.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// Longest duration of an upload: the host gives up at the same time.
const TAKE_MAX: Duration = Duration::from_secs(1800);
/// How a sealed file begins.
const SEALED: &[u8] = b"age-encryption.org/v1\n";
/// How the last line of its head begins.
const HEAD_ENDS: &[u8] = b"\n--- ";
/// Longest head: a recipient's stanza has a hundred bytes, age's own padding stanza a few hundred. It is read whole
/// before anything in it is trusted, and again for every line, so a host could keep this plane busy with a large one.
const HEAD_MAX: usize = 4096;
const WHAT: &str = "support bundle refused";

/// An upload: its file, which has no name yet.
struct Incoming {
    file: Begun,
    hasher: Hasher,
    bytes: u64,
    head: Vec<u8>,
}

impl Incoming {
    /// The next piece.
    fn write(mut self, piece: &[u8]) -> io::Result<Self> {
        let missing = HEAD_MAX.saturating_sub(self.head.len());
        self.head.extend(piece.iter().take(missing));
        self.file.write_all(piece)?;
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        Ok(self)
    }

    /// Completes it and gives it its name. A bundle that its key does not open is discarded.
    fn keep(self, key: Option<&Secret<String>>) -> Answer<(u64, Digest)> {
        let broken = |why: String| Refusal::bad(FaultCode::BodyBroken, WHAT, why);
        if !self.head.starts_with(SEALED) {
            return Err(broken("it is not sealed".to_owned()));
        }
        if !head_ends(&self.head) {
            return Err(broken(format!("its head is longer than {HEAD_MAX} bytes")));
        }
        if let Some(key) = key {
            let opened = open(self.file.temporary(), key).and_then(|mut plain| {
                io::copy(&mut plain, &mut io::sink()).map_err(|e| e.to_string())
            });
            opened.map_err(|why| broken(format!("it cannot be opened: {why}")))?;
        }
        let placed = self.file.place();
        placed.map_err(|e| Refusal::internal("the bundle is not kept", &e))?;
        Ok((self.bytes, self.hasher.finish()))
    }
}

/// Whether the head of a sealed file ends within these bytes.
fn head_ends(bytes: &[u8]) -> bool {
    let last = bytes.windows(HEAD_ENDS.len()).position(|w| w == HEAD_ENDS);
    let line = last.and_then(|at| bytes.get(at + HEAD_ENDS.len()..));
    line.is_some_and(|line| line.contains(&b'\n'))
}

fn open(path: &FsPath, key: &Secret<String>) -> Result<StreamReader<BufReader<File>>, String> {
    let key: age::x25519::Identity = key.expose().parse().map_err(str::to_owned)?;
    let file = File::open(path).map_err(|e| e.to_string())?;
    age::Decryptor::new_buffered(BufReader::with_capacity(CHUNK, file))
        .and_then(|d| d.decrypt(std::iter::once(&key as &dyn age::Identity)))
        .map_err(|e| e.to_string())
}

/// Work that waits for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let done = brief(work).await;
    done.map_err(|e| Refusal::internal("the bundle was lost", &e))?
}

/// `PUT /v1/hosts/self/bundles/{id}`: a bundle ordered from this host, sealed, streamed as it is made.
pub(crate) async fn take(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer<StatusCode> {
    let id = super::bundle_id(&id)?;
    // Taken before the check for an earlier arrival: only the holder can have uploaded it meanwhile.
    let place = plane.receiving.begin(id);
    let wanted = row(&plane.read()?, host, id)?;
    match wanted.stage(pf9_hostagent::seam::clock::now()) {
        Stage::Awaited => {}
        Stage::Here => {
            let why = "it has arrived already";
            return Err(Refusal::conflict(FaultCode::OperationReplayed, WHAT, why));
        }
        Stage::Over => return Err(none(id)),
    }
    let Some(_place) = place else {
        let why = "it is being uploaded already";
        return Err(Refusal::conflict(FaultCode::TooMany, WHAT, why));
    };
    let (bytes, sha256) = receive(&plane.files, &wanted, request.into_body()).await?;
    plane
        .change(move |change| arrived(change, host, id, bytes, sha256))
        .await?;
    tracing::info!(%host, %id, bytes, "support bundle received");
    Ok(StatusCode::NO_CONTENT)
}

/// Receives all of it within its time, or says why not.
pub(super) async fn receive(files: &HostFs, wanted: &Row, body: Body) -> Answer<(u64, Digest)> {
    let late = |_| slow(format!("it took longer than {} s", TAKE_MAX.as_secs()));
    let all = received(files.clone(), wanted, body);
    tokio::time::timeout(TAKE_MAX, all).await.map_err(late)?
}

/// The next chunk; none at the end.
async fn next(body: &mut Body) -> Answer<Option<Bytes>> {
    let silent = |_| slow(format!("no data for {} s", SILENCE_MAX.as_secs()));
    let frame = tokio::time::timeout(SILENCE_MAX, body.frame()).await;
    let frame = frame
        .map_err(silent)?
        .transpose()
        .map_err(|e| Refusal::bad(FaultCode::BodyBroken, WHAT, format!("it broke off: {e}")))?;
    Ok(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

fn slow(why: String) -> Refusal {
    let fault = Fault::new(FaultCode::BodySlow, WHAT, why);
    Refusal::new(StatusCode::REQUEST_TIMEOUT, fault)
}

async fn received(files: HostFs, wanted: &Row, mut body: Body) -> Answer<(u64, Digest)> {
    let path = file(wanted.id);
    let max = wanted.max_bytes;
    let mut incoming = blocking(move || {
        room(&files, max)?;
        let file = files.begin(path, &Attrs::mode(0o600));
        Ok(Incoming {
            file: file.map_err(|e| Refusal::internal("the bundle is not kept", &e))?,
            hasher: Hasher::new(),
            bytes: 0,
            head: Vec::new(),
        })
    })
    .await?;
    let (mut piece, mut all) = (Vec::with_capacity(CHUNK), 0_u64);
    loop {
        let came = next(&mut body).await?;
        let ended = came.is_none();
        if let Some(data) = came {
            all = all.saturating_add(data.len() as u64);
            if all > wanted.max_bytes {
                let why = format!("over {} bytes", wanted.max_bytes);
                let fault = Fault::new(FaultCode::BodyTooLarge, WHAT, why);
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, fault));
            }
            piece.extend_from_slice(&data);
        }
        if piece.len() >= CHUNK || (ended && !piece.is_empty()) {
            let full = std::mem::replace(&mut piece, Vec::with_capacity(CHUNK));
            incoming = blocking(move || incoming.write(&full).map_err(|e| not_kept_io(&e))).await?;
        }
        if ended {
            let key = wanted.key.clone();
            return blocking(move || incoming.keep(key.as_ref())).await;
        }
    }
}

fn not_kept_io(error: &io::Error) -> Refusal {
    Refusal::internal("the bundle is not kept", error)
}

/// `GET /resmgr/v1/hosts/{id}/bundles/{bundle_id}`: the archive; still sealed if the key is the operator's own.
pub(crate) async fn fetch(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Path((host, id)): Path<(String, String)>,
) -> Answer<Response> {
    fetch_here(&plane, host_id(&host)?, super::bundle_id(&id)?, who.name()).await
}

/// The same for a caller whose rights were checked. Recorded before the first byte is sent.
pub(crate) async fn fetch_here(
    plane: &Arc<Plane>,
    host: HostId,
    id: Uuid,
    by: String,
) -> Answer<Response> {
    let wanted = row(&plane.read()?, host, id)?;
    match wanted.stage(pf9_hostagent::seam::clock::now()) {
        Stage::Here => {}
        Stage::Awaited => {
            let what = format!("no bundle {id} yet");
            let why = "it was ordered from the host and has not arrived";
            return Err(Refusal::conflict(FaultCode::NotFound, what, why)
                .fix("see what the host reports: pf9-plane host operations HOST"));
        }
        Stage::Over => return Err(none(id)),
    }
    let path = plane.files.at(file(id));
    let (key, said) = (wanted.key.clone(), format!("bundle {id}: by {by}"));
    let reader = blocking(move || Plain::open(&path, key.as_ref())).await?;
    tracing::info!(%host, %id, by, "support bundle read");
    plane
        .change(move |change| events::note(change, host, "bundle-read", &said))
        .await?;
    let body = stream::unfold(Some(reader), |reader| async move {
        let read = brief(move || reader.map(Plain::piece)).await;
        match read {
            Ok(Some(Ok((piece, _)))) if piece.is_empty() => None,
            Ok(Some(Ok((piece, rest)))) => Some((Ok(piece), Some(rest))),
            Ok(Some(Err(e))) => Some((Err(e), None)),
            Ok(None) => None,
            Err(e) => Some((Err(e.into()), None)),
        }
    });
    let end = if wanted.key.is_some() { "" } else { ".age" };
    let mut response = Body::from_stream(body).into_response();
    let name = format!("attachment; filename=\"pf9-bundle-{host}-{id}.tar.zst{end}\"");
    for (header, value) in [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, name.as_str()),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(header, value);
        }
    }
    Ok(response)
}

/// The download, piece by piece.
enum Plain {
    Opened(Box<StreamReader<BufReader<File>>>),
    Sealed(File),
}

impl Plain {
    fn open(path: &FsPath, key: Option<&Secret<String>>) -> Answer<Self> {
        let gone = |why: String| {
            let why = io::Error::other(why);
            Refusal::internal("the bundle cannot be read", &why)
        };
        match key {
            Some(key) => open(path, key)
                .map(|r| Self::Opened(Box::new(r)))
                .map_err(gone),
            None => File::open(path)
                .map(Self::Sealed)
                .map_err(|e| gone(e.to_string())),
        }
    }

    /// The next piece; empty at the end.
    fn piece(mut self) -> io::Result<(Bytes, Self)> {
        let mut piece = vec![0; CHUNK];
        let read = match &mut self {
            Self::Opened(from) => from.read(&mut piece)?,
            Self::Sealed(from) => from.read(&mut piece)?,
        };
        piece.truncate(read);
        Ok((piece.into(), self))
    }
}
