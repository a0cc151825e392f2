//! etcd's JSON gateway, by mutual TLS: the few calls that a store needs.
//!
//! A call goes to one member. After a silence the next one is used; whether the silent one has executed the call is
//! unknown, and for the caller to find out (`steps`).

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::EtcdPlace;
use super::ops::{BYTES_MAX, Name, Op};
use pf9_hostagent::host::tls::{self, ClientIdentity};
use pf9_hostagent::telemetry::chain;

/// Timeout for one member: it writes to its own disk and one more.
const ASK: Duration = Duration::from_secs(3);
/// Initial page size in rows; fewer where they are long.
const PAGE: usize = 512;
/// Longest answer: a page that exceeds it is requested again with fewer rows.
const ANSWER_MAX: usize = 8 * 1024 * 1024;
/// A page of one row always fits: base64 adds a third.
const _: () = assert!(ANSWER_MAX > 2 * BYTES_MAX);

/// gRPC codes that leave the outcome unknown.
const CANCELLED: u32 = 1;
const UNKNOWN: u32 = 2;
const DEADLINE: u32 = 4;
const NOT_FOUND: u32 = 5;
const EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// A client of a cluster.
pub(super) struct Gateway {
    place: EtcdPlace,
    /// Index of the endpoint in use.
    at: AtomicUsize,
    client: RwLock<Loaded>,
}

struct Loaded {
    files: [Vec<u8>; 3],
    client: reqwest::Client,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// It may have been executed.
    #[error("etcd at {at} does not answer: {why}")]
    Silent { at: String, why: String },
    /// It was not executed.
    #[error("etcd at {at} refuses: {why}")]
    Refused { at: String, code: u32, why: String },
    /// The answer cannot be parsed.
    #[error("an answer of etcd at {at} cannot be read: {why}")]
    Garbled { at: String, why: String },
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Kv {
    #[serde(deserialize_with = "bytes")]
    pub(super) key: Vec<u8>,
    #[serde(default, deserialize_with = "bytes")]
    pub(super) value: Vec<u8>,
    #[serde(default, deserialize_with = "number")]
    pub(super) create_revision: i64,
    #[serde(default, deserialize_with = "number")]
    pub(super) lease: i64,
}

#[derive(Debug, Default, Deserialize)]
struct Header {
    #[serde(default, deserialize_with = "number")]
    revision: i64,
}

#[derive(Debug, Default, Deserialize)]
struct Ranged {
    #[serde(default)]
    kvs: Vec<Kv>,
    #[serde(default)]
    more: bool,
}

/// Result of a transaction.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) made: bool,
    pub(super) revision: i64,
    /// The values read in it, in order.
    pub(super) read: Vec<Option<Kv>>,
}

#[derive(Deserialize)]
struct TxnAnswer {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<TxnResponse>,
}

#[derive(Deserialize)]
struct TxnResponse {
    response_range: Option<Ranged>,
}

/// A transaction.
#[derive(Debug, Default, Serialize)]
pub(super) struct Txn {
    compare: Vec<Value>,
    success: Vec<Value>,
    failure: Vec<Value>,
}

/// Some rows, in order of their keys.
pub(super) struct RowsPage {
    pub(super) rows: Vec<(Name, Vec<u8>)>,
    /// Start key of the next page.
    pub(super) next: Option<Vec<u8>>,
}

#[derive(Default, Deserialize)]
struct Said {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    message: String,
}

impl Gateway {
    pub(super) fn new(place: EtcdPlace) -> Result<Self, String> {
        if place.endpoints.is_empty() {
            return Err("no endpoint of etcd is named".into());
        }
        for endpoint in &place.endpoints {
            if !endpoint.starts_with("https://") {
                return Err(format!("{endpoint} is not https://HOST:PORT"));
            }
        }
        let client = Loaded::of(&place)?;
        Ok(Self {
            place,
            at: AtomicUsize::new(0),
            client: RwLock::new(client),
        })
    }

    /// Where its etcd is.
    pub(super) fn place(&self) -> &EtcdPlace {
        &self.place
    }

