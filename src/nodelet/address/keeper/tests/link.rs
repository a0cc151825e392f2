//! A real link with a real neighbour, in a network of the test's own.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::host::testing::in_namespaces;
use crate::model::Timestamp;
use crate::nodelet::address::turn::HOLD;

const OWN: &str = "10.9.0.1";
const SHARED: &str = "10.9.0.250";
const NEIGHBOUR: &str = "02:00:00:00:00:07";

/// The API server here ends by being interrupted.
const ENDS: Duration = Duration::from_secs(2);

/// Another machine on the link: a network namespace that a program keeps.
struct Neighbour(Child);

impl Neighbour {
    /// `eth0` here is linked with its own `eth0`.
    fn new() -> Self {
        let mut keeps = Command::new("unshare");
        keeps.args(["--net", "sleep", "600"]).stdout(Stdio::null());
        let neighbour = Self(keeps.spawn().expect("unshare"));
        let id = neighbour.0.id().to_string();
        let net = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
        let began = Instant::now();
        while net(&id).is_none_or(|its| Some(its) == net("self")) {
            assert!(began.elapsed() < SOON, "it has no network of its own");
            std::thread::yield_now();
        }
        ip(&format!(
            "link add eth0 type veth peer name eth0 netns {id}"
        ));
        ip(&format!("address add {OWN}/24 dev eth0"));
        ip("address add fd09::1/64 dev eth0 nodad");
        ip("link set eth0 up");
        neighbour.ip(&format!("link set eth0 address {NEIGHBOUR} up"));
        neighbour.ip("address add 10.9.0.7/24 dev eth0");
        neighbour
    }

