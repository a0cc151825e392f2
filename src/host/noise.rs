//! What another program's log has against itself: errors, without those that it writes at every start
//! while something else is not there yet.
//!
//! An operator who is called at three in the morning reads one log line in `pf9ctl status`. It must not be
//! one of the dozens that stand there after every good start as well. One table: [`NOISE`]. Lines about
//! a pod are left out too: they are about a workload, not about the program, and what they say does not
//! leave the machine.

use serde_json::Value;

/// A line of every start.
struct Noise {
    /// Whose: the unit's name without `pf9-` and `.service`.
    program: &'static str,
    /// What such a line has in it, all of it.
    parts: &'static [&'static str],
    /// Releases that were seen to write it, or whose source does.
    releases: &'static str,
    /// Where the line is made, or why it is made.
    source: &'static str,
}

/// Nobody listens at the API server's port yet, or it does not know this node yet: its pod is started by
/// the same kubelet.
const API_NOT_YET: &str = "the API server is started by this kubelet";

/// The API server knows this node a moment after kubelet has shown itself.
const REGISTERED_NOT_YET: &str = "the node has not registered itself yet";

/// Not of a start, and of no trouble either.
const ENDED: &str = "somebody's exec or port-forward ended";

/// Lines that say nothing.
const NOISE: &[Noise] = &[
    Noise {
        program: "kubelet",
        parts: &["no PriorityClass with name system-"],
        releases: "1.34-1.37",
        source: "plugin/pkg/admission/priority: the API server makes its own classes a moment after it \
                 answers; kubelet shows its static pods again and again until then",
    },
    Noise {
        program: "kubelet",
        parts: &["connect: connection refused"],
        releases: "1.34-1.37",
        source: API_NOT_YET,
    },
    Noise {
        program: "kubelet",
        parts: &["\"Unable to register node with API server\""],
        releases: "1.34-1.37",
        source: API_NOT_YET,
    },
    Noise {
        program: "kubelet",
        parts: &["\"Failed to ensure lease exists, will retry\""],
        releases: "1.34-1.37",
        source: API_NOT_YET,
    },
    Noise {
        program: "kubelet",
        parts: &["err=\"failed to get node info: node", "not found\""],
        releases: "1.34-1.37",
        source: "pkg/kubelet/eviction: the node has not registered itself yet",
    },
    Noise {
        program: "kubelet",
        parts: &["\"Error getting the current node from lister\""],
        releases: "1.34-1.37",
        source: "pkg/kubelet/kubelet_node_status.go: the node has not registered itself yet",
    },
    Noise {
        program: "kubelet",
        parts: &["\"Container runtime network not ready\""],
        releases: "1.34-1.37",
        source: "pkg/kubelet/kubelet.go: said until the first look at the network's configuration",
    },
    Noise {
        program: "kubelet",
        parts: &["\"Unable to register mirror pod because node is not registered yet\""],
        releases: "1.37-1.37",
        source: REGISTERED_NOT_YET,
    },
    Noise {
        program: "kubelet",
        parts: &[
            "\"No need to create a mirror pod, since failed to get node info",
            "not found",
        ],
        releases: "1.37-1.37",
        source: REGISTERED_NOT_YET,
    },
    Noise {
        program: "kubelet",
        parts: &[
            "\"Failed to get node when trying to set owner ref to the node lease\"",
            "not found",
        ],
        releases: "1.37-1.37",
        source: REGISTERED_NOT_YET,
    },
    Noise {
        program: "kubelet",
        parts: &["\"Error updating node status, will retry\"", "not found"],
        releases: "1.37-1.37",
        source: REGISTERED_NOT_YET,
    },
    Noise {
        program: "kubelet",
        parts: &["Failed to initialize CSINode", "not found"],
        releases: "1.37-1.37",
        source: REGISTERED_NOT_YET,
    },
    Noise {
        program: "kubelet",
        parts: &[
            "\"Server rejected event",
            "namespaces \\\"default\\\" not found",
        ],
        releases: "1.37-1.37",
        source: "the API server makes its own namespaces a moment after it answers",
    },
    Noise {
        program: "kubelet",
        parts: &[
            "\"Failed to get system container stats\"",
            "unknown container",
        ],
        releases: "1.37-1.37",
        source: "pkg/kubelet/server/stats: its own group has not been measured yet",
    },
    Noise {
        program: "kubelet",
        parts: &[
            "\"Image garbage collection failed once. Stats initialization may not have completed yet\"",
        ],
        releases: "1.37-1.37",
        source: "pkg/kubelet/kubelet.go: the runtime has not measured its images yet",
    },
    Noise {
        program: "kubelet",
        parts: &[
            "\"Skipping pod synchronization\"",
            "may not have completed yet",
        ],
        releases: "1.37-1.37",
        source: "pkg/kubelet/kubelet.go: until the first look at the runtime",
    },
    Noise {
        program: "kubelet",
        parts: &[
            "\"Failed to read data from checkpoint\"",
            "checkpoint is not found",
        ],
        releases: "1.37-1.37",
        source: "pkg/kubelet/cm/devicemanager: no device plugin has ever been here",
    },
    Noise {
        program: "kubelet",
        parts: &["eviction manager: failed to check if we have separate container filesystem"],
        releases: "1.37-1.37",
        source: "pkg/kubelet/eviction: the runtime has not measured its images yet",
    },
    Noise {
        program: "kubelet",
        parts: &["\"Failed to set rlimit on max file handles\""],
        releases: "1.37-1.37",
        source: "cmd/kubelet/app/server.go: the machine is a container; its unit has set the limit",
    },
    Noise {
        program: "kubelet",
        parts: &["\"Stopped receiving OOM notifications"],
        releases: "1.37-1.37",
        source: "cadvisor: the machine is a container and has no log of the kernel",
    },
    Noise {
        program: "kubelet",
        parts: &[
            "\"Error on socket receive\"",
            "use of closed network connection",
        ],
        releases: "1.37-1.37",
        source: ENDED,
    },
    Noise {
        program: "kubelet",
        parts: &[
            "\"Error proxying data from client to backend\"",
            "websocket: close 1006",
        ],
        releases: "1.37-1.37",
        source: ENDED,
    },
    Noise {
        program: "kube-proxy",
        parts: &["connect: connection refused"],
        releases: "1.34-1.37",
        source: "the API server of this node is not up yet",
    },
    Noise {
        program: "kube-proxy",
        parts: &["\"Failed to list existing", "no such file or directory"],
        releases: "1.37-1.37",
        source: "pkg/proxy/nftables: its own table is not made yet at its first start",
    },
    Noise {
        program: "containerd",
        parts: &[
            "failed to reload cni configuration after",
            "no network config found",
        ],
        releases: "2.4-2.4",
        source: "internal/cri/server: it looks when the file is begun under another name, not when it has its own",
    },
    Noise {
        program: "containerd",
        parts: &["failed to load cni during init"],
        releases: "2.2-2.4",
        source: "internal/cri/server: the pod network's configuration comes after the runtime",
    },
];

