//! The architecture rules as tests.
//!
//! | file | holds |
//! |---|---|
//! | `arch/arrows` | which module may use which: the table, its pictures |
//! | `arch/maps`   | the questions of `src/lib.rs` and of `CONTRIBUTING.md`, names of types, words of comments, who starts programs |
//! | `arch/words`  | every sentence that people are shown, in one file |
//! | here          | file lengths, who may print, bans, paths and links on pages |

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "arch/arrows.rs"]
mod arrows;
#[path = "arch/maps.rs"]
mod maps;
#[path = "arch/words.rs"]
mod words;

/// Longest file that can be read in one sitting.
const LINES_MAX: usize = 600;
/// Files that may write to standard output.
const PRINTERS: &[&str] = &[
    "src/cli/output.rs",
    "crates/plane/src/command.rs",
    "crates/plane/src/command/output.rs",
];

/// Files that are compiled for tests only.
fn is_test(path: &Path) -> bool {
    let named = [
        "tests.rs",
        "testing.rs",
        "golden.rs",
        "seam/walk.rs",
        "app/memory.rs",
        "host/no_threads.rs",
    ]
    .iter()
    .any(|name| path.ends_with(name));
    let room =
        |part: std::path::Component<'_>| ["tests", "golden"].iter().any(|r| part.as_os_str() == *r);
    named || path.components().any(room)
}

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut dirs = vec![
        root.join("src"),
        root.join("crates/plane/src"),
        root.join("crates/tunnel/src"),
    ];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("source directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("source file");
                let short = path
                    .strip_prefix(env!("CARGO_MANIFEST_DIR"))
                    .expect("inside the package");
                found.push((short.to_path_buf(), text));
            }
        }
    }
    assert!(found.len() > 50, "the walk found too little");
    found
}

/// `src/local/server.rs` and `src/local.rs` belong to `local`, `crates/tunnel/src/wire/frame.rs` to `wire`, and all of
/// `crates/plane` is one.
fn module_of(path: &Path) -> Option<String> {
    if path.starts_with("crates/plane") {
        return Some("plane".to_owned());
    }
    let mut parts = path.iter().skip_while(|part| *part != "src").skip(1);
    let first = parts.next()?.to_str()?;
    Some(first.trim_end_matches(".rs").to_owned())
}

