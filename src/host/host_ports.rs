//! Ports of the machine that lead to pods: made by the CNI plugin `portmap` when a pod gets its network, and by nobody
//! again. A flush of the packet filter cuts such a pod off for as long as it lives; so the plugin is asked whether
//! its rules are there (`CHECK`), and to make them again (`ADD`), with what the runtime noted of each pod's network.
//!
//! ```text
//! /var/lib/cni/results/NETWORK-CONTAINER-INTERFACE ──► Mapped ──► portmap CHECK ──no──► portmap ADD
//! ```
//!
//! Asked is the plugin, not the packet filter: which rules, by which back end, only it knows.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::exec::{self, Cmd, ExecError, ProgramEnd};
use super::fs::{FsError, HostFs};

/// Where the runtime notes what networks pods were given; the CNI library's own place.
pub const RESULTS: &str = "/var/lib/cni/results";
/// The plugin's name, as a program and in a network's list.
const PORTMAP: &str = "portmap";
/// The chain that all its rules hang on.
const CHAIN: &str = "CNI-HOSTPORT-DNAT";
/// Most notes that are read: a kubelet has a few hundred pods, and each has two.
const NOTES_MAX: usize = 4096;
/// Longest note; the configuration and the result are a few KiB each.
const NOTE_MAX: u64 = 256 * 1024;
/// Most pods with ports of the machine that are asked about in one look; more are asked about never, and said nowhere:
/// their ports are no more than a node has.
const MAPPED_MAX: usize = 512;
/// It waits for others who change the packet filter.
const RUN: Duration = Duration::from_secs(30);

/// A pod with ports of the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapped {
    note: String,
    container: String,
    interface: String,
    netns: String,
    args: String,
    /// The plugin's command.
    config: Value,
}

/// What the CNI library notes of one interface of one pod.
#[derive(Deserialize)]
struct Note {
    kind: String,
    #[serde(rename = "containerId")]
    container: String,
    config: String,
    #[serde(rename = "ifName")]
    interface: String,
    #[serde(rename = "networkName")]
    network: String,
    #[serde(rename = "cniArgs", default)]
    args: Vec<(String, String)>,
    #[serde(rename = "capabilityArgs", default)]
    capabilities: Value,
    #[serde(default)]
    result: Value,
}

/// A network's list of plugins.
#[derive(Deserialize)]
struct List {
    #[serde(rename = "cniVersion")]
    version: String,
    plugins: Vec<Value>,
}

/// Pods of this network whose network is there and that have ports of the machine.
pub fn mapped(fs: &HostFs, network: &str) -> Result<Vec<Mapped>, FsError> {
    let mut all = Vec::new();
    for name in fs.list(RESULTS)?.into_iter().take(NOTES_MAX) {
        // Another network's, or one that is written or taken away just now: the next look sees it.
        let ours = name.starts_with(&format!("{network}-"));
        let text = match ours {
            true => fs
                .read_text(format!("{RESULTS}/{name}"), NOTE_MAX)
                .ok()
                .flatten(),
            false => None,
        };
        let mapped = text.and_then(|text| read(&name, &text, network));
        all.extend(mapped.filter(|m| fs.at(&m.netns).exists()));
        if all.len() >= MAPPED_MAX {
            break;
        }
    }
    Ok(all)
}

/// `None`: it has no ports of the machine, or is not what the library writes.
fn read(name: &str, text: &str, network: &str) -> Option<Mapped> {
    let note: Note = serde_json::from_str(text).ok()?;
    let ports = note.capabilities.get("portMappings")?.clone();
    let some = ports.as_array().is_some_and(|ports| !ports.is_empty());
    if note.kind != "cniCacheV1" || note.network != network || !some {
        return None;
    }
    let list: List = serde_json::from_slice(&BASE64.decode(note.config).ok()?).ok()?;
    let mut config = list.plugins.into_iter().find(|p| p["type"] == PORTMAP)?;
    let interfaces = note.result["interfaces"].as_array()?;
    let mut netns = interfaces.iter().filter_map(|i| i["sandbox"].as_str());
    let netns = netns.rfind(|path| !path.is_empty())?.to_owned();
    config["name"] = network.into();
    config["cniVersion"] = list.version.into();
    config["prevResult"] = note.result;
    config["runtimeConfig"] = json!({"portMappings": ports});
    let args = note
        .args
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    Some(Mapped {
        note: name.to_owned(),
        container: note.container,
        interface: note.interface,
        netns,
        args: args.collect::<Vec<_>>().join(";"),
        config,
    })
}

/// Those whose rules are not there; `plugins` is the directory of the plugins.
pub async fn lost(
    fs: &HostFs,
    network: &str,
    plugins: &str,
) -> Result<Vec<Mapped>, HostPortsError> {
    let mut lost = Vec::new();
    if !fs.at(format!("{plugins}/{PORTMAP}")).is_file() {
        return Ok(lost);
    }
    let pods = mapped(fs, network)?;
    // It does not look for the way to its chains itself, though it makes that, too.
    let all = !pods.is_empty() && !is_led_to(fs).await?;
    for pod in pods {
        if all || asked(fs, &pod, plugins, "CHECK").await?.is_some() {
            lost.push(pod);
        }
    }
    Ok(lost)
}

