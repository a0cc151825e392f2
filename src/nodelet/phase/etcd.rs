//! etcd: its settings and unit (order 50), running and healthy (order 55). Masters only.
//!
//! Settings are environment variables in two files. The second holds what etcd reads only when it
//! founds or joins a cluster. Masters that were attached together found it, and each knows all of
//! them. Where one came later, only the others know the members, so the file is written from their
//! answer ([`joining_settings`]). Neither restarts anything.
//!
//! An etcd without data begins: it founds, or takes up a name with which it may have voted. So it starts
//! without data only where that is meant ([`Begin`], by what is known of this master: `nodelet::etcd::data`).
//! The unit has a condition, that its log is there or a file that permits a beginning; the file goes, and the
//! settings say that the cluster is there, as soon as there are data. What systemd does at boot, without
//! nodelet, therefore founds nothing either.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::host::etcd::{Member, peer_url};
use crate::host::etcd_data::LOG;
use crate::host::ours::ports::{ETCD, ETCD_METRICS, ETCD_PEERS};
use crate::model::{Authority, CertPurpose, EtcdMember, paths};
use crate::nodelet::etcd::data::{DataVerdict, Held};
use crate::nodelet::etcd::record::Began;
use crate::nodelet::step::trial::TRIAL_ROOT;
use crate::nodelet::step::{Encoding, Probe, Step, TrialStep};

use super::env::{EnvText, Unwritable};
use super::render::{
    Inputs, PRIVATE_DIR, PUBLIC, PUBLIC_DIR, UnitText, dir, file, file_as, probe, shared_dir, unit,
    url_host,
};
use super::{PhaseContext, Steps, certs, layout, trials};

/// Before every setting's name.
const PREFIX: &str = "ETCD_";
/// `INITIAL_CLUSTER_STATE` of a member of a cluster that is there.
const JOINS: &str = "existing";
/// And of one that is not.
const FOUNDS: &str = "new";
/// What the file says that permits a start without data.
const PERMIT: &str =
    "etcd may begin without data; nodelet takes this file away when there are some\n";
/// A member with a large database, or one that waits for the others, takes minutes.
const HEALTHY: Duration = Duration::from_secs(600);

/// What etcd on this master is to do when it starts.
enum Begin<'a> {
    /// It founds its cluster, alone or with others that were attached with it.
    Founds,
    /// It joins those who are there. That holds for founders as well: one that lost its data must come back
    /// to the others. Founding again, alone, would put an empty cluster in the place of the real one.
    Joins(&'a EtcdMember),
    /// It keeps its data.
    GoesOn,
    /// It must not start.
    Held(Held),
}

fn begin(ctx: &PhaseContext) -> Begin<'_> {
    let members = &ctx.node.etcd.members;
    match ctx.etcd.verdict() {
        DataVerdict::Present => Begin::GoesOn,
        DataVerdict::Fresh
        | DataVerdict::Gone { .. }
        | DataVerdict::MountMissing { .. }
        | DataVerdict::Foreign { .. } => {
            match (ctx.etcd.held(), own(ctx)) {
                // The others have everything that it had.
                (Some(_), Some(own)) if ctx.etcd.is_gone() && members.len() > 1 => {
                    Begin::Joins(own)
                }
                (Some(held), _) => Begin::Held(held),
                (None, Some(own)) if joins(ctx) || ctx.etcd.record().is_some() => Begin::Joins(own),
                (None, _) => Begin::Founds,
            }
        }
    }
}

fn own(ctx: &PhaseContext) -> Option<&EtcdMember> {
    let members = &ctx.node.etcd.members;
    members.iter().find(|m| m.ip == ctx.node.node_ip)
}

/// etcd was there before some master.
fn joins(ctx: &PhaseContext) -> bool {
    ctx.node.etcd.members.iter().any(|m| m.joins)
}

