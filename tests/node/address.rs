//! Several masters behind one address: its holder loses power, and another one takes it over.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::demo::{Outcome, demo, eventually, kubectl, plane, ready_through_plane, shell};

/// An address of the demo's network that no machine has.
const ADDRESS: &str = "10.99.0.250";
/// Three control planes start side by side on two cores.
const THREE_READY_S: &str = "900";
const MASTERS: [&str; 3] = ["master-1", "master-2", "master-3"];
/// The promise: the API answers at the same address.
const MOVED: Duration = Duration::from_secs(10);
/// And through the plane.
const THROUGH_PLANE: Duration = Duration::from_secs(5);
/// The first master takes it once its API server is up and knows its rights.
const FIRST: Duration = Duration::from_secs(120);
/// How long to check repeatedly whether two machines have it; less than the agent's watchdog.
const WATCHED: Duration = Duration::from_secs(20);
/// A worker's files about the API: nodelet's files and their digests.
const FILES: &str = "find /etc/pf9/kube.d -type f | sort | xargs sha256sum; \
                     systemctl show -p ExecMainStartTimestampMonotonic pf9-kubelet pf9-kube-proxy";

#[test]
fn j_masters_share_an_address_and_who_dies_is_followed() -> Outcome {
    demo(&["down"])?;
    demo(&[
        "up",
        "--masters",
        "3",
        "--workers",
        "1",
        "--api-address",
        ADDRESS,
        "--timeout",
        THREE_READY_S,
    ])?;
    eventually("one of three has the address", FIRST, || holder().map(drop))?;
    told_everywhere()?;
    the_lease_has_time_of_its_own()?;
    let files = shell("worker-1", FILES)?;
    assert!(
        shell(
            "worker-1",
            "grep -rl 10.99.0.250 /etc/pf9/kube.d/kubeconfigs"
        )?
        .contains("kubelet"),
        "the worker reaches the API by it"
    );

    stopped_agent_loses_it()?;

    let had = holder()?;
    let worker = AskedInside::begin()?;
    demo(&["off", &had])?;
    let off = Instant::now();
    eventually("kubectl through the plane", THROUGH_PLANE, || {
        kubectl(&["get", "nodes", "--request-timeout=5s"]).map(drop)
    })?;
    let answered = worker.answers_again(off)?;
    println!(
        "the API answers at {ADDRESS} after {:.1} s",
        answered.as_secs_f32()
    );
    assert!(answered <= MOVED, "after {answered:?}");
    let has = holder_of(
        &MASTERS
            .into_iter()
            .filter(|m| *m != had)
            .collect::<Vec<_>>(),
    )?;
    assert_ne!(has, had);
    ready_through_plane("worker-1")?;
    assert_eq!(
        shell("worker-1", FILES)?,
        files,
        "the worker was told nothing"
    );

    demo(&["up", "--timeout", THREE_READY_S])?;
    eventually("still one of three has it", FIRST, || holder().map(drop))?;
    demo(&["down"]).map(drop)
}

/// The API server serves the masters' leases in the leader-election priority level, not in everybody's.
fn the_lease_has_time_of_its_own() -> Outcome {
    let row = "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"pf9-api-address\",\
               priority_level=\"leader-election\"} ";
    let served = || -> Outcome<f64> {
        let all = kubectl(&["get", "--raw", "/metrics"])?;
        let row = all.lines().find_map(|line| line.strip_prefix(row));
        let count = row.and_then(|count| count.trim().parse().ok());
        count.ok_or_else(|| "none of its requests was served as one of it".to_owned())
    };
    eventually(
        "leases of the address have time of their own",
        FIRST,
        || served().map(drop),
    )?;
    // Several times, not once by chance.
    let before = served()?;
    eventually("each of them", FIRST, || match served()? {
        now if now >= before + 5.0 => Ok(()),
        now => Err(format!("{now} after {before}")),
    })
}