    /// Reads the certificate files again: they may have been renewed.
    pub(super) fn reload(&self) {
        let loaded = match Loaded::of(&self.place) {
            Ok(loaded) => loaded,
            Err(why) => {
                tracing::warn!(
                    why,
                    "cannot read the certificate for etcd again; the previous one is used"
                );
                return;
            }
        };
        let mut now = self.client.write().unwrap_or_else(PoisonError::into_inner);
        if now.files != loaded.files {
            *now = loaded;
            tracing::info!("the certificate for etcd was renewed");
        }
    }

    /// A key's full name.
    pub(super) fn key(&self, name: &str) -> Vec<u8> {
        format!("{}{name}", self.place.prefix).into_bytes()
    }

    /// A row's.
    pub(super) fn row_key(&self, rows: &str, key: &str) -> Vec<u8> {
        self.key(&format!("rows/{rows}/{key}"))
    }

    /// One row's operation in a transaction.
    pub(super) fn op(&self, op: &Op) -> Value {
        let key = self.row_key(&op.rows, &op.key);
        match &op.row {
            Some(row) => put(&key, row.get().as_bytes(), None),
            None => delete(&key),
        }
    }

    /// One attempt at one member.
    pub(super) async fn txn(&self, txn: &Txn) -> Result<Done, CallError> {
        let answer: TxnAnswer = self.once("/v3/kv/txn", txn).await?;
        let read = answer.responses.into_iter();
        let read = read.filter_map(|r| r.response_range);
        Ok(Done {
            made: answer.succeeded,
            revision: answer.header.revision,
            read: read.map(|r| r.kvs.into_iter().next()).collect(),
        })
    }

    /// A key's present value, by the quorum.
    pub(super) async fn get(&self, key: &[u8]) -> Result<Option<Kv>, CallError> {
        let body = json!({"key": BASE64.encode(key)});
        let answer: Ranged = self.everywhere("/v3/kv/range", &body).await?;
        Ok(answer.kvs.into_iter().next())
    }

    /// Rows from this key on.
    pub(super) async fn rows(&self, from: Option<Vec<u8>>) -> Result<RowsPage, CallError> {
        let begin = self.key("rows/");
        let from = from.unwrap_or_else(|| begin.clone());
        let mut limit = PAGE;
        let answer: Ranged = loop {
            let body = json!({
                "key": BASE64.encode(&from),
                "range_end": BASE64.encode(after(&begin)),
                "limit": limit.to_string(),
            });
            match self.everywhere("/v3/kv/range", &body).await {
                Err(CallError::Refused { code, .. }) if code == EXHAUSTED && limit > 1 => {
                    limit /= 2;
                }
                done => break done?,
            }
        };
        let next = match (answer.more, answer.kvs.last()) {
            (true, Some(last)) => Some([last.key.as_slice(), &[0]].concat()),
            (_, _) => None,
        };
        let name = |kv: Kv| {
            let key = kv.key.get(begin.len()..).unwrap_or_default();
            let name = std::str::from_utf8(key)
                .ok()
                .and_then(|n| n.split_once('/'));
            match name {
                Some((rows, key)) => Ok((
                    Name {
                        rows: rows.to_owned(),
                        key: key.to_owned(),
                    },
                    kv.value,
                )),
                None => Err(CallError::Garbled {
                    at: self.endpoint(),
                    why: format!(
                        "{} is not a row of a plane",
                        String::from_utf8_lossy(&kv.key).escape_debug()
                    ),
                }),
            }
        };
        Ok(RowsPage {
            rows: answer.kvs.into_iter().map(name).collect::<Result<_, _>>()?,
            next,
        })
    }

    /// A new lease.
    pub(super) async fn grant(&self, life: Duration) -> Result<i64, CallError> {
        #[derive(Deserialize)]
        struct Granted {
            #[serde(rename = "ID", deserialize_with = "number")]
            id: i64,
        }
        let body = json!({"TTL": life.as_secs().to_string()});
        let granted: Granted = self.everywhere("/v3/lease/grant", &body).await?;
        Ok(granted.id)
    }

