//! What each service is asked. Any answer in time counts; the caller judges it.

use std::time::Duration;

use reqwest::{Client, StatusCode};

use super::verdict::{Said, Service};
use crate::host::Host;
use crate::host::kube::root_cause;
use crate::host::ours::ports::{ETCD_METRICS, KUBE_PROXY_HEALTH, KUBELET_HEALTH};
use crate::host::runtime::CallError;
use crate::host::tls;
use crate::model::{NodeSpec, Role};
use crate::nodelet::observe::unheard;
use crate::nodelet::peers::Peers;
use crate::telemetry::chain;

/// How long a service on this machine has to answer a question that costs it nothing. (The static pods have as long.)
pub(super) const ANSWER: Duration = Duration::from_secs(15);
/// The answers are a few words.
const ANSWER_MAX: usize = 64 * 1024;
/// How often the API server is asked for kubelet's lease, which is renewed every ten seconds and is missed after
/// most of a minute.
const HEARD_EVERY: Duration = Duration::from_secs(60);

/// What the API server knows of the node, and when it was asked.
#[derive(Debug, Default)]
pub(super) struct Heard {
    asked: Option<Duration>,
    missed: Option<String>,
}

/// What the probes need.
pub(super) struct Asks<'a> {
    pub(super) host: &'a Host,
    pub(super) peers: &'a mut Peers,
    pub(super) heard: &'a mut Heard,
    pub(super) role: Role,
    pub(super) node: &'a NodeSpec,
    pub(super) now: Duration,
}

impl Asks<'_> {
    /// Asks every service of this role, all at once.
    pub(super) async fn all(&mut self) -> Vec<(Service, Said)> {
        let Ok(client) = self.peers.plain() else {
            return Vec::new();
        };
        let is_master = match self.role {
            Role::Master => true,
            Role::Worker | Role::None => false,
        };
        let (runtime, etcd, kubelet, proxy) = tokio::join!(
            runtime(self.host),
            // Whether it could store anything is the others' matter too: not asked.
            answers(&client, ETCD_METRICS, "livez", ANSWER),
            answers(&client, KUBELET_HEALTH, "healthz", ANSWER),
            // As `healthz`, but that a node on its way out is no illness.
            answers(&client, KUBE_PROXY_HEALTH, "livez", ANSWER),
        );
        let kubelet = self.kubelet(kubelet, runtime.is_well()).await;
        let proxy = self.proxy(proxy).await;
        let mut all = vec![
            (Service::Runtime, runtime),
            (Service::Kubelet, kubelet),
            (Service::KubeProxy, proxy),
        ];
        all.extend(is_master.then(|| (Service::Etcd, etcd_of(etcd))));
        all
    }

    /// It may answer probes and no longer renew its lease.
    async fn kubelet(&mut self, said: Answer, runtime_is_well: bool) -> Said {
        let missed = match &said {
            Ok(status) if status.is_success() => self.missed().await,
            Ok(_) | Err(_) => None,
        };
        kubelet_of(said, runtime_is_well, missed)
    }

    /// It is not well before it has reached the API server.
    async fn proxy(&mut self, said: Answer) -> Said {
        match said {
            Err(why) => Said::Silent(why),
            Ok(status) if status.is_success() => Said::Well,
            Ok(status) => match self.peers.kube(&self.host.fs, self.role, self.node) {
                Ok(kube) if kube.ready().await.is_ok() => {
                    Said::Ill(format!("its health check answers {status}"))
                }
                Ok(_) | Err(_) => Said::Nothing,
            },
        }
    }

    /// Why the API server, which answers us, takes kubelet for gone. The controller could write that into the node
    /// object, so it is not etcd that keeps kubelet's writes out.
    async fn missed(&mut self) -> Option<String> {
        let soon = |at: Duration| self.now.saturating_sub(at) < HEARD_EVERY;
        if self.heard.asked.is_some_and(soon) {
            return self.heard.missed.clone();
        }
        self.heard.asked = Some(self.now);
        let kube = self.peers.kube(&self.host.fs, self.role, self.node);
        self.heard.missed = match kube {
            Ok(kube) => match kube.node(&self.node.node_name.to_string()).await {
                Ok(Some(node)) => unheard(&node),
                Ok(None) | Err(_) => None,
            },
            Err(_) => None,
        };
        self.heard.missed.clone()
    }
}

