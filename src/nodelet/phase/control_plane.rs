//! The control plane as static pods: kube-apiserver, kube-controller-manager, kube-scheduler.
//!
//! Each pod sees only the certificates it reads, at the paths they have on the host. An annotation
//! carries the digest of what a process reads once, so that a change of it restarts the pod.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::host::ours::ports::{CONTROLLER_MANAGER, ETCD, SCHEDULER};
use crate::model::kubernetes::API_SERVER_AUDIT;
use crate::model::{
    Authority, CertPurpose, Digest, PLANE_POLICY, front_proxy_name, paths, service_account_issuer,
};
use crate::nodelet::step::trial::TRIAL_ROOT;
use crate::nodelet::step::{Step, TrialStep};

use super::kubeconfigs::Kubeconfig;
use super::render::{Inputs, PRIVATE, PRIVATE_DIR, PUBLIC, PUBLIC_DIR, dir, file, yaml};
use super::{
    PhaseContext, Wait, admission, api_files, audit, authentication, authorization, certs, images,
    layout, reload,
};

/// Value of the priority class `system-node-critical`.
const NODE_CRITICAL: u32 = 2_000_001_000;

/// The API server's clients among the static pods.
const CLIENTS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// Where the manifests of the API server's clients are.
pub(in crate::nodelet) fn client_manifests() -> [String; 2] {
    CLIENTS.map(manifest_path)
}

/// Where the API server's manifest is.
pub(super) fn api_manifest() -> String {
    manifest_path("kube-apiserver")
}

fn manifest_path(name: &str) -> String {
    format!("{}/{name}.yaml", layout::MANIFESTS)
}

/// What kubelet finds when it starts: the API server.
pub(super) fn steps(ctx: &PhaseContext) -> Result<Vec<Step>, Wait> {
    let mut steps = vec![
        dir(layout::POLICY_DIR, PUBLIC_DIR),
        file(layout::POLICY, PLANE_POLICY, PUBLIC),
        file(layout::REFUSED_BY_NOBODY, authorization::nobody(), PUBLIC),
        file(layout::AUTHORIZATION, authorization::config(ctx), PUBLIC),
        file(layout::AUTHENTICATION, authentication::config(ctx), PUBLIC),
        file(layout::ADMISSION, admission::config(ctx), PUBLIC),
    ];
    steps.extend(audit::steps(ctx));
    steps.extend([
        dir(layout::SCHEDULER_DIR, PUBLIC_DIR),
        file(layout::SCHEDULER_CONFIG, yaml(&scheduler_config()), PUBLIC),
        dir(layout::MANIFESTS, PRIVATE_DIR),
        manifest(&api_server(ctx)?),
    ]);
    Ok(steps)
}

/// The two that have nothing to do before the API server answers. On a new master their images come while that
/// one starts. Later they are written before kubelet restarts: a kubelet (1.36, 1.37) whose manifest is replaced
/// in its first half second waits two minutes for volumes of the pod that is gone before it starts the new one, and
/// until then nothing is scheduled and no controller works.
pub(super) fn clients(ctx: &PhaseContext) -> Result<Vec<Step>, Wait> {
    let mut steps = images::of_clients(ctx)?;
    steps.push(manifest(&controller_manager(ctx)?));
    steps.push(manifest(&scheduler(ctx)?));
    Ok(steps)
}

