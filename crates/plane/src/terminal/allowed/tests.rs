//! Whatever is typed, kubectl reads what was judged.

use proptest::prelude::*;

use super::*;
use crate::terminal::line;

fn of(line: &str) -> Result<Command, String> {
    command(&line::words(line).expect("words"))
}

fn argv(line: &str) -> String {
    of(line).expect(line).argv.join(" ")
}

#[test]
fn every_way_to_say_a_flag_becomes_one() {
    for line in [
        "get pods -n x",
        "k get -nx pods",
        "kubectl get pods --namespace x",
        "get pods -n=x",
        "get pods --namespace=x",
    ] {
        assert_eq!(argv(line), "get --namespace=x pods", "{line}");
    }
    assert_eq!(
        argv("get po -Aw"),
        "get --all-namespaces=true --watch=true po"
    );
    assert!(of("get po -Aw").expect("ok").lasts);
    assert!(!of("get po --watch=false").expect("ok").lasts);
    assert_eq!(
        argv("logs x -fp --tail 5"),
        "logs --follow=true --previous=true --tail=5 x"
    );
    assert_eq!(argv("rollout status deploy/x"), "rollout status deploy/x");
    let applied = of("apply --server-side -n x").expect("apply");
    assert_eq!(
        applied.argv.join(" "),
        "apply --server-side=true --namespace=x --filename=-"
    );
    assert!(applied.reads_text);
    for (line, lasts) in [
        ("rollout status deploy/x", true),
        ("rollout undo deploy/x", false),
        ("drain x", true),
        ("delete ns x", true),
        ("logs -f x", true),
        ("logs x", false),
    ] {
        assert_eq!(of(line).expect(line).lasts, lasts, "{line}");
    }
    // A value that looks like a flag is a value, to kubectl too.
    assert_eq!(
        argv("get pods -l --kubeconfig=/etc/x"),
        "get --selector=--kubeconfig=/etc/x pods"
    );
}

/// What the audit has cannot be taken for another command.
#[test]
fn a_name_that_looks_like_a_flag_is_shown_as_a_name() {
    let shown = |line: &str| of(line).expect(line).shown();
    assert_eq!(
        shown("get po -n kube-system a.b/c:d"),
        "kubectl get --namespace=kube-system po a.b/c:d"
    );
    assert_eq!(
        shown("delete po 'x --namespace=other' -l \"it's in (a, b)\""),
        r"kubectl delete '--selector=it'\''s in (a, b)' po 'x --namespace=other'"
    );
}

