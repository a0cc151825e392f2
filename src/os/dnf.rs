//! dnf: the calls, and how their answers are read. Pure.

use super::{Call, Found, KEPT};

/// Most packages that are named in one call: a whole installation of a server has a thousand.
const NAMES_MAX: usize = 5000;
/// Options of every call. Unneeded packages stay. Obsolete ones are not replaced; `upgrade` alone would do it anyway
/// (dnf 4.14), so the packages are named.
const OPTIONS: [&str; 5] = [
    "-q",
    "-y",
    "--setopt=obsoletes=False",
    "--setopt=clean_requirements_on_remove=False",
    "--setopt=timeout=60",
];

fn dnf(more: &[&str]) -> Call {
    let mut call = Call::new("dnf", &OPTIONS);
    call.args.push(format!("--exclude={}", KEPT.join(",")));
    call.args.extend(more.iter().map(|a| (*a).to_owned()));
    call
}

/// Each repository has to answer, also one that may be skipped otherwise.
pub(super) fn refresh() -> Call {
    dnf(&[
        "--setopt=skip_if_unavailable=False",
        "makecache",
        "--refresh",
    ])
}

/// What has an update: 100 says that something has.
pub(super) fn check() -> Call {
    Call {
        good: &[0, 100],
        ..dnf(&["check-update"])
    }
}

/// The same of what mends a security fault.
pub(super) fn check_security() -> Call {
    Call {
        good: &[0, 100],
        ..dnf(&["check-update", "--security"])
    }
}

/// Has these packages fetched.
pub(super) fn download(names: &[String]) -> Call {
    named(&["--downloadonly", "upgrade"], names)
}

/// Installs these packages.
pub(super) fn install(names: &[String]) -> Call {
    named(&["upgrade"], names)
}

fn named(verb: &[&str], names: &[String]) -> Call {
    let mut call = dnf(verb);
    call.args.extend(names.iter().cloned());
    call
}

/// 1 means that the machine has to be restarted, and also that the command is unknown.
pub(super) fn needs_restarting() -> [Call; 2] {
    let good: &'static [i32] = &[0, 1];
    [
        Call {
            good,
            ..Call::new("dnf", &["-q", "needs-restarting", "-r"])
        },
        Call {
            good,
            ..Call::new("needs-restarting", &["-r"])
        },
    ]
}

/// What that says; none where it was not understood.
pub(super) fn restart(code: i32, stdout: &str) -> Option<bool> {
    match code {
        0 => Some(false),
        1 if stdout.contains("Reboot is required") => Some(true),
        _ => None,
    }
}

/// The kernels that are installed, the newest first.
pub(super) fn kernels() -> Call {
    Call {
        good: &[0, 1],
        ..Call::new("rpm", &["-q", "--last", "kernel-core"])
    }
}

/// Whether the newest of them is another one than runs.
pub(super) fn has_newer(kernels: &str, runs: &str) -> bool {
    let newest = kernels
        .lines()
        .next()
        .and_then(|l| l.split_whitespace().next());
    newest
        .and_then(|name| name.strip_prefix("kernel-core-"))
        .is_some_and(|newest| newest != runs.trim())
}

/// Lines `name.arch  version  repository`, up to what is obsolete.
pub(super) fn read(check: &str, security: &str) -> Found {
    Found {
        available: count(check),
        security: count(security),
        held: 0,
    }
}

fn count(said: &str) -> u32 {
    u32::try_from(names(said).len()).unwrap_or(u32::MAX)
}

/// Packages that have an update, as `name.arch`; a name that could be an option is skipped.
pub(super) fn names(check: &str) -> Vec<String> {
    let lines = check.lines().take_while(|l| !l.starts_with("Obsoleting"));
    let name = |l: &str| {
        let words: Vec<&str> = l.split_whitespace().collect();
        let [name, _, _] = words.as_slice() else {
            return None;
        };
        let plain = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        (plain && name.contains('.') && !l.starts_with(' ')).then(|| (*name).to_owned())
    };
    lines.filter_map(name).take(NAMES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_are_counted() {
        let check = "\nbash.x86_64          5.1.8-9.el9      baseos\nopenssl-libs.x86_64  1:3.0.7-27.el9  baseos\n\
                     Obsoleting Packages\nold.noarch  1-1  appstream\n    new.noarch  2-1  @System\n";
        let security = "\nopenssl-libs.x86_64  1:3.0.7-27.el9  baseos\n";
        assert_eq!(names(check), ["bash.x86_64", "openssl-libs.x86_64"]);
        assert!(names("--setopt=x.y 1 2\n").is_empty());
        let found = read(check, security);
        assert_eq!((found.available, found.security), (2, 1));
        assert_eq!(read("", ""), Found::default());
    }

    #[test]
    fn a_command_that_is_not_there_says_nothing_of_a_restart() {
        let needed = "Core libraries or services have been updated since boot-up:\n  * kernel\n\n\
                      Reboot is required to fully utilize these updates.\n";
        assert_eq!(restart(1, needed), Some(true));
        assert_eq!(
            restart(0, "No core libraries or services have been updated.\n"),
            Some(false)
        );
        assert_eq!(restart(1, "No such command: needs-restarting."), None);
        let last = "kernel-core-5.14.0-427.el9.x86_64  Mon 1 Jan 2024\nkernel-core-5.14.0-362.el9.x86_64  x\n";
        assert!(has_newer(last, "5.14.0-362.el9.x86_64\n"));
        assert!(!has_newer(last, "5.14.0-427.el9.x86_64\n"));
        assert!(!has_newer("package kernel-core is not installed\n", "6.1"));
    }

    #[test]
    fn no_call_takes_anything_away() {
        for call in [
            refresh(),
            check(),
            download(&["a.b".into()]),
            install(&["a.b".into()]),
        ] {
            let has = |arg: &str| call.args.iter().any(|a| a == arg);
            assert!(has("--setopt=obsoletes=False"), "{call:?}");
            assert!(
                call.args
                    .iter()
                    .any(|a| a.starts_with("--exclude=pf9-hostagent,")),
                "{call:?}"
            );
            assert!(!has("--allowerasing") && !has("distro-sync"), "{call:?}");
        }
    }
}
