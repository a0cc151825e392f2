//! The fleet's agents go to another version, ordered by the plane through their tunnels; one that exits immediately and
//! one that hangs roll back on their own and stop the fleet, and so does one whose machine loses power. In between an older
//! and a newer package are installed by hand.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::demo::{
    NODES, Outcome, agent_is_ok, demo, eventually, kubectl, machine_dir, plane,
    ready_through_plane, shell, state, up,
};

/// The same programs, built with another version number.
const GOOD: &str = "0.1.1";
/// Exits immediately, and hangs.
const ENDS: &str = "0.1.2";
const HANGS: &str = "0.1.3";
const CUT_OFF: &str = "0.1.4";
/// A package is fetched, a sweep of a master, and programs are restarted.
const PROVEN: Duration = Duration::from_secs(240);
const PROVE_S: &str = "60";
/// The longest time that the node may be unreachable through the tunnel.
const GAP: Duration = Duration::from_secs(5);
/// Units whose processes the agent's upgrade must not touch.
const OTHERS: &str = "pf9-kubelet pf9-containerd pf9-etcd pf9-kube-proxy";

#[test]
fn l_the_agent_goes_to_another_version_and_bad_ones_come_back() -> Outcome {
    up()?;
    let from = said(&shell(NODES[0], "pf9ctl --version")?)?;
    let others = NODES.map(|node| runs(node, OTHERS));
    let good = package(GOOD)?;
    // The present version as well: it is what they roll back to.
    let present = only_deb(&state().join("package"))?;
    import(&present, &from)?;
    import(&good, GOOD)?;
    let asking = Asking::start();
    order(GOOD, "100%")?;
    eventually("the fleet is done", PROVEN, || {
        fleet("done", |host| {
            host["stand"] == "done" && host["runs"] == GOOD
        })
    })?;
    let gap = asking.longest()?;
    println!(
        "the longest that the node could not be reached: {:.1} s",
        gap.as_secs_f32()
    );
    if gap >= GAP {
        return Err(format!("the node could not be reached for {gap:?}"));
    }
    for node in NODES {
        eventually("installed", PROVEN, || installed(node, GOOD))?;
    }
    if NODES.map(|node| runs(node, OTHERS)) != others {
        return Err("something else than the agent was started again".into());
    }
    by_hand(
        NODES[0],
        [(present.as_path(), from.as_str()), (good.as_path(), GOOD)],
    )?;
    for (version, does) in [(ENDS, "exit 1"), (HANGS, "exec sleep infinity")] {
        stops_the_fleet(&broken(&good, version, does)?, version)?;
    }
    power_cut(&broken(&good, CUT_OFF, "exec sleep infinity")?)?;
    if said(&shell(NODES[0], "pf9ctl --version")?)? == from {
        return Err("it is not the other version that runs".into());
    }
    demo(&["down"]).map(drop)
}

/// What a person sets, and whether a unit begins at boot; who the host is.
const KEPT: &str = "cat /etc/pf9/host_id.conf; sha256sum /etc/pf9/hostagent.toml; \
                    systemctl is-enabled pf9-comms.service pf9-hostagent.service pf9-nodeletd.socket || :";

/// `dpkg -i` of these, one after the other: the host remains who it is, with what a person changed on it, and is hardly
/// out of reach.
fn by_hand(node: &str, packages: [(&Path, &str); 2]) -> Outcome {
    shell(
        node,
        "cp -p /etc/pf9/hostagent.toml /root && printf '\n# by hand\n' >> /etc/pf9/hostagent.toml && \
         systemctl --quiet disable pf9-comms.service",
    )?;
    let (kept, others) = (shell(node, KEPT)?, runs(node, OTHERS)?);
    if !kept.contains("disabled") {
        return Err(format!("nothing that could be enabled again: {kept}"));
    }
    for (package, version) in packages {
        let there = machine_dir(node).join("root/root/by-hand.deb");
        std::fs::copy(package, there).map_err(|e| e.to_string())?;
        let asking = Asking::start();
        shell(node, "dpkg -i /root/by-hand.deb")?;
        eventually("Ready", PROVEN, || ready_through_plane(node))?;
        eventually("well", PROVEN, || agent_is_ok(node))?;
        let gap = asking.longest()?;
        println!(
            "{version} by hand: {:.1} s out of reach at most",
            gap.as_secs_f32()
        );
        let runs_now = said(&shell(node, "pf9ctl --version")?)?;
        if runs_now != version || gap >= GAP {
            return Err(format!("{version}: {runs_now} runs; {gap:?} out of reach"));
        }
        let now = (shell(node, KEPT)?, runs(node, OTHERS)?);
        if now != (kept.clone(), others.clone()) {
            return Err(format!("{version}: {now:?}, not {kept:?}, {others:?}"));
        }
    }
    shell(
        node,
        "mv /root/hostagent.toml /etc/pf9/ && systemctl --quiet enable pf9-comms.service && rm /root/by-hand.deb",
    )?;
    installed(node, GOOD)
}

