//! Links, routes, packet-filter chains, tables and sets, taken away by name and number
//! ([`super::ours::network`]): at removal, and what kube-proxy left of another mode, or network policies of
//! before they were turned off. Making the network is the work of a unit. And one address that a machine has
//! for seconds at a time (`lent`).
//!
//! What the packet filter's tools say is kept until the kernel counts a change (`answers`).

mod answers;
mod lent;
mod netlink;
mod nft;
mod sets;

pub use lent::Lent;
pub use nft::{Nftables, refuses_the_rest};

use std::collections::BTreeSet;
use std::time::Duration;

use answers::Answers;

use super::exec::{self, Cmd, ExecError, ProgramEnd};
use super::fs::{Found, HostFs};
use super::ours::network::{PROXY_TABLE, rule_goes};
use crate::model::{Digest, ProxyMode};

/// The tools wait for each other's lock at most this long.
const RUN: Duration = Duration::from_secs(30);
/// Tools per address family: save, restore.
const FAMILIES: [(&str, &str); 2] = [
    ("iptables-save", "iptables-restore"),
    ("ip6tables-save", "ip6tables-restore"),
];
/// The same of each back end. Rules that were made by the one are not seen by the other, and hold anyway.
const BACK_ENDS: [(&str, &str); 4] = [
    ("iptables-legacy-save", "iptables-legacy-restore"),
    ("ip6tables-legacy-save", "ip6tables-legacy-restore"),
    ("iptables-nft-save", "iptables-nft-restore"),
    ("ip6tables-nft-save", "ip6tables-nft-restore"),
];
/// Where the kernel names the tables of the legacy back end, a few words each.
const LEGACY: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
/// Longest such list that is read.
const LEGACY_MAX: u64 = 64 * 1024;

/// The network of one host.
#[derive(Clone, Debug)]
pub struct Net {
    fs: HostFs,
    answers: Answers,
}

impl Net {
    /// The network whose tools and `/sys` are below this root.
    pub fn new(fs: HostFs) -> Self {
        let answers = Answers::default();
        Self { fs, answers }
    }

    /// Which of these links exist.
    pub fn links(&self, names: &[String]) -> Vec<String> {
        let there = |name: &&String| {
            !matches!(
                self.fs.found(format!("/sys/class/net/{name}")),
                Ok(Found::Nothing)
            )
        };
        names.iter().filter(there).cloned().collect()
    }

    /// Deletes a link.
    pub async fn delete_link(&self, name: &str) -> Result<(), ExecError> {
        let cmd =
            Cmd::new(exec::program(&self.fs, "ip"), RUN).args(["link", "delete", "dev", name]);
        exec::run(cmd).await.map(drop)
    }

    /// Routes with this protocol number, both families, one a line.
    pub async fn routes(&self, protocol: u8) -> Result<Vec<String>, ExecError> {
        let mut found = self.routes_of("-4", protocol).await?;
        found.extend(self.routes_of("-6", protocol).await?);
        Ok(found)
    }

    /// The same of one family, by the tool's option.
    pub async fn routes_of(&self, family: &str, protocol: u8) -> Result<Vec<String>, ExecError> {
        let text = self.ip_route(family, "show", protocol).await?;
        Ok(text.lines().map(|l| l.trim().to_owned()).collect())
    }

    /// Removes the routes with this protocol number.
    pub async fn delete_routes(&self, protocol: u8) -> Result<(), ExecError> {
        for family in ["-4", "-6"] {
            // Flushing what is not there is a failure of some versions of the tool.
            if !self.ip_route(family, "show", protocol).await?.is_empty() {
                self.ip_route(family, "flush", protocol).await?;
            }
        }
        Ok(())
    }

    /// A host without the tool has no such routes, nor one whose kernel does not know the family.
    async fn ip_route(&self, family: &str, verb: &str, protocol: u8) -> Result<String, ExecError> {
        let program = exec::program(&self.fs, "ip");
        let no_v6 = matches!(self.fs.found("/proc/sys/net/ipv6"), Ok(Found::Nothing));
        if !program.is_file() || family == "-6" && no_v6 {
            return Ok(String::new());
        }
        let cmd = Cmd::new(program, RUN)
            .args([family, "route", verb, "proto"])
            .arg(protocol.to_string());
        Ok(exec::run(cmd).await?.text())
    }

