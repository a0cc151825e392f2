//! A support bundle for the plane.
//!
//! Not made in this process: `pf9ctl bundle` makes it, as it does for a person, in a unit of its own that ends with it.
//! It goes from there to the plane as it comes, by comms' socket: nothing of it is written to a disk of this host, and
//! nodelet sees none of it. Asked for is nothing but how much, and for whom it is sealed.

use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use super::act::failed;
use crate::app::Config;
use crate::host::exec::{self, Cmd, Ended};
use crate::host::fs::{Found, HostFs};
use crate::host::ours::units;
use crate::host::rooted;
use crate::model::{Fault, FaultCode, Outcome, paths};
use crate::telemetry::chain;

/// The setting that says yes.
pub(super) const CONSENT: &str = "support.bundle_on_request";
/// How long the end is waited for: less than who asks does. One that takes longer goes on.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Longest that one may take, a slow line included.
const RUN_MAX_S: u32 = 1800;
/// The program itself needs 32 MiB at most; journalctl, which it calls, as much again.
const MEMORY_MIB: u32 = 64;
/// What the program says of it when it ended, and words of an error.
const ANSWER_MAX: usize = 64 * 1024;
/// Of an error.
const WORDS_MAX: usize = 600;

/// What is asked for.
pub(super) struct Order<'a> {
    /// The operation's: the plane knows the bundle by it.
    pub(super) id: Uuid,
    pub(super) since_s: u32,
    pub(super) max_bytes: u64,
    pub(super) seal_for: &'a str,
}

/// What the program says at its end.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Made(Made),
    Failed { fault: Fault },
}

/// Of one that is with the plane.
#[derive(Deserialize)]
struct Made {
    bytes: u64,
    files: u64,
    redactions: u64,
    left_out: Vec<String>,
}

/// Whether root of this host agreed. Read anew each time: what is taken back counts at once. A configuration that is
/// wrong, or that others than root could have written, agrees to nothing.
pub(super) fn consent(fs: &HostFs) -> Result<(), Fault> {
    let what = "operation refused";
    let config = Config::load(fs)?;
    if !config.support.bundle_on_request {
        let why = format!(
            "the operator of this host has not agreed that the plane may have support bundles of it ({CONSENT} is false)"
        );
        return Err(Fault::new(FaultCode::OperationNotAllowed, what, why).fix(format!(
            "root of the host agrees with pf9ctl config set {CONSENT} true, or makes one himself: pf9ctl bundle"
        )));
    }
    let mut files = vec![paths::CONFIG.to_owned(), paths::CONFIG_DIR.to_owned()];
    let below = fs.list(paths::CONFIG_DIR).unwrap_or_default();
    files.extend(below.iter().map(|n| format!("{}/{n}", paths::CONFIG_DIR)));
    for path in files {
        if matches!(fs.found(&path), Ok(Found::Nothing)) {
            continue;
        }
        if let Some(why) = rooted::fault(fs, &path) {
            return Err(Fault::new(FaultCode::OperationNotAllowed, what, why)
                .fix("root of the host: see who wrote that it is agreed to, then chmod go-w"));
        }
    }
    Ok(())
}

/// Has one made and sent.
pub(super) async fn make(fs: &HostFs, order: &Order<'_>) -> Outcome {
    let what = "no support bundle was sent";
    let cmd = Cmd::new(exec::program(fs, "systemd-run"), WAIT_MAX)
        .keeps(ANSWER_MAX)
        .args(unit())
        .arg("--")
        .arg(fs.at(format!("{}/bin/pf9ctl", paths::AGENT_CURRENT)))
        .args(words(order));
    let answer = match exec::ask(cmd).await {
        Ok(answer) => answer,
        Err(e) => return failed(what, chain(&e)),
    };
    let said = cut(answer.stderr.trim());
    match (answer.ended, serde_json::from_str(&answer.stdout)) {
        (Ended::Code(0), Ok(Said::Made(made))) => Outcome::done(made.words()),
        (Ended::Code(0), _) => Outcome::done("a support bundle is with the plane"),
        (Ended::Code(_), Ok(Said::Failed { fault })) => failed(what, cut(&fault.to_string())),
        (Ended::Code(code), _) => failed(
            what,
            format!("pf9ctl bundle ended with code {code}: {said}"),
        ),
        (Ended::Signal(signal), _) => failed(
            what,
            format!(
                "pf9ctl bundle was ended by signal {signal} (it may have {MEMORY_MIB} MiB and {RUN_MAX_S} s): {said}"
            ),
        ),
        (Ended::Late, _) => Outcome::done(format!(
            "it takes longer than {} s and goes on; the plane's list shows when it is there",
            WAIT_MAX.as_secs()
        )),
    }
}

