use crate::model::FaultCode;
use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("time")
}

fn failed(key: &str, second: i64, jitter: f64) -> Happened {
    Happened::StepFailed {
        key: key.into(),
        fault: Fault::new(FaultCode::Internal, "cannot do it", "because"),
        at: at(second),
        jitter,
    }
}

fn rests() -> Fault {
    Fault::new(
        FaultCode::Maintenance,
        "nothing is done",
        "somebody said so",
    )
}

fn failing(attempts: u32) -> Lifecycle {
    let mut now = Lifecycle::begin();
    for _ in 0..attempts {
        now = now.next(failed("a", 0, 0.0));
    }
    now
}

fn show(now: &Lifecycle) -> String {
    match now {
        Lifecycle::Ok => "ok".into(),
        Lifecycle::Converging { waits: None } => "converging".into(),
        Lifecycle::Converging { waits: Some(what) } => format!("converging, waits for {what}"),
        Lifecycle::Retrying(f) | Lifecycle::Failed(f) => {
            format!("{} {} ×{}", now.state(), f.key, f.attempts)
        }
        Lifecycle::Maintenance(_) => "maintenance".into(),
    }
}

/// Every state × everything that can happen. `PF9_BLESS=1` rewrites it.
#[test]
fn the_transition_table_is_as_written() {
    let states = [
        Lifecycle::Ok,
        Lifecycle::begin(),
        Lifecycle::Converging {
            waits: Some("certificates".into()),
        },
        failing(1),
        failing(ATTEMPTS_MAX),
        failing(ATTEMPTS_MAX + 1),
        Lifecycle::Maintenance(rests()),
    ];
    let events = [
        ("new work", Happened::NewWork),
        ("drift", Happened::Drift),
        ("step a failed", failed("a", 0, 0.0)),
        ("step b failed", failed("b", 0, 0.0)),
        (
            "waits",
            Happened::Waits {
                what: "the stack".into(),
            },
        ),
        ("settled", Happened::Settled),
        ("rests", Happened::Rests { why: rests() }),
    ];
    let mut table = String::new();
    for state in &states {
        for (name, event) in &events {
            let next = state.clone().next(event.clone());
            table += &format!("{:<40} {name:<16} {}\n", show(state), show(&next));
        }
    }
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/nodelet/lifecycle/table.txt"
    );
    if std::env::var_os("PF9_BLESS").is_some() {
        std::fs::write(path, &table).expect("write the table");
    }
    let golden = std::fs::read_to_string(path).expect("the table");
    assert_eq!(table, golden);
}

fn happened() -> impl Strategy<Value = Happened> {
    prop_oneof![
        Just(Happened::NewWork),
        Just(Happened::Drift),
        Just(Happened::Settled),
        ("[a-c]", 0i64..10_000, 0.0..1.0f64).prop_map(|(k, s, j)| failed(&k, s, j)),
        Just(Happened::Waits { what: "x".into() }),
        Just(Happened::Rests { why: rests() }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_state_explains_itself(events in proptest::collection::vec(happened(), 0..60)) {
        let mut now = Lifecycle::begin();
        for event in events {
            now = now.next(event.clone());
            match &now {
                Lifecycle::Ok => {
                    prop_assert_eq!(&event, &Happened::Settled);
                    prop_assert!(now.reason().is_none());
                }
                Lifecycle::Converging { .. } => prop_assert!(now.failing().is_none()),
                Lifecycle::Retrying(f) => {
                    prop_assert!((1..=ATTEMPTS_MAX).contains(&f.attempts));
                    prop_assert_eq!(f.fault.next_try, Some(f.next_try));
                }
                Lifecycle::Failed(f) => prop_assert!(f.attempts > ATTEMPTS_MAX),
                Lifecycle::Maintenance(_) => {
                    prop_assert_eq!(&event, &Happened::Rests { why: rests() });
                    prop_assert!(now.reason().is_some() && now.failing().is_none());
                }
            }
        }
    }

    #[test]
    fn pauses_are_bounded_and_never_nothing(attempts in 1u32..1000, jitter in 0.0..1.0f64) {
        let pause = pause(attempts, jitter);
        prop_assert!(pause >= Duration::from_millis(500));
        prop_assert!(pause <= Duration::from_secs(120));
        if attempts > ATTEMPTS_MAX {
            prop_assert!(pause >= FAILED_PAUSE);
        } else {
            prop_assert!(pause <= BACKOFF_CAP);
        }
    }
}

#[test]
fn the_budget_is_per_step_and_success_resets_it() {
    let mut now = failing(ATTEMPTS_MAX);
    assert_eq!(now.state(), NodeState::Retrying);
    now = now.next(failed("a", 0, 0.0));
    assert_eq!(now.state(), NodeState::Failed);
    now = now.next(failed("b", 0, 0.0));
    assert_eq!(
        now.state(),
        NodeState::Retrying,
        "another step has its own budget"
    );
    now = now.next(Happened::Settled).next(Happened::Drift);
    now = now.next(failed("b", 0, 0.0));
    assert_eq!(now.failing().map(|f| f.attempts), Some(1));
}