pub(super) fn configure(ctx: &PhaseContext) -> Steps {
    let begin = begin(ctx);
    let mut steps = vec![shared_dir(layout::DATA_DIR, PUBLIC_DIR)];
    // A directory in the place of a disk that is not there would only hide that.
    if !matches!(begin, Begin::Held(_)) {
        steps.push(dir(paths::ETCD_DATA, PRIVATE_DIR));
    }
    steps.push(dir(layout::ETCD_DIR, PUBLIC_DIR));
    // Before the settings that name it.
    steps
        .extend(revoked(ctx).map(|list| file_as(Encoding::RevokedDer, layout::ETCD_REVOKED, list)));
    steps.push(file(layout::ETCD_ENV, env(ctx)?, PUBLIC));
    // Before it could be read with other settings: an earlier unit had no condition.
    steps.push(file(
        layout::unit_file(layout::ETCD_UNIT),
        unit_text(ctx),
        PUBLIC,
    ));
    let joined = |member: &EtcdMember| Step::EtcdJoined {
        member: member.clone(),
        settings: layout::ETCD_CLUSTER_ENV.into(),
    };
    let permit = || file(layout::ETCD_BEGINS, PERMIT, PUBLIC);
    match begin {
        Begin::Founds => {
            steps.push(file(
                layout::ETCD_CLUSTER_ENV,
                founders_env(ctx, FOUNDS)?,
                PUBLIC,
            ));
            let several = ctx.node.etcd.members.len() > 1;
            steps.extend(own(ctx).filter(|_| several).map(|own| Step::EtcdFounds {
                member: own.clone(),
                settings: layout::ETCD_CLUSTER_ENV.into(),
            }));
            steps.push(permit());
        }
        Begin::Joins(own) => steps.extend([joined(own), permit()]),
        Begin::GoesOn => {
            let settings = match own(ctx).filter(|_| joins(ctx) || joined_once(ctx)) {
                Some(own) => joined(own),
                None => file(layout::ETCD_CLUSTER_ENV, founders_env(ctx, JOINS)?, PUBLIC),
            };
            let path = layout::ETCD_BEGINS.into();
            steps.extend([settings, Step::Absent { path }]);
        }
        Begin::Held(held) => steps.push(probe(Probe::EtcdData { held }, Duration::ZERO)),
    }
    Ok(steps)
}

/// A founder that lost its data and came back to the others.
fn joined_once(ctx: &PhaseContext) -> bool {
    ctx.etcd.record().is_some_and(|record| match record.began {
        Began::Joined => true,
        Began::Founded | Began::Restored => false,
    })
}

/// The certificates of former masters.
fn revoked(ctx: &PhaseContext) -> Option<&str> {
    ctx.node.etcd.revoked.as_deref()
}

pub(super) fn start(ctx: &PhaseContext) -> Steps {
    let votes = match begin(ctx) {
        Begin::Held(_) => return Ok(Vec::new()),
        Begin::Joins(_) => true,
        Begin::Founds => false,
        Begin::GoesOn => joins(ctx) || joined_once(ctx),
    };
    let inputs = Inputs::new()
        .add("unit", &unit_text(ctx))
        .add("settings", &env(ctx)?)
        // Certificates are read again with every connection, the authorities are not: see `reload`.
        .add("authority", &ctx.believed(Authority::Etcd))
        // So is the list of revoked ones; but who is connected stays so, and a master that was
        // removed must not. Masters are removed seldom, and their API servers restart then, too.
        .add("revoked", revoked(ctx).unwrap_or_default())
        .add_digest("program", ctx.etcd_of().program);
    let goes_on = matches!(begin(ctx), Begin::GoesOn);
    let told = own(ctx).filter(|_| goes_on);
    let told = told.map(|own| Step::EtcdAddress {
        member: own.clone(),
    });
    let mut steps: Vec<Step> = told.into_iter().collect();
    steps.push(unit(layout::ETCD_UNIT, inputs, &[layout::ETCD_ENV]));
    if certs::are_over(ctx) {
        // It could not be asked.
        return Ok(steps);
    }
    steps.extend(own(ctx).filter(|_| votes).map(|own| Step::EtcdVotes {
        member: own.clone(),
    }));
    steps.push(probe(Probe::EtcdHealthy, HEALTHY));
    steps.push(Step::EtcdNoted);
    let gone = &ctx.node.etcd.gone;
    steps.extend((!gone.is_empty()).then(|| Step::EtcdMemberOut { gone: gone.clone() }));
    Ok(steps)
}