/// What a line about a pod has in it.
const OF_A_POD: &str = " pod=\"";
/// Longest line that is shown.
const SHOWN_MAX: usize = 300;

/// The last line of a unit's log in which its program complains of something that matters, without
/// its time: the same trouble is the same text.
pub fn last_fault(unit: &str, log: &str) -> Option<String> {
    let program = program_of(unit);
    let mut lines = log.lines().rev().filter_map(complaint);
    let found = lines.find(|line| !line.contains(OF_A_POD) && !is_noise(program, line))?;
    Some(shown(&found))
}

/// Most complaints of one log that are told.
const TOLD_MAX: usize = 40;

/// What a log has against its program.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Complaints {
    /// Each once, with how often it was said: who said something last, last.
    pub told: Vec<(String, u32)>,
    /// Such that stand there after every good start.
    pub of_every_start: u32,
    /// Such that are about a pod, and not about the program.
    pub of_pods: u32,
}

/// All of a part of a unit's journal, whose lines may begin with when and who: what matters, and how much does not.
pub fn complaints(unit: &str, journal: &str) -> Complaints {
    let program = program_of(unit);
    let mut all = Complaints::default();
    let bare = |line| complaint(line).or_else(|| complaint(str::split_once(line, "]: ")?.1));
    for line in journal.lines().filter_map(bare) {
        if line.contains(OF_A_POD) {
            all.of_pods += 1;
        } else if is_noise(program, &line) {
            all.of_every_start += 1;
        } else {
            let text = shown(&line);
            let known = all.told.iter().position(|(told, _)| *told == text);
            let often = known.map_or(0, |at| all.told.remove(at).1);
            all.told.push((text, often + 1));
        }
    }
    let most = all.told.len().saturating_sub(TOLD_MAX);
    all.told.drain(..most);
    all
}

