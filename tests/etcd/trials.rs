//! Every program of a master, of each minor that is built, asked about the configuration that it gets here: what it takes,
//! and that a wrong flag, gate and key are named in one line. (`tests/node` asks the same on a machine that runs them.)

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use pf9_hostagent::model::{PhaseId, paths};
use pf9_hostagent::nodelet::phase;
use pf9_hostagent::nodelet::step::{Step, TrialStep};
use pf9_hostagent::nodelet::trial;

use crate::bent;
use crate::lab::{Lab, Node, Programs};
use crate::runtime;

const MATRIX: &str = include_str!("../../src/stack/matrix.toml");
/// All trials of a node take so long at most, by a processor's clock: what else a machine does is not theirs.
const WITHIN: Duration = Duration::from_secs(2);

/// Of each minor the stack that its name means: Kubernetes, containerd, etcd.
fn stacks() -> Vec<[String; 3]> {
    let matrix: toml::Table = MATRIX.parse().expect("the matrix");
    let stacks = matrix["stack"].as_array().expect("stacks");
    let mut found: Vec<[String; 3]> = Vec::new();
    for stack in stacks {
        let of = ["kubernetes", "containerd", "etcd"].map(|part| {
            let version = stack[part].as_str().expect("a version");
            version.to_owned()
        });
        let minor = |version: &str| version.rsplit_once('.').map(|(minor, _)| minor.to_owned());
        if !found.iter().any(|f| minor(&f[0]) == minor(&of[0])) {
            found.push(of);
        }
    }
    found
}

/// An image's archive, as far as its program goes.
fn image(program: &Path, to: &Path) {
    let name = program.file_name().expect("a name").to_string_lossy();
    let layer = tempfile::NamedTempFile::new().expect("file");
    let mut tar = tar::Builder::new(layer.as_file());
    let inside = format!("usr/local/bin/{name}");
    tar.append_path_with_name(program, inside).expect("layer");
    tar.into_inner().expect("layer").flush().expect("layer");
    let mut tar = tar::Builder::new(File::create(to).expect("archive"));
    tar.append_path_with_name(layer.path(), "1/layer.tar")
        .expect("archive");
    tar.into_inner().expect("archive").flush().expect("archive");
}

/// A machine that is to be a master with this stack, in what nodelet has of it in memory.
fn trials(node: &mut Node) -> Vec<TrialStep> {
    node.ctx.manifest.clone_from(&node.manifest);
    node.ctx.stack_at_hand = true;
    let steps = phase::steps(PhaseId::Stack, &node.ctx).expect("the stack is at hand");
    let tried = steps.into_iter().filter_map(|step| match step {
        Step::Tried(trial) => Some(trial),
        _ => None,
    });
    tried.collect()
}

fn used() -> Duration {
    let of = |who| {
        let usage = getrusage(who).expect("usage");
        let both = [usage.user_time(), usage.system_time()];
        both.map(|t| Duration::new(t.tv_sec() as u64, t.tv_usec() as u32 * 1000))
            .iter()
            .sum::<Duration>()
    };
    of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN)
}

#[test]
fn every_program_takes_what_it_gets_and_names_what_it_does_not_know() {
    let stacks = stacks();
    assert!(stacks.len() > 1, "one minor only");
    for [kubernetes, containerd, etcd] in &stacks {
        let bin = tempfile::tempdir().expect("directory");
        let programs = Programs::linked(
            bin.path(),
            &[
                ("kubernetes", kubernetes),
                ("containerd", containerd),
                ("etcd", etcd),
            ],
        );
        let mut lab = Lab::with(&programs, 1);
        let manifest = runtime::manifest(kubernetes, containerd, etcd);
        let machine = runtime::machine(&mut lab, manifest);
        let images = machine.fs.at(format!("{}/images", paths::STACK_CURRENT));
        std::fs::create_dir_all(&images).expect("directory");
        let in_images = bent::OF_A_MASTER.iter().filter(|p| {
            matches!(
                **p,
                "kube-apiserver" | "kube-controller-manager" | "kube-scheduler"
            )
        });
        for name in in_images {
            image(&bin.path().join(name), &images.join(format!("{name}.tar")));
        }
        machine.inside(async |node| {
            let trials = trials(node);
            let names: Vec<&str> = trials.iter().map(|t| t.program.as_str()).collect();
            assert_eq!(names, bent::OF_A_MASTER);
            let (before, begun) = (used(), Instant::now());
            for trial in &trials {
                let said = trial::run(&node.host, trial).await;
                said.unwrap_or_else(|fault| panic!("Kubernetes {kubernetes}: {fault}"));
            }
            let took = used() - before;
            println!(
                "Kubernetes {kubernetes}: all tried in {took:?} of a processor, {:?} by the clock",
                begun.elapsed()
            );
            assert!(took < WITHIN, "{took:?}");
            for bent in trials.iter().flat_map(bent::each_way) {
                let said = trial::run(&node.host, &bent.trial).await;
                bent::is_named(&bent, said)
                    .unwrap_or_else(|why| panic!("Kubernetes {kubernetes}: {why}"));
            }
        });
    }
}

/// An etcd that a cluster comes from is told in its own words, and takes them.
#[test]
fn every_etcd_takes_what_it_gets() {
    let [kubernetes, containerd, _] = stacks().remove(0);
    for etcd in crate::lab::VERSIONS {
        let mut lab = Lab::new(etcd, 1);
        let manifest = runtime::manifest(&kubernetes, &containerd, etcd);
        let machine = runtime::machine(&mut lab, manifest);
        machine.inside(async |node| {
            let trials = trials(node);
            let own = trials.iter().find(|t| t.program == "etcd");
            let said = trial::run(&node.host, own.expect("etcd is tried")).await;
            said.unwrap_or_else(|fault| panic!("etcd {etcd}: {fault}"));
        });
    }
}