fn unit_text(ctx: &PhaseContext) -> String {
    UnitText::new("etcd of the Kubernetes control plane")
        .set("Documentation", "https://etcd.io")
        .set("After", "network-online.target local-fs.target")
        .set("Wants", "network-online.target")
        .set("StartLimitIntervalSec", "0")
        .set("RequiresMountsFor", paths::ETCD_DATA)
        // One of them is enough.
        .set(
            "ConditionPathExists",
            &format!("|{}/{LOG}", paths::ETCD_DATA),
        )
        .set("ConditionPathExists", &format!("|{}", layout::ETCD_BEGINS))
        .section("Service")
        .set("Type", "notify")
        // Ready means: part of a cluster with a leader. kubelet starts after it, but not never.
        .set("TimeoutStartSec", "90")
        .set("EnvironmentFile", layout::ETCD_ENV)
        .set("EnvironmentFile", layout::ETCD_CLUSTER_ENV)
        .command(&format!("{}/etcd", layout::ETCD_BIN), &[])
        .set("WorkingDirectory", paths::ETCD_DATA)
        .set("UMask", "0077")
        .set("NoNewPrivileges", "yes")
        .set("Restart", "always")
        .set("RestartSec", "2")
        .set("LimitNOFILE", "65536")
        .set("TasksMax", "infinity")
        // Ten times nodelet's: each write of the API server waits for it, and nothing waits for a backup. Measured, 256
        // MiB on two cores: p99 of writes 4.2 times a quiet etcd's at equal weights, 2.0 at fourteen to one. Reading
        // slower instead changes nothing: the cost is sealing and counting, not the stream.
        .set("CPUWeight", "300")
        .set_if(ctx.facts.can_lower_oom_score, "OOMScoreAdjust", "-997")
        .wanted_at_boot()
}

fn env(ctx: &PhaseContext) -> Result<String, Unwritable> {
    env_text(&settings(ctx))
}

/// Whether etcd takes what it is going to be started with. It ends at a data directory that cannot
/// be one, before it opens a port.
pub(super) fn trial(ctx: &PhaseContext) -> TrialStep {
    const FILE: &str = "no-directory";
    let files = BTreeMap::from([(FILE.to_owned(), String::new())]);
    let mut trial = trials::stopped(
        ctx,
        "etcd",
        Vec::new(),
        files,
        &["failed to list data directory"],
    );
    let etcd = ctx.etcd_of();
    trial.path = format!("{}/{}/bin/etcd", paths::STACKS, etcd.stack.dir_name());
    trial.bytes = etcd.program;
    let mut lines = settings(ctx);
    if !joins(ctx) {
        lines.extend(founders(ctx, FOUNDS));
    }
    let variable = |(name, value): (&str, String)| (format!("{PREFIX}{name}"), value);
    trial.env = lines.into_iter().map(variable).collect();
    let data = format!("{TRIAL_ROOT}/{FILE}/data");
    trial.env.insert(format!("{PREFIX}DATA_DIR"), data);
    trial
}