/// Whether the three programs take what they are going to be started with. The first two end at an invalid port, the
/// scheduler at a number of its file: it looks at its flags before, and at a wrong flag it would not come to the file.
/// The keys are not there yet on a new node, and no secret is shown to a trial: without them the API server has one
/// more complaint.
pub(super) fn trials(ctx: &PhaseContext) -> Result<Vec<TrialStep>, Wait> {
    const PORT: &str =
        "--secure-port -1 must be between 1 and 65535, inclusive. It cannot be turned off with 0";
    const PORT_OR_NONE: &str =
        "--secure-port -1 must be between 0 and 65535, inclusive. 0 for turning off secure port";
    const KEYS: &str = "--service-account-signing-key-file, --service-account-issuer, and \
                        --api-audiences should be specified together";
    // The API server reads these before it judges anything.
    const AUTHORIZATION: &str = "authorization.yaml";
    const REFUSED: &str = "refused.yaml";
    const NUMBER: &str =
        "parallelism: Invalid value: -1: should be an integer value greater than zero";
    let api = with_values(
        api_server_args(ctx),
        &[
            ("--secure-port", "-1"),
            ("--service-account-key-file", ""),
            ("--service-account-signing-key-file", ""),
            (
                "--authorization-config",
                &format!("{TRIAL_ROOT}/{AUTHORIZATION}"),
            ),
        ],
    );
    let asks = authorization::config_that_asks(ctx, &format!("{TRIAL_ROOT}/{REFUSED}"));
    let its_files = BTreeMap::from([
        (AUTHORIZATION.to_owned(), asks),
        (REFUSED.to_owned(), authorization::nobody()),
    ]);
    let manager = with_values(controller_manager_args(ctx), &[("--secure-port", "-1")]);
    let mut config = scheduler_config();
    config["parallelism"] = json!(-1);
    let files = BTreeMap::from([("config.yaml".to_owned(), yaml(&config))]);
    let scheduler = scheduler_args(ctx, &format!("{TRIAL_ROOT}/config.yaml"));
    let mut all = vec![
        in_image(ctx, "kube-apiserver", api, its_files, &[PORT, KEYS])?,
        in_image(
            ctx,
            "kube-controller-manager",
            manager,
            BTreeMap::new(),
            &[PORT_OR_NONE],
        )?,
        in_image(ctx, "kube-scheduler", scheduler, files, &[NUMBER])?,
    ];
    all.extend(api_files::trial(ctx)?);
    Ok(all)
}

pub(super) fn with_values(args: Vec<String>, values: &[(&str, &str)]) -> Vec<String> {
    let other = |arg: String| {
        let name = arg.split('=').next().unwrap_or_default();
        let value = values.iter().find(|(flag, _)| *flag == name);
        value.map_or_else(|| arg.clone(), |(flag, value)| format!("{flag}={value}"))
    };
    args.into_iter().map(other).collect()
}

/// A trial of a program that is in an image only.
pub(super) fn in_image(
    ctx: &PhaseContext,
    program: &str,
    args: Vec<String>,
    files: BTreeMap<String, String>,
    expects: &[&str],
) -> Result<TrialStep, Wait> {
    let archive = ctx.image_of(program)?.path.clone();
    Ok(TrialStep {
        path: ctx.unpacked(&archive),
        inside: Some(inside(program)),
        bytes: ctx.program(&archive),
        ..super::trials::stopped(ctx, program, args, files, expects)
    })
}

/// Where the images have their programs, without the slash in front.
fn inside(program: &str) -> String {
    format!("usr/local/bin/{program}")
}

/// The pods as kubelet shows them in the API: their names there, and the digest of what each is restarted for.
pub(super) fn static_pods(ctx: &PhaseContext) -> Result<[(String, String); 3], Wait> {
    let pods = [api_server(ctx)?, controller_manager(ctx)?, scheduler(ctx)?];
    Ok(pods.map(|pod| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&pod["metadata"]["name"]);
        let inputs = text(&pod["metadata"]["annotations"]["pf9.io/inputs"]);
        (format!("{name}-{}", ctx.node.node_name), inputs)
    }))
}

fn manifest(pod: &Value) -> Step {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    file(manifest_path(name), yaml(pod), PRIVATE)
}

/// One component of the control plane.
struct Component<'a> {
    name: &'static str,
    image: &'a str,
    /// Digest of the image's archive: its name may stay when it is built again.
    build: Option<Digest>,
    args: Vec<String>,
    /// Directories and files of the host it reads.
    mounts: Vec<(&'static str, String)>,
    /// The directory of the host that it writes.
    writes: Option<String>,
    inputs: Inputs,
    port: u16,
    /// Paths of the probes: alive, ready.
    health: (&'static str, &'static str),
    cpu: &'static str,
    memory: &'static str,
}

