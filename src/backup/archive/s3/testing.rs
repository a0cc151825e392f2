//! A real S3 server on a real socket (`s3s` over a directory, with TLS where wanted), and the weather
//! between it and us.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use s3s::auth::SimpleAuth;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, ETag, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput, ListObjectsV2Input,
    ListObjectsV2Output, ListPartsInput, ListPartsOutput, MultipartUpload, PutObjectInput,
    PutObjectOutput, UploadPartInput, UploadPartOutput,
};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(super) const KEY: &str = "K1";
pub(super) const SECRET: &str = "hunter2hunter2";
pub(super) const BUCKET: &str = "backups";

/// A server with one bucket; ends with the value.
pub(super) struct Server {
    pub(super) at: SocketAddr,
    dir: tempfile::TempDir,
    store: Arc<Store>,
    _tasks: JoinSet<()>,
}

/// `s3s-fs`, which lists neither uploads nor the tags of their pieces.
struct Store {
    fs: FileSystem,
    dir: PathBuf,
    seen: Mutex<Uploads>,
}

#[derive(Default)]
struct Uploads {
    /// Upload → key.
    begun: BTreeMap<String, String>,
    tags: BTreeMap<(String, i32), ETag>,
}

struct Shared(Arc<Store>);

/// What happens to one connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Weather {
    /// It breaks off after so many bytes towards the server.
    CutUp(u64),
    /// It breaks off after so many bytes from the server.
    CutDown(u64),
    /// Somebody in between answers this.
    Says(&'static str),
    /// Nobody answers.
    Silent,
}

/// What is between a client and a server; good weather when nothing else is left to come.
pub(super) struct Way {
    pub(super) at: SocketAddr,
    pub(super) up: Arc<AtomicU64>,
    pub(super) down: Arc<AtomicU64>,
    coming: Arc<Mutex<VecDeque<Weather>>>,
    _tasks: JoinSet<()>,
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = S3Result<S3Response<T>>> + Send + 'a>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! passed_on {
    ($($name:ident: $input:ident => $output:ident,)*) => { $(
        fn $name<'l, 'a>(&'l self, req: S3Request<$input>) -> Answer<'a, $output>
        where 'l: 'a, Self: 'a {
            self.0.fs.$name(req)
        }
    )* };
}

impl S3 for Shared {
    passed_on! {
        put_object: PutObjectInput => PutObjectOutput,
        get_object: GetObjectInput => GetObjectOutput,
        head_object: HeadObjectInput => HeadObjectOutput,
        delete_object: DeleteObjectInput => DeleteObjectOutput,
        list_objects_v2: ListObjectsV2Input => ListObjectsV2Output,
    }

    fn create_multipart_upload<'l, 'a>(
        &'l self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<'a, CreateMultipartUploadOutput>
    where
        'l: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let key = req.input.key.clone();
            let made = self.0.fs.create_multipart_upload(req).await?;
            let id = made.output.upload_id.clone().unwrap_or_default();
            lock(&self.0.seen).begun.insert(id, key);
            Ok(made)
        })
    }

    fn upload_part<'l, 'a>(
        &'l self,
        req: S3Request<UploadPartInput>,
    ) -> Answer<'a, UploadPartOutput>
    where
        'l: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let at = (req.input.upload_id.clone(), req.input.part_number);
            let made = self.0.fs.upload_part(req).await?;
            if let Some(tag) = made.output.e_tag.clone() {
                lock(&self.0.seen).tags.insert(at, tag);
            }
            Ok(made)
        })
    }

    fn list_parts<'l, 'a>(&'l self, req: S3Request<ListPartsInput>) -> Answer<'a, ListPartsOutput>
    where
        'l: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let id = req.input.upload_id.clone();
            let mut listed = self.0.fs.list_parts(req).await?;
            let seen = lock(&self.0.seen);
            let parts = listed.output.parts.get_or_insert_default();
            parts.sort_by_key(|p| p.part_number);
            for part in parts {
                let at = (id.clone(), part.part_number.unwrap_or_default());
                part.e_tag = seen.tags.get(&at).cloned();
            }
            listed.output.is_truncated = Some(false);
            listed.output.max_parts = Some(1000);
            drop(seen);
            Ok(listed)
        })
    }

    fn complete_multipart_upload<'l, 'a>(
        &'l self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<'a, CompleteMultipartUploadOutput>
    where
        'l: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let id = req.input.upload_id.clone();
            let made = self.0.fs.complete_multipart_upload(req).await?;
            lock(&self.0.seen).begun.remove(&id);
            Ok(made)
        })
    }

    fn abort_multipart_upload<'l, 'a>(
        &'l self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<'a, AbortMultipartUploadOutput>
    where
        'l: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let id = req.input.upload_id.clone();
            let made = self.0.fs.abort_multipart_upload(req).await?;
            lock(&self.0.seen).begun.remove(&id);
            Ok(made)
        })
    }

    fn list_multipart_uploads<'l, 'a>(
        &'l self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<'a, ListMultipartUploadsOutput>
    where
        'l: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            if !self.0.dir.join(&req.input.bucket).is_dir() {
                return Err(s3s::s3_error!(NoSuchBucket));
            }
            let prefix = req.input.prefix.unwrap_or_default();
            let seen = lock(&self.0.seen);
            let uploads = seen
                .begun
                .iter()
                .filter(|(_, key)| key.starts_with(&prefix));
            let uploads = uploads.map(|(id, key)| MultipartUpload {
                key: Some(key.clone()),
                upload_id: Some(id.clone()),
                ..MultipartUpload::default()
            });
            Ok(S3Response::new(ListMultipartUploadsOutput {
                is_truncated: Some(false),
                uploads: Some(uploads.collect()),
                ..ListMultipartUploadsOutput::default()
            }))
        })
    }
}