fn cut(words: &str) -> String {
    words.chars().take(WORDS_MAX).collect()
}

impl Made {
    fn words(&self) -> String {
        let left_out = match self.left_out.len() {
            0 => String::new(),
            n => format!(", {n} not in it or not whole"),
        };
        format!(
            "a support bundle of {} bytes is with the plane: {} files{left_out}, {} places taken out",
            self.bytes, self.files, self.redactions
        )
    }
}

fn words(order: &Order<'_>) -> Vec<String> {
    vec![
        "bundle".to_owned(),
        "--json".to_owned(),
        format!("--to-plane={}", order.id),
        format!("--encrypt-to={}", order.seal_for),
        format!("--since={}s", order.since_s),
        format!("--max-size={}K", order.max_bytes >> 10),
    ]
}

/// What `systemd-run` is told. It works behind everything else of the machine, and is the first to go.
fn unit() -> Vec<String> {
    let (run_max, memory) = (
        format!("RuntimeMaxSec={RUN_MAX_S}"),
        format!("MemoryMax={MEMORY_MIB}M"),
    );
    let properties = [
        run_max.as_str(),
        memory.as_str(),
        "MemorySwapMax=0",
        "TasksMax=64",
        "CPUWeight=10",
        "IOWeight=10",
        "Nice=10",
        "OOMScoreAdjust=900",
        "TimeoutStopSec=5",
        "LimitCORE=0",
        "NoNewPrivileges=yes",
        "UMask=0077",
    ];
    let mut all: Vec<String> = [
        "--quiet",
        "--wait",
        "--collect",
        "--pipe",
        "--service-type=exec",
    ]
    .map(str::to_owned)
    .to_vec();
    // A second one cannot begin beside it.
    all.push(format!("--unit={}", units::BUNDLE));
    for property in properties {
        all.push("-p".to_owned());
        all.push(property.to_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    fn host() -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        (dir, fs)
    }

    fn put(fs: &HostFs, path: &str, text: &str, mode: u32) {
        fs.write(path, text.as_bytes(), &Attrs::mode(mode))
            .expect("write");
    }

    #[test]
    fn nobody_has_agreed_before_he_did_and_what_others_wrote_agrees_to_nothing() {
        let (_dir, fs) = host();
        let fault = consent(&fs).expect_err("no configuration");
        assert_eq!(fault.code, FaultCode::OperationNotAllowed);
        assert!(fault.why.contains("has not agreed"), "{fault}");
        assert!(fault.fix.contains(CONSENT), "{fault}");
        put(&fs, paths::CONFIG, "[log]\nlevel = \"info\"\n", 0o644);
        consent(&fs).expect_err("it says nothing of it");
        let yes = "[support]\nbundle_on_request = true\n";
        put(&fs, "/etc/pf9/conf.d/60-pf9ctl.toml", yes, 0o644);
        consent(&fs).expect("he did");
        put(
            &fs,
            "/etc/pf9/conf.d/70-no.toml",
            "[support]\nbundle_on_request = false\n",
            0o644,
        );
        consent(&fs).expect_err("taken back");
        put(
            &fs,
            "/etc/pf9/conf.d/70-no.toml",
            "[support]\nbundle_on_request = 1\n",
            0o644,
        );
        assert_eq!(
            consent(&fs).expect_err("wrong").code,
            FaultCode::ConfigInvalid
        );
        put(&fs, "/etc/pf9/conf.d/70-no.toml", "", 0o644);
        for (path, mode) in [
            (paths::CONFIG_DIR, 0o777),
            (paths::CONFIG, 0o666),
            ("/etc/pf9/conf.d/60-pf9ctl.toml", 0o666),
        ] {
            let at = fs.at(path);
            let before = std::fs::metadata(&at).expect("there").permissions();
            let open = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&at, open).expect("mode");
            let fault = consent(&fs).expect_err(path);
            assert!(fault.why.contains("written by others"), "{fault}");
            std::fs::set_permissions(&at, before).expect("mode");
        }
        consent(&fs).expect("as before");
    }
}