impl Component<'_> {
    fn pod(self) -> Value {
        let read = self.mounts.iter().map(|(kind, path)| (*kind, path, true));
        // Where somebody deleted it, it starts all the same.
        let written = self
            .writes
            .iter()
            .map(|path| ("DirectoryOrCreate", path, false));
        let (mut mounts, mut volumes) = (Vec::new(), Vec::new());
        for (i, (kind, path, read_only)) in read.chain(written).enumerate() {
            let name = format!("host-{i}");
            mounts.push(json!({"name": name, "mountPath": path, "readOnly": read_only}));
            volumes.push(json!({"name": name, "hostPath": {"path": path, "type": kind}}));
        }
        let inputs = self
            .inputs
            .add("arguments", &self.args.join("\n"))
            .add_digest("image", self.build)
            .digest();
        let (alive, ready) = self.health;
        let get = |path: &str| json!({"scheme": "HTTPS", "host": "127.0.0.1", "port": self.port, "path": path});
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": "kube-system",
                "labels": {"component": self.name, "tier": "control-plane"},
                "annotations": {"pf9.io/inputs": inputs},
            },
            "spec": {
                "hostNetwork": true,
                "priorityClassName": "system-node-critical",
                "priority": NODE_CRITICAL,
                "enableServiceLinks": false,
                // Requests take a moment; the rest would only wait for those who watch.
                "terminationGracePeriodSeconds": 10,
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": self.name,
                    "image": self.image,
                    // Only what the stack's signature covers may run here.
                    "imagePullPolicy": "Never",
                    "command": [format!("/{}", inside(self.name))],
                    "args": self.args,
                    "resources": {"requests": {"cpu": self.cpu, "memory": self.memory}},
                    // Up to five minutes to start, then away for more than a minute: restarted.
                    "startupProbe": {"httpGet": get(alive), "periodSeconds": 2,
                        "timeoutSeconds": 15, "failureThreshold": 150},
                    "livenessProbe": {"httpGet": get(alive), "periodSeconds": 10,
                        "timeoutSeconds": 15, "failureThreshold": 8},
                    "readinessProbe": {"httpGet": get(ready), "periodSeconds": 5,
                        "timeoutSeconds": 15, "failureThreshold": 3},
                    "volumeMounts": mounts,
                }],
                "volumes": volumes,
            },
        })
    }
}

/// What the spec asks for beside it. `API_SERVER_OWN` are ours, which the spec's judge knows, and so are the others.
pub(super) fn api_server_args(ctx: &PhaseContext) -> Vec<String> {
    let extra = &ctx.node.api.extra_args;
    let extra = extra
        .iter()
        .filter(|(name, _)| !API_SERVER_AUDIT.contains(&name.as_str()))
        .map(|(name, value)| format!("--{name}={value}"));
    let mut args = api_server_own_args(ctx);
    args.extend(audit::flags(ctx));
    args.extend(gates(ctx));
    args.extend(extra);
    args
}

/// The feature gates of the spec, as a flag.
fn gates(ctx: &PhaseContext) -> Option<String> {
    let gates = &ctx.node.feature_gates;
    let gates: Vec<String> = gates
        .iter()
        .map(|(gate, on)| format!("{gate}={on}"))
        .collect();
    (!gates.is_empty()).then(|| format!("--feature-gates={}", gates.join(",")))
}