/// Code without comments and without its test modules.
fn product_code(text: &str) -> String {
    let tests = ["", "pub(crate) ", "pub(super) "];
    let tests = tests.map(|to| format!("#[cfg(test)]\n{to}mod tests {{"));
    let begins = tests.iter().filter_map(|t| text.find(t.as_str())).min();
    let code = begins.and_then(|at| text.get(..at)).unwrap_or(text);
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A golden file with the `wanted` text; `PF9_BLESS=1` writes it.
fn blessed(path: &str, wanted: &str) {
    if std::env::var_os("PF9_BLESS").is_some() {
        fs::write(path, wanted).expect("write");
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    let differs = text.lines().zip(wanted.lines()).find(|(a, b)| a != b);
    assert!(
        text == wanted,
        "{path} is an older one: PF9_BLESS=1 ({differs:?})"
    );
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines: {long:#?}");
}

#[test]
fn only_the_printers_print() {
    let chatty: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| {
            if is_test(path) {
                return false;
            }
            let code = product_code(text);
            let prints = ["println!", "print!(", "eprintln!", "stdout()"]
                .iter()
                .any(|p| code.contains(p));
            prints && !PRINTERS.iter().any(|p| path.ends_with(p))
        })
        .map(|(path, _)| path)
        .collect();
    assert!(chatty.is_empty(), "these print: {chatty:#?}");
}

#[test]
fn programs_are_thin() {
    const MAIN_MAX: usize = 60;
    for (path, text) in sources() {
        if path.starts_with("src/bin") {
            let lines = text.lines().count();
            assert!(lines <= MAIN_MAX, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn nothing_is_banned_in_the_product() {
    // Bans that no lint knows: each would break a promise silently.
    const THREADS: &str = "it panics where no thread can be started: host::work";
    const BANNED: &[(&str, &str, &[&str])] = &[
        ("unbounded_channel", "every queue has a bound", &[]),
        ("tokio::spawn(", "tasks belong to a group", &[]),
        ("fs::write(", "writes are atomic: host::fs", &[]),
        ("process::exit", "return an Exit", &[]),
        ("spawn_blocking", THREADS, &["src/host/work.rs"]),
        ("block_in_place", THREADS, &[]),
        ("tokio::fs", THREADS, &[]),
        // Asks in a task of its own, whose panic is an answer.
        ("lookup_host", THREADS, &["src/egress/race.rs"]),
        ("thread::spawn(", THREADS, &[]),
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if is_test(&path) {
            continue;
        }
        let code = product_code(&text);
        for (word, why, but) in BANNED {
            if code.contains(word) && !but.iter().any(|b| path.ends_with(b)) {
                wrong.push(format!("{}: {word} ({why})", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The plane's handlers read requests with its own extractors: the library's refuse in its own words, without a code.
#[test]
fn the_plane_refuses_bad_requests_in_its_own_words() {
    const READERS: [&str; 4] = ["Path", "Query", "Form", "Json"];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if is_test(&path) || path.ends_with("plane/src/http.rs") {
            continue;
        }
        let code = product_code(&text);
        for part in code.split("axum::extract::").skip(1) {
            let end = if part.starts_with('{') { "}" } else { ";" };
            let named = part.split(end).next().unwrap_or_default();
            let words = named.split(|c: char| !c.is_alphanumeric());
            if let Some(word) = words.into_iter().find(|w| READERS.contains(w)) {
                wrong.push(format!("{}: axum::extract::{word}", path.display()));
            }
        }
        // A body is read by `http::Doc`; as an argument this would read one.
        if code.contains("    Json(") && code.contains("): Json<") {
            wrong.push(format!("{}: Json as an argument", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Changing a disk or reading the clock without a point at which a test can break it (`src/seam.rs`). What a person's own
/// command and the checks of a machine write is no daemon's: what is shown or packed for a person, a lock, what a failed
/// `node prep` takes back; scratch files.
#[test]
fn daemons_change_disks_and_read_the_clock_through_the_seam() {
    const NOT_DAEMONS: [&str; 8] = [
        "src/cli/before.rs",
        "src/cli/bundle.rs",
        "src/cli/context.rs",
        "src/cli/leftovers.rs",
        "src/cli/output.rs",
        "src/preflight/sync.rs",
        "src/preflight/trial.rs",
        "src/seam",
    ];
    const WORDS: [&str; 18] = [
        "OpenOptions::new()",
        ".write(true)",
        "File::create",
        "fs::rename(",
        "fs::create_dir",
        "fs::remove_file(",
        "fs::remove_dir",
        "fs::copy(",
        "fs::hard_link(",
        "fs::set_permissions(",
        "DirBuilder::new()",
        "unix::fs::symlink(",
        "unix::fs::chown(",
        "fchown(",
        "renameat",
        "linkat(",
        "Timestamp::now",
        "Zoned::now",
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let daemon = !NOT_DAEMONS.iter().any(|p| path.starts_with(p));
        if is_test(&path) || path.ends_with("rig.rs") || path.ends_with("seam.rs") || !daemon {
            continue;
        }
        let code = product_code(&text);
        for word in WORDS {
            if code.contains(word) {
                wrong.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Fault injection is in no release: it does not compile there, and no program and no default enables it.
#[test]
fn no_release_has_points() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let features = text.split("[features]").nth(1).expect("features");
    let features = features.split("\n[").next().expect("their end");
    let asks: Vec<_> = features
        .lines()
        .filter(|l| !l.trim_start().starts_with('#') && l.contains("fault"))
        .collect();
    assert_eq!(
        asks,
        [
            "default = []",
            "fault = [\"dep:proptest\", \"dep:tempfile\", \"tokio/test-util\"]"
        ]
    );
    assert!(!text.contains("required-features = [\"fault"));
    // The plane's crate has programs that only tests run, and only they enable it.
    let text = fs::read_to_string(root.join("crates/plane/Cargo.toml")).expect("Cargo.toml");
    let mut of_tests = BTreeSet::new();
    for part in text.split("\n[").filter(|part| part.contains("fault\"]")) {
        let name = part
            .split("name = \"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        of_tests.insert(name.unwrap_or_else(|| part.lines().next().unwrap_or_default()));
    }
    let known = ["clients", "features]", "it", "pf9-agent-of-tests"];
    assert_eq!(of_tests.into_iter().collect::<Vec<_>>(), known);
    let seam = fs::read_to_string(root.join("src/seam.rs")).expect("the seam");
    let guard = "#[cfg(all(feature = \"fault\", not(debug_assertions)))]\ncompile_error!(";
    assert!(seam.contains(guard), "a release with it would compile");
    for script in [
        "scripts/package",
        "scripts/lib/tools.py",
        "scripts/lib/bench_join.py",
    ] {
        let text = fs::read_to_string(root.join(script)).expect("script");
        for build in text
            .lines()
            .filter(|l| l.contains("build") && l.contains("release"))
        {
            assert!(
                !build.contains("all-features") && !build.contains("fault"),
                "{script}: {build}"
            );
        }
    }
}

/// A new kind of step, question, artefact or outcome must be handled wherever kinds matter: in matches that name each
/// (clippy's `wildcard_enum_match_arm` enforces the rest), not by singling one out.
#[test]
fn kinds_are_not_picked_out_of_the_closed_enums() {
    const ENUMS: [&str; 6] = [
        "Step",
        "Probe",
        "ArtefactKind",
        "Before",
        "StepPart",
        "Proof",
    ];
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in sources() {
        if is_test(&path) || path.ends_with("rig.rs") || !path.starts_with("src/nodelet") {
            continue;
        }
        seen += 1;
        let code = product_code(&text);
        for name in ENUMS {
            let picked = code.contains(&format!("let {name}::"))
                || code.split("matches!(").skip(1).any(|call| {
                    let call = call.split(';').next().unwrap_or(call);
                    let call: String = call.chars().take(200).collect();
                    call.contains(&format!(" {name}::"))
                });
            if picked {
                wrong.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(seen > 30, "the walk found too little");
    assert!(
        wrong.is_empty(),
        "decided outside an exhaustive match: {wrong:#?}"
    );
}

/// Processes, sockets and mounts are read in one place each: two parsers disagree sooner or later.
#[test]
fn processes_are_looked_at_in_one_place() {
    const READERS: [(&str, &[&str]); 5] = [
        ("list(\"/proc\")", &[]),
        ("at(\"/proc\")", &["src/host/proc.rs"]),
        ("/proc/{pid}", &["src/host/proc.rs"]),
        ("/proc/net/tcp", &["src/host/proc.rs"]),
        ("/mountinfo", &["src/host/mounts.rs", "src/host/proc.rs"]),
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if is_test(&path) || path.ends_with("rig.rs") {
            continue;
        }
        let code = product_code(&text);
        for (word, readers) in READERS {
            if code.contains(word) && !readers.iter().any(|r| path.ends_with(r)) {
                wrong.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The page names tests for each promise; each of them exists and runs, and was seen to fail without its guard.
#[test]
fn every_promise_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).expect("page");
    let (_, rest) = page.split_once("### Who holds them").expect("the table");
    let (table, _) = rest.split_once("\n## ").expect("its end");
    let (mut held, mut seen_to_fail) = (BTreeSet::new(), BTreeSet::new());
    let mut unseen = Vec::new();
    for row in table.lines() {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let Some(promise) = cells.next().and_then(|c| c.parse::<u32>().ok()) else {
            continue;
        };
        let mut tests = cells.next().unwrap_or_default().split('`').skip(1);
        while let (Some(named), Some(after)) = (tests.next(), tests.next()) {
            let (file, test) = named.split_once(": ").expect("file: test");
            let text = fs::read_to_string(root.join(file))
                .unwrap_or_else(|e| panic!("promise {promise}: {file}: {e}"));
            assert!(
                is_a_test(&text, test),
                "promise {promise}: {file} has no test {test}"
            );
            held.insert(promise);
            if after.trim_start().starts_with('†') {
                seen_to_fail.insert(promise);
            } else {
                unseen.push(named.to_owned());
            }
        }
    }
    // Removing their guard on a machine takes minutes for each.
    unseen.retain(|named| !named.starts_with("tests/node/"));
    assert!(
        unseen.is_empty(),
        "not seen to fail without its guard: {unseen:#?}"
    );
    let (_, list) = page.split_once("## Promises").expect("the promises");
    let (list, _) = list.split_once("### Who").expect("their end");
    let promised: BTreeSet<u32> = list
        .lines()
        .filter_map(|line| line.split_once(". ")?.0.parse().ok())
        .collect();
    assert_eq!(held, promised, "each promise names a test");
    assert_eq!(
        seen_to_fail, promised,
        "each promise has a test that was seen to fail without its guard"
    );
}

/// A function of this name under a test's attribute, and not ignored.
fn is_a_test(text: &str, name: &str) -> bool {
    let before = text.split_once(&format!("fn {name}("));
    let Some((above, _)) = before.and_then(|(before, _)| before.rsplit_once('\n')) else {
        return false;
    };
    let attributes = above.lines().rev().map(str::trim);
    let mut attributes = attributes.take_while(|l| l.starts_with('#') || l.starts_with("//"));
    let mut is_test = false;
    let left_out = attributes.any(|line| {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        line.starts_with("#[ignore") || line.starts_with("#[cfg(")
    });
    is_test && !left_out
}

/// Every path in backquotes on a page exists.
#[test]
fn pages_name_files_that_are_there() {
    let roots = [
        "src/",
        "crates/",
        "tests/",
        "scripts/",
        "docs/",
        "packaging/",
        "systemd/",
        "benches/",
    ];
    let mut named = 0;
    let of_developers = ["CHANGELOG.md", "CONTRIBUTING.md"].map(str::to_owned);
    for page in pages().into_iter().chain(of_developers) {
        let text = fs::read_to_string(&page).expect("page");
        let quoted = text.split('`').skip(1).step_by(2);
        for word in quoted {
            // A program with its arguments, a test with its name.
            let path = word.split([' ', ':']).next().unwrap_or_default();
            let is_path = roots.iter().any(|root| path.starts_with(root));
            if !is_path || path.contains(['*', '{', '<', '…']) {
                continue;
            }
            named += 1;
            assert!(
                Path::new(path).exists(),
                "{page} names {path}, which is not there"
            );
        }
    }
    assert!(named > 50, "only {named} paths were found");
}

/// Links from page to page lead to pages, and to headings that are there.
#[test]
fn links_of_pages_lead_somewhere() {
    let anchors = |text: &str| -> BTreeSet<String> {
        let heads = text.lines().filter(|line| line.starts_with('#'));
        let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        heads
            .map(|line| line.trim_start_matches('#').trim().to_lowercase())
            .map(|head| {
                head.chars()
                    .filter(kept)
                    .collect::<String>()
                    .replace(' ', "-")
            })
            .collect()
    };
    let mut links = 0;
    for page in pages().into_iter().chain(["CONTRIBUTING.md".to_owned()]) {
        let text = fs::read_to_string(&page).expect("page");
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = target.trim();
            if target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            links += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let beside = Path::new(&page).with_file_name(file);
            let file = if file.is_empty() {
                PathBuf::from(&page)
            } else {
                beside
            };
            let there =
                fs::read_to_string(&file).unwrap_or_else(|e| panic!("{page}: {target}: {e}"));
            let found = anchor.is_empty() || anchors(&there).contains(anchor);
            assert!(found, "{page}: {target}: no such heading");
        }
    }
    assert!(links > 20, "only {links} links were found");
}

/// A page with its screens as in the golden files, and how many there are.
fn with_screens(text: &str) -> (String, usize) {
    let (mut out, mut count) = (String::new(), 0);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        out += &format!("{line}\n");
        let screen = line.strip_prefix("<!-- screen: ");
        let Some(path) = screen.and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        let golden = fs::read_to_string(path).expect("a golden file");
        out += &format!("```\n{}\n```\n", golden.trim_matches('\n'));
        count += 1;
        if lines.next_if_eq(&"```").is_some() {
            lines.by_ref().find(|line| *line == "```");
        }
    }
    (out, count)
}

/// Pages that people read.
fn pages() -> Vec<String> {
    let docs = fs::read_dir("docs").expect("docs");
    let docs = docs.map(|entry| entry.expect("entry").path().display().to_string());
    let pages = docs.filter(|path| path.ends_with(".md"));
    ["README.md".to_owned()].into_iter().chain(pages).collect()
}

/// Text that only a program's screen has, in blocks that no golden file stands for.
fn looks_like_a_screen(text: &str) -> Option<&str> {
    const MARKS: [&str; 4] = ["✓ ", "✗ ", "what to do  ", "why       "];
    const SAYS: [&str; 2] = ["pf9ctl: ", "pf9-plane: "];
    let is_said = |line: &str| {
        MARKS.iter().any(|mark| line.contains(mark)) || SAYS.iter().any(|who| line.starts_with(who))
    };
    let mut is_golden = false;
    let mut block = false;
    for line in text.lines() {
        match line.starts_with("```") {
            true => block = !block,
            false if !block && !line.is_empty() => is_golden = line.starts_with("<!-- screen: "),
            false => {}
        }
        if block && !is_golden && is_said(line) {
            return Some(line);
        }
    }
    None
}

/// Pages show people what they will see. `PF9_BLESS=1` writes it there.
#[test]
fn screens_of_pages_are_those_of_the_programs() {
    let mut screens = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("page");
        let (wanted, count) = with_screens(&text);
        screens += count;
        blessed(&page, &wanted);
        let other = looks_like_a_screen(&wanted);
        assert!(other.is_none(), "{page}: no golden file has {other:?}");
    }
    assert!(screens >= 6, "only {screens} screens");
    for drawn in [
        "```\n  ✓ x\n```",
        "a\n```\npf9ctl: no\n```",
        "<!-- screen: x -->\na\n```\n✗ x\n```",
    ] {
        assert!(looks_like_a_screen(drawn).is_some(), "{drawn}");
    }
    assert_eq!(
        looks_like_a_screen("<!-- screen: x -->\n```\n✗ x\n```\n"),
        None
    );
}

/// A code that nothing uses is a promise to programs that nothing keeps.
#[test]
fn every_fault_code_is_spoken_by_somebody() {
    use pf9_hostagent::model::FaultCode;
    let spoken: String = sources()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("model/fault_code.rs") && !is_test(path))
        .map(|(_, text)| product_code(&text))
        .collect();
    for code in FaultCode::ALL {
        // Made from the name of a check: `preflight` tests that each has one.
        if code.word().starts_with("check-") {
            continue;
        }
        let used = spoken
            .match_indices(&format!("FaultCode::{code:?}"))
            .any(|(at, found)| {
                let rest = spoken.get(at + found.len()..).unwrap_or_default();
                !rest.starts_with(char::is_alphanumeric)
            });
        assert!(used, "nothing says {code}: take its row out");
    }
}
