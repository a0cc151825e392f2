//! apt-get and dpkg: the calls, and how their answers are read. Pure.

use super::{Call, Found, KEPT};

/// Options of every call of `apt-get`.
const OPTIONS: [&str; 15] = [
    "-q",
    "-y",
    "--no-remove",
    // What a person edited stays; where the distribution has an answer of its own, that one.
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "Dpkg::Use-Pty=0",
    "-o",
    "Acquire::Retries=3",
    // A mirror that takes the connection and says nothing.
    "-o",
    "Acquire::http::Timeout=60",
    "-o",
    "Acquire::https::Timeout=60",
];
/// With what comes along (a kernel's package has its version in its name), and without taking anything away.
const UPGRADE: [&str; 2] = ["--with-new-pkgs", "upgrade"];

/// Nobody is there to be asked.
pub(super) const ENV: [(&str, &str); 4] = [
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
    ("APT_LISTBUGS_FRONTEND", "none"),
];

/// A call of `apt-get` with our pins, which are in this file.
fn apt(pins: &str, more: &[&str]) -> Call {
    let mut call = Call::new("apt-get", &OPTIONS);
    call.args
        .extend(["-o".to_owned(), format!("Dir::Etc::Preferences={pins}")]);
    call.args.extend(more.iter().map(|a| (*a).to_owned()));
    call
}

/// A list that cannot be had is a failure, and no older one is taken in its place. (An apt that does not know
/// the option ends well anyway: its warning is read, see [`is_stale`].)
pub(super) fn refresh(pins: &str) -> Call {
    apt(pins, &["-o", "APT::Update::Error-Mode=any", "update"])
}

/// The lists are the newest only where nothing was left out.
pub(super) fn is_stale(stderr: &str) -> bool {
    stderr.contains("Failed to fetch") || stderr.contains("Some index files failed")
}

pub(super) fn simulate(pins: &str) -> Call {
    apt(pins, &[&["-s"], UPGRADE.as_slice()].concat())
}

pub(super) fn download(pins: &str) -> Call {
    apt(pins, &[&["--download-only"], UPGRADE.as_slice()].concat())
}

pub(super) fn install(pins: &str) -> Call {
    apt(pins, &UPGRADE)
}

/// Says which packages are not wholly installed; nothing where all are.
pub(super) fn audit() -> Call {
    Call {
        // Older ones say it with their code as well.
        good: &[0, 1],
        ..Call::new("dpkg", &["--audit"])
    }
}

/// Configures what was interrupted.
pub(super) fn configure() -> Call {
    let args = ["--force-confdef", "--force-confold", "--configure", "-a"];
    Call::new("dpkg", &args)
}

/// And what it needs is installed.
pub(super) fn fix(pins: &str) -> Call {
    apt(pins, &["-f", "install"])
}

/// Pins that keep [`KEPT`] as it is, before the person's own of the same file: the first that names a package counts.
/// Given with the call, so that a run which is interrupted leaves no hold behind (`apt-mark hold` would).
pub(super) fn pins(own: &str) -> String {
    let mut text = String::new();
    for package in KEPT {
        text.push_str(&format!(
            "Package: {package}\nPin: release *\nPin-Priority: -1\n\n"
        ));
    }
    text.push_str(own);
    text
}

/// What a simulation says.
pub(super) fn read(stdout: &str) -> Found {
    let mut found = Found::default();
    for line in stdout.lines() {
        if let Some(rest) = line.strip_prefix("Inst ") {
            found.available = found.available.saturating_add(1);
            // `name [old] (new Origin:version/archive [arch])`
            let from = rest.split_once('(').map_or("", |(_, from)| from);
            let mends = from.to_ascii_lowercase().contains("security");
            found.security = found.security.saturating_add(u32::from(mends));
        }
        if let Some(held) = held(line) {
            found.held = held;
        }
    }
    found
}

/// The last number of `1 upgraded, 0 newly installed, 0 to remove and 2 not upgraded.`
fn held(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once(" to remove and ")?;
    rest.strip_suffix(" not upgraded.")?.parse().ok()
}

/// Packages that a failed run names.
pub(super) fn failed(stderr: &str) -> Vec<String> {
    let mut lines = stderr.lines();
    lines.find(|l| l.starts_with("Errors were encountered while processing:"));
    let named = lines.take_while(|l| l.starts_with(' ')).map(str::trim);
    named.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Reading package lists...\nThe following packages have been kept back:\n  b\n\
        Inst base-files [12.4] (12.5 Debian:12.5/stable [amd64])\n\
        Inst libssl3 [3.0.1] (3.0.2 Debian-Security:12/stable-security [amd64]) []\n\
        Inst linux-image-6.1 (6.1.3 Ubuntu:22.04/jammy-security [amd64])\n\
        Conf base-files (12.5 Debian:12.5/stable [amd64])\n\
        2 upgraded, 1 newly installed, 0 to remove and 4 not upgraded.\n";

    #[test]
    fn a_simulation_is_counted() {
        let want = Found {
            available: 3,
            security: 2,
            held: 4,
        };
        assert_eq!(read(SAID), want);
        assert_eq!(
            read("0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n"),
            Found::default()
        );
        assert_eq!(
            read("Inst (\nto remove and x not upgraded."),
            Found {
                available: 1,
                ..Found::default()
            }
        );
    }

    #[test]
    fn no_call_takes_anything_away_or_asks_anybody() {
        for call in [
            refresh("/p"),
            simulate("/p"),
            download("/p"),
            install("/p"),
            fix("/p"),
        ] {
            let has = |arg: &str| call.args.iter().any(|a| a == arg);
            assert!(has("--no-remove") && has("-y"), "{call:?}");
            assert!(has("Dpkg::Options::=--force-confold"), "{call:?}");
            assert!(has("Dir::Etc::Preferences=/p"), "{call:?}");
            for never in [
                "dist-upgrade",
                "full-upgrade",
                "autoremove",
                "--force-yes",
                "--allow-unauthenticated",
            ] {
                assert!(!has(never), "{call:?}");
            }
        }
    }

    #[test]
    fn packages_that_could_not_be_configured_are_named() {
        let said = "dpkg: error processing package x (--configure):\n installed x package post-installation script \
                    subprocess returned error exit status 1\nErrors were encountered while processing:\n x\n y:amd64\n\
                    E: Sub-process /usr/bin/dpkg returned an error code (1)\n";
        assert_eq!(failed(said), ["x", "y:amd64"]);
        assert!(failed("E: something else").is_empty());
    }
}