fn program_of(unit: &str) -> &str {
    unit.trim_start_matches("pf9-").trim_end_matches(".service")
}

fn shown(line: &str) -> String {
    let short: String = line.chars().take(SHOWN_MAX).collect();
    let cut = if short.len() < line.len() { "…" } else { "" };
    format!("{short}{cut}")
}

fn is_noise(program: &str, line: &str) -> bool {
    let mut table = NOISE.iter().filter(|noise| noise.program == program);
    let Some(noise) = table.find(|noise| noise.parts.iter().all(|part| line.contains(part))) else {
        return false;
    };
    let (releases, source) = (noise.releases, noise.source);
    tracing::trace!(program, releases, source, line, "start-up noise left out");
    true
}

/// The line's own words, if it is an error: as Kubernetes (`E1128 12:00:00.0 1 file.go:1] …`), etcd
/// (JSON), containerd (`level=error msg="…"`) and a dying Go program (`panic: …`, `fatal error: …`) write them.
fn complaint(line: &str) -> Option<String> {
    if let Ok(entry) = serde_json::from_str::<Value>(line) {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        if !matches!(text("level"), Some("error" | "fatal" | "panic")) {
            return None;
        }
        let said = [text("msg"), text("error")].into_iter().flatten();
        return Some(said.collect::<Vec<_>>().join(": "));
    }
    if let Some(at) = ["level=error ", "level=fatal "]
        .iter()
        .find_map(|word| Some(line.find(word)? + word.len()))
    {
        return Some(line[at..].to_owned());
    }
    let dying = ["panic: ", "fatal error: ", "Error: "];
    if dying.iter().any(|words| line.starts_with(words)) {
        return Some(line.to_owned());
    }
    let severe = line.starts_with(['E', 'F']);
    let dated = line.bytes().skip(1).take(4).all(|b| b.is_ascii_digit());
    let (_, words) = line.split_once("] ").filter(|_| severe && dated)?;
    Some(words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIRROR: &str = "E1128 11:00:01.000001    77 mirror_client.go:139] \"Failed creating a mirror \
                          pod\" err=\"pods \\\"kube-apiserver-m\\\" is forbidden: no PriorityClass with \
                          name system-node-critical was found\"";
    const REAL: &str = "E1128 11:00:02.000001    77 run.go:72] \"command failed\" err=\"failed to run \
                        Kubelet: running with swap on is not supported\"";

    #[test]
    fn what_every_start_writes_is_no_fault_and_what_ends_it_is() {
        let start = format!("I1128 11:00:00.0  77 server.go:1] \"Started\"\n{MIRROR}\n");
        assert_eq!(last_fault("pf9-kubelet.service", &start), None);
        let fault = last_fault("pf9-kubelet.service", &format!("{REAL}\n{start}"));
        let fault = fault.expect("a fault");
        assert!(fault.starts_with("\"command failed\""), "{fault}");
        assert!(
            !fault.contains("11:00"),
            "the same trouble is the same text"
        );
        // Noise of one program is a fault of another.
        assert!(last_fault("pf9-etcd.service", MIRROR).is_some());
    }

    #[test]
    fn of_a_journal_what_matters_is_told_once_and_the_rest_is_counted() {
        let journal = |line: &str| format!("2026-11-28T11:00:01+0000 node kubelet[77]: {line}\n");
        let pod = "E1128 11:00:02.0 7 x.go:1] \"Error syncing pod\" err=\"x\" pod=\"a/b\"";
        let other = "E1128 11:00:02.0 7 x.go:1] \"other\"";
        let log = [
            REAL,
            MIRROR,
            MIRROR,
            pod,
            other,
            REAL,
            "I1128 11:00:03.0 7 x.go:1] well",
        ];
        let log: String = log.into_iter().map(journal).collect();
        let found = complaints("pf9-kubelet.service", &log);
        assert_eq!((found.of_every_start, found.of_pods), (2, 1));
        let told: Vec<(bool, u32)> = found
            .told
            .iter()
            .map(|(line, often)| (line.starts_with("\"command failed\""), *often))
            .collect();
        assert_eq!(told, [(false, 1), (true, 2)], "{found:?}");
        let many: String = (0..100)
            .map(|n| journal(&format!("E1128 11:00:02.0 7 x.go:1] fault {n}")))
            .collect();
        let found = complaints("pf9-kubelet.service", &many);
        assert_eq!(found.told.len(), TOLD_MAX);
        assert_eq!(found.told[TOLD_MAX - 1].0, "fault 99", "the newest stay");
    }

    /// What Kubernetes 1.37.2 and containerd 2.4.2 wrote while a master and a worker came up well.
    #[test]
    fn a_real_start_has_no_fault() {
        let lines = include_str!("noise/start.txt").lines();
        let (mut unit, mut count) = ("", 0);
        for line in lines {
            match line.strip_prefix("# ") {
                Some(name) => unit = name,
                None => {
                    assert!(complaint(line).is_some(), "no error: {line}");
                    assert_eq!(last_fault(unit, line), None);
                    // The same in another's log is a fault.
                    assert!(last_fault("pf9-other.service", line).is_some(), "{line}");
                    count += 1;
                }
            }
        }
        assert!(count > 15, "{count}");
    }

    #[test]
    fn every_programs_errors_are_read() {
        for (unit, line, words) in [
            (
                "pf9-etcd.service",
                r#"{"level":"fatal","ts":"2026","msg":"discovery failed","error":"member 1 has already been bootstrapped"}"#,
                "discovery failed: member 1 has already been bootstrapped",
            ),
            (
                "pf9-containerd.service",
                r#"time="2026" level=fatal msg="containerd: failed to load TOML""#,
                r#"msg="containerd: failed to load TOML""#,
            ),
            (
                "pf9-kubelet.service",
                "panic: unrecognized feature gate: X",
                "panic: unrecognized feature gate: X",
            ),
        ] {
            let log = format!("{line}\nI1128 not an error\n{{\"level\":\"info\",\"msg\":\"x\"}}\n");
            assert_eq!(last_fault(unit, &log).as_deref(), Some(words));
        }
    }

    #[test]
    fn what_is_about_a_workload_stays_here_and_long_lines_are_cut() {
        let of_a_pod = "E1128 11:00:02.0 7 x.go:1] \"Error syncing pod\" err=\"x\" pod=\"a/b\"";
        assert_eq!(last_fault("pf9-kubelet.service", of_a_pod), None);
        let long = format!("E1128 11:00:02.0 7 x.go:1] {}", "é".repeat(10_000));
        let shown = last_fault("pf9-kubelet.service", &long).expect("a fault");
        assert_eq!(shown.chars().count(), SHOWN_MAX + 1);
    }

    #[test]
    fn every_row_says_where_it_is_from() {
        for noise in NOISE {
            let range = noise.releases.split_once('-');
            assert!(
                range.is_some_and(|(from, to)| from <= to),
                "{}",
                noise.releases
            );
            assert!(!noise.source.is_empty() && !noise.parts.is_empty());
            assert!(noise.parts.iter().all(|part| !part.is_empty()));
        }
    }
}