// === impl Server ===

impl Server {
    /// Plain HTTP.
    pub(super) async fn start() -> Self {
        Self::serve(None).await
    }

    /// HTTPS, and the certificate of the server's issuer.
    pub(super) async fn start_tls() -> (Self, String) {
        crate::tls::install();
        let made = rcgen::generate_simple_self_signed(vec![
            "localhost".to_owned(),
            "bucket.example".to_owned(),
        ]);
        let made = made.expect("certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("config");
        (Self::serve(Some(Arc::new(config))).await, made.cert.pem())
    }

    async fn serve(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join(BUCKET)).expect("bucket");
        let store = Arc::new(Store {
            fs: FileSystem::new(dir.path()).expect("store"),
            dir: dir.path().to_path_buf(),
            seen: Mutex::default(),
        });
        let mut service = S3ServiceBuilder::new(Shared(Arc::clone(&store)));
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let at = listener.local_addr().expect("address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            let acceptor = tls.map(tokio_rustls::TlsAcceptor::from);
            loop {
                let (tcp, _) = listener.accept().await.expect("accept");
                let (service, acceptor) = (service.clone(), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        None => speak(tcp, service).await,
                        Some(acceptor) => {
                            if let Ok(tls) = acceptor.accept(tcp).await {
                                speak(tls, service).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            at,
            dir,
            store,
            _tasks: tasks,
        }
    }

    /// Where an object is.
    pub(super) fn object(&self, key: &str) -> PathBuf {
        self.dir.path().join(BUCKET).join(key)
    }

    /// Keys of the uploads that were started and not completed.
    pub(super) fn begun(&self) -> Vec<String> {
        lock(&self.store.seen).begun.values().cloned().collect()
    }

    /// Files that hold pieces.
    pub(super) fn pieces(&self) -> usize {
        let files = std::fs::read_dir(self.dir.path()).expect("directory");
        let names = files.map(|f| f.expect("entry").file_name().to_string_lossy().into_owned());
        names.filter(|n| n.starts_with(".upload_id-")).count()
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, service: S3Service) {
    let http = hyper::server::conn::http1::Builder::new();
    // A connection that breaks off is what is tried here.
    drop(http.serve_connection(TokioIo::new(stream), service).await);
}

// === impl Way ===

impl Way {
    /// To this server, through this weather: one of it for each connection.
    pub(super) async fn to(server: SocketAddr, weather: impl IntoIterator<Item = Weather>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let at = listener.local_addr().expect("address");
        let coming = Arc::new(Mutex::new(weather.into_iter().collect::<VecDeque<_>>()));
        let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        let (next, counts) = (Arc::clone(&coming), (Arc::clone(&up), Arc::clone(&down)));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("accept");
                let (weather, counts) = (lock(&next).pop_front(), counts.clone());
                connections.spawn(pass(client, server, weather, counts));
            }
        });
        Self {
            at,
            up,
            down,
            coming,
            _tasks: tasks,
        }
    }

    /// Changes what is to come.
    pub(super) fn forecast(&self, weather: impl IntoIterator<Item = Weather>) {
        *lock(&self.coming) = weather.into_iter().collect();
    }
}

async fn pass(
    mut client: TcpStream,
    server: SocketAddr,
    weather: Option<Weather>,
    (up, down): (Arc<AtomicU64>, Arc<AtomicU64>),
) {
    let (up_most, down_most) = match weather {
        None => (u64::MAX, u64::MAX),
        Some(Weather::CutUp(most)) => (most, u64::MAX),
        Some(Weather::CutDown(most)) => (u64::MAX, most),
        Some(Weather::Silent) => {
            let mut sink = tokio::io::sink();
            drop(tokio::io::copy(&mut client, &mut sink).await);
            return;
        }
        Some(Weather::Says(text)) => return says(client, text).await,
    };
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    tokio::select! {
        () = carry(&mut from_client, &mut to_server, up_most, &up) => {}
        () = carry(&mut from_server, &mut to_client, down_most, &down) => {}
    }
}

/// Carries so many bytes at most; then, or at the end, both sides are closed.
async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut most: u64,
    count: &AtomicU64,
) {
    let mut chunk = vec![0; 64 * 1024];
    while most > 0 {
        let room = usize::try_from(most).unwrap_or(usize::MAX).min(chunk.len());
        let Ok(n @ 1..) = from.read(&mut chunk[..room]).await else {
            return;
        };
        if to.write_all(&chunk[..n]).await.is_err() {
            return;
        }
        most -= n as u64;
        count.fetch_add(n as u64, Ordering::Relaxed);
    }
}

async fn says(mut client: TcpStream, text: &str) {
    let (mut from, mut to) = client.split();
    let mut head = vec![0; 1024];
    if from.read(&mut head).await.is_err() || to.write_all(text.as_bytes()).await.is_err() {
        return;
    }
    drop(to.shutdown().await);
    // Whatever is still sent is read: a reset would take the answer with it.
    let mut sink = tokio::io::sink();
    let rest = tokio::io::copy(&mut from, &mut sink);
    drop(tokio::time::timeout(Duration::from_secs(5), rest).await);
}
