//! By what kube-proxy makes services: nftables where the machine has it, else iptables. Every
//! supported release of Kubernetes has both (nftables since 1.33). Chosen here and written down,
//! never left to kube-proxy, whose default changes.

use crate::host::net::Nftables;
use crate::model::{KubeProxyStatus, ProxyMode, ProxyModeChoice};

use super::super::{PhaseContext, Wait};

/// The mode, and why. A spec that asks for what this machine lacks changes nothing here.
pub fn proxy_mode(ctx: &PhaseContext) -> Result<KubeProxyStatus, Wait> {
    let (mode, why) = match (ctx.node.kube_proxy.mode, &ctx.facts.nftables) {
        (ProxyModeChoice::Auto, Nftables::Works { kernel }) => {
            let why = format!("chosen, because this machine has nft and kernel {kernel}");
            (ProxyMode::Nftables, why)
        }
        (ProxyModeChoice::Auto, Nftables::Lacking { why }) => {
            let why = format!("chosen, because nftables cannot be used here: {why}");
            (ProxyMode::Iptables, why)
        }
        (ProxyModeChoice::Nftables, Nftables::Works { .. }) => {
            (ProxyMode::Nftables, "the spec says so".to_owned())
        }
        (ProxyModeChoice::Nftables, Nftables::Lacking { why }) => {
            return Err(Wait::for_what(format!(
                "a machine that has what the spec asks kube-proxy to use, nftables ({why}), or a \
                 spec that says auto or iptables"
            )));
        }
        (ProxyModeChoice::Iptables, Nftables::Works { .. } | Nftables::Lacking { .. }) => {
            (ProxyMode::Iptables, "the spec says so".to_owned())
        }
    };
    Ok(KubeProxyStatus { mode, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodelet::phase::samples;
    use crate::nodelet::step::Step;

    /// The configuration says the mode and where node ports are open; what the other mode left is
    /// looked for after the start, for until then services are made by it.
    #[test]
    fn the_other_way_is_taken_away_after_the_start() {
        for choice in [ProxyModeChoice::Auto, ProxyModeChoice::Iptables] {
            let mut ctx = samples::ordinary(samples::worker("1.37.2"));
            ctx.node.kube_proxy.mode = choice;
            for (networks, line) in [
                (vec![], "\n- \"10.99.0.51/32\"\n"),
                (vec!["10.9.8.7/8"], "\n- \"10.0.0.0/8\"\n"),
            ] {
                let parsed = networks.iter().map(|n| n.parse().expect("network"));
                ctx.node.kube_proxy.node_port_networks = parsed.collect();
                let mode = proxy_mode(&ctx).expect("chosen").mode;
                let steps = super::super::steps(&ctx).expect("steps");
                let at = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted);
                let start = at(&|s| matches!(s, Step::Unit(_))).expect("unit");
                let other = mode.other();
                let gone = at(&|s| *s == Step::ProxyRulesGone { of: other });
                assert!(gone.expect("looked for") > start);
                let config = steps.iter().find_map(|s| match s {
                    Step::File(f) if f.path.ends_with("config.yaml") => Some(&f.content),
                    _ => None,
                });
                let config = config.expect("configuration");
                assert!(config.contains(&format!("mode: {mode}\n")), "{config}");
                assert!(config.contains(line), "{config}");
            }
        }
    }

    #[test]
    fn the_mode_is_always_said_and_nftables_is_taken_where_it_works() {
        use ProxyModeChoice::{Auto, Iptables, Nftables as Nft};
        let works = Nftables::Works {
            kernel: "6.18.1".into(),
        };
        let lacking = Nftables::Lacking {
            why: "no nft".into(),
        };
        for (choice, seen, mode, word) in [
            (Auto, &works, Some(ProxyMode::Nftables), "kernel 6.18.1"),
            (Auto, &lacking, Some(ProxyMode::Iptables), "no nft"),
            (Nft, &works, Some(ProxyMode::Nftables), "spec"),
            (Nft, &lacking, None, "no nft"),
            (Iptables, &works, Some(ProxyMode::Iptables), "spec"),
            (Iptables, &lacking, Some(ProxyMode::Iptables), "spec"),
        ] {
            let mut ctx = samples::worker("1.37.2");
            ctx.node.kube_proxy.mode = choice;
            ctx.facts.nftables = seen.clone();
            let (found, words) = match proxy_mode(&ctx) {
                Ok(chosen) => (Some(chosen.mode), chosen.why),
                Err(wait) => {
                    assert!(wait.meanwhile.is_empty());
                    (None, wait.what)
                }
            };
            assert_eq!(found, mode, "{choice:?} {seen:?}");
            assert!(words.contains(word), "{words}");
            let said = super::super::config(&ctx, ProxyMode::Iptables);
            assert_eq!(said["mode"], "iptables");
        }
    }
}