    /// Keeps a lease alive; false: it has expired.
    pub(super) async fn keep_alive(&self, lease: i64) -> Result<bool, CallError> {
        #[derive(Deserialize)]
        struct Kept {
            result: Alive,
        }
        #[derive(Deserialize)]
        struct Alive {
            #[serde(default, rename = "TTL", deserialize_with = "number")]
            ttl: i64,
        }
        let body = json!({"ID": lease.to_string()});
        match self.everywhere("/v3/lease/keepalive", &body).await {
            Ok(Kept { result }) => Ok(result.ttl > 0),
            Err(CallError::Refused { code, .. }) if code == NOT_FOUND => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Revokes a lease; an expired one is fine.
    pub(super) async fn revoke(&self, lease: i64) -> Result<(), CallError> {
        let body = json!({"ID": lease.to_string()});
        match self.everywhere::<Value>("/v3/lease/revoke", &body).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused { code, .. }) if code == NOT_FOUND => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// For idempotent calls: each member is tried until one answers.
    async fn everywhere<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<T, CallError> {
        let mut left = self.place.endpoints.len();
        loop {
            left -= 1;
            match self.once(path, body).await {
                Err(CallError::Silent { .. }) if left > 0 => {}
                done => return done,
            }
        }
    }

    async fn once<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let at = self.endpoint();
        let done = self.ask(&at, path, body).await;
        if matches!(done, Err(CallError::Silent { .. })) {
            self.at.fetch_add(1, Ordering::Relaxed);
        }
        done
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        at: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let silent = |why: String| CallError::Silent { at: at.into(), why };
        let client = {
            let now = self.client.read().unwrap_or_else(PoisonError::into_inner);
            now.client.clone()
        };
        let call = client.post(format!("{at}{path}")).json(body).timeout(ASK);
        let answer = call
            .send()
            .await
            .map_err(|e| silent(chain(&e.without_url())))?;
        let status = answer.status();
        let bytes = tls::body(answer, ANSWER_MAX)
            .await
            .map_err(|e| silent(chain(&e.without_url())))?;
        let Some(bytes) = bytes else {
            return Err(CallError::Refused {
                at: at.into(),
                code: EXHAUSTED,
                why: format!("its answer is longer than {ANSWER_MAX} bytes"),
            });
        };
        if !status.is_success() {
            let said = serde_json::from_slice::<Said>(&bytes).unwrap_or_default();
            return Err(no(at, status.as_u16(), said));
        }
        serde_json::from_slice(&bytes).map_err(|e| CallError::Garbled {
            at: at.into(),
            why: e.to_string(),
        })
    }

    fn endpoint(&self) -> String {
        let all = &self.place.endpoints;
        let at = self.at.load(Ordering::Relaxed) % all.len().max(1);
        all.get(at).cloned().unwrap_or_default()
    }
}

impl Loaded {
    fn of(place: &EtcdPlace) -> Result<Self, String> {
        let read = |path: &std::path::Path| {
            std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
        };
        let files = [
            read(&place.authority)?,
            read(&place.certificate)?,
            read(&place.key)?,
        ];
        let [authority, certificate, key] = &files;
        let client = tls::client(ClientIdentity {
            authority,
            certificate,
            key,
        });
        let client = client.map_err(|e| e.to_string())?;
        Ok(Self { files, client })
    }
}

/// A refusal, or an unknown outcome.
fn no(at: &str, status: u16, said: Said) -> CallError {
    let Said { code, message } = said;
    let (at, why) = (
        at.to_owned(),
        match message.is_empty() {
            true => format!("HTTP status {status}"),
            false => message,
        },
    );
    match code {
        CANCELLED | UNKNOWN | DEADLINE | INTERNAL | UNAVAILABLE => CallError::Silent { at, why },
        // Not from etcd but from something in between.
        0 => CallError::Silent { at, why },
        _ => CallError::Refused { at, code, why },
    }
}

impl Txn {
    /// Executed only if this holds.
    pub(super) fn when(mut self, compare: Value) -> Self {
        self.compare.push(compare);
        self
    }

    /// The same with these conditions instead.
    pub(super) fn only_when(self, compare: impl IntoIterator<Item = Value>) -> Self {
        Self {
            compare: compare.into_iter().collect(),
            ..self
        }
    }

    pub(super) fn then(mut self, ops: impl IntoIterator<Item = Value>) -> Self {
        self.success.extend(ops);
        self
    }