    /// Names of chains (any table, both families) that start with one of `prefixes`.
    pub async fn chains(&self, prefixes: &[String]) -> Result<Vec<String>, ExecError> {
        let ask = async {
            let mut names = BTreeSet::new();
            for (save, _) in self.savers() {
                let text = self.save(save).await?;
                names.extend(text.lines().filter_map(|l| ours(l, prefixes)));
            }
            Ok::<Vec<String>, ExecError>(names.into_iter().collect())
        };
        self.answered(&format!("chains {prefixes:?}"), ask).await
    }

    /// What the script that makes the pod network's rules misses of them, in its words; nothing where all are there.
    pub async fn lacks(&self, script: &str, within: Duration) -> Result<Option<String>, ExecError> {
        let at = self.fs.at(script);
        let text = std::fs::read(&at).unwrap_or_default();
        let ask = async {
            let said = exec::ask(Cmd::new(at.clone(), within).arg("check")).await?;
            Ok::<_, ExecError>(match said.ended {
                ProgramEnd::Code(0) => Vec::new(),
                ProgramEnd::Code(_) | ProgramEnd::Signal(_) | ProgramEnd::Late => {
                    vec![said.stderr]
                }
            })
        };
        let question = format!("script {} {}", at.display(), Digest::of(&text));
        Ok(self.lost(&question, ask).await?.pop())
    }

    /// Whether the packet filter leads to what kube-proxy makes of services. It looks for its tables and chains now and
    /// then, but not for the rules that lead to them.
    pub async fn leads_to_services(&self, by: ProxyMode, v6: bool) -> Result<bool, ExecError> {
        let ask = self.ways_lost(by, v6);
        let lost = self.lost(&format!("services {by:?} {v6}"), ask).await?;
        Ok(lost.is_empty())
    }

    async fn ways_lost(&self, by: ProxyMode, v6: bool) -> Result<Vec<String>, ExecError> {
        const IPTABLES: [(&str, &str, &str); 2] = [
            ("nat", "PREROUTING", "-j KUBE-SERVICES"),
            ("filter", "FORWARD", "-j KUBE-FORWARD"),
        ];
        let lost = |way: &str| Ok(vec![way.to_owned()]);
        match by {
            ProxyMode::Nftables => {
                let family = if v6 { "ip6" } else { "ip" };
                let chain = ["list", "chain", family, PROXY_TABLE, "nat-prerouting"];
                let cmd = Cmd::new(exec::program(&self.fs, "nft"), RUN).args(chain);
                if !exec::ask(cmd).await?.stdout.contains("jump services") {
                    return lost("jump services");
                }
            }
            ProxyMode::Iptables => {
                let tool = if v6 { "ip6tables" } else { "iptables" };
                for (table, chain, leads) in IPTABLES {
                    let cmd = Cmd::new(exec::program(&self.fs, tool), RUN)
                        .args(["-w", "10", "-t", table, "-S", chain]);
                    let said = exec::run(cmd).await?.text();
                    if !said.lines().any(|l| l.ends_with(leads)) {
                        return lost(leads);
                    }
                }
            }
        }
        Ok(Vec::new())
    }

    /// Removes chains that start with one of `prefixes`, and the rules elsewhere that jump to them.
    /// Other rules are not touched.
    pub async fn delete_chains(&self, prefixes: &[String]) -> Result<(), ExecError> {
        for (save, restore) in self.savers() {
            let text = self.save(save).await?;
            let Some(script) = removal_script(&text, prefixes) else {
                continue;
            };
            let program = exec::program(&self.fs, restore);
            let cmd = Cmd::new(program, RUN)
                .args(["--noflush", "--wait=10"])
                .stdin(script.into_bytes());
            exec::run(cmd).await?;
        }
        Ok(())
    }

    /// Both back ends are asked where the older one has tables at all: else what the tools mean by themselves is all
    /// there is, and asking the older one would not even be free of change.
    fn savers(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = FAMILIES.to_vec();
        if self.has_legacy() {
            all.extend(BACK_ENDS);
        }
        all
    }

    /// The older back end has tables.
    fn has_legacy(&self) -> bool {
        let has = |path: &&str| {
            let names = self.fs.read_text(path, LEGACY_MAX).ok().flatten();
            names.is_some_and(|names| !names.trim().is_empty())
        };
        LEGACY.iter().any(has)
    }