/// One host tries it and rolls back, and no other gets the order.
fn stops_the_fleet(bad: &Path, version: &str) -> Outcome {
    import(bad, version)?;
    order(version, "1")?;
    eventually(&format!("{version} stops the fleet"), PROVEN, || {
        fleet("stopped", |host| {
            let failed = host["stand"] == "failed" && host["said"] == "put-back";
            (failed || host["stand"] == "waiting") && host["runs"] == GOOD
        })
    })?;
    let failed = first("failed")?;
    is(&failed, "put-back", version, GOOD)?;
    for node in NODES {
        eventually("well", PROVEN, || agent_is_ok(node))?;
        installed(node, GOOD)?;
    }
    plane(&["agent", "upgrade", "cancel"]).map(drop)
}

/// In the middle of a trial.
fn power_cut(bad: &Path) -> Outcome {
    import(bad, CUT_OFF)?;
    order(CUT_OFF, "1")?;
    let mut node = String::new();
    eventually("tried", PROVEN, || {
        node = first("told")?;
        is(&node, "proving", CUT_OFF, GOOD)
    })?;
    demo(&["crash", &node])?;
    eventually("back after the power cut", PROVEN, || {
        let links = shell(
            &node,
            "readlink /opt/pf9/agent/current /opt/pf9/agent/last-good",
        )?;
        match links.split_whitespace().all(|l| l == GOOD) {
            true => Ok(()),
            false => Err(links),
        }
    })?;
    eventually("Ready", PROVEN, || ready_through_plane(&node))
}

/// Imports a package into the plane.
fn import(package: &Path, version: &str) -> Outcome {
    let said = plane(&["agent", "import", &package.to_string_lossy()])?;
    match said.starts_with(&format!("{version} deb ")) {
        true => Ok(()),
        false => Err(said),
    }
}

/// Orders this version for the whole fleet, this many hosts at a time.
fn order(version: &str, at_a_time: &str) -> Outcome {
    let words = ["agent", "upgrade", "--to", version, "--percent", "100"];
    let how = ["--max-unavailable", at_a_time, "--prove", PROVE_S];
    plane(&[&words[..], &how[..]].concat()).map(drop)
}

/// The fleet's progress, as the plane shows it.
fn status() -> Outcome<Value> {
    let text = plane(&["agent", "upgrade", "status", "--json"])?;
    let answer: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    Ok(answer["upgrade"].clone())
}

/// It is in this state, and so is each host.
fn fleet(state: &str, each: impl Fn(&Value) -> bool) -> Outcome {
    let upgrade = status()?;
    let hosts = upgrade["hosts"].as_array().ok_or("no hosts")?;
    let all = hosts.len() == NODES.len() && hosts.iter().all(each);
    match upgrade["state"] == state && all {
        true => Ok(()),
        false => Err(upgrade.to_string()),
    }
}

/// The first host in this state.
fn first(stand: &str) -> Outcome<String> {
    let upgrade = status()?;
    let mut hosts = upgrade["hosts"].as_array().into_iter().flatten();
    let found = hosts.find(|host| host["stand"] == stand);
    let name = found.and_then(|host| host["name"].as_str());
    name.map(str::to_owned)
        .ok_or_else(|| format!("nobody is {stand}: {upgrade}"))
}

/// `pf9-hostagent_0.1.1-1_amd64.deb` with the programs of this checkout, built again beside those of the demo.
fn package(version: &str) -> Outcome<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("target");
    let other = target.join("other-version");
    let dir = state().join("other-version");
    // What was compiled for the demo need not be compiled again, except the last crate.
    let script = format!(
        "set -e; mkdir -p {other}; [ -d {other}/release ] || cp -a {target}/release {other}/; cd {root}; \
         scripts/package --deb-only {dir}",
        other = other.display(),
        target = target.display(),
        root = root.display(),
        dir = dir.display()
    );
    let out = Command::new("sh")
        .args(["-c", &script])
        .env("PF9_AGENT_VERSION", version)
        .env("CARGO_TARGET_DIR", &other)
        .output()
        .map_err(|e| e.to_string())?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    only_deb(&dir)
}

