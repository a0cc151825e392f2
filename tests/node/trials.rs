//! Programs of a running node, asked on it about its own configuration, bent in one way each: a flag, a gate, a key.
//! What they are asked is what nodelet would ask, by the node's ledger and stack; who judges is nodelet's own judge.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use pf9_hostagent::host::Host;
use pf9_hostagent::host::exec::{ProgramEnd, ProgramOutput};
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::model::{PhaseId, Role, Timestamp};
use pf9_hostagent::nodelet::ledger::LedgerFile;
use pf9_hostagent::nodelet::phase::PhaseContext;
use pf9_hostagent::nodelet::step::trial::TRIAL_ROOT;
use pf9_hostagent::nodelet::step::{Step, TrialStep};
use pf9_hostagent::nodelet::{context, inbox, phase, trial};
use pf9_hostagent::stack::image;

use crate::bent;
use crate::demo::{Outcome, machine_dir, shell};

/// Where they are asked, on the machine.
const ROOT: &str = "/root/bent";

/// Each program of the node takes what it has, and refuses by name what it does not know.
pub(crate) fn name_what_they_do_not_know(node: &str) -> Outcome {
    let trials = trials(node)?;
    let names: Vec<&str> = trials.iter().map(|t| t.program.as_str()).collect();
    let all = match names.contains(&"etcd") {
        true => &bent::OF_A_MASTER[..],
        false => &["containerd", "kubelet", "kube-proxy"],
    };
    assert_eq!(names, all, "{node}");
    for trial in &trials {
        asked(node, trial)?.map_err(|fault| format!("{node}: {fault}"))?;
        for bent in bent::each_way(trial) {
            let said = asked(node, &bent.trial)?;
            bent::is_named(&bent, said).map_err(|why| format!("{node}: {why}"))?;
        }
    }
    shell(node, &format!("rm -r {ROOT}")).map(drop)
}

/// What nodelet's phases are made from there.
pub(crate) fn context_of(node: &str) -> Outcome<PhaseContext> {
    let root = machine_dir(node).join("root");
    let view = tempfile::tempdir().map_err(|e| e.to_string())?;
    // The kernel is the same one; what it shows is not among the machine's files.
    let links = ["etc", "opt", "usr", "var"].map(|dir| (dir, root.join(dir)));
    let kernel = ["proc", "sys"].map(|dir| (dir, Path::new("/").join(dir)));
    for (dir, to) in links.into_iter().chain(kernel) {
        std::os::unix::fs::symlink(to, view.path().join(dir)).map_err(|e| e.to_string())?;
    }
    let host = Host::new(HostFs::new(view.path()));
    let (trust, host_id) = inbox::trust_anchors(&host.fs).map_err(|e| e.to_string())?;
    let ledger = LedgerFile::look(&host.fs).ledger;
    let now = ledger
        .installed
        .ok_or(format!("{node}: nothing is installed"))?;
    let seen = context::gather(
        &host,
        &trust,
        host_id,
        now.role,
        &now.node,
        None,
        Timestamp::now(),
    );
    let (ctx, _) = seen.map_err(|e| e.to_string())?;
    assert_ne!(ctx.role, Role::None, "{node}");
    Ok(ctx)
}

/// What nodelet would ask there.
fn trials(node: &str) -> Outcome<Vec<TrialStep>> {
    let ctx = context_of(node)?;
    let steps = phase::steps(PhaseId::Stack, &ctx).map_err(|wait| wait.what)?;
    let tried = steps.into_iter().filter_map(|step| match step {
        Step::Tried(trial) => Some(trial),
        _ => None,
    });
    Ok(tried.collect())
}

/// Runs it on the machine, as nodelet does; the verdict.
fn asked(node: &str, trial: &TrialStep) -> Outcome<Result<(), pf9_hostagent::model::Fault>> {
    let here = machine_dir(node).join("root").join(&ROOT[1..]);
    let at = |text: &str| text.replace(TRIAL_ROOT, ROOT);
    let say = |e: std::io::Error| format!("{}: {e}", here.display());
    if here.exists() {
        fs::remove_dir_all(&here).map_err(say)?;
    }
    fs::create_dir(&here).map_err(say)?;
    for (name, text) in &trial.files {
        let path = here.join(name);
        fs::create_dir_all(path.parent().ok_or("a root")?).map_err(say)?;
        fs::write(path, at(text)).map_err(say)?;
    }
    let program = match &trial.inside {
        Some(inside) => {
            let archive = machine_dir(node).join("root").join(&trial.path[1..]);
            image::take_out(&archive, inside, &here.join("program")).map_err(say)?;
            format!("{ROOT}/program")
        }
        None => trial.path.clone(),
    };
    let mut script = "cd / && env -i".to_owned();
    let variables = trial
        .env
        .iter()
        .map(|(name, value)| format!("{name}={}", at(value)));
    let words = variables
        .chain([program])
        .chain(trial.args.iter().map(|a| at(a)));
    for word in words {
        // Writing to a text cannot fail.
        write!(script, " '{}'", word.replace('\'', "'\\''")).map_err(|e| e.to_string())?;
    }
    script.push_str(&format!(" >{ROOT}/stdout 2>{ROOT}/stderr; echo $?"));
    let code = shell(node, &script)?;
    let read = |name: &str| fs::read_to_string(here.join(name)).map_err(say);
    let said = ProgramOutput {
        ended: ProgramEnd::Code(code.trim().parse().map_err(|e| format!("{code:?}: {e}"))?),
        stdout: read("stdout")?,
        stderr: read("stderr")?,
    };
    Ok(trial::verdict(trial, &said))
}