    fn ip(&self, args: &str) {
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--net=/proc/{}/ns/net", self.0.id()));
        run(enter.arg("ip").args(args.split(' ')));
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("run");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ip(args: &str) -> String {
    run(Command::new("ip").args(args.split(' ')))
}

/// The kernel says that this machine has it.
fn has_it() -> bool {
    ip(&format!("-oneline address show to {SHARED}/32")).contains(SHARED)
}

/// A link with a neighbour, in the inner test.
fn linked(test: &str) -> Option<Neighbour> {
    let name = format!("nodelet::address::keeper::tests::link::{test}");
    in_namespaces(&name, &["--net"], "ip link set lo up").map(|_| Neighbour::new())
}

fn link() -> Link {
    let parse = |text: &str| text.parse().expect("ip");
    interfaces::link_of(parse(SHARED), parse(OWN)).expect("a link")
}

/// Another machine answers for the address: it is never taken, and the machine is named. When that one is gone
/// it is taken.
#[tokio::test]
async fn an_address_that_another_machine_answers_for_is_left_to_it_and_the_machine_is_named() {
    const NAME: &str =
        "an_address_that_another_machine_answers_for_is_left_to_it_and_the_machine_is_named";
    let Some(neighbour) = linked(NAME) else {
        return;
    };
    for (net, address) in [("10.9.0.250/24", SHARED), ("fd09::250/64", "fd09::250")] {
        let address: IpAddr = address.parse().expect("ip");
        assert_eq!(rival(&link(), address).await, None, "nobody has it");
        assert_eq!(somebody_has(&link(), address).await, None);
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        neighbour.ip(&format!("address add {net} dev eth0{nodad}"));
        for fault in [
            rival(&link(), address).await,
            somebody_has(&link(), address).await,
        ] {
            let fault = fault.unwrap_or_else(|| panic!("a foreigner has {address}"));
            assert_eq!(fault.code, FaultCode::ApiAddressForeign);
            assert!(fault.why.contains(NEIGHBOUR), "{fault}");
        }
    }
    // Who comes to read too late reads what came.
    let (link, shared) = (link(), SHARED.parse().expect("ip"));
    let mut late = None;
    for _ in 0..200 {
        let asked = neighbours::who_has(&link, shared, Duration::ZERO).await;
        late = late.or(asked.expect("asked"));
    }
    assert_eq!(late.map(|mac| mac[5]), Some(7));
    // Nobody has held the address before: the lease was just created, by others who are gone.
    let mut begun = lease::begun(Timestamp::UNIX_EPOCH);
    begun["metadata"]["resourceVersion"] = "1".into();
    let mut w = world_of(SHARED, Some(OWN), Some(begun)).await;
    let watched = async {
        let foreign = |a: &ApiAddressStatus| {
            let fault = a.fault.as_ref();
            let named = |f: &Fault| f.why.contains(NEIGHBOUR);
            fault.is_some_and(|f| f.code == FaultCode::ApiAddressForeign && named(f))
        };
        says(&mut w.status, |a| a.is_some_and(|a| foreign(a) && !a.here)).await;
        assert!(!has_it());
        assert_eq!(w.api.lock().expect("lock").writes, 0, "nor is it said");
        w.stop.cancel();
    };
    tokio::join!(w.group.run(ENDS), watched);
    neighbour.ip("address delete 10.9.0.250/24 dev eth0");
    let mut w = world_of(SHARED, Some(OWN), Some(lease_of(SHARED, ""))).await;
    let watched = async {
        says(&mut w.status, |a| a.is_some_and(|a| a.here)).await;
        assert!(has_it());
        w.stop.cancel();
    };
    tokio::join!(w.group.run(ENDS), watched);
    assert!(!has_it(), "who ends gives it back");
}

/// The API server of the one that has it takes requests and never answers, or has an etcd without a quorum: the
/// address is gone before another master may take it, and comes back with the answers.
#[tokio::test]
async fn who_has_it_and_hears_nothing_of_the_api_any_more_has_it_no_more_in_time() {
    const NAME: &str = "who_has_it_and_hears_nothing_of_the_api_any_more_has_it_no_more_in_time";
    let Some(_neighbour) = linked(NAME) else {
        return;
    };
    let mut w = world_of(SHARED, Some(OWN), Some(lease_of(SHARED, ""))).await;
    let watched = async {
        for mood in [Mood::Hangs, Mood::Refuses] {
            says(&mut w.status, |a| a.is_some_and(|a| a.here)).await;
            assert!(has_it());
            w.api.lock().expect("lock").mood = mood;
            let began = Instant::now();
            while has_it() {
                assert!(began.elapsed() < LEASE, "others may have it by now");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(began.elapsed() >= HOLD / 4, "an answer may be late");
            let says_why = |a: &ApiAddressStatus| {
                let code = a.fault.as_ref().map(|f| f.code);
                code == Some(FaultCode::ApiAddressUnheld) && !a.here
            };
            says(&mut w.status, |a| a.is_some_and(says_why)).await;
            assert!(!has_it());
            w.api.lock().expect("lock").mood = Mood::Answers;
        }
        says(&mut w.status, |a| a.is_some_and(|a| a.here)).await;
        w.stop.cancel();
    };
    tokio::join!(w.group.run(ENDS), watched);
}

/// Its API server is about to stop: it says so while it has the address, gives it back, and the waiting caller
/// continues when another master has it; where none wants it, this one takes it again.
#[tokio::test]
async fn who_is_about_to_stop_its_api_server_gives_it_to_another_master_first() {
    const NAME: &str = "who_is_about_to_stop_its_api_server_gives_it_to_another_master_first";
    let Some(_neighbour) = linked(NAME) else {
        return;
    };
    let mut w = world_of(SHARED, Some(OWN), Some(lease_of(SHARED, ""))).await;
    let api = Arc::clone(&w.api);
    let lease = || {
        let lease = api.lock().expect("lock").lease.clone().unwrap_or_default();
        lease::read(&lease, SHARED.parse().expect("ip")).expect("a lease")
    };
    let watched = async {
        says(&mut w.status, |a| a.is_some_and(|a| a.here)).await;
        let another = async {
            let began = Instant::now();
            while !lease().leaving {
                assert!(began.elapsed() < SOON, "it does not say that it leaves");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(has_it(), "while the others come to look");
            while lease().holder.is_some() {
                assert!(began.elapsed() < SOON, "it does not give it back");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(!has_it(), "it is free for the others");
            api.lock().expect("lock").lease = Some(lease_of(SHARED, "n2"));
            Instant::now()
        };
        let ((), taken) = tokio::join!(w.handover.away(), another);
        assert!(taken.elapsed() < LEASE / 2, "{:?}", taken.elapsed());
        assert_eq!(lease().holder.as_deref(), Some("n2"));
        assert!(!has_it());

        // Given back to it, with no other master to take it next.
        api.lock().expect("lock").lease = Some(lease_of(SHARED, ""));
        says(&mut w.status, |a| a.is_some_and(|a| a.here)).await;
        w.handover.away().await;
        says(&mut w.status, |a| a.is_some_and(|a| !a.here)).await;
        says(&mut w.status, |a| a.is_some_and(|a| a.here)).await;
        assert!(!lease().leaving);
        w.stop.cancel();
    };
    tokio::join!(w.group.run(ENDS), watched);
}
