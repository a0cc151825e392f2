//! The trial of the files that the API server reads after it has checked its flags: which issuers it trusts, who may do
//! what, what it notes, and its admission.
//!
//! With a wrong flag it would not come to them (`control_plane`'s trial), so this one lets it begin: at an address of
//! the loopback interface that is nobody's, with an etcd that is not there, with authorities and clients' certificates
//! left out, and with a key that it makes for itself in the trial's directory. It goes through these files in the order
//! of their use and ends at the last: at the settings of a plugin that are no settings
//! (`admission::config_that_stops`). It sends no request. Observed with Kubernetes 1.36.3 and 1.37.2; it takes a third
//! of a second of a processor.
//!
//! Without issuers and level nothing in these files comes from an operator, and there is no trial:
//! it would only delay a new master.

use std::collections::BTreeMap;

use crate::host::ours::ports::API_SERVER_TRIAL;
use crate::model::PLANE_POLICY;
use crate::nodelet::step::trial::TRIAL_ROOT;
use crate::nodelet::step::{Judge, TrialStep};

use super::control_plane::{api_server_args, in_image, with_values};
use super::{PhaseContext, Wait, admission, audit, authentication, authorization, trials};

/// The name of the trial beside the API server's own.
const NAME: &str = "kube-apiserver-files";
/// What it says to the last of the files.
const STOP: &str = "failed to apply admission: couldn't init admission plugin \"ResourceQuota\": \
                    limitedResources[0].resource: Required value";
/// What it says about a file of the spec's, shown to those who can correct it.
const THEIRS: [&str; 2] = ["authentication configuration", "PodSecurity"];
/// It would ask etcd before it comes to its admission.
const PEERS_GATE: &str = "UnknownVersionInteroperabilityProxy=false";

const AUTHENTICATION: &str = "authentication.yaml";
const AUTHORIZATION: &str = "authorization.yaml";
const REFUSED: &str = "refused.yaml";
const POLICY: &str = "policy.jsonl";
const ADMISSION: &str = "admission.yaml";
const AUDIT: &str = "audit.yaml";

/// The trial, where the spec has something to say in these files.
pub(super) fn trial(ctx: &PhaseContext) -> Result<Option<TrialStep>, Wait> {
    let api = &ctx.node.api;
    if api.oidc.is_empty() && api.pod_security.is_default() {
        return Ok(None);
    }
    let refused = in_root(REFUSED);
    let mut files = BTreeMap::from([
        (
            AUTHENTICATION.to_owned(),
            authentication::config_that_asks_nobody(ctx),
        ),
        (
            AUTHORIZATION.to_owned(),
            authorization::config_that_asks(ctx, &refused),
        ),
        (REFUSED.to_owned(), authorization::nobody()),
        (POLICY.to_owned(), PLANE_POLICY.to_owned()),
        (ADMISSION.to_owned(), admission::config_that_stops(ctx)),
    ]);
    files.extend(audit::policy(ctx).map(|policy| (AUDIT.to_owned(), policy)));
    let theirs = THEIRS.map(str::to_owned);
    Ok(Some(TrialStep {
        program: NAME.to_owned(),
        judge: Judge::Stopped {
            expects: vec![STOP.to_owned()],
            theirs: trials::theirs(ctx).chain(theirs).collect(),
        },
        ..in_image(ctx, "kube-apiserver", args(ctx), files, &[STOP])?
    }))
}

fn args(ctx: &PhaseContext) -> Vec<String> {
    let port = API_SERVER_TRIAL.to_string();
    let (key, cert) = (in_root("apiserver.key"), in_root("apiserver.crt"));
    let mut gates = ctx.node.feature_gates.clone();
    gates.retain(|gate, _| !PEERS_GATE.starts_with(&format!("{gate}=")));
    let gates: Vec<String> = gates
        .iter()
        .map(|(gate, on)| format!("{gate}={on}"))
        .collect();
    let mut args = with_values(
        api_server_args(ctx),
        &[
            ("--bind-address", "127.0.0.2"),
            ("--secure-port", &port),
            ("--tls-cert-file", ""),
            ("--tls-private-key-file", ""),
            ("--service-account-key-file", &cert),
            ("--service-account-signing-key-file", &key),
            ("--client-ca-file", ""),
            ("--requestheader-client-ca-file", ""),
            ("--proxy-client-cert-file", ""),
            ("--proxy-client-key-file", ""),
            ("--kubelet-certificate-authority", ""),
            ("--kubelet-client-certificate", ""),
            ("--kubelet-client-key", ""),
            ("--etcd-servers", "http://127.0.0.1:1"),
            ("--etcd-cafile", ""),
            ("--etcd-certfile", ""),
            ("--etcd-keyfile", ""),
            ("--authentication-config", &in_root(AUTHENTICATION)),
            ("--authorization-config", &in_root(AUTHORIZATION)),
            ("--authorization-policy-file", &in_root(POLICY)),
            ("--admission-control-config-file", &in_root(ADMISSION)),
            ("--audit-policy-file", &in_root(AUDIT)),
            ("--audit-log-path", &in_root("audit.log")),
        ],
    );
    args.retain(|arg| !arg.starts_with("--feature-gates="));
    let gates = [vec![PEERS_GATE.to_owned()], gates].concat().join(",");
    args.push(format!("--feature-gates={gates}"));
    args.push(format!("--cert-dir={}", in_root("")));
    args
}

fn in_root(file: &str) -> String {
    format!("{TRIAL_ROOT}/{file}")
}
