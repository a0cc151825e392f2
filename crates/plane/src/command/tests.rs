use super::*;

#[test]
fn a_host_is_shown_with_the_copy_that_was_refused_last() {
    let host = HostId::random();
    let copy = serde_json::json!({
        "at": "2026-01-01T00:00:00Z", "boot_id": "9a1e-boot",
        "fault": {"code": "identity-copied", "what": "a", "why": "other firmware UUID"},
    });
    let hosts = serde_json::json!([{"id": host, "pf9": {"connected": false, "copy": copy}}]);
    let text = shown(&hosts, host).expect("shown");
    for words in ["9a1e-boot", "other firmware UUID"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let unknown = shown(&hosts, HostId::random()).expect_err("unknown");
    assert_eq!(unknown.code, FaultCode::HostUnknown);
}

#[test]
fn the_command_line_is_consistent() {
    <Command as clap::CommandFactory>::command().debug_assert();
    for line in [
        "serve --state-dir d --listen 127.0.0.1:8443 --public-url https://x:1",
        "serve --state-dir d --listen 127.0.0.1:8443 --drain-seconds 600",
        "serve --state-dir d --listen 127.0.0.1:8443 --endpoint wss://a:1 --endpoint wss://b",
        "token create --state-dir d --ttl 2h --out f",
        "stack import dir --state-dir d",
        "stack list --json --state-dir d",
        "host list --state-dir d",
        "host accept-machine 0b6d1a7c-5b1e-4c57-8f6c-2f4a39f0a111 9a1e-boot --state-dir d",
        "host show 0b6d1a7c-5b1e-4c57-8f6c-2f4a39f0a111 --state-dir d",
        "keys list --json --state-dir d",
        "keys announce signing --state-dir d",
        "keys take-over authority --state-dir d --force 0b6d1a7c-5b1e-4c57-8f6c-2f4a39f0a111",
        "keys retire signing --state-dir d",
        "host farewell file --state-dir d",
        "host allow-reenrol 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11 --state-dir d --ttl 2h",
        "serve --state-dir d --listen 127.0.0.1:8443 --host-certificate-seconds 60",
        "cluster list --state-dir d --json",
        "cluster authorities c show --state-dir d --json",
        "cluster authorities c rotate --state-dir d --authority etcd --authority cluster --hold 1h",
        "cluster authorities c abort --state-dir d",
        "serve --state-dir d --listen 127.0.0.1:8443 --node-certificate-seconds 60",
        "kubeconfig c --out f --state-dir d",
        "ca --state-dir d",
        "alert list --state-dir d --past --json",
        "alert ack 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11 --who a --why b --for 8h --state-dir d",
        "alert silence add --rule DiskLow --who a --why b --for 8h --state-dir d",
        "alert silence end 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11 --state-dir d",
        "notify add ops --kind alertmanager --url https://x/ --token-file t --state-dir d",
        "notify add jira --kind ticket --url-file u --ca-file c --state-dir d",
        "notify list --state-dir d",
        "notify remove ops --project 3f1c --state-dir d",
        "serve --state-dir d --listen 127.0.0.1:8443 --receiver-network 10.0.0.0/8 --receiver-network fd00::/8",
        "serve --state-dir d --listen 127.0.0.1:8443 --inside-network 203.0.112.7/32 --inside-network 2a00:64::/96",
        "cluster availability c --state-dir d",
        "cluster report c --day 2026-11-29 --state-dir d",
        "recover --state-dir d --yes --remove-node 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11",
    ] {
        let words = std::iter::once("pf9-plane").chain(line.split(' '));
        assert!(Command::try_parse_from(words).is_ok(), "{line}");
    }
    let words = "pf9-plane serve --state-dir d --listen 127.0.0.1:1 --drain-seconds 601";
    assert!(Command::try_parse_from(words.split(' ')).is_err());
}

/// The pages give this option for every verb, and a person adds it at the end.
#[test]
fn every_verb_takes_the_state_directory_behind_its_last_word() {
    fn look(verb: &clap::Command, path: &str, seen: &mut usize) {
        let path = format!("{path} {}", verb.get_name());
        let mut verbs = verb.get_subcommands().peekable();
        if verbs.peek().is_none() {
            let mut known = verb.get_arguments();
            let takes = known.any(|a| a.get_long() == Some("state-dir"));
            assert!(takes, "{path}");
            *seen += 1;
        }
        for verb in verbs.filter(|v| v.get_name() != "help") {
            look(verb, &path, seen);
        }
    }
    let mut whole = <Command as clap::CommandFactory>::command();
    whole.build();
    let mut seen = 0;
    look(&whole, "", &mut seen);
    assert!(seen > 60, "{seen} verbs were looked at");
    let host = "0b6d1a7c-5b1e-4c57-8f6c-2f4a39f0a111";
    for line in [
        "order H --state-dir d ping",
        "order H ping --state-dir d",
        "order H ping",
    ] {
        let line = format!("pf9-plane host {line}").replace('H', host);
        let parsed = Command::try_parse_from(line.split(' ')).expect("a verb");
        let Verb::Host(HostVerb::Order(args)) = parsed.verb else {
            panic!("another verb");
        };
        assert_eq!(args.dir().is_ok(), line.contains(" d"), "{line}");
    }
}

#[test]
fn durations_are_parsed_with_their_unit() {
    assert_eq!(seconds("90"), Ok(90));
    assert_eq!(seconds("24h"), Ok(86_400));
    assert_eq!(seconds("2d"), Ok(172_800));
    for bad in ["", "h", "1w", "-1h", "1.5h"] {
        assert!(seconds(bad).is_err(), "{bad}");
    }
}

#[test]
fn cells_are_words() {
    let row = serde_json::json!({"a": {"b": "x"}, "n": 1, "z": null});
    assert_eq!(
        [cell(&row, "a.b"), cell(&row, "n"), cell(&row, "z")],
        ["x", "1", "-"]
    );
    assert_eq!(cell(&row, "absent"), "-");
}

/// `docs/troubleshooting.md` has the remedies; the commands it names must exist.
#[test]
fn every_verb_in_the_remedies_exists() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/troubleshooting.md");
    let page = std::fs::read_to_string(path).expect("page");
    let example = |word: &'static str| match word {
        "HOST" => "0b6d1a7c-5b1e-4c57-8f6c-2f4a39f0a111",
        "VERSION" => "1.2.3",
        "JSON" => "{}",
        word => word,
    };
    let page: &'static str = Box::leak(page.into_boxed_str());
    let lines = page.split('`').skip(1).step_by(2);
    let mut seen = 0;
    for line in lines.filter(|line| line.starts_with("pf9-plane ")) {
        let words: Vec<&str> = line.split(' ').map(example).collect();
        let whole = words.into_iter().chain(["--state-dir", "d"]);
        assert!(Command::try_parse_from(whole).is_ok(), "{line}");
        seen += 1;
    }
    assert!(seen > 30, "{seen} commands were looked at");
}
