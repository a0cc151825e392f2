//! nftables: whether this machine has it, and tables taken away by name.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Net, RUN};
use crate::host::exec::{self, Cmd, ExecError};
use crate::host::ours::network::{PROXY_TABLE, tables};
use crate::telemetry::chain;

/// The oldest kernel whose nftables do all that kube-proxy asks of them; it refuses older ones.
const KERNEL_MIN: (u32, u32) = (5, 13);
/// The kernel's release is one short line.
const RELEASE_MAX: u64 = 4096;
/// Most tables of others that are read.
const FOREIGN_MAX: usize = 16;
/// Tables that the tools of iptables make.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
/// Longest reason that is kept: the tool repeats its input.
const WHY_MAX: usize = 200;

/// Whether kube-proxy can make services by nftables here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nftables {
    /// It can, with this kernel.
    Works {
        /// Its release.
        kernel: String,
    },
    /// It cannot.
    Lacking {
        /// What is lacking, as text.
        why: String,
    },
}

impl Default for Nftables {
    fn default() -> Self {
        Self::lacking("not checked")
    }
}

impl Nftables {
    fn lacking(why: impl Into<String>) -> Self {
        let why = why.into().chars().take(WHY_MAX).collect();
        Self::Lacking { why }
    }
}

impl Net {
    /// Asks the tool whether the kernel would take kube-proxy's table; nothing is changed.
    pub async fn nftables(&self) -> Nftables {
        let program = exec::program(&self.fs, "nft");
        if !program.is_file() {
            return Nftables::lacking("there is no program nft (package nftables)");
        }
        let release = match self.fs.read_text("/proc/sys/kernel/osrelease", RELEASE_MAX) {
            Ok(text) => text.unwrap_or_default(),
            Err(e) => return Nftables::lacking(chain(&e)),
        };
        let release = release.trim();
        if major_minor(release).is_none_or(|v| v < KERNEL_MIN) {
            let (major, minor) = KERNEL_MIN;
            return Nftables::lacking(format!("kernel {release:?} is older than {major}.{minor}"));
        }
        let ask = async {
            let check = Cmd::new(program, RUN).args(["--check", "add", "table", "ip", PROXY_TABLE]);
            exec::run(check).await.map(|_| Vec::new())
        };
        match self.answered(&format!("works {release}"), ask).await {
            Ok(_) => Nftables::Works {
                kernel: release.to_owned(),
            },
            Err(e) => Nftables::lacking(format!("the kernel rejects it: {}", chain(&e))),
        }
    }

    /// Which tables there are with one of these names, as `family name`. A host without the tool has
    /// none.
    pub async fn tables(&self, names: &[String]) -> Result<Vec<String>, ExecError> {
        let program = exec::program(&self.fs, "nft");
        if !program.is_file() {
            return Ok(Vec::new());
        }
        Ok(named(&self.listed(&program).await?, names))
    }

    /// All tables, as the tool shows them.
    async fn listed(&self, program: &Path) -> Result<String, ExecError> {
        let ask = async {
            let listed = exec::run(Cmd::new(program, RUN).args(["list", "tables"])).await?;
            Ok::<_, ExecError>(vec![listed.text()])
        };
        let said = self.answered("tables", ask).await?;
        Ok(said.concat())
    }

    /// Tables that neither we nor the tools of iptables made, as the tool shows them: `family name` and text, without what
    /// is in their sets. At most a few: a machine has one.
    pub async fn foreign_tables(&self) -> Result<Vec<(String, String)>, ExecError> {
        let program = exec::program(&self.fs, "nft");
        if !program.is_file() {
            return Ok(Vec::new());
        }
        let listed = self.listed(&program).await?;
        let mut found = Vec::new();
        for (family, name) in foreign(&listed).into_iter().take(FOREIGN_MAX) {
            let ask = async {
                let show = ["--terse", "list", "table", &family, &name];
                let said = exec::run(Cmd::new(&program, RUN).args(show)).await?;
                Ok::<_, ExecError>(vec![said.text()])
            };
            // One that is gone by now is no table.
            let table = format!("{family} {name}");
            if let Ok(said) = self.answered(&format!("table {table}"), ask).await {
                found.push((table, said.concat()));
            }
        }
        Ok(found)
    }

    /// Removes the tables with these names, of every family.
    pub async fn delete_tables(&self, names: &[String]) -> Result<(), ExecError> {
        let found = self.tables(names).await?;
        if found.is_empty() {
            return Ok(());
        }
        // In one transaction: all of them or none.
        let script: String = found
            .iter()
            .map(|t| format!("delete table {t}\n"))
            .collect();
        let program = exec::program(&self.fs, "nft");
        let cmd = Cmd::new(program, RUN)
            .args(["-f", "-"])
            .stdin(script.into_bytes());
        exec::run(cmd).await.map(drop)
    }
}

/// Whether a rule, as `nft` shows it, refuses everything that gets to it.
pub fn refuses_the_rest(rule: &str) -> bool {
    let is_bare = rule == "drop"
        || ["reject", "counter ", "log "]
            .iter()
            .any(|word| rule.starts_with(word));
    is_bare && (rule.contains("reject") || rule.ends_with("drop"))
}