    fn without(&self, path: &str) -> bool {
        matches!(self.fs.found(path), Ok(Found::Nothing))
    }

    /// A host without the tool has no such chains.
    async fn save(&self, tool: &str) -> Result<String, ExecError> {
        let program = exec::program(&self.fs, tool);
        if !program.is_file() {
            return Ok(String::new());
        }
        Ok(exec::run(Cmd::new(program, RUN)).await?.text())
    }
}

/// The name of a chain declared by this line, if it is one of ours.
fn ours(line: &str, prefixes: &[String]) -> Option<String> {
    let name = line.strip_prefix(':')?.split(' ').next()?;
    prefixes
        .iter()
        .any(|p| name.starts_with(p.as_str()))
        .then(|| name.to_owned())
}

/// Input of `iptables-restore --noflush`, from output of `iptables-save`; `None` when nothing
/// of ours is there.
fn removal_script(saved: &str, prefixes: &[String]) -> Option<String> {
    let mut script = String::new();
    let mut table: Vec<String> = Vec::new();
    let mut chains: Vec<String> = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = vec![format!("*{name}")];
            chains.clear();
        } else if let Some(chain) = ours(line, prefixes) {
            // Declaring a chain again flushes it.
            table.push(format!(":{chain} - [0:0]"));
            chains.push(chain);
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let in_ours = rule
                .split(' ')
                .next()
                .is_some_and(|c| chains.iter().any(|x| x == c));
            let jumps = jump_target(rule).is_some_and(|t| chains.iter().any(|x| x == t));
            if !in_ours && (jumps || rule_goes(rule, prefixes)) {
                table.push(format!("-D {rule}"));
            }
        } else if line == "COMMIT" && !chains.is_empty() {
            table.extend(chains.iter().map(|c| format!("-X {c}")));
            table.push("COMMIT".to_owned());
            script.push_str(&table.join("\n"));
            script.push('\n');
        }
    }
    (!script.is_empty()).then_some(script)
}

