//! Three masters go to the next minor: their API answers all the time, at the address that they share and through the
//! plane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::demo::{Outcome, cluster, demo, eventually, kubectl, plane, shell};
use crate::upgrade::{FROM, PROVE_S, TO, imported, over};

/// An address of the demo's network that no machine has.
const ADDRESS: &str = "10.99.0.250";
const NODES: [&str; 4] = ["master-1", "master-2", "master-3", "worker-1"];
/// Three control planes come up beside each other on two cores.
const THREE_READY_S: &str = "900";
/// The first master has it once its API server is up and knows its rights.
const FIRST: Duration = Duration::from_secs(120);
/// Between two questions through the plane.
const PAUSE: Duration = Duration::from_millis(500);

/// A worker asks at the address ten times a second, each time on a new connection and once. Whoever looks for the
/// address in the moment in which it goes from one master to another sends its first packet to nobody and, as every
/// kernel does, a second one after a second; three seconds are what the shortest-tempered client gives it.
const ASK: &str = "cat > /root/ask.sh <<'EOF'\n\
    while :; do\n\
      began=$(date +%s.%N)\n\
      if curl -sk --max-time 3 -o /dev/null https://10.99.0.250:6443/readyz; then word=ok; else word=failed; fi\n\
      echo $word $began $(date +%s.%N) >> /root/asked\n\
      sleep 0.1\n\
    done\n\
    EOF\n\
    rm -f /root/asked; systemd-run --unit=ask -q sh /root/ask.sh";
/// How many there were, how many failed, how long the longest took.
const TOLD: &str = "systemctl stop ask; \
    awk '{n++} $1!=\"ok\"{f++; print \"failed at\", $2} $3-$2>most{most=$3-$2} \
         END {printf \"%d asked, %d failed, %.2f s at most\\n\", n, f, most}' /root/asked; \
    rm -f /root/ask.sh /root/asked";

#[test]
fn ka_three_masters_go_to_the_next_minor_and_their_api_is_always_there() -> Outcome {
    demo(&["down"])?;
    demo(&[
        "up",
        "--kubernetes",
        FROM,
        "--masters",
        "3",
        "--workers",
        "1",
        "--api-address",
        ADDRESS,
        "--timeout",
        THREE_READY_S,
    ])?;
    let to = imported(TO)?;
    let cluster = cluster()?;
    kubectl(&["delete", "pod", "hello-worker-1", "--now"])?;
    eventually("the API answers at the address", FIRST, || {
        let ready = format!("curl -sk --max-time 3 https://{ADDRESS}:6443/readyz");
        match shell("worker-1", &ready)?.as_str() {
            "ok" => Ok(()),
            other => Err(other.to_owned()),
        }
    })?;
    shell("worker-1", ASK)?;
    let through_plane = Asked::begin()?;
    let start = [
        "cluster", "upgrade", &cluster, "--to", &to, "--prove", PROVE_S,
    ];
    plane(&start)?;
    let done = over(&cluster, "v1.37.", &NODES);
    let failed = through_plane.end()?;
    let said = shell("worker-1", TOLD)?;
    println!("at {ADDRESS}: {said}");
    done?;
    assert!(failed.is_empty(), "through the plane: {failed:#?}");
    assert!(said.contains(" 0 failed"), "at {ADDRESS}: {said}");
    demo(&["down"]).map(drop)
}

/// The API is asked through the plane, as a person's kubectl does, and every answer that is none is kept.
struct Asked {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u32, Vec<String>)>,
}

impl Asked {
    fn begin() -> Outcome<Self> {
        let stop = Arc::<AtomicBool>::default();
        let ends = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut count, mut failed, began) = (0, Vec::new(), Instant::now());
            while !ends.load(Ordering::Relaxed) {
                count += 1;
                let asked = ["get", "--raw", "/readyz", "--request-timeout=5s"];
                if let Err(why) = kubectl(&asked) {
                    failed.push(format!("{:.1} s: {why}", began.elapsed().as_secs_f32()));
                }
                std::thread::sleep(PAUSE);
            }
            (count, failed)
        });
        Ok(Self { stop, thread })
    }

    fn end(self) -> Outcome<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let (count, failed) = self.thread.join().map_err(|_| "it ended by itself")?;
        println!(
            "through the plane: {} of {count} requests failed",
            failed.len()
        );
        match count > 20 {
            true => Ok(failed),
            false => Err(format!("asked only {count} times")),
        }
    }
}
