//! The package's maintainer scripts: what they hold of [`crate::host::ours`] and
//! [`crate::host::deadlines`] as text, and what they do with it. They run when our programs are
//! gone, so they cannot ask; `PF9_BLESS=1` rewrites the text.

mod mounted;
mod versions;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::host::deadlines;
use crate::host::ours::paths::{self as ours, Remover, below};
use crate::host::ours::units;
use crate::model::paths;

const SCRIPTS: [&str; 4] = ["deb/prerm", "deb/postrm", "rpm/preun.sh", "rpm/postun.sh"];
const BEGIN: &str =
    "# >>> what is ours and how long it may take: from src/host/ours and src/host/deadlines.rs\n";
const END: &str = "# <<<\n";

/// What containers and pods left mounted; the last mounted goes first. The kernel names a mount by where it really is:
/// links on the way (`/var` on another disk) are followed, one in its own place is not.
const UNMOUNT: &str = r#"real_path() {
    printf '%s/%s' "$(readlink -f "$(dirname "$1")")" "$(basename "$1")"
}
unmount_ours() {
    for root in $MOUNTED; do
        root=$(real_path "$root")
        while read -r _ _ _ _ point _; do
            case "$point" in "$root"/*) printf '%s\n' "$point" ;; esac
        done </proc/self/mountinfo | tac | while read -r point; do
            umount -l "$(printf '%b' "$point")" 2>/dev/null || :
        done
    done
}
"#;

/// A directory that is mounted twice is of the same file system: `rm --one-file-system` goes through it. The kernel's
/// list, in which some letters are written as octal numbers, says where that is so. What cannot be deleted is reported,
/// and the rest continues: a package that is half removed helps nobody.
const REMOVE: &str = r#"remove_tree() (
    # Never everything, whatever a mistake of ours makes of a name.
    case "$1" in /*/*) ;; *) exit 0 ;; esac
    kernel=$(real_path "$1" | sed -z -e 's/\\/\\134/g' -e 's/ /\\040/g' -e 's/\t/\\011/g' -e 's/\n/\\012/g')
    here="" below=""
    while read -r _ _ _ _ point _; do
        case "$point" in "$kernel") here=yes ;; "$kernel"/*) below=yes ;; esac
    done </proc/self/mountinfo
    if [ -z "$here$below" ]; then
        rm -rf --one-file-system "$1" || echo "pf9-hostagent: WARNING: could not delete all of $1" >&2
        exit 0
    fi
    if [ -n "$here" ]; then
        disk=""
        case " $ROLE_TREES $AGENT_TREES $CONFIG_ROOT $DISKS " in *" $1 "*) if [ -d "$1" ]; then disk=yes; fi ;; esac
        if [ -z "$disk" ]; then
            echo "pf9-hostagent: left as it is, for something is mounted there: $1" >&2
            exit 0
        fi
    fi
    for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        if [ -e "$entry" ] || [ -L "$entry" ]; then remove_tree "$entry"; fi
    done
    if [ -z "$here" ]; then rmdir --ignore-fail-on-non-empty "$1" || :; fi
)
"#;

/// One of its units is there, of ours.
const ROLE_IS_LEFT: &str = r#"role_is_left() {
    for unit in $ROLE_UNITS; do
        # One that somebody mounted another file over stays after the role.
        if [ -e "$unit" ] && ! grep -qs "^[^ ]* [^ ]* [^ ]* [^ ]* $unit " /proc/self/mountinfo; then return 0; fi
    done
    # The units go before the network and before what is put back: the ledger says until when it is being removed.
    grep -qs '"removing": true' "$LEDGER"
}
"#;

/// A person's drop-ins for units of ours stay, and are named.
const TELL: &str = r#"tell_drop_ins() {
    for dir in $SHARED_DIRS; do
        for own in "$dir"/pf9-*.service.d "$dir"/pf9-*.socket.d; do
            if [ -e "$own" ]; then echo "pf9-hostagent: left as it is, for it is the administrator's: $own" >&2; fi
        done
    done
}
"#;

fn path_of(script: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("packaging").join(script)
}

/// What stands before, between and after the marks.
fn parts(text: &str) -> (&str, &str, &str) {
    let (before, rest) = text.split_once(BEGIN).expect("the mark");
    let (inside, after) = rest.split_once(END).expect("the second mark");
    (before, inside, after)
}

/// Everything a script may need, by name.
fn known() -> Vec<(&'static str, String)> {
    let trees = |wanted: fn(Remover) -> bool| {
        let places = ours::PLACES
            .iter()
            .filter(|(path, keeper)| wanted(*keeper) && !below(ours::CONFIG_ROOT, path));
        places.map(|(path, _)| *path).collect::<Vec<_>>().join(" ")
    };
    let entries = |wanted: Remover| {
        let entries = ours::entries().into_iter().filter(|(_, k)| *k == wanted);
        entries.map(|(path, _)| path).collect::<Vec<_>>().join(" ")
    };
    let role = |k| k == Remover::Role;
    let role_units = units::ROLE
        .map(|u| format!("{}/{u}", ours::UNIT_DIR))
        .join(" ");
    let variable = |name, value: String| (name, format!("{name}=\"{value}\"\n"));
    vec![
        variable("ROLE_UNITS", role_units),
        variable("LEDGER", format!("{}/ledger.json", paths::NODELET_STATE)),
        variable("ROLE_TREES", trees(role)),
        variable("ROLE_ENTRIES", entries(Remover::Role)),
        variable("AGENT_TREES", trees(|k| k != Remover::Role)),
        variable("AGENT_PROGRAMS", paths::AGENT_PROGRAMS.into()),
        variable("AGENT_ENTRIES", entries(Remover::Agent)),
        variable("CONFIG_ROOT", ours::CONFIG_ROOT.into()),
        variable("MOUNTED", ours::MOUNTED.join(" ")),
        variable("DISKS", ours::DISKS.join(" ")),
        variable("PROXY_CONFIG", paths::PROXY_CONFIG.into()),
        variable("SHARED_DIRS", ours::SHARED.join(" ")),
        variable("SHARED_PARENTS", ours::SHARED_PARENTS.join(" ")),
        variable("REMOVAL_SECONDS", deadlines::PACKAGE.as_secs().to_string()),
        ("unmount_ours", UNMOUNT.into()),
        ("remove_tree", REMOVE.into()),
        ("tell_drop_ins", TELL.into()),
        ("role_is_left", ROLE_IS_LEFT.into()),
        (
            "config_is_kept",
            format!(
                "config_is_kept() {{\n    case \"$1\" in\n        {} | hostagent.toml.*) return 0 ;;\n    esac\n    \
                 return 1\n}}\n",
                ours::KEPT_CONFIG.join(" | ")
            ),
        ),
    ]
}

/// What this script uses of it, and what that uses.
fn wanted(rest: &str) -> String {
    let uses_role = rest.contains("role_is_left");
    let uses_tree = rest.contains("remove_tree");
    let used = |name: &str| {
        rest.contains(name)
            || ["ROLE_UNITS", "LEDGER"].contains(&name) && uses_role
            || name == "MOUNTED" && rest.contains("unmount_ours")
            || name == "DISKS" && uses_tree
            || name == "SHARED_DIRS" && rest.contains("tell_drop_ins")
    };
    let all = known().into_iter().filter(|(name, _)| used(name));
    all.map(|(_, text)| text).collect()
}

#[test]
fn the_scripts_hold_what_the_programs_say() {
    for script in SCRIPTS {
        let text = std::fs::read_to_string(path_of(script)).expect(script);
        let (before, inside, after) = parts(&text);
        let want = wanted(&format!("{before}{after}"));
        if std::env::var_os("PF9_BLESS").is_some() {
            let text = format!("{before}{BEGIN}{want}{END}{after}");
            std::fs::write(path_of(script), text).expect(script);
        } else {
            assert_eq!(inside, want, "{script}: PF9_BLESS=1 writes it anew");
        }
        // Nothing is deleted that is named elsewhere.
        for line in after.lines().filter(|l| l.contains("rm -")) {
            let mut words = line.split([' ', '"', ';']);
            let allowed = ["/var/opt/pf9/removal", "/.pf9-tmp-"];
            let named =
                words.find(|w| w.starts_with('/') && !allowed.iter().any(|a| w.starts_with(a)));
            let copied = line.contains("/opt/pf9/agent/current/bin/pf9-nodeletd");
            assert!(copied || named.is_none(), "{script}: {line}");
            let crosses = line.contains("rm -rf");
            assert!(
                copied || !crosses,
                "{script} enters what is mounted there: {line}; remove_tree does not"
            );
        }
    }
    assert!(
        ours::config_is_kept("hostagent.toml.rpmsave"),
        "as in the scripts"
    );
}

/// Runs a script on a machine below `root`; it looks up and deletes no real users.
fn run(root: &Path, script: &str, argument: &str) {
    let said = run_with(root, script, argument, "");
    assert!(said.is_empty(), "{script}: {said}");
}

/// The same with something mounted, by these words; what the script said on its error output.
fn run_with(root: &Path, script: &str, argument: &str, mounts: &str) -> String {
    let text = std::fs::read_to_string(path_of(script)).expect(script);
    let path = tools(root);
    let below = format!("{}\n{}", below_root(mounts, root), below_root(&text, root));
    let mut command = Command::new("unshare");
    if !nix::unistd::Uid::effective().is_root() {
        command.arg("--map-root-user");
    }
    let out = command
        .args(["--mount", "/bin/sh", "-c", &below, script, argument])
        .env("PATH", path)
        .output()
        .expect("sh");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{script}: {said}");
    said
}

/// Where programs are looked for: first those that do nothing to this machine.
fn tools(root: &Path) -> String {
    let tools = root.join("tools");
    std::fs::create_dir_all(&tools).expect("tools");
    for tool in ["getent", "userdel", "groupdel", "systemctl", "systemd-run"] {
        let file = tools.join(tool);
        std::fs::write(&file, "#!/bin/sh\nexit 2\n").expect("tool");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("mode");
    }
    format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", tools.display())
}

/// The script's absolute paths, but for `/dev`, below `root`.
fn below_root(text: &str, root: &Path) -> String {
    let mut out = String::new();
    let mut last = '\n';
    for (at, c) in text.char_indices() {
        let begins = matches!(last, ' ' | '"' | '=' | '\n' | '(');
        let top = ["/etc/", "/var/", "/opt/", "/run/", "/usr/"];
        if begins && top.iter().any(|t| text[at..].starts_with(t)) {
            out.push_str(&root.display().to_string());
        }
        out.push(c);
        last = c;
    }
    out
}

/// A machine whose role is gone but for what only a list of names finds; with things of others.
fn machine() -> Rig {
    let rig = Rig::new();
    for (path, _) in ours::PLACES {
        rig.file(&format!("{path}/x"), "ours");
    }
    for (entry, _) in ours::entries() {
        if units::ROLE
            .iter()
            .all(|u| entry != format!("{}/{u}", ours::UNIT_DIR))
        {
            rig.file(&entry, "ours");
        }
    }
    for other in [
        "/etc/systemd/system/docker.service",
        "/etc/systemd/system/multi-user.target.wants/docker.service",
        "/etc/sysctl.d/99-theirs.conf",
        "/opt/theirs",
        "/var/lib/docker/x",
    ] {
        rig.file(other, "theirs");
    }
    for path in [
        paths::PROXY_CONFIG,
        paths::HOST_ID,
        "/etc/pf9/.before/x",
        "/opt/pf9/agent/1.2.3/bin/pf9-comms",
        "/opt/pf9/agent/.kept/x",
    ] {
        rig.file(path, "ours");
    }
    for dir in ours::SHARED {
        rig.file(&format!("{dir}/.pf9-tmp-41-100-0-x.tmp"), "half");
    }
    rig.file("/etc/pf9/hostagent.toml.rpmsave", "a person's");
    rig
}

fn left(rig: &Rig) -> Vec<String> {
    let files = rig.files().into_keys().map(|p| p.display().to_string());
    let ours = files.filter(|p| p.contains("pf9") && !p.starts_with("usr/"));
    ours.collect()
}

#[test]
fn a_purge_takes_all_that_is_ours_and_nothing_else() {
    let rig = machine();
    let theirs = rig.files().into_values().filter(|t| t == "theirs").count();
    run(rig.dir.path(), "deb/postrm", "purge");
    assert_eq!(left(&rig), [""; 0]);
    let after = rig.files().into_values().filter(|t| t == "theirs").count();
    assert_eq!((theirs, after), (5, 5));
}

#[test]
fn an_erase_takes_all_that_is_ours_but_a_persons_configuration() {
    let rig = machine();
    let mut kept = vec!["etc/pf9/hostagent.toml.rpmsave".to_owned()];
    for name in ours::KEPT_CONFIG {
        let below = if name.ends_with(".d") { "/own" } else { "" };
        rig.file(
            &format!("{}/{name}{below}", ours::CONFIG_ROOT),
            "a person's",
        );
        kept.push(format!("etc/pf9/{name}{below}"));
    }
    run(rig.dir.path(), "rpm/postun.sh", "0");
    kept.sort();
    assert_eq!(left(&rig), kept);
    let after = rig.files().into_values().filter(|t| t == "theirs").count();
    assert_eq!(after, 5);
}

/// Our own comments tell people to make them.
#[test]
fn an_administrators_drop_in_stays_and_is_named() {
    for (script, argument) in [("deb/postrm", "purge"), ("rpm/postun.sh", "0")] {
        let rig = machine();
        let own = "/etc/systemd/system/pf9-containerd.service.d";
        rig.file(&format!("{own}/proxy.conf"), "a person's");
        let said = run_with(rig.dir.path(), script, argument, "");
        let named: Vec<&str> = said.lines().collect();
        let words = format!(
            "for it is the administrator's: {}",
            rig.host.at(own).display()
        );
        assert!(
            named.len() == 1 && named[0].ends_with(&words),
            "{script}: {said}"
        );
        let left = left(&rig);
        let kept = format!("{}/proxy.conf", own.trim_start_matches('/'));
        assert!(left.contains(&kept), "{script}: {left:?}");
    }
}

/// While a role is there that could not be removed it stays whole: its data, its configuration, and
/// what can still remove it.
#[test]
fn a_role_that_stays_keeps_its_data() {
    for unit in units::ROLE {
        for (script, argument) in [("deb/postrm", "purge"), ("rpm/postun.sh", "0")] {
            let rig = machine();
            rig.file(&format!("{}/{unit}", ours::UNIT_DIR), "ours");
            let text = std::fs::read_to_string(path_of(script)).expect(script);
            // The one that warns says so on its error output; what it does is the same.
            let quiet = text.replace(" >&2", "");
            let copy = rig.dir.path().join("quiet");
            std::fs::write(&copy, quiet).expect("copy");
            run(rig.dir.path(), copy.to_str().expect("path"), argument);
            for kept in ["/var/lib/pf9/x", "/etc/pf9/kube.d/x", "/var/opt/pf9/x"] {
                assert!(rig.host.at(kept).exists(), "{script}: {unit}: {kept}");
            }
        }
    }
}

/// What a package is removed with leaves nothing behind, whatever its version knows of that.
const NO_FAREWELL: &str = "[ \"$PF9_NO_FAREWELL\" = true ] || exit 3";

/// Where the packages of a machine have no purge, the program that removes the role stays with the role.
#[test]
fn a_package_whose_role_stays_stays() {
    for (removed, stays) in [
        ("exit 1", true),
        ("exit 0", true),
        ("rm -f \"$UNIT\"", false),
        // Something else is left.
        ("rm -f \"$UNIT\"; exit 1", false),
    ] {
        let rig = machine();
        let unit = format!("{}/{}", ours::UNIT_DIR, units::ROLE[0]);
        rig.file(&unit, "ours");
        rig.file("/run/systemd/system/x", "");
        let program = format!("#!/bin/sh\n{NO_FAREWELL}\n{removed}\n");
        rig.file("/usr/bin/pf9ctl", &program);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(rig.host.at("/usr/bin/pf9ctl"), mode).expect("mode");
        let text = std::fs::read_to_string(path_of("rpm/preun.sh")).expect("script");
        let out = Command::new("/bin/sh")
            .args(["-c", &below_root(&text, rig.dir.path()), "preun", "0"])
            .env("PATH", tools(rig.dir.path()))
            .env("UNIT", rig.host.at(&unit))
            .output()
            .expect("sh");
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.success(), !stays, "{removed}: {said}");
        assert_eq!(said.contains("the package stays"), stays, "{said}");
    }
}

/// A decommission fails where something is left that is not the role's: a purge goes on, for nothing needs it any more.
#[test]
fn a_purge_goes_on_when_the_role_is_gone() {
    for (removed, ledger, stays) in [
        ("exit 1", "{}", true),
        ("rm -f \"$UNIT\"; exit 1", "{}", false),
        // The network could not be removed.
        (
            "rm -f \"$UNIT\"; exit 1",
            "{\n  \"removing\": true\n}",
            true,
        ),
    ] {
        let rig = machine();
        let unit = format!("{}/{}", ours::UNIT_DIR, units::ROLE[0]);
        rig.file(&unit, "ours");
        rig.file(&format!("{}/ledger.json", paths::NODELET_STATE), ledger);
        rig.file("/run/systemd/system/x", "");
        let path = tools(rig.dir.path());
        let removes = format!("{NO_FAREWELL}\n{removed}");
        for (program, text) in [
            ("/var/opt/pf9/removal/pf9-nodeletd", "exit 0"),
            ("/var/opt/pf9/removal/pf9ctl", removes.as_str()),
            ("/tools/systemd-run", "exit 0"),
        ] {
            rig.file(program, &format!("#!/bin/sh\n{text}\n"));
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(rig.host.at(program), mode).expect("mode");
        }
        let text = std::fs::read_to_string(path_of("deb/postrm")).expect("script");
        let out = Command::new("/bin/sh")
            .args(["-c", &below_root(&text, rig.dir.path()), "postrm", "purge"])
            .env("PATH", path)
            .env("UNIT", rig.host.at(&unit))
            .output()
            .expect("sh");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{removed}: {said}");
        assert_eq!(said.contains("could not be removed"), stays, "{said}");
        let whole = rig.host.at("/etc/pf9/kube.d/x").exists();
        let removal = rig.host.at("/var/opt/pf9").exists();
        assert_eq!((whole, removal), (stays, stays), "{removed}: {said}");
    }
}

/// Units give their programs as long to end as everybody who stops them assumes.
#[test]
fn units_end_within_what_others_wait_for() {
    let unit = |name: &str| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
        std::fs::read_to_string(root.join(name)).expect("unit")
    };
    for (name, stop) in [
        (units::COMMS, deadlines::AGENT_STOP),
        (units::HOSTAGENT, deadlines::AGENT_STOP),
        (units::NODELET, deadlines::NODELET_STOP),
    ] {
        let line = format!("\nTimeoutStopSec={}s\n", stop.as_secs());
        assert!(unit(name).contains(&line), "{name}: {line}");
    }
}

/// A drain that takes all its time fits into what is waited for, by a person and by the package.
#[test]
fn nobody_gives_up_before_a_slow_drain_may_end() {
    let line = ["pf9ctl", "decommission-node", "--yes"];
    let args = <Args as clap::Parser>::try_parse_from(line).expect("arguments");
    let crate::cli::args::Verb::DecommissionNode(args) = args.verb else {
        panic!("another verb");
    };
    let waits = std::time::Duration::from_secs(args.wait);
    assert!(deadlines::DRAIN < deadlines::ROLE_REMOVAL && deadlines::ROLE_REMOVAL < waits);
    assert!(waits < deadlines::PACKAGE);
}