fn api_server_own_args(ctx: &PhaseContext) -> Vec<String> {
    let node = &ctx.node;
    let (serving, etcd_client) = (CertPurpose::ApiServer, CertPurpose::ApiServerEtcd);
    let (kubelet_client, proxy) = (CertPurpose::ApiServerKubelet, CertPurpose::FrontProxy);
    vec![
        format!("--advertise-address={}", node.node_ip),
        format!("--bind-address={}", ctx.any_address()),
        format!("--secure-port={}", node.api.port),
        format!("--admission-control-config-file={}", layout::ADMISSION),
        "--allow-privileged=true".into(),
        // Anonymous callers may read health and version, nothing else (the built-in RBAC roles);
        // the probes of kubelet and of load balancers need that.
        "--anonymous-auth=true".into(),
        // Both are read again when they change, so they are no inputs that the pod restarts for.
        format!("--authentication-config={}", layout::AUTHENTICATION),
        format!("--authorization-config={}", layout::AUTHORIZATION),
        format!("--authorization-policy-file={}", layout::POLICY),
        "--enable-admission-plugins=NodeRestriction".into(),
        format!("--client-ca-file={}", layout::ca(serving)),
        format!("--tls-cert-file={}", layout::cert(serving)),
        format!("--tls-private-key-file={}", layout::key(serving)),
        "--tls-min-version=VersionTLS12".into(),
        format!("--etcd-servers=https://127.0.0.1:{}", ETCD),
        format!("--etcd-cafile={}", layout::ca(etcd_client)),
        format!("--etcd-certfile={}", layout::cert(etcd_client)),
        format!("--etcd-keyfile={}", layout::key(etcd_client)),
        format!(
            "--kubelet-certificate-authority={}",
            layout::ca(kubelet_client)
        ),
        format!(
            "--kubelet-client-certificate={}",
            layout::cert(kubelet_client)
        ),
        format!("--kubelet-client-key={}", layout::key(kubelet_client)),
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--proxy-client-cert-file={}", layout::cert(proxy)),
        format!("--proxy-client-key-file={}", layout::key(proxy)),
        format!("--requestheader-client-ca-file={}", layout::ca(proxy)),
        format!("--requestheader-allowed-names={}", aggregators(ctx)),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        format!(
            "--service-account-issuer={}",
            service_account_issuer(&node.network.cluster_domain)
        ),
        format!(
            "--service-account-key-file={}",
            layout::SERVICE_ACCOUNT_TRUSTED
        ),
        format!(
            "--service-account-signing-key-file={}",
            paths::SERVICE_ACCOUNT_KEY
        ),
        format!("--service-cluster-ip-range={}", node.network.services_cidr),
        "--profiling=false".into(),
        "--v=2".into(),
    ]
}

fn api_server(ctx: &PhaseContext) -> Result<Value, Wait> {
    let (serving, etcd_client) = (CertPurpose::ApiServer, CertPurpose::ApiServerEtcd);
    let (kubelet_client, proxy) = (CertPurpose::ApiServerKubelet, CertPurpose::FrontProxy);
    let inputs = Inputs::new()
        .add("cluster authority", &ctx.believed(Authority::Cluster))
        .add("etcd authority", &ctx.believed(Authority::Etcd))
        .add("policy", PLANE_POLICY)
        .add("refused by", &authorization::nobody())
        .add("admission", &admission::config(ctx))
        .add("audit", &audit::policy(ctx).unwrap_or_default())
        .add(
            "service accounts",
            &certs::trusted_keys(ctx).unwrap_or_default(),
        );
    let shown = [serving, etcd_client, kubelet_client, proxy];
    let inputs = reload::inputs(inputs, ctx, &shown);
    Ok(Component {
        name: "kube-apiserver",
        image: ctx.image("kube-apiserver")?,
        build: ctx.build("kube-apiserver")?,
        args: api_server_args(ctx),
        // The first holds the directories of the client certificates too.
        mounts: vec![
            ("Directory", layout::cert_dir(serving)),
            ("Directory", layout::cert_dir(proxy)),
            ("Directory", layout::SERVICE_ACCOUNT_DIR.into()),
            ("Directory", layout::POLICY_DIR.into()),
        ],
        writes: audit::dir(ctx),
        inputs,
        port: ctx.node.api.port,
        health: ("/livez", "/readyz"),
        cpu: "200m",
        memory: "256Mi",
    }
    .pod())
}

fn controller_manager_args(ctx: &PhaseContext) -> Vec<String> {
    let kubeconfig = Kubeconfig::ControllerManager;
    let path = kubeconfig.path();
    let mut args = serving_args(ctx, kubeconfig, CONTROLLER_MANAGER);
    args.extend([
        format!("--kubeconfig={path}"),
        "--leader-elect=true".into(),
        "--profiling=false".into(),
        "--use-service-account-credentials=true".into(),
        format!("--root-ca-file={}", layout::ca(kubeconfig.purpose())),
        format!(
            "--service-account-private-key-file={}",
            paths::SERVICE_ACCOUNT_KEY
        ),
        // Every node's range of pod addresses is in its spec.
        "--allocate-node-cidrs=false".into(),
        format!(
            "--flex-volume-plugin-dir={}/volumeplugins",
            paths::KUBELET_ROOT
        ),
    ]);
    args.extend(gates(ctx));
    args
}

