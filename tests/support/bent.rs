//! What each program of a node is asked before it is started, bent in one way: a flag, a feature gate and a key that it
//! does not have. Whoever runs one of these has to hear its name.

use pf9_hostagent::model::{Fault, FaultCode};
use pf9_hostagent::nodelet::step::TrialStep;

/// Programs of a master, in the order they start.
pub(crate) const OF_A_MASTER: [&str; 7] = [
    "containerd",
    "etcd",
    "kubelet",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
];

/// One thing is wrong in it.
#[derive(Debug)]
pub(crate) struct Bent {
    /// The question.
    pub(crate) trial: TrialStep,
    /// What the refusal says of it.
    pub(crate) words: &'static str,
}

/// A wrong flag, a wrong gate (containerd has none) and a lost key.
pub(crate) fn each_way(trial: &TrialStep) -> Vec<Bent> {
    [flag(trial), gate(trial), key(trial)]
        .into_iter()
        .flatten()
        .collect()
}

fn flag(trial: &TrialStep) -> Option<Bent> {
    let mut trial = trial.clone();
    trial.args.push("--no-such-flag=1".into());
    let words = match trial.program.as_str() {
        "containerd" => "flag provided but not defined: -no-such-flag",
        _ => "it knows no flag --no-such-flag",
    };
    Some(Bent { trial, words })
}

fn gate(trial: &TrialStep) -> Option<Bent> {
    let mut trial = trial.clone();
    match trial.program.as_str() {
        "containerd" => return None,
        "etcd" => {
            let (name, value) = ("ETCD_FEATURE_GATES", "NoSuchGate=true");
            trial.env.insert(name.into(), value.into());
        }
        "kubelet" | "kube-proxy" => add(
            &mut trial,
            "config.yaml",
            "featureGates:\n  NoSuchGate: true\n",
        ),
        _ => trial.args.push("--feature-gates=NoSuchGate=true".into()),
    }
    let words = "it knows no feature gate NoSuchGate";
    Some(Bent { trial, words })
}

fn key(trial: &TrialStep) -> Option<Bent> {
    let mut trial = trial.clone();
    let words = match trial.program.as_str() {
        "containerd" => {
            let config = trial.files.get_mut("config.toml")?;
            *config = config.replace("bin_dirs", "bin_dirz");
            ".cni.bin_dirz is dropped"
        }
        "etcd" => {
            trial.env.insert("ETCD_NO_SUCH_KEY".into(), "1".into());
            "it would ignore ETCD_NO_SUCH_KEY"
        }
        // It has no file: a value that is gone stands for it.
        "kube-controller-manager" => {
            trial.args.push("--controllers=no-such-controller".into());
            "\"no-such-controller\" is not in the list of known controllers"
        }
        program => {
            let file = match program {
                "kube-apiserver" => "authorization.yaml",
                _ => "config.yaml",
            };
            add(&mut trial, file, "noSuchKey: 1\n");
            "it would ignore \"noSuchKey\""
        }
    };
    Some(Bent { trial, words })
}

/// One more line of a file that is a map.
fn add(trial: &mut TrialStep, file: &str, line: &str) {
    let text = trial
        .files
        .get_mut(file)
        .expect("the program has this file");
    text.push_str(line);
}

/// It was refused for what is wrong in it, in one line, and nothing came of it.
pub(crate) fn is_named(bent: &Bent, said: Result<(), Fault>) -> Result<(), String> {
    let Bent { trial, words } = bent;
    let program = &trial.program;
    let Err(fault) = said else {
        return Err(format!("{program} takes it, and should say {words:?}"));
    };
    let named = fault.code == FaultCode::ConfigRefused
        && fault.what.contains(program.as_str())
        && fault.what.contains("nothing was changed")
        && fault.why.contains(words)
        && !fault.why.contains('\n')
        && !fault.fix.is_empty();
    if named {
        println!("{program}: {}", fault.why);
        return Ok(());
    }
    Err(format!("{program} should say {words:?}: {fault}"))
}
