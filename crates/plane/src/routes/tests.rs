//! What routes there are, and the page that says so.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::*;
use crate::access::{Realm, Role};
use crate::guard::{NOBODYS, SOMEBODYS};

fn params(path: &str) -> impl Iterator<Item = &str> {
    let parts = path.split('/');
    parts.filter_map(|part| {
        Some(
            part.strip_prefix('{')?
                .strip_suffix('}')?
                .trim_start_matches('*'),
        )
    })
}

/// A parameter that names something is looked up by the guard; one that it does not know lets nobody in.
#[test]
fn the_guard_knows_whose_each_parameter_is() {
    let known: BTreeSet<&str> = NOBODYS.into_iter().chain(SOMEBODYS).collect();
    let mut used = BTreeSet::new();
    for route in listed() {
        used.extend(params(route.path));
    }
    assert_eq!(used, known, "each is known, and each is used");
}

/// Without a token one finds out nothing and changes nothing but by what each of these asks for itself.
#[test]
fn who_comes_without_a_token_is_let_to_these_alone() {
    let open = listed().into_iter().filter(|r| r.open.is_some());
    let open: Vec<String> = open
        .map(|r| format!("{} {}{}", r.method, r.prefix, r.path))
        .collect();
    let expected = [
        "GET /",
        "GET /ui",
        "GET /ui/",
        "GET /ui/{file}",
        "GET /healthz",
        "GET /ready",
        "POST /v1/enrol",
        "GET /v1/tunnel",
        "GET /v1/planes/relay",
        "GET /keystone/",
        "GET /keystone/v3",
        "GET /keystone/v3/",
        "POST /keystone/v3/auth/tokens",
    ];
    assert_eq!(open, expected);
}

fn realm(realm: Realm) -> &'static str {
    match realm {
        Realm::Fleet => "project",
        Realm::Directory => "domain",
        Realm::Plane => "plane",
        Realm::Anybody => "nobody",
    }
}

fn page() -> String {
    let mut page = include_str!("../../../../docs/roles.md")
        .split("## Actions")
        .next()
        .unwrap_or_default()
        .to_owned();
    page.push_str("## Actions\n\n| action | what | the role counts in the thing's | reader | member | admin | one's own |\n|---|---|---|:-:|:-:|:-:|:-:|\n");
    for action in Action::ALL {
        let mark = |yes: bool| if yes { "✓" } else { "" };
        let may = |role: Role| mark(action.realm() == Realm::Anybody || role >= action.least());
        let [reader, member, admin] = Role::ALL.map(may);
        let (word, says, whose) = (action.word(), action.says(), realm(action.realm()));
        let own = mark(action.is_for_own());
        writeln!(
            page,
            "| `{word}` | {says} | {whose} | {reader} | {member} | {admin} | {own} |"
        )
        .expect("text");
    }
    page.push_str("\n## Routes\n\n| route | needs |\n|---|---|\n");
    for route in listed() {
        let needs = match (route.action, route.open) {
            (Some(action), _) => format!("`{action}`"),
            (None, why) => format!("nothing: {}", why.unwrap_or_default()),
        };
        writeln!(
            page,
            "| `{} {}{}` | {needs} |",
            route.method, route.prefix, route.path
        )
        .expect("text");
    }
    page
}

/// The page is the table, for people; a change of it is a change that somebody reads.
#[test]
fn the_page_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/roles.md");
    let now = page();
    if std::env::var_os("PF9_BLESS").is_some() {
        std::fs::write(path, &now).expect("page");
    }
    let page = std::fs::read_to_string(path).expect("page");
    assert!(
        now == page,
        "docs/roles.md differs; PF9_BLESS=1 writes it anew"
    );
}