fn controller_manager(ctx: &PhaseContext) -> Result<Value, Wait> {
    let kubeconfig = Kubeconfig::ControllerManager;
    let own_key = ctx.service_account_key.as_deref().unwrap_or_default();
    Ok(Component {
        name: "kube-controller-manager",
        image: ctx.image("kube-controller-manager")?,
        build: ctx.build("kube-controller-manager")?,
        args: controller_manager_args(ctx),
        mounts: vec![
            ("Directory", layout::cert_dir(kubeconfig.purpose())),
            ("Directory", layout::SERVICE_ACCOUNT_DIR.into()),
            ("File", layout::ca(CertPurpose::FrontProxy)),
            ("File", kubeconfig.path()),
        ],
        writes: None,
        inputs: client_inputs(ctx, kubeconfig).add("service account", own_key),
        port: CONTROLLER_MANAGER,
        health: ("/healthz", "/healthz"),
        cpu: "100m",
        memory: "64Mi",
    }
    .pod())
}

fn scheduler_args(ctx: &PhaseContext, config: &str) -> Vec<String> {
    let mut args = serving_args(ctx, Kubeconfig::Scheduler, SCHEDULER);
    args.push(format!("--config={config}"));
    args.extend(gates(ctx));
    args
}

fn scheduler(ctx: &PhaseContext) -> Result<Value, Wait> {
    let kubeconfig = Kubeconfig::Scheduler;
    Ok(Component {
        name: "kube-scheduler",
        image: ctx.image("kube-scheduler")?,
        build: ctx.build("kube-scheduler")?,
        args: scheduler_args(ctx, layout::SCHEDULER_CONFIG),
        mounts: vec![
            ("Directory", layout::cert_dir(kubeconfig.purpose())),
            ("Directory", layout::SCHEDULER_DIR.into()),
            ("File", layout::ca(CertPurpose::FrontProxy)),
            ("File", kubeconfig.path()),
        ],
        writes: None,
        inputs: client_inputs(ctx, kubeconfig).add("config", &yaml(&scheduler_config())),
        port: SCHEDULER,
        health: ("/healthz", "/healthz"),
        cpu: "50m",
        memory: "32Mi",
    }
    .pod())
}

/// What both followers of the API server have in common.
fn serving_args(ctx: &PhaseContext, kubeconfig: Kubeconfig, port: u16) -> Vec<String> {
    let path = kubeconfig.path();
    vec![
        format!("--authentication-kubeconfig={path}"),
        format!("--authorization-kubeconfig={path}"),
        // The authorities as files: else both look them up in the cluster at start, and end when
        // the API server is not that far yet.
        "--authentication-skip-lookup=true".into(),
        format!("--client-ca-file={}", layout::ca(kubeconfig.purpose())),
        format!(
            "--requestheader-client-ca-file={}",
            layout::ca(CertPurpose::FrontProxy)
        ),
        // Its own API server's; others do not call it.
        format!(
            "--requestheader-allowed-names={}",
            front_proxy_name(ctx.node.host_id)
        ),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        "--v=2".into(),
    ]
}

/// Which clients may assert others' identity to API servers: the present masters, by name. The certificate of a removed
/// one carries a name that is not among them, and asserts nothing.
fn aggregators(ctx: &PhaseContext) -> String {
    let mut hosts: Vec<_> = ctx.node.etcd.members.iter().map(|m| m.host_id).collect();
    hosts.sort_unstable();
    let names: Vec<String> = hosts.into_iter().map(front_proxy_name).collect();
    names.join(",")
}

fn client_inputs(ctx: &PhaseContext, kubeconfig: Kubeconfig) -> Inputs {
    let inputs = Inputs::new()
        .add("authority", &ctx.believed(Authority::Cluster))
        .add(
            "front-proxy authority",
            &ctx.believed(Authority::FrontProxy),
        )
        .add("kubeconfig", &kubeconfig.text(ctx));
    reload::inputs(inputs, ctx, &[kubeconfig.purpose()])
}

fn scheduler_config() -> Value {
    json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": Kubeconfig::Scheduler.path()},
        "leaderElection": {"leaderElect": true},
        "enableProfiling": false,
    })
}
