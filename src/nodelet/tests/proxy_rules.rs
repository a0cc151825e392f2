//! What kube-proxy's other way left in the packet filter.

use super::{Attrs, PhaseId, Rig, RunEnd, Step, phase};
use crate::model::ProxyMode;

/// The packet filter of both ways: what kube-proxy does not use goes, and only that.
#[tokio::test]
async fn what_kube_proxy_left_is_found_and_taken_away() {
    const RULES: &str = "*nat\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n\
                         :KUBE-SERVICES - [0:0]\n:PF9-X - [0:0]\nCOMMIT\n";
    let mut rig = Rig::new();
    let tool = |name: &str, does: &str| {
        let text = format!("#!/bin/sh\ncd {}\n{does}\n", rig.fs.at("/").display());
        let path = format!("/usr/sbin/{name}");
        rig.fs
            .write(path, text.as_bytes(), &Attrs::mode(0o755))
            .expect("tool");
    };
    tool("iptables-save", "cat rules");
    tool(
        "iptables-restore",
        "while read -r op name rest; do [ \"$op\" != -X ] || { grep -v \"^:$name \" rules >kept; \
         mv kept rules; }; done",
    );
    tool(
        "nft",
        "case $1 in list) cat tables ;; -f) grep -v kube-proxy tables >kept; mv kept tables ;; esac",
    );
    let put = |rig: &Rig| {
        for (path, text) in [
            ("/rules", RULES),
            ("/tables", "table ip kube-proxy\ntable inet mine\n"),
        ] {
            rig.fs
                .write(path, text.as_bytes(), &Attrs::mode(0o644))
                .expect("write");
        }
    };
    for of in [ProxyMode::Iptables, ProxyMode::Nftables] {
        put(&rig);
        let phases = [phase(PhaseId::KubeProxy, vec![Step::ProxyRulesGone { of }])];
        assert_eq!(rig.converge(&phases).await, RunEnd::Done);
        assert!(rig.plan(&phases).await.is_settled(), "{of}");
        let text = |path: &str| rig.fs.read_text(path, 4096).expect("read").expect("there");
        let (rules, tables) = (text("/rules"), text("/tables"));
        let by_iptables = rules.contains("KUBE-SERVICES");
        let by_nftables = tables.contains("kube-proxy");
        assert_eq!(
            (by_iptables, by_nftables),
            (of == ProxyMode::Nftables, of == ProxyMode::Iptables)
        );
        for kept in [":KUBE-FIREWALL", ":PF9-X", ":INPUT"] {
            assert!(rules.contains(kept), "{of}: {kept}");
        }
        assert!(tables.contains("table inet mine"));
        // Somebody else brings it back.
        put(&rig);
        assert!(!rig.plan(&phases).await.is_settled(), "{of}");
    }
}
