//! containerd's configuration file, in the schema of the containerd that will read it, and the trial
//! in which it does.
//!
//! | containerd | schema | |
//! |---|---|---|
//! | 2.2 | 3 | `[grpc]`, `[ttrpc]` |
//! | 2.3, 2.4 | 4 | both are plugins: left where they were they are ignored in silence |
//!
//! A setting that is the default of every one of these releases, and that a drop-in may want to
//! change (`default_runtime_name`), is not written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{NetworkPlugin, paths};
use crate::nodelet::step::trial::{CONTAINERD_ASKS, NOBODY_READS, TRIAL_ROOT};
use crate::nodelet::step::{Judge, Probe, TrialStep};

use super::super::context::CgroupDriver;
use super::super::version::major_minor;
use super::super::{PhaseContext, Wait, layout};
use super::quoted;

/// Unused snapshotters and extensions: each would make directories or sockets of its own.
const DISABLED: [&str; 7] = [
    "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
];
/// Name of the file in the trial.
const IN_TRIAL: &str = "config.toml";
/// containerd prints what it reads in a tenth of a second; most of this is reading itself from a disk.
const DUMP: Duration = Duration::from_secs(10);

/// How containerd's file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schema {
    Three,
    Four,
}

impl Schema {
    fn of(ctx: &PhaseContext) -> Result<Self, Wait> {
        let version = ctx.stack()?.component("containerd").unwrap_or_default();
        Ok(if major_minor(version) >= (2, 3) {
            Self::Four
        } else {
            Self::Three
        })
    }

    fn number(self) -> u8 {
        match self {
            Self::Three => 3,
            Self::Four => 4,
        }
    }

    /// The section of a server, e.g. `grpc`.
    fn server(self, name: &str) -> String {
        match self {
            Self::Three => name.to_owned(),
            Self::Four => format!("plugins.\"io.containerd.server.v1.{name}\""),
        }
    }
}

/// The file.
pub(super) fn config(ctx: &PhaseContext) -> Result<String, Wait> {
    config_that_imports(ctx, &[])
}

/// The same, with these files of a trial after everything else.
fn config_that_imports(ctx: &PhaseContext, more: &[&str]) -> Result<String, Wait> {
    let schema = Schema::of(ctx)?;
    let disabled: String = DISABLED
        .iter()
        .map(|name| format!("  {},\n", quoted(name)))
        .collect();
    let imports: Vec<String> = ctx
        .drop_ins
        .files
        .keys()
        .map(|name| format!("{}/{name}", layout::DROP_INS))
        .chain(more.iter().map(|name| (*name).to_owned()))
        .map(|path| quoted(&path))
        .collect();
    Ok(format!(
        "# Written by pf9-nodeletd; changes are undone.\n\
         version = {version}\n\
         root = {root}\n\
         state = {state}\n\
         imports = [{imports}]\n\
         disabled_plugins = [\n{disabled}]\n\
         \n\
         [{grpc}]\n\
         address = {socket}\n\
         \n\
         [{ttrpc}]\n\
         address = {ttrpc_socket}\n\
         \n\
         {plugins}",
        version = schema.number(),
        root = quoted(paths::CONTAINERD_ROOT),
        state = quoted(layout::CONTAINERD_STATE),
        imports = imports.join(", "),
        grpc = schema.server("grpc"),
        socket = quoted(paths::CONTAINERD_SOCKET),
        ttrpc = schema.server("ttrpc"),
        ttrpc_socket = quoted(&format!("{}.ttrpc", paths::CONTAINERD_SOCKET)),
        plugins = plugins(ctx)?,
    ))
}

/// The plugins of the CRI: the same in both schemas.
fn plugins(ctx: &PhaseContext) -> Result<String, Wait> {
    const IMAGES: &str = "plugins.\"io.containerd.cri.v1.images\"";
    const RUNTIME: &str = "plugins.\"io.containerd.cri.v1.runtime\"";
    let cdi: Vec<String> = cdi_dirs(ctx).iter().map(|dir| quoted(dir)).collect();
    Ok(format!(
        "[{IMAGES}]\n\
         snapshotter = \"overlayfs\"\n\
         \n\
         [{IMAGES}.pinned_images]\n\
         sandbox = {sandbox}\n\
         \n\
         [{IMAGES}.registry]\n\
         config_path = {registries}\n\
         \n\
         [{RUNTIME}]\n\
         # Where nobody may lower an oom_score_adj, runc would fail for every pod.\n\
         restrict_oom_score_adj = {restrict}\n\
         # Pods' network namespaces are named below our state: removal takes these and no others.\n\
         netns_mounts_under_state_dir = true\n\
         # Whoever writes there gives devices of this machine to pods.\n\
         cdi_spec_dirs = [{cdi}]\n\
         \n\
         [{RUNTIME}.containerd.runtimes.runc]\n\
         runtime_type = \"io.containerd.runc.v2\"\n\
         \n\
         [{RUNTIME}.containerd.runtimes.runc.options]\n\
         BinaryName = {runc}\n\
         Root = {runc_root}\n\
         SystemdCgroup = {systemd}\n\
         \n\
         [{RUNTIME}.cni]\n\
         bin_dirs = [{bin}]\n\
         conf_dir = {conf}\n\
         \n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         disable_tcp_service = true\n\
         stream_server_address = \"127.0.0.1\"\n\
         stream_server_port = \"0\"\n\
         \n\
         {nri}",
        sandbox = quoted(ctx.image("pause")?),
        registries = quoted(layout::CONTAINERD_REGISTRIES),
        restrict = !ctx.facts.can_lower_oom_score,
        cdi = cdi.join(", "),
        runc = quoted(&layout::bin("runc")),
        runc_root = quoted(&format!("{}/runc", layout::CONTAINERD_STATE)),
        systemd = ctx.cgroup_driver() == CgroupDriver::Systemd,
        bin = quoted(cni_bin(ctx)),
        conf = quoted(paths::CNI_CONF),
        nri = nri(ctx),
    ))
}