fn only_deb(dir: &Path) -> Outcome<PathBuf> {
    let entries = std::fs::read_dir(dir).map_err(|e| e.to_string())?;
    let debs = entries.filter_map(|e| e.ok().map(|e| e.path()));
    let found = debs
        .into_iter()
        .find(|p| p.extension().is_some_and(|e| e == "deb"));
    found.ok_or_else(|| format!("no package in {}", dir.display()))
}

/// The package with a comms that answers the trial's questions, and then does this.
fn broken(good: &Path, version: &str, does: &str) -> Outcome<PathBuf> {
    let dir = state().join(format!("broken-{version}"));
    // Called by its links, as ours is.
    let program = format!(
        "#!/bin/sh\nname=${{0##*/}}\ncase \"$1\" in --version) echo $name {version}; exit ;; --check-config) exit ;; esac\n\
         case $name in pf9-comms) {does} ;; *) exec /opt/pf9/agent/{GOOD}/bin/$name \"$@\" ;; esac\n"
    );
    let mut script = format!(
        "set -e; rm -rf {dir}; mkdir {dir}; dpkg-deb -R {good} {dir}/tree; cd {dir}/tree; \
         mv opt/pf9/agent/{GOOD} opt/pf9/agent/{version}; \
         sed -i 's/^Version: .*/Version: {version}-1/' DEBIAN/control; sed -i 's/{GOOD}/{version}/g' DEBIAN/postinst DEBIAN/preinst\n",
        dir = dir.display(),
        good = good.display()
    );
    let at = format!("opt/pf9/agent/{version}/bin/pf9-agent");
    script += &format!("cat > {at} <<'PROGRAM'\n{program}PROGRAM\n");
    script += &format!(
        "dpkg-deb --root-owner-group -Zzstd --build . {}/x.deb\n",
        dir.display()
    );
    let out = Command::new("sh")
        .args(["-c", &script])
        .output()
        .map_err(|e| e.to_string())?;
    match out.status.success() {
        true => Ok(dir.join("x.deb")),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
    }
}

/// Its stage, and the last proven version; in the words of `pf9ctl status`.
fn is(node: &str, stage: &str, wanted: &str, last_good: &str) -> Outcome {
    let text = shell(
        node,
        "/opt/pf9/agent/last-good/bin/pf9ctl status --json || :",
    )?;
    let status: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let change = &status["change"];
    let as_wanted =
        change["stage"] == stage && change["wanted"] == wanted && change["last_good"] == last_good;
    if as_wanted {
        Ok(())
    } else {
        Err(change.to_string())
    }
}

/// The package manager has this version completely installed, and every file is intact.
fn installed(node: &str, version: &str) -> Outcome {
    shell(node, "systemctl start pf9-agent-switch.service")?;
    let has = shell(
        node,
        "dpkg-query -W -f='${db:Status-Status} ${Version}' pf9-hostagent",
    )?;
    let differs = shell(node, "dpkg -V pf9-hostagent || :")?;
    let links = shell(
        node,
        "readlink /opt/pf9/agent/current /opt/pf9/agent/last-good",
    )?;
    let same = links.split_whitespace().all(|l| l == version);
    let trial = shell(node, "ls /run/systemd/system/pf9-* 2>/dev/null || :")?;
    if has == format!("installed {version}-1")
        && differs.trim().is_empty()
        && same
        && trial.trim().is_empty()
    {
        return Ok(());
    }
    Err(format!(
        "{has}; dpkg -V: {differs}; links: {links}; trial: {trial}"
    ))
}

/// The process of each unit.
fn runs(node: &str, units: &str) -> Outcome<String> {
    shell(
        node,
        &format!("systemctl show -p Id -p InvocationID -p MainPID {units}"),
    )
}

/// The second word.
fn said(text: &str) -> Outcome<String> {
    text.split_whitespace()
        .nth(1)
        .map(str::to_owned)
        .ok_or_else(|| format!("it says {text}"))
}

/// A client that calls the node's API through the plane and its tunnel, repeatedly.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Duration>,
}

impl Asking {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !ends.load(Ordering::Relaxed) {
                if kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"]).is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            longest.max(last.elapsed())
        });
        Self { stop, thread }
    }

    fn longest(self) -> Outcome<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| "who asks has died".to_owned())
    }
}