fn jump_target(rule: &str) -> Option<&str> {
    // From the end: a comment may hold anything.
    let at = rule.rfind(" -j ").or_else(|| rule.rfind(" -g "))?;
    rule[at + 4..].split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    #[test]
    fn only_our_chains_and_the_jumps_to_them_go() {
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n:KUBE-FIREWALL - [0:0]\n\
                     -A INPUT -m comment --comment \"a -j b\" -j KUBE-FIREWALL\n\
                     -A INPUT -j DOCKER\n-A KUBE-FIREWALL -j DROP\nCOMMIT\n\
                     *nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DOCKER\nCOMMIT\n";
        let script = removal_script(saved, &["KUBE-".to_owned()]).expect("something to do");
        // The quoted comment is not mistaken for the jump: the last one counts.
        assert_eq!(
            script,
            "*filter\n:KUBE-FIREWALL - [0:0]\n\
             -D INPUT -m comment --comment \"a -j b\" -j KUBE-FIREWALL\n\
             -X KUBE-FIREWALL\nCOMMIT\n"
        );
        assert_eq!(removal_script(saved, &["CNI-".to_owned()]), None);
    }

    /// It lets pass what its own chains marked, by rules of its own in the built-in ones.
    #[test]
    fn what_calico_put_into_the_built_in_chains_goes_with_its_own() {
        let saved = "*filter\n:FORWARD ACCEPT [0:0]\n:cali-FORWARD - [0:0]\n\
                     -A FORWARD -m comment --comment \"cali:wUHh\" -j cali-FORWARD\n\
                     -A FORWARD -m comment --comment \"cali:S93h\" -m mark --mark 0x10000/0x10000 -j ACCEPT\n\
                     -A FORWARD -m comment --comment \"mine, not cali:x\" -j ACCEPT\n\
                     -A cali-FORWARD -j RETURN\nCOMMIT\n";
        let script = removal_script(saved, &["cali-".to_owned()]).expect("something to do");
        assert_eq!(
            script,
            "*filter\n:cali-FORWARD - [0:0]\n\
             -D FORWARD -m comment --comment \"cali:wUHh\" -j cali-FORWARD\n\
             -D FORWARD -m comment --comment \"cali:S93h\" -m mark --mark 0x10000/0x10000 -j ACCEPT\n\
             -X cali-FORWARD\nCOMMIT\n"
        );
        let others = removal_script(saved, &["KUBE-".to_owned()]);
        assert_eq!(others, None, "of a node whose network it is not");
    }

    /// A switch of the back end leaves what was made before it in force, and out of sight.
    #[tokio::test]
    async fn chains_of_the_other_back_end_are_found_and_go() {
        const NAME: &str = "host::net::tests::chains_of_the_other_back_end_are_found_and_go";
        if crate::host::testing::in_namespaces(NAME, &["--net"], ":").is_none() {
            return;
        }
        let net = Net::new(HostFs::real());
        let ours = ["PF9-".to_owned()];
        for tool in ["iptables-nft", "ip6tables-legacy", "iptables-legacy"] {
            for args in [
                ["-N", "PF9-X"].as_slice(),
                &["-A", "FORWARD", "-j", "PF9-X"],
            ] {
                let made = std::process::Command::new(tool).args(args).status();
                assert!(made.expect(tool).success(), "{tool}");
            }
            assert_eq!(
                net.chains(&ours).await.expect("chains"),
                ["PF9-X"],
                "{tool}"
            );
            net.delete_chains(&ours).await.expect("delete");
            assert_eq!(net.chains(&ours).await.expect("chains"), [""; 0], "{tool}");
        }
    }

    /// kube-proxy notices neither a table of nftables that is gone nor a jump that is.
    #[tokio::test]
    async fn it_is_known_whether_anything_leads_to_services() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let net = Net::new(fs.clone());
        let tool = |name: &str, text: &str| {
            let text = format!("#!/bin/sh\n{text}\n");
            let path = format!("/usr/sbin/{name}");
            fs.write(path, text.as_bytes(), &Attrs::mode(0o755))
                .expect("tool");
        };
        let leads = async |by, v6| net.leads_to_services(by, v6).await.expect("asked");
        tool(
            "nft",
            "[ \"$*\" = 'list chain ip6 kube-proxy nat-prerouting' ] && echo '  jump services'",
        );
        assert!(leads(ProxyMode::Nftables, true).await);
        assert!(!leads(ProxyMode::Nftables, false).await, "no such table");
        let both = "case $4 in nat) echo '-A PREROUTING -m comment --comment \"x\" -j KUBE-SERVICES' ;; \
                    filter) echo '-A FORWARD -m comment --comment \"y\" -j KUBE-FORWARD' ;; esac";
        tool("iptables", both);
        assert!(leads(ProxyMode::Iptables, false).await);
        for without in ["KUBE-SERVICES", "KUBE-FORWARD"] {
            tool("iptables", &both.replace(without, "OTHER"));
            assert!(!leads(ProxyMode::Iptables, false).await, "{without}");
        }
        net.leads_to_services(ProxyMode::Iptables, true)
            .await
            .expect_err("who cannot ask does not know");
    }

    #[tokio::test]
    async fn only_routes_with_our_number_go() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let net = Net::new(fs.clone());
        assert_eq!(net.routes(159).await.expect("no tool"), [""; 0]);
        // Keeps routes in a file, one a line, the protocol last.
        let tool = format!(
            "#!/bin/sh\ncd {0}\ncase $3 in\nshow) grep -- \"proto $5\\$\" routes$1 || : ;;\n\
             flush) grep -v -- \"proto $5\\$\" routes$1 > kept; mv kept routes$1 ;;\nesac\n",
            dir.path().display()
        );
        let put = |path: &str, text: &str, mode: u32| {
            fs.write(path, text.as_bytes(), &Attrs::mode(mode))
                .expect("write");
        };
        put("/usr/sbin/ip", &tool, 0o755);
        put(
            "/routes-4",
            "10.1.0.0/24 via 10.0.0.2 proto 159\ndefault proto 15\n",
            0o644,
        );
        put("/routes-6", "fd00::/64 via fe80::1 proto 159\n", 0o644);
        let found = net.routes(159).await.expect("routes");
        assert_eq!(
            found.len(),
            1,
            "a kernel without IPv6 is not asked for it: {found:?}"
        );
        put("/proc/sys/net/ipv6/x", "", 0o644);
        assert_eq!(net.routes(159).await.expect("routes").len(), 2);
        net.delete_routes(159).await.expect("delete");
        assert_eq!(net.routes(159).await.expect("routes"), [""; 0]);
        let kept = fs.read_text("/routes-4", 1024).expect("read");
        assert_eq!(kept.as_deref(), Some("default proto 15\n"));
    }
}