/// A master whose agent is stopped loses it before another one takes it.
fn stopped_agent_loses_it() -> Outcome {
    let had = holder()?;
    shell(&had, "kill -STOP $(systemctl show -P MainPID pf9-nodeletd)")?;
    let begun = Instant::now();
    let mut moved = None;
    while begun.elapsed() < WATCHED {
        let have = holders(&MASTERS)?;
        if have.len() > 1 {
            return Err(format!("{ADDRESS} is on {}", have.join(" and ")));
        }
        if have.first().is_some_and(|now| *now != had) {
            moved.get_or_insert(begun.elapsed());
        }
    }
    shell(&had, "kill -CONT $(systemctl show -P MainPID pf9-nodeletd)")?;
    let moved = moved.ok_or("the address stayed with a stopped agent, or went")?;
    println!(
        "a stopped agent's address moved after {:.1} s",
        moved.as_secs_f32()
    );
    holder().map(drop)
}

/// The screens and the plane name the holder.
fn told_everywhere() -> Outcome {
    let has = holder()?;
    for master in MASTERS {
        let screen = shell(master, "pf9ctl status")?;
        let here = format!("{ADDRESS} is here");
        let there = format!("{ADDRESS} is on {has}");
        let word = if master == has { here } else { there };
        assert!(screen.contains(&word), "{master}: {word}: {screen}");
    }
    eventually("the plane knows who has it", FIRST, || {
        let list = plane(&["cluster", "list", "--json"])?;
        let list: Value = serde_json::from_str(&list).map_err(|e| e.to_string())?;
        match list[0]["masterVipHolder"].as_str() {
            Some(named) if named == has => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

fn holder() -> Outcome<String> {
    holder_of(&MASTERS)
}

fn holder_of(masters: &[&str]) -> Outcome<String> {
    match holders(masters)?.as_slice() {
        [one] => Ok(one.clone()),
        other => Err(format!(
            "{ADDRESS} is on {} machines: {}",
            other.len(),
            other.join(", ")
        )),
    }
}

fn holders(masters: &[&str]) -> Outcome<Vec<String>> {
    let mut have = Vec::new();
    for master in masters {
        let shown = shell(master, &format!("ip -o address show to {ADDRESS}"))?;
        if shown.contains(ADDRESS) {
            have.push((*master).to_owned());
        }
    }
    Ok(have)
}

/// The worker calls the API at the address continuously, as its programs do.
struct AskedInside;

/// Calls for ever, a line with the time for each answer.
const ASK: &str = "cat > /root/ask.sh <<'EOF'\n\
    while :; do\n\
      if curl -sfk --max-time 1 https://10.99.0.250:6443/healthz >/dev/null; then date +%s.%N >> /root/asked; fi\n\
      sleep 0.2\n\
    done\n\
    EOF\n\
    rm -f /root/asked; systemd-run --unit=ask -q sh /root/ask.sh";

impl AskedInside {
    fn begin() -> Outcome<Self> {
        shell("worker-1", ASK)?;
        Ok(Self)
    }

    /// The longest time without an answer: how long a client of the API has to wait.
    fn answers_again(&self, off: Instant) -> Outcome<Duration> {
        let script = "awk 'NR>1 && $1-last>gap {gap=$1-last} {last=$1} END {printf \"%d %.3f %.3f\\n\", NR, gap, last}' /root/asked; \
                      date +%s.%N";
        let mut gap = 0.0;
        eventually("the API answers at its address", MOVED * 3, || {
            let said = shell("worker-1", script)?;
            let numbers: Vec<f64> = said
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect();
            let [_, longest, last, now] = numbers[..] else {
                return Err(said);
            };
            gap = longest;
            match now - last < 1.0 && longest > 1.0 {
                true => Ok(()),
                false => Err(format!("{:.0?} after: {said}", off.elapsed())),
            }
        })?;
        shell(
            "worker-1",
            "systemctl stop ask; rm -f /root/ask.sh /root/asked",
        )?;
        Ok(Duration::from_secs_f64(gap))
    }
}