/// Those of `nft list tables` that are none of ours and none of iptables'.
fn foreign(listed: &str) -> Vec<(String, String)> {
    let ours = tables();
    let table = |line: &str| {
        let mut words = line.split_whitespace();
        let (Some("table"), Some(family), Some(name)) = (words.next(), words.next(), words.next())
        else {
            return None;
        };
        let by_iptables = ["ip", "ip6"].contains(&family) && IPTABLES.contains(&name);
        let forwards = ["ip", "ip6", "inet"].contains(&family);
        let other = forwards && !by_iptables && !ours.iter().any(|own| own == name);
        other.then(|| (family.to_owned(), name.to_owned()))
    };
    listed.lines().filter_map(table).collect()
}

/// Those of `nft list tables` that have one of these names.
fn named(listed: &str, names: &[String]) -> Vec<String> {
    let table = |line: &str| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("table"), Some(family), Some(name)) if names.iter().any(|n| n == name) => {
                Some(format!("{family} {name}"))
            }
            _ => None,
        }
    };
    listed.lines().filter_map(table).collect()
}

/// `6.18` of `6.18.44-x`.
fn major_minor(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '+']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::{Attrs, HostFs};

    /// A machine whose `nft` keeps its tables in a file, one a line.
    fn machine(kernel: &str, checks: bool) -> (tempfile::TempDir, HostFs, Net) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let tool = format!(
            "#!/bin/sh\ncd {}\ncase $1 in\n--check) {} ;;\nlist) cat tables ;;\n\
             -f) while read -r d t rest; do grep -vx -- \"$t $rest\" tables >kept || :; mv kept tables; done ;;\n\
             esac\n",
            dir.path().display(),
            if checks {
                "exit 0"
            } else {
                "echo not here >&2; exit 1"
            },
        );
        let put = |path: &str, text: &str, mode: u32| {
            fs.write(path, text.as_bytes(), &Attrs::mode(mode))
                .expect("write");
        };
        put("/usr/sbin/nft", &tool, 0o755);
        put("/proc/sys/kernel/osrelease", kernel, 0o644);
        put(
            "/tables",
            "table ip filter\ntable ip kube-proxy\ntable ip6 kube-proxy\ntable inet kube-proxy-x\n",
            0o644,
        );
        let net = Net::new(fs.clone());
        (dir, fs, net)
    }

    #[test]
    fn tables_of_others_are_told_from_ours_and_from_iptables() {
        let listed = "table ip filter\ntable ip6 nat\ntable ip kube-proxy\ntable inet cni_hostport\n\
                      table inet firewalld\ntable inet filter\ntable bridge x\nodd\n";
        let found = foreign(listed);
        let names: Vec<_> = found.iter().map(|(f, n)| format!("{f} {n}")).collect();
        assert_eq!(names, ["inet firewalld", "inet filter"]);
    }

    #[tokio::test]
    async fn only_tables_with_our_names_go() {
        let (_dir, fs, net) = machine("6.18.1\n", true);
        let ours = [PROXY_TABLE.to_owned()];
        let found = net.tables(&ours).await.expect("tables");
        assert_eq!(found, ["ip kube-proxy", "ip6 kube-proxy"]);
        net.delete_tables(&ours).await.expect("delete");
        net.delete_tables(&ours).await.expect("nothing to do");
        let kept = fs.read_text("/tables", 1024).expect("read");
        let others = "table ip filter\ntable inet kube-proxy-x\n";
        assert_eq!(kept.as_deref(), Some(others));
    }

    #[tokio::test]
    async fn the_kernel_is_asked_and_not_believed_by_its_number_alone() {
        for (kernel, checks, lacking) in [
            ("5.13.0-1\n", true, None),
            ("6.18.44-fc\n", true, None),
            ("6.1.0\n", false, Some("not here")),
            ("5.12.99\n", true, Some("older than 5.13")),
            ("4.18.0-553.el8\n", true, Some("older than 5.13")),
            ("odd\n", true, Some("older than 5.13")),
        ] {
            let (_dir, _, net) = machine(kernel, checks);
            match (net.nftables().await, lacking) {
                (Nftables::Works { kernel: found }, None) => assert_eq!(found, kernel.trim()),
                (Nftables::Lacking { why }, Some(word)) => {
                    assert!(
                        why.contains(word) && why.len() <= WHY_MAX,
                        "{kernel}: {why}"
                    );
                }
                (found, wanted) => panic!("{kernel}: {found:?}, not {wanted:?}"),
            }
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let bare = Net::new(HostFs::new(dir.path()));
        let found = bare.nftables().await;
        assert!(matches!(&found, Nftables::Lacking { why } if why.contains("package nftables")));
        let none = bare
            .tables(&[PROXY_TABLE.to_owned()])
            .await
            .expect("no tool");
        assert_eq!(none, [""; 0]);
    }
}