/// A member whose data differ from the others' must not serve. 3.5 knows no gates: the name is one that
/// it would ignore, and that its trial refuses.
fn corrupt_check(ctx: &PhaseContext) -> (&'static str, String) {
    match ctx.etcd_of().version {
        Some(etcd) if (etcd.major, etcd.minor) < (3, 6) => {
            ("EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "true".into())
        }
        Some(_) | None => ("FEATURE_GATES", "InitialCorruptCheck=true".into()),
    }
}

fn settings(ctx: &PhaseContext) -> Vec<(&'static str, String)> {
    let ip = url_host(&ctx.node.node_ip.to_string());
    let (client, peer) = (CertPurpose::EtcdServer, CertPurpose::EtcdPeer);
    let mut lines = vec![
        ("NAME", ctx.host_id.to_string()),
        ("DATA_DIR", paths::ETCD_DATA.to_owned()),
        (
            "LISTEN_CLIENT_URLS",
            format!("https://127.0.0.1:{ETCD},https://{ip}:{ETCD}"),
        ),
        ("ADVERTISE_CLIENT_URLS", format!("https://{ip}:{ETCD}")),
        ("LISTEN_PEER_URLS", format!("https://{ip}:{ETCD_PEERS}")),
        (
            "INITIAL_ADVERTISE_PEER_URLS",
            format!("https://{ip}:{ETCD_PEERS}"),
        ),
        (
            "LISTEN_METRICS_URLS",
            format!("http://127.0.0.1:{ETCD_METRICS}"),
        ),
        ("CERT_FILE", layout::cert(client)),
        ("KEY_FILE", layout::key(client)),
        ("TRUSTED_CA_FILE", layout::ca(client)),
        ("CLIENT_CERT_AUTH", "true".into()),
        ("PEER_CERT_FILE", layout::cert(peer)),
        ("PEER_KEY_FILE", layout::key(peer)),
        ("PEER_TRUSTED_CA_FILE", layout::ca(peer)),
        ("PEER_CLIENT_CERT_AUTH", "true".into()),
        ("STRICT_RECONFIG_CHECK", "true".into()),
        // The API server compacts every five minutes; this is for the time it does not run.
        ("AUTO_COMPACTION_MODE", "periodic".into()),
        ("AUTO_COMPACTION_RETENTION", "8h".into()),
        ("LOG_OUTPUTS", "stderr".into()),
        corrupt_check(ctx),
    ];
    if revoked(ctx).is_some() {
        for name in ["CLIENT_CRL_FILE", "PEER_CRL_FILE"] {
            lines.push((name, layout::ETCD_REVOKED.into()));
        }
    }
    for (name, ms) in [
        ("HEARTBEAT_INTERVAL", ctx.node.etcd.heartbeat_ms),
        ("ELECTION_TIMEOUT", ctx.node.etcd.election_ms),
    ] {
        lines.extend(ms.map(|ms| (name, ms.to_string())));
    }
    let quota = ctx.node.etcd.quota_bytes;
    lines.extend(quota.map(|bytes| ("QUOTA_BACKEND_BYTES", bytes.to_string())));
    lines
}

fn founders_env(ctx: &PhaseContext, state: &str) -> Result<String, Unwritable> {
    env_text(&founders(ctx, state))
}

fn founders(ctx: &PhaseContext, state: &str) -> Vec<(&'static str, String)> {
    let mut founders: Vec<_> = ctx.node.etcd.members.iter().collect();
    founders.sort_by_key(|m| m.host_id);
    let founders = founders
        .into_iter()
        .map(|m| format!("{}={}", m.host_id, peer_url(m.ip)));
    cluster_settings(ctx, state, founders.collect())
}

/// The second file of a master that joins, from what the members say who they are. That is what
/// others say: a name that would be read as more than one member, or as another variable, is
/// refused.
pub(in crate::nodelet) fn joining_settings(
    ctx: &PhaseContext,
    members: &[Member],
) -> Result<String, String> {
    let planned = &ctx.node.etcd.members;
    let mut pairs = Vec::new();
    for member in members {
        for url in &member.peer_urls {
            // One that was not started yet has no name; etcd compares addresses only.
            let known = planned.iter().find(|m| peer_url(m.ip) == *url);
            let name = match known {
                Some(known) if member.name.is_empty() => known.host_id.to_string(),
                Some(_) | None if member.name.is_empty() => member.id.clone(),
                Some(_) | None => member.name.clone(),
            };
            if name.contains([',', '=']) || url.contains(',') {
                return Err(format!(
                    "member {name:?} with address {url:?} is not valid in etcd's list of members; \
                     rename it there, or remove it"
                ));
            }
            pairs.push(format!("{name}={url}"));
        }
    }
    env_text(&cluster_settings(ctx, JOINS, pairs)).map_err(|e| e.to_string())
}

/// Whether these are the settings of a master that joins.
pub(in crate::nodelet) fn settings_join(text: &str) -> bool {
    text.lines()
        .any(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER_STATE=") == Some(JOINS))
}

fn cluster_settings(
    ctx: &PhaseContext,
    state: &str,
    members: Vec<String>,
) -> Vec<(&'static str, String)> {
    vec![
        ("INITIAL_CLUSTER", members.join(",")),
        ("INITIAL_CLUSTER_STATE", state.into()),
        ("INITIAL_CLUSTER_TOKEN", ctx.node.cluster_id.to_string()),
    ]
}

/// Everything of etcd's begins alike.
fn env_text(lines: &[(&str, String)]) -> Result<String, Unwritable> {
    let file = lines.iter().fold(EnvText::new(), |file, (name, value)| {
        file.set(&format!("{PREFIX}{name}"), value)
    });
    file.text()
}

/// For `etcdctl`.
pub(super) fn client_env(file: EnvText) -> EnvText {
    let purpose = CertPurpose::EtcdClient;
    file.set("ETCDCTL_API", "3")
        .set("ETCDCTL_ENDPOINTS", &format!("https://127.0.0.1:{ETCD}"))
        .set("ETCDCTL_CACERT", &layout::ca(purpose))
        .set("ETCDCTL_CERT", &layout::cert(purpose))
        .set("ETCDCTL_KEY", &layout::key(purpose))
}

#[cfg(test)]
mod tests {
    mod begins;

    use super::super::samples;
    use super::*;
    use crate::model::{Assignment, Generation, PhaseId, SPEC_SCHEMA, Spec, StackRef};
    use crate::nodelet::phase::EtcdOf;
    use crate::nodelet::step::UnitStep;

    fn unit_of(ctx: &PhaseContext) -> UnitStep {
        let steps = start(ctx).expect("steps");
        let unit = steps.into_iter().find_map(|step| match step {
            Step::Unit(unit) => Some(unit),
            _ => None,
        });
        unit.expect("a unit")
    }

    /// Its program, its trial and the look at its data are of the stack that it is of; the rest is not.
    #[test]
    fn etcd_may_be_of_another_stack_than_the_node() {
        let mut ctx = samples::master("1.36.3");
        let own = unit_of(&ctx);
        let other = samples::master("1.37.2");
        let stack = StackRef {
            version: "1.37.2-1".into(),
            ..ctx.node.stack.clone()
        };
        let content = other.manifest.expect("a stack");
        ctx.etcd_of = Some(EtcdOf::of(stack.clone(), &content));
        assert_ne!(unit_of(&ctx).inputs, own.inputs, "it is started again");
        let trial = trial(&ctx);
        let path = format!("{}/{}/bin/etcd", paths::STACKS, stack.dir_name());
        assert_eq!((trial.path, trial.bytes), (path, ctx.etcd_of().program));
        let steps = super::super::steps(PhaseId::Stack, &ctx).expect("steps");
        let linked = |step: &Step| matches!(step, Step::EtcdStack { stack: s } if *s == stack);
        assert!(steps.iter().any(linked));
        let wants = steps.iter().find_map(|step| match step {
            Step::EtcdDataReady { stack, wants } => Some((stack.clone(), wants.to_string())),
            _ => None,
        });
        assert_eq!(wants, Some((stack, "3.7.3".into())));
        let active = Step::Stack {
            stack: ctx.node.stack.clone(),
        };
        assert!(steps.contains(&active), "the node stays what it is");
    }

    /// The one that a cluster comes from has no gates, and the one that it goes to no such setting.
    #[test]
    fn each_etcd_is_told_to_compare_its_data_in_its_own_words() {
        let mut ctx = samples::master("1.36.3");
        for (etcd, told) in [
            ("3.5.35", "ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK=true"),
            ("3.6.16", "ETCD_FEATURE_GATES=InitialCorruptCheck=true"),
            ("3.7.3", "ETCD_FEATURE_GATES=InitialCorruptCheck=true"),
        ] {
            let manifest = ctx.manifest.as_mut().expect("a stack");
            let mut parts = manifest.components.iter_mut();
            let part = parts.find(|c| c.name == "etcd").expect("etcd");
            part.version = etcd.into();
            let text = env(&ctx).expect("settings");
            let check: Vec<&str> = text
                .lines()
                .filter(|l| l.to_lowercase().contains("corrupt"))
                .map(str::trim)
                .collect();
            assert_eq!(check, [told], "etcd {etcd}");
        }
    }

    #[test]
    fn certificates_of_removed_masters_are_refused_and_their_connections_end() {
        let mut ctx = samples::master("1.37.2");
        let before = unit_of(&ctx);
        assert!(!env(&ctx).expect("settings").contains("CRL"));
        ctx.node.etcd.revoked = Some(samples::revoked());
        let settings = env(&ctx).expect("settings");
        for listener in ["CLIENT", "PEER"] {
            let line = format!("ETCD_{listener}_CRL_FILE={}\n", layout::ETCD_REVOKED);
            assert!(settings.contains(&line), "{settings}");
        }
        let list = configure(&ctx)
            .expect("steps")
            .into_iter()
            .find_map(|step| match step {
                Step::File(f) if f.path == layout::ETCD_REVOKED => Some(f),
                _ => None,
            });
        assert_eq!(
            list.expect("the list").bytes().as_deref(),
            Some(&[1, 0xff, 0xfe][..])
        );
        let with_list = unit_of(&ctx);
        ctx.node.etcd.revoked = Some(samples::revoked().replace("Af/+", "AQID"));
        let with_more = unit_of(&ctx);
        assert!(before.inputs != with_list.inputs && with_list.inputs != with_more.inputs);
    }

    #[test]
    fn a_list_that_etcd_could_not_read_is_refused_with_the_spec() {
        let mut ctx = samples::master("1.37.2");
        for (list, good) in [
            (samples::revoked(), true),
            (samples::revoked().replace("Af/+", "?"), false),
            (samples::revoked().replace("Af/+", ""), false),
            (samples::pem("AQID"), false),
            (format!("{}x", samples::revoked()), false),
        ] {
            ctx.node.etcd.revoked = Some(list.clone());
            let spec = Spec {
                schema: SPEC_SCHEMA,
                host_id: ctx.host_id,
                generation: Generation(1),
                issued_at: ctx.now,
                assignment: Assignment::Master(Box::new(ctx.node.clone())),
                force: false,
                agent: None,
                maintenance: None,
            };
            let said = spec.validate(ctx.host_id);
            let named = |f: &crate::model::Fault| f.why.contains("etcd.revoked");
            assert_eq!(said.is_ok(), good, "{list}: {said:?}");
            assert!(said.is_ok() || said.is_err_and(|f| named(&f)));
        }
    }
}