    pub(super) fn otherwise(mut self, ops: impl IntoIterator<Item = Value>) -> Self {
        self.failure.extend(ops);
        self
    }
}

/// A key was created at this revision; 0: it does not exist.
pub(super) fn made_at(key: &[u8], revision: i64) -> Value {
    json!({"key": BASE64.encode(key), "target": "CREATE", "result": "EQUAL", "create_revision": revision.to_string()})
}

/// A key has this value.
pub(super) fn holds(key: &[u8], value: &str) -> Value {
    json!({"key": BASE64.encode(key), "target": "VALUE", "result": "EQUAL", "value": BASE64.encode(value)})
}

pub(super) fn put(key: &[u8], value: &[u8], lease: Option<i64>) -> Value {
    json!({"request_put": {
        "key": BASE64.encode(key), "value": BASE64.encode(value), "lease": lease.unwrap_or(0).to_string(),
    }})
}

pub(super) fn delete(key: &[u8]) -> Value {
    json!({"request_delete_range": {"key": BASE64.encode(key)}})
}

/// Deletes everything with this prefix.
pub(super) fn delete_below(key: &[u8]) -> Value {
    json!({"request_delete_range": {"key": BASE64.encode(key), "range_end": BASE64.encode(after(key))}})
}

pub(super) fn read(key: &[u8]) -> Value {
    json!({"request_range": {"key": BASE64.encode(key)}})
}

/// The first key that does not begin with this one, which ends with a slash.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut after = prefix.to_vec();
    if let Some(last) = after.last_mut() {
        *last += 1;
    }
    after
}

fn number<'de, D: Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
    let text = Cow::<str>::deserialize(d)?;
    text.parse().map_err(D::Error::custom)
}

fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    let text = Cow::<str>::deserialize(d)?;
    BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_no_says_that_nothing_was_done() {
        let of = |code| {
            let message = "etcdserver: something".into();
            no("https://m", 503, Said { code, message })
        };
        for code in [0, CANCELLED, UNKNOWN, DEADLINE, INTERNAL, UNAVAILABLE] {
            assert!(matches!(of(code), CallError::Silent { .. }), "{code}");
        }
        // InvalidArgument, NotFound, PermissionDenied, ResourceExhausted, FailedPrecondition, OutOfRange,
        // Unauthenticated.
        for code in [3, NOT_FOUND, 7, EXHAUSTED, 9, 11, 16] {
            assert!(matches!(of(code), CallError::Refused { .. }), "{code}");
        }
    }

    #[test]
    fn answers_are_read_as_etcd_gives_them() {
        // Zero, empty and false values are omitted.
        let text = r#"{"header":{"cluster_id":"324952591200643719", "revision":"2"}, "responses":[{"response_range":
            {"header":{"revision":"2"}, "kvs":[{"key":"c2VhdA==", "create_revision":"2", "mod_revision":"2",
            "version":"1", "lease":"2324035711296626179"}], "count":"1"}}, {"response_range":{"header":{"revision":"2"}}},
            {"response_put":{"header":{"revision":"2"}}}]}"#;
        let answer: TxnAnswer = serde_json::from_str(text).expect("an answer");
        assert!(!answer.succeeded);
        assert_eq!(answer.header.revision, 2);
        let read: Vec<_> = answer.responses.into_iter().collect();
        let first = read.first().and_then(|r| r.response_range.as_ref());
        let kv = first.and_then(|r| r.kvs.first()).expect("a key");
        let wanted = Kv {
            key: b"seat".to_vec(),
            value: Vec::new(),
            create_revision: 2,
            lease: 2_324_035_711_296_626_179,
        };
        assert_eq!(*kv, wanted);
        assert!(serde_json::from_str::<TxnAnswer>(r#"{"header":{"revision":"x"}}"#).is_err());
    }

    #[test]
    fn everything_below_a_prefix_is_before_its_end() {
        let (prefix, end) = (b"/p/rows/".as_slice(), after(b"/p/rows/"));
        for below in ["", "a", "\u{10ffff}"] {
            let key = [prefix, below.as_bytes()].concat();
            assert!(key < end, "{below:?}");
        }
        assert!(b"/p/rows0".as_slice() >= end.as_slice());
    }

    #[test]
    fn nothing_goes_to_etcd_in_the_clear() {
        let place = EtcdPlace {
            endpoints: vec!["http://127.0.0.1:2379".into()],
            authority: "/none".into(),
            certificate: "/none".into(),
            key: "/none".into(),
            prefix: "/p/".into(),
        };
        let refused = Gateway::new(place).err().expect("refused");
        assert!(refused.contains("is not https://"), "{refused}");
    }
}
