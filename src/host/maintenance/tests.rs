use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("time")
}

/// A machine whose clock anybody sets.
#[derive(Clone)]
struct Machine {
    boot: u32,
    /// Of this boot.
    up: u64,
    /// Of a container: what its host ran before.
    before: Option<u64>,
    wall: i64,
}

impl Machine {
    fn new() -> Self {
        Self {
            boot: 1,
            up: 1000,
            before: None,
            wall: 1_800_000_000,
        }
    }
    fn in_a_container() -> Self {
        Self {
            before: Some(864_000),
            ..Self::new()
        }
    }
    fn now(&self) -> Moment {
        Moment {
            wall: at(self.wall),
            boot_id: format!("boot-{}", self.boot),
            up: Duration::from_secs(self.up + self.before.unwrap_or(0)),
            lasted: Duration::from_secs(self.up),
        }
    }
    fn passes(&mut self, s: u64) {
        self.up += s;
        self.wall += s as i64;
    }
    fn boots(&mut self, off: u64) {
        self.boot += 1;
        self.before = self.before.map(|before| before + self.up + off);
        self.up = 1;
        self.wall += off as i64;
    }
}

fn order(id: u128, for_s: u32) -> MaintenanceOrder {
    MaintenanceOrder {
        id: Uuid::from_u128(id),
        for_s,
        reason: "a disk is replaced".into(),
    }
}

#[test]
fn it_ends_by_its_time_and_no_clock_that_is_set_changes_that() {
    let mut m = Machine::new();
    let record = MaintenanceRecord::none().begun_by_root("why", 7200, &m.now());
    let left = |m: &Machine| record.root.as_ref().expect("root").left(&m.now()).as_secs();
    m.passes(600);
    assert_eq!(left(&m), 6600);
    m.wall += 10 * 365 * 86_400;
    assert_eq!(left(&m), 6600, "ten years forward");
    m.wall -= 20 * 365 * 86_400;
    assert_eq!(left(&m), 6600, "and twenty back");
    let until = record.status(&m.now()).expect("it lasts").until;
    assert_eq!(until, at(m.wall + 6600), "told by the clock of now");
    m.passes(6600);
    assert_eq!(record.status(&m.now()), None);
    let over = record.to_note(&m.now()).expect("it is noted");
    assert!(over.is_empty());
}

#[test]
fn it_survives_a_boot_and_the_time_that_the_machine_was_off_counts() {
    for mut m in [Machine::new(), Machine::in_a_container()] {
        let record = MaintenanceRecord::none().begun_by_root("why", 7200, &m.now());
        m.passes(600);
        m.boots(1200);
        let left = record.root.as_ref().expect("root").left(&m.now());
        assert_eq!(left.as_secs(), 7200 - 1800);
        // A clock that begins in 1970 with each boot.
        m.wall = 5;
        let left = record.root.as_ref().expect("root").left(&m.now());
        assert_eq!(left, Duration::from_secs(7200) - NOTE_EVERY);
    }
}

#[test]
fn an_order_of_the_plane_is_counted_once() {
    let mut m = Machine::new();
    let first = order(1, 7200);
    let record = MaintenanceRecord::none().heeds(Some(&first), &m.now());
    assert_eq!(
        record.status(&m.now()).expect("on").by,
        MaintenanceBy::Plane
    );
    m.passes(60);
    assert_eq!(
        record.heeds(Some(&first), &m.now()),
        record,
        "it is not begun anew"
    );
    let ended = record.ended();
    assert_eq!(ended.status(&m.now()), None);
    let again = ended.heeds(Some(&first), &m.now());
    assert_eq!(again.status(&m.now()), None, "root ended this one");
    let other = again.heeds(Some(&order(2, 600)), &m.now());
    assert!(other.status(&m.now()).is_some(), "and another one begins");
    assert!(other.heeds(None, &m.now()).is_empty(), "the plane ends it");
    m.passes(7200);
    let over = record.to_note(&m.now()).expect("over");
    assert_eq!(over.heeds(Some(&first), &m.now()).status(&m.now()), None);
}

#[test]
fn a_spec_ends_no_maintenance_of_roots_and_orders_none_that_is_too_long() {
    let m = Machine::new();
    let root = MaintenanceRecord::none().begun_by_root("why", 7200, &m.now());
    let status = root.heeds(None, &m.now()).status(&m.now());
    assert_eq!(status.expect("on").by, MaintenanceBy::Root);
    let both = root.heeds(Some(&order(1, 600)), &m.now());
    let status = both.status(&m.now()).expect("on");
    assert_eq!(status.by, MaintenanceBy::Root, "the longer one is shown");
    let endless = root.heeds(Some(&order(1, u32::MAX)), &m.now());
    assert_eq!(endless.plane, None);
}

#[derive(Clone, Debug)]
enum Act {
    Passes(u64),
    Boots(u64),
    Sets(i64),
    /// nodelet looks, and notes what is due.
    Looks,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1u64..2000).prop_map(Act::Passes),
        (0u64..5000).prop_map(Act::Boots),
        (-20i64 * 365 * 86_400..20 * 365 * 86_400).prop_map(Act::Sets),
        Just(Act::Looks),
    ]
}

proptest! {
    /// Whatever is done to clocks and power: nodelet that looks at least once a minute lets it last no longer than
    /// twice its time; and while the machine runs it lasts no shorter than that.
    #[test]
    fn nothing_makes_it_last_for_ever(
        for_s in 60u32..100_000,
        container in any::<bool>(),
        acts in proptest::collection::vec(act(), 0..400),
    ) {
        let mut m = match container {
            true => Machine::in_a_container(),
            false => Machine::new(),
        };
        let mut record = MaintenanceRecord::none().begun_by_root("why", for_s, &m.now());
        let (mut ran, mut was_on, mut booted, mut off) = (0u64, true, false, 0u64);
        let look = |m: &Machine, record: &mut MaintenanceRecord, was_on: &mut bool| {
            if let Some(noted) = record.to_note(&m.now()) {
                *record = noted;
            }
            *was_on = record.status(&m.now()).is_some();
        };
        for act in acts {
            match act {
                Act::Passes(s) => {
                    for _ in 0..s.div_ceil(60) {
                        m.passes(60);
                        if was_on {
                            ran += 60;
                        }
                        look(&m, &mut record, &mut was_on);
                    }
                }
                Act::Boots(s) => {
                    m.boots(s);
                    off += s;
                    booted = true;
                    look(&m, &mut record, &mut was_on);
                }
                Act::Sets(s) => m.wall = (m.wall + s).clamp(0, 4_000_000_000),
                Act::Looks => look(&m, &mut record, &mut was_on),
            }
            prop_assert!(ran <= 2 * u64::from(for_s) + 60, "it ran for {ran} s of {for_s}");
            if !booted {
                prop_assert!(was_on || ran + 60 > u64::from(for_s), "it ended after {ran} s of {for_s}");
            }
        }
        let _ = off;
    }
}