/// What a health check answered, or why it did not.
type Answer = Result<StatusCode, String>;

async fn answers(client: &Client, port: u16, path: &str, within: Duration) -> Answer {
    let url = format!("http://127.0.0.1:{port}/{path}");
    let lost = |e: reqwest::Error| format!("{url} does not answer: {}", root_cause(&e));
    let answer = client
        .get(&url)
        .timeout(within)
        .send()
        .await
        .map_err(lost)?;
    let status = answer.status();
    // Read to the end, so that the connection can be used again.
    tls::body(answer, ANSWER_MAX).await.map_err(lost)?;
    Ok(status)
}

/// A live process is not health: its loop may have stopped, or the cluster no longer hears from it (`missed`: why).
fn kubelet_of(said: Answer, runtime_is_well: bool, missed: Option<String>) -> Said {
    match said {
        Err(why) => Said::Silent(why),
        Ok(status) if !status.is_success() && runtime_is_well => {
            Said::Ill(format!("its health check answers {status}"))
        }
        // Its loop stops while the runtime does.
        Ok(status) if !status.is_success() => Said::Nothing,
        Ok(_) => match missed {
            Some(why) => Said::Ill(format!("the cluster does not hear from it: {why}")),
            None => Said::Well,
        },
    }
}

/// One that answers that it is not well waits for its disk or for the others: to end it would take the rest away.
/// (Releases that do not know the question say so, which is an answer.)
fn etcd_of(said: Answer) -> Said {
    match said {
        Ok(_) => Said::Well,
        Err(why) => Said::Silent(why),
    }
}

async fn runtime(host: &Host) -> Said {
    match host.runtime.says().await {
        // What it says of itself is looked at in every sweep.
        Ok(_) => Said::Well,
        Err(e @ (CallError::Nobody { .. } | CallError::Broken(_) | CallError::Late(_))) => {
            Said::Silent(chain(&e))
        }
        Err(e @ (CallError::Refused { .. } | CallError::Answer(_))) => Said::Ill(chain(&e)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_kubelet_that_answers_is_well_only_if_its_loop_runs_and_the_cluster_hears_it() {
        let of = |status: StatusCode, runtime_is_well: bool, missed: Option<String>| {
            kubelet_of(Ok(status), runtime_is_well, missed)
        };
        let says = |status: &str| {
            let ready = json!({"type": "Ready", "status": status, "message": "why"});
            unheard(&json!({"status": {"conditions": [ready]}}))
        };
        let (good, bad) = (StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(of(good, true, says("True")), Said::Well);
        assert_eq!(
            of(good, true, says("False")),
            Said::Well,
            "it says so itself"
        );
        let missed = "the cluster does not hear from it: why";
        assert_eq!(of(good, true, says("Unknown")), Said::Ill(missed.into()));
        assert_eq!(
            of(good, true, unheard(&json!({}))),
            Said::Well,
            "a new node"
        );
        let stands = of(bad, true, None);
        assert!(matches!(stands, Said::Ill(_)), "{stands:?}");
        assert_eq!(of(bad, false, None), Said::Nothing, "the runtime hangs");
        let silent = kubelet_of(Err("x".into()), true, None);
        assert_eq!(silent, Said::Silent("x".into()));
    }

    /// The kernel accepts the connection of a process that hangs.
    #[tokio::test]
    async fn a_connection_alone_is_no_answer_and_any_answer_is_one() {
        let client = Peers::default().plain().expect("client");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let said = answers(&client, port, "livez", Duration::from_millis(300)).await;
        let why = said.expect_err("nobody reads");
        assert!(why.contains("/livez does not answer"), "{why}");
        assert!(!etcd_of(Err(why)).is_well());
        let answering = async {
            // The first connection is the one that was given up.
            drop(listener.accept().await.expect("accept"));
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut chunk = [0; 1024];
            assert_ne!(stream.read(&mut chunk).await.expect("read"), 0);
            let ill = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(ill).await.expect("write");
        };
        let asking = answers(&client, port, "livez", ANSWER);
        let ((), said) = tokio::join!(answering, asking);
        assert_eq!(said, Ok(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(etcd_of(said), Said::Well);
        drop(listener);
        assert!(answers(&client, port, "livez", ANSWER).await.is_err());
    }
}
