//! Which module may use which: the table, and the code and the pages compared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{blessed, is_test, module_of, product_code, sources};

/// Module → modules it may name, bottom up. A new arrow is a change of this table, seen in review; one that no code
/// uses is removed. The two pictures (`docs/architecture.md`, `src/lib.rs`) are made from it.
const ARROWS: &[(&str, &str)] = &[
    ("model", ""),
    ("tls", ""),
    ("seam", ""),
    // The tunnel, a crate of its own (crates/tunnel): the compiler enforces its border as well.
    ("wire", ""),
    ("mux", "wire"),
    ("telemetry", "seam model"),
    ("local", "seam model tls telemetry"),
    ("host", "seam model telemetry"),
    ("egress", "model host telemetry"),
    ("identity", "seam model host egress tls telemetry"),
    ("stack", "seam model host telemetry"),
    ("backup", "seam model host egress telemetry"),
    ("preflight", "model host telemetry"),
    ("agent", "seam model local host telemetry"),
    ("os", "seam model host telemetry"),
    ("app", "model mux host egress telemetry tls"),
    (
        "comms",
        "seam model wire mux local host egress identity app telemetry",
    ),
    (
        "hostagent",
        "seam model local host identity stack agent app telemetry",
    ),
    (
        "nodelet",
        "seam model local host identity stack agent os egress backup app telemetry",
    ),
    // backup: opens one while the plane is away. comms: tests the way to the plane as comms uses it. nodelet: the words
    // of its plan, as nodelet sends them.
    (
        "cli",
        "seam model agent os local host egress identity backup comms nodelet preflight app telemetry tls",
    ),
    // An independent peer: it shares the documents and the protocol with the node. stack: deltas between two stacks are
    // made from archives, unpacked as a node does it.
    ("plane", "seam model wire mux host app telemetry stack tls"),
];

fn table() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let row = |(module, to): &(&'static str, &'static str)| (*module, to.split(' ').collect());
    let mut table: BTreeMap<_, BTreeSet<_>> = ARROWS.iter().map(row).collect();
    for to in table.values_mut() {
        to.remove("");
    }
    table
}

/// Modules that code names after `own` (`crate::`), one by one or as a group (`crate::{a, b::{c, d}}`).
fn named(code: &str, own: &str) -> BTreeSet<String> {
    let begins = |text: &str| -> String {
        let is_part = |c: &char| c.is_ascii_lowercase() || *c == '_';
        text.trim_start().chars().take_while(is_part).collect()
    };
    let mut names = BTreeSet::new();
    for rest in code.split(own).skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(begins(rest));
            continue;
        };
        names.insert(begins(group));
        let mut depth = 1_u32;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => {
                    names.insert(begins(group.get(at + 1..).unwrap_or_default()));
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

#[test]
fn groups_are_read_as_well() {
    let code = "use crate::{app, comms::{self, x::Y}, model};\ncrate::host::fs();";
    let wanted = ["app", "comms", "host", "model"].map(str::to_owned);
    assert_eq!(named(code, "crate::"), BTreeSet::from(wanted));
}

#[test]
fn modules_use_only_whom_they_may() {
    let table = table();
    let mut taken: BTreeSet<(String, String)> = BTreeSet::new();
    let mut wrong = BTreeSet::new();
    for (path, text) in sources() {
        let Some(module) = module_of(&path) else {
            continue;
        };
        if matches!(module.as_str(), "lib" | "bin") || is_test(&path) {
            continue;
        }
        let allowed = table
            .get(module.as_str())
            .unwrap_or_else(|| panic!("{module} is not in the table"));
        let code = product_code(&text);
        // `crate::` inside the agent's crate is `pf9_hostagent::` outside.
        let own = match module.as_str() {
            "plane" => "pf9_hostagent::",
            _ => "crate::",
        };
        let mut names = named(&code, own);
        names.extend(named(&code, "pf9_tunnel::"));
        for name in names {
            if name == module || !table.contains_key(name.as_str()) {
                continue;
            }
            if !allowed.contains(name.as_str()) {
                wrong.insert(format!("{module} → {name} in {}", path.display()));
            }
            taken.insert((module.clone(), name));
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows the plan does not have: {wrong:#?}"
    );
    let all = table
        .iter()
        .flat_map(|(m, to)| to.iter().map(move |t| (*m, *t)));
    let idle: Vec<_> = all
        .filter(|(m, to)| !taken.contains(&((*m).to_owned(), (*to).to_owned())))
        .collect();
    assert!(idle.is_empty(), "arrows that nobody takes: {idle:?}");
}

/// The picture, a line each.
fn picture(prefix: &str) -> String {
    let line = |(module, to): &(&str, &str)| {
        let to = if to.is_empty() { "nobody" } else { to };
        format!("{prefix}{module:<10}► {to}\n")
    };
    ARROWS.iter().map(line).collect()
}

/// `text` with everything between the first line that contains `begin` and the next that contains `end` replaced.
fn with_block(text: &str, begin: &str, end: &str, block: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}{block}{end}{after}"))
}

#[test]
fn the_pictures_are_the_table() {
    let pages = [
        (
            "docs/architecture.md",
            "<!-- arrows -->\n```\n",
            "```\n",
            "",
        ),
        ("src/lib.rs", "//! ```text\n", "//! ```\n", "//! "),
    ];
    for (page, begin, end, prefix) in pages {
        let text = fs::read_to_string(page).expect("page");
        let wanted = with_block(&text, begin, end, &picture(prefix)).expect("the picture's place");
        blessed(page, &wanted);
    }
}