#[test]
fn what_reaches_files_ports_or_other_people_is_refused_in_words() {
    for (line, word) in [
        ("exec x -- sh", "opens a shell"),
        ("exec -it x -- sh", "opens a shell"),
        ("attach -it x", "opens a shell"),
        ("debug node/x", "opens a shell"),
        ("run x --image=y", "opens a shell"),
        ("cp x:/etc/passwd .", "opens a shell"),
        (
            "port-forward --address 0.0.0.0 x 80",
            "opens a shell, a port",
        ),
        ("proxy --port=1", "opens a shell, a port"),
        ("kustomize /etc", "starts programs"),
        ("alpha kuberc view", "starts programs"),
        ("diff", "starts programs"),
        ("create token x", "not among the commands"),
        ("certificate approve x", "not among the commands"),
        ("--server=http://x get pods", "begin with a command"),
        ("-s http://x get pods", "begin with a command"),
        ("-v=9 get pods", "begin with a command"),
        ("get pods --as root", "page's to say"),
        ("get pods --as-uid=0", "page's to say"),
        ("get pods --as-user-extra=x=y", "has no flag"),
        ("get pods --context=x", "page's to say"),
        ("get pods --user=x", "page's to say"),
        ("get pods --insecure-skip-tls-verify", "page's to say"),
        ("get pods --certificate-authority=/x", "page's to say"),
        ("get pods --client-key /x", "page's to say"),
        ("get pods --cache-dir=/x", "page's to say"),
        ("get pods --kuberc=/x", "page's to say"),
        ("get pods --profile=cpu", "page's to say"),
        ("get pods --profile-output=/x", "page's to say"),
        ("get pods -v 9", "has no flag"),
        ("get pods --v=9", "has no flag"),
        ("get pods --log-file=/x", "has no flag"),
        ("get pods --request-timeout=0", "has no flag"),
        ("get pods --disable-compression", "has no flag"),
        ("describe -f /etc/passwd", "page's to say"),
        ("scale --replicas=1 -f /etc/passwd", "page's to say"),
        ("rollout restart -f /etc/passwd", "page's to say"),
        ("logs x --insecure-skip-tls-verify-backend", "has no flag"),
        ("apply -Rf /etc", "has no flag"),
        ("apply -f=-", "page's to say"),
        ("apply -f-", "page's to say"),
        ("apply --prune --all", "has no flag"),
        ("apply view-last-applied", "no names"),
        ("apply edit-last-applied deploy/x", "no names"),
        ("delete --raw /api/v1/nodes", "page's to say"),
        ("auth reconcile", "after auth comes"),
        ("top --use-protocol-buffers", "after top comes"),
        ("version --client", "has no flag"),
        ("get pods -o custom-columns-file", "does not take"),
        ("get pods -o template=x", "does not take"),
        ("get pods -ojsonpath-file=/etc/passwd", "does not take"),
        (
            "get pods --output=templatefile=/etc/passwd",
            "does not take",
        ),
        ("kubectl kubectl get pods", "is no command"),
        ("port-forward x 80", "opens a shell, a port"),
        ("proxy", "opens a shell, a port"),
        ("edit deploy x", "starts programs"),
        ("config view", "starts programs"),
        ("plugin list", "starts programs"),
        ("create ns x", "not among the commands"),
        ("krew", "is no command of this page"),
        ("../../bin/sh", "is no command"),
        ("--kubeconfig=/x get pods", "begin with a command"),
        ("get pods --kubeconfig=/x", "page's to say"),
        ("get pods --kubeconfig /x", "page's to say"),
        ("get pods -s http://x", "page's to say"),
        ("get pods --server=http://x", "page's to say"),
        ("get pods --token=x", "page's to say"),
        ("get pods --as=root", "page's to say"),
        ("get pods --as-group system:masters", "page's to say"),
        ("get -f /etc/passwd", "page's to say"),
        ("apply -f /etc/passwd", "page's to say"),
        ("apply -k .", "page's to say"),
        ("apply --filename=x", "page's to say"),
        ("delete -f x", "page's to say"),
        ("get --raw /api", "page's to say"),
        ("get pods -o jsonpath-file=/etc/passwd", "does not take"),
        ("get pods -o go-template-file=/x", "does not take"),
        ("get pods -o custom-columns-file=/x", "does not take"),
        ("get pods -Ao jsonpath-file=/etc/passwd", "does not take"),
        ("get pods --template=x", "page's to say"),
        ("get pods -v=9", "has no flag"),
        ("get pods --KUBECONFIG=x", "has no flag"),
        ("get pods --kubecon=x", "has no flag"),
        ("get pods -A=x", "has no flag"),
        ("get pods --watch=maybe", "does not take"),
        ("get pods -n", "wants a value"),
        ("get pods -- --kubeconfig=x", "not taken here"),
        ("get -", "not taken here"),
        ("get ''", "a word is empty"),
        ("top secrets", "after top comes"),
        ("rollout -n x status y", "after rollout comes"),
        ("apply x", "no names"),
        ("kubectl", "say a command"),
    ] {
        let why = of(line).expect_err(line);
        assert!(why.contains(word), "{line}: {why}");
        assert!(why.len() < 1000, "{line}: {why}");
    }
}

proptest! {
    /// Whatever is typed: kubectl is given a verb of the table, flags of that verb in one word each, and names.
    #[test]
    fn kubectl_reads_what_was_judged(
        verb in prop::sample::select(VERBS.iter().map(|v| v.name).collect::<Vec<_>>()),
        words in prop::collection::vec("[-=a-zA-Z/.@ ]{0,12}|--[a-z-]{1,14}(=[a-z/.=-]{0,9})?|-[a-zA-Z=]{1,4}", 0..6),
    ) {
        let mut all = vec![verb.to_owned()];
        all.extend(words);
        let Ok(found) = command(&all) else { return Ok(()) };
        let table = VERBS.iter().find(|v| v.name == verb).expect("verb");
        prop_assert_eq!(found.argv[0].as_str(), verb);
        for word in &found.argv[1..] {
            if let Some(flag) = word.strip_prefix('-') {
                let (name, _) = flag.strip_prefix('-').and_then(|f| f.split_once('=')).expect("one word");
                let is_own = table.flags.iter().any(|f| f.0 == name);
                prop_assert!(is_own || (table.reads_text && word == "--filename=-"), "{}", word);
                prop_assert!(is_own || !NOBODYS.contains(&name) || word == "--filename=-");
            }
        }
        let read_back = line::words(&found.shown()).expect("words");
        prop_assert_eq!(&read_back[1..], found.argv.as_slice());
    }
}
