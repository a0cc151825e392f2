//! The units' bounds and what the programs can be made to hold: a test.

use crate::{comms, hostagent, nodelet};

/// For what is not counted one by one: allocator, kernel's buffers of sockets, page tables.
const MARGIN: u64 = 8;

/// `MemoryMax=` of a unit, bytes.
fn memory_max(unit: &str) -> u64 {
    let value = unit.lines().find_map(|l| l.strip_prefix("MemoryMax="));
    let value = value.expect("a bound").strip_suffix('M').expect("MiB");
    value.parse::<u64>().expect("a number") * 1024 * 1024
}

#[test]
fn what_a_program_may_hold_fits_into_its_unit() {
    let units = [
        (
            "pf9-comms",
            include_str!("../../systemd/pf9-comms.service"),
            comms::memory::most(),
        ),
        (
            "pf9-hostagent",
            include_str!("../../systemd/pf9-hostagent.service"),
            hostagent::memory_most(),
        ),
        (
            "pf9-nodeletd",
            include_str!("../../systemd/pf9-nodeletd.service"),
            nodelet::memory_most(),
        ),
    ];
    for (name, unit, most) in units {
        let bound = memory_max(unit);
        let room = bound - bound / MARGIN;
        assert!(
            most <= room,
            "{name}: {most} of {bound}, {room} without the margin"
        );
        // A bound that is far away bounds nothing.
        assert!(most >= bound / 2, "{name}: {most} of {bound}");
    }
}