/// Whether what comes from outside gets to the plugin's chain, of each family that has it in iptables.
async fn is_led_to(fs: &HostFs) -> Result<bool, ExecError> {
    for tool in ["iptables", "ip6tables"] {
        let program = exec::program(fs, tool);
        if !program.is_file() {
            continue;
        }
        let said = exec::ask(Cmd::new(program, RUN).args(["-w", "10", "-t", "nat", "-S"])).await?;
        let made = said.stdout.lines().any(|l| l == format!("-N {CHAIN}"));
        let leads =
            |l: &str| l.starts_with("-A PREROUTING ") && l.ends_with(&format!("-j {CHAIN}"));
        if made && !said.stdout.lines().any(leads) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lets the plugin make the rules of these again. One whose pod went meanwhile takes its own away: the runtime has done
/// so already.
pub async fn put_back(fs: &HostFs, lost: &[Mapped], plugins: &str) -> Result<(), HostPortsError> {
    for pod in lost {
        let said = asked(fs, pod, plugins, "ADD").await?;
        let there = fs.at(format!("{RESULTS}/{}", pod.note)).exists();
        if !there {
            asked(fs, pod, plugins, "DEL").await?;
        } else if let Some(why) = said {
            let container = pod.container.clone();
            return Err(HostPortsError::Refused { container, why });
        }
    }
    Ok(())
}

/// Its complaint, if it has one.
async fn asked(
    fs: &HostFs,
    pod: &Mapped,
    plugins: &str,
    verb: &str,
) -> Result<Option<String>, ExecError> {
    let cmd = Cmd::new(fs.at(format!("{plugins}/{PORTMAP}")), RUN)
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &pod.container)
        .env("CNI_NETNS", &pod.netns)
        .env("CNI_IFNAME", &pod.interface)
        .env("CNI_ARGS", &pod.args)
        .env("CNI_PATH", fs.at(plugins))
        .stdin(pod.config.to_string().into_bytes());
    let said = exec::ask(cmd).await?;
    Ok(match said.ended {
        ProgramEnd::Code(0) => None,
        ProgramEnd::Code(_) | ProgramEnd::Signal(_) | ProgramEnd::Late => {
            Some(words(&said.stdout, &said.stderr))
        }
    })
}

/// A plugin says what is wrong as a document.
fn words(stdout: &str, stderr: &str) -> String {
    let said: Value = serde_json::from_str(stdout).unwrap_or_default();
    let msg = said["msg"].as_str().map(str::to_owned);
    let last = || stderr.lines().last().map(str::to_owned);
    let all = msg
        .or_else(last)
        .unwrap_or_else(|| "it says nothing".into());
    all.chars().take(300).collect()
}

/// Why rules could not be looked at or made.
#[derive(Debug, thiserror::Error)]
pub enum HostPortsError {
    /// The notes cannot be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The plugin cannot be run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// It says no.
    #[error("portmap does not create the ports of {container}: {why}")]
    Refused {
        /// The pod's sandbox.
        container: String,
        /// Its words.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    const PLUGINS: &str = "/opt/cni";

    fn note(fs: &HostFs, name: &str, edit: impl FnOnce(&mut Value)) {
        let list = json!({"cniVersion": "0.4.0", "name": "pf9", "plugins": [
            {"type": "bridge"},
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ]});
        let mut note = json!({
            "kind": "cniCacheV1", "containerId": "abc", "ifName": "eth0", "networkName": "pf9",
            "config": BASE64.encode(list.to_string()),
            "cniArgs": [["K8S_POD_NAME", "web"], ["IgnoreUnknown", "1"]],
            "capabilityArgs": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
            "result": {"cniVersion": "0.4.0", "interfaces": [
                {"name": "pf9cni0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
                "ips": [{"version": "4", "address": "10.20.0.2/24"}]},
        });
        edit(&mut note);
        put(fs, &format!("{RESULTS}/{name}"), &note.to_string(), 0o600);
    }

    fn put(fs: &HostFs, path: &str, text: &str, mode: u32) {
        fs.write(path, text.as_bytes(), &Attrs::mode(mode))
            .expect("write");
    }

    /// Has a file for a packet filter, and writes down what it is asked.
    fn plugin(fs: &HostFs) {
        let text = format!(
            "#!/bin/sh\ncd {}\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS\" >>asked\n\
             cat >\"told-$CNI_COMMAND\"\ncase $CNI_COMMAND in\nCHECK) [ -e rules ] || {{ echo '{{\"code\":100,\"msg\":\
             \"chain is missing\"}}'; exit 1; }} ;;\nADD) touch rules; [ ! -e goes ] || rm var/lib/cni/results/pf9-abc-eth0 ;;\n\
             DEL) rm -f rules ;;\nesac\n",
            fs.at("/").display()
        );
        put(fs, &format!("{PLUGINS}/portmap"), &text, 0o755);
    }

    fn machine() -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        put(&fs, "/run/netns/x", "", 0o600);
        (dir, fs)
    }

    fn text(fs: &HostFs, path: &str) -> String {
        fs.read_text(path, 1 << 20)
            .expect("read")
            .unwrap_or_default()
    }

    #[tokio::test]
    async fn ports_that_were_flushed_are_made_again_by_the_plugin_itself() {
        let (_dir, fs) = machine();
        note(&fs, "pf9-abc-eth0", |_| ());
        let lost = async || lost(&fs, "pf9", PLUGINS).await.expect("asked");
        assert_eq!(lost().await, [], "without the plugin nobody made any");
        plugin(&fs);
        let gone = lost().await;
        assert_eq!(gone.len(), 1);
        put_back(&fs, &gone, PLUGINS).await.expect("made");
        assert_eq!(lost().await, []);
        let asked = text(&fs, "/asked");
        let who = "abc /run/netns/x eth0 K8S_POD_NAME=web;IgnoreUnknown=1";
        assert_eq!(asked, format!("CHECK {who}\nADD {who}\nCHECK {who}\n"));
        let told: Value = serde_json::from_str(&text(&fs, "/told-ADD")).expect("json");
        assert_eq!(told["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
        assert_eq!(told["prevResult"]["ips"][0]["address"], "10.20.0.2/24");
        assert_eq!(
            (&told["name"], &told["cniVersion"]),
            (&json!("pf9"), &json!("0.4.0"))
        );
        assert_eq!(
            (&told["type"], &told["snat"]),
            (&json!("portmap"), &json!(true))
        );
    }

    #[tokio::test]
    async fn a_way_that_is_gone_is_seen_though_the_plugin_does_not_look_for_it() {
        let (_dir, fs) = machine();
        note(&fs, "pf9-abc-eth0", |_| ());
        plugin(&fs);
        put(&fs, "/rules", "", 0o600);
        let says = |lines: &str| {
            put(
                &fs,
                "/usr/sbin/iptables",
                &format!("#!/bin/sh\ncat <<'END'\n{lines}\nEND\n"),
                0o755,
            );
        };
        let lost = async || lost(&fs, "pf9", PLUGINS).await.expect("asked").len();
        let jump = "-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT";
        says(&format!(
            "-P PREROUTING ACCEPT\n-N CNI-HOSTPORT-DNAT\n{jump}"
        ));
        assert_eq!(lost().await, 0);
        says("-P PREROUTING ACCEPT\n-N CNI-HOSTPORT-DNAT");
        assert_eq!(lost().await, 1);
        says("-P PREROUTING ACCEPT");
        assert_eq!(lost().await, 0, "by another back end: the plugin knows");
    }

    #[tokio::test]
    async fn a_pod_that_goes_meanwhile_leaves_no_rules() {
        let (_dir, fs) = machine();
        note(&fs, "pf9-abc-eth0", |_| ());
        plugin(&fs);
        put(&fs, "/goes", "", 0o600);
        let gone = lost(&fs, "pf9", PLUGINS).await.expect("asked");
        put_back(&fs, &gone, PLUGINS)
            .await
            .expect("made and taken away");
        assert!(text(&fs, "/asked").contains("\nDEL abc "));
        assert!(!fs.at("/rules").exists());
    }

    #[test]
    fn only_pods_with_ports_whose_network_is_there_are_asked_about() {
        let (_dir, fs) = machine();
        note(&fs, "pf9-a-eth0", |n| n["capabilityArgs"] = Value::Null);
        note(&fs, "pf9-b-eth0", |n| {
            n["capabilityArgs"]["portMappings"] = json!([])
        });
        note(&fs, "pf9-c-eth0", |n| {
            n["result"]["interfaces"][1]["sandbox"] = "/run/netns/gone".into()
        });
        note(&fs, "other-d-eth0", |n| n["networkName"] = "other".into());
        note(&fs, "pf9-e-eth0", |n| n["config"] = "?".into());
        note(&fs, "pf9-f-eth0", |n| n["kind"] = "cniCacheV9".into());
        put(&fs, &format!("{RESULTS}/pf9-g-eth0"), "half", 0o600);
        assert_eq!(mapped(&fs, "pf9").expect("read"), []);
        note(&fs, "pf9-h-eth0", |_| ());
        let found = mapped(&fs, "pf9").expect("read");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].note, "pf9-h-eth0");
    }

    #[test]
    fn a_plugin_is_repeated_in_its_own_words() {
        assert_eq!(
            words(r#"{"code": 100, "msg": "no chain"}"#, "x"),
            "no chain"
        );
        assert_eq!(words("", "a\nb\n"), "b");
        assert_eq!(words("", ""), "it says nothing");
    }
}
