//! Three masters go to the next minor: their API answers, at their shared address and through the plane. Through the
//! plane every request is answered: it uses a master that is being changed last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::demo::{Outcome, cluster, demo, eventually, kubectl, plane, shell};
use crate::upgrade::{FROM, PROVE_S, TO, imported, over};

/// An address of the demo's network that no machine has.
const ADDRESS: &str = "10.99.0.250";
const NODES: [&str; 4] = ["master-1", "master-2", "master-3", "worker-1"];
/// Three control planes start side by side on two cores.
const THREE_READY_S: &str = "900";
/// The first master takes it once its API server is up and knows its rights.
const FIRST: Duration = Duration::from_secs(120);
/// Longest time without an answer for a client that retries.
const WITHOUT: Duration = Duration::from_secs(15);
/// Between two requests through the plane.
const PAUSE: Duration = Duration::from_millis(500);

/// A worker calls the API server at an address all the time, each time on a new connection and without a retry. A worker
/// that resolves the address at the moment it moves from one master to another sends its first packet to nobody and, like
/// every kernel, a second one after a second; three seconds are the shortest timeout of any client.
const ASK: &str = "cat > /root/ask.sh <<'EOF'\n\
    while :; do\n\
      began=$(date +%s.%N)\n\
      if curl -sfk --max-time 3 -o /dev/null https://@ADDRESS@:6443/readyz; then word=ok; else word=failed; fi\n\
      echo $word $began $(date +%s.%N) >> /root/asked\n\
      sleep @PAUSE@\n\
    done\n\
    EOF\n\
    rm -f /root/asked; systemd-run --unit=ask -q sh /root/ask.sh";
/// The longest time without an answer; how many requests there were, how many failed.
const TOLD: &str = "systemctl stop ask; \
    awk '{n++} $1!=\"ok\"{f++} $1==\"ok\"{if (last && $3-last>gap) gap=$3-last; last=$3} \
         END {printf \"%.2f s without an answer at most; %d asked, %d failed\\n\", gap, n, f}' /root/asked; \
    rm -f /root/ask.sh /root/asked";

#[test]
fn ka_three_masters_go_to_the_next_minor_and_their_api_is_soon_there_again() -> Outcome {
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
    asks("worker-1", ADDRESS, "0.1")?;
    let through_plane = Asked::begin()?;
    let start = [
        "cluster", "upgrade", &cluster, "--to", &to, "--prove", PROVE_S,
    ];
    plane(&start)?;
    let done = over(&cluster, "v1.37.", &NODES);
    let (failed, longest) = through_plane.end()?;
    let (gap, said) = told("worker-1")?;
    println!("at {ADDRESS}: {said}");
    done?;
    assert!(longest <= WITHOUT, "through the plane: {longest:?}");
    assert_eq!(failed, 0, "through the plane");
    assert!(gap <= WITHOUT, "at {ADDRESS}: {said}");
    demo(&["down"]).map(drop)
}

/// From now on this node calls the API server at this address, with this pause in seconds. Only a good status counts as
/// answered.
pub(crate) fn asks(node: &str, address: &str, pause: &str) -> Outcome {
    let script = ASK.replace("@ADDRESS@", address).replace("@PAUSE@", pause);
    shell(node, &script).map(drop)
}

/// Ends that: the longest time without an answer, and all that was counted, in words.
pub(crate) fn told(node: &str) -> Outcome<(Duration, String)> {
    let said = shell(node, TOLD)?;
    let numbers: Vec<f64> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [gap, asked, failed] = numbers[..] else {
        return Err(said);
    };
    match asked - failed > 20.0 {
        true => Ok((Duration::from_secs_f64(gap), said)),
        false => Err(format!("hardly any answer: {said}")),
    }
}

/// The API is called through the plane, as a person's kubectl does: for an object, which is in etcd.
struct Asked {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u32, u32, Duration)>,
}

impl Asked {
    fn begin() -> Outcome<Self> {
        let stop = Arc::<AtomicBool>::default();
        let ends = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut count, mut failed, mut longest) = (0, 0, Duration::ZERO);
            let mut answered = Instant::now();
            while !ends.load(Ordering::Relaxed) {
                count += 1;
                let asked = ["get", "namespace", "default", "--request-timeout=5s"];
                match kubectl(&asked) {
                    Ok(_) => {
                        longest = longest.max(answered.elapsed());
                        answered = Instant::now();
                    }
                    Err(why) => {
                        failed += 1;
                        println!("through the plane: {why}");
                    }
                }
                std::thread::sleep(PAUSE);
            }
            (count, failed, longest.max(answered.elapsed()))
        });
        Ok(Self { stop, thread })
    }

    /// How many failed, and the longest time without an answer.
    fn end(self) -> Outcome<(u32, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        let (count, failed, longest) = self.thread.join().map_err(|_| "it ended by itself")?;
        println!("through the plane: {failed} of {count} failed, {longest:.1?} without an answer");
        match count > 20 {
            true => Ok((failed, longest)),
            false => Err(format!("asked only {count} times")),
        }
    }
}