/// Where devices are described: where every vendor's tools write, or a place where nothing is and only
/// root can put anything. (No place at all was weighed: containerd 2.4 takes an empty list for the one
/// that it would have without.)
fn cdi_dirs(ctx: &PhaseContext) -> &'static [&'static str] {
    if ctx.node.runtime.cdi {
        &["/etc/cdi", "/var/run/cdi"]
    } else {
        &[layout::CDI_NONE]
    }
}

/// The node resource interface: a plugin that connects sees and changes every container. Off, or at
/// a socket of our own, where plugins of pods connect; none is started by the runtime itself.
fn nri(ctx: &PhaseContext) -> String {
    let head = "[plugins.\"io.containerd.nri.v1.nri\"]\n";
    if !ctx.node.runtime.nri {
        return format!("{head}disable = true\n");
    }
    format!(
        "{head}disable = false\nsocket_path = {socket}\nplugin_path = {none}\n\
         plugin_config_path = {none}\n",
        socket = quoted(layout::NRI_SOCKET),
        none = quoted(layout::NRI_PLUGINS),
    )
}

/// A network of one's own needs a directory it may write to; the stack's is verified.
fn cni_bin(ctx: &PhaseContext) -> &'static str {
    match ctx.node.network.plugin {
        NetworkPlugin::Bridge => layout::CNI_BIN,
        NetworkPlugin::Flannel | NetworkPlugin::Calico | NetworkPlugin::None => layout::CNI_BIN_OWN,
    }
}

/// What the runtime must say of itself once it runs: a dump is what it reads, this is what it works
/// by. (The image of sandboxes is not among what it tells.)
pub(super) fn as_meant(ctx: &PhaseContext) -> Probe {
    const RUNC: &str = "/containerd/runtimes/runc/options";
    let systemd = ctx.cgroup_driver() == CgroupDriver::Systemd;
    let meant = [
        ("/cni/binDirs".to_owned(), vec![cni_bin(ctx)].into()),
        ("/cni/confDir".to_owned(), paths::CNI_CONF.into()),
        ("/cdiSpecDirs".to_owned(), cdi_dirs(ctx).into()),
        (
            "/containerdEndpoint".to_owned(),
            paths::CONTAINERD_SOCKET.into(),
        ),
        (format!("{RUNC}/SystemdCgroup"), systemd.into()),
        (format!("{RUNC}/BinaryName"), layout::bin("runc").into()),
    ];
    Probe::RuntimeAsMeant {
        meant: meant.into(),
    }
}

/// What containerd of the unpacked stack is asked about the files it is going to read.
pub(in crate::nodelet::phase) fn trial(ctx: &PhaseContext) -> Result<TrialStep, Wait> {
    let ours = config_that_imports(ctx, &[CONTAINERD_ASKS])?;
    let mut files = BTreeMap::from([(IN_TRIAL.to_owned(), ours)]);
    for (name, text) in &ctx.drop_ins.files {
        files.insert(format!("{}/{name}", layout::DROP_INS), text.clone());
    }
    let asks = asks(Schema::of(ctx)?, files.values());
    files.insert(CONTAINERD_ASKS.to_owned(), asks);
    let args = [
        "--config",
        &format!("{TRIAL_ROOT}/{IN_TRIAL}"),
        "config",
        "dump",
    ];
    Ok(TrialStep {
        program: "containerd".into(),
        path: ctx.unpacked("bin/containerd"),
        inside: None,
        bytes: ctx.program("bin/containerd"),
        args: args.map(str::to_owned).into(),
        env: BTreeMap::new(),
        files,
        within: DUMP,
        judge: Judge::Containerd {
            schema: Schema::of(ctx)?.number().into(),
            unread: ctx.drop_ins.unread.clone(),
        },
    })
}

/// Asks of each plugin that these files name whether there is one: see [`CONTAINERD_ASKS`].
fn asks<'a>(schema: Schema, files: impl Iterator<Item = &'a String>) -> String {
    let named = |text: &String| -> Option<Vec<String>> {
        // What is no TOML is refused by who judges.
        let table: toml::Table = text.parse().ok()?;
        let plugins = table.get("plugins")?.as_table()?;
        Some(plugins.keys().cloned().collect())
    };
    let plugins: BTreeSet<String> = files.filter_map(named).flatten().collect();
    let mut text = format!("version = {}\n", schema.number());
    for plugin in plugins {
        text.push_str(&format!(
            "\n[plugins.{}]\n{NOBODY_READS} = true\n",
            quoted(&plugin)
        ));
    }
    text
}

#[cfg(test)]
mod tests;
