//! Answers as the real programs gave them (Kubernetes 1.37.2, etcd 3.7.3).

use super::*;

const PORT: &str =
    "--secure-port -1 must be between 1 and 65535, inclusive. It cannot be turned off with 0";
const HEALTH: &str = "invalid configuration: healthzPort (--healthz-port) -1 must be between 1 and \
                      65535, inclusive";
const SCORE: &str = "KubeProxyConfiguration.KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: \
                     -5000: must be within the range [-1000, 1000]";

fn said(stderr: &str) -> ProgramOutput {
    ProgramOutput {
        ended: ProgramEnd::Code(1),
        stdout: String::new(),
        stderr: stderr.to_owned(),
    }
}

fn failed(err: &str) -> String {
    format!(
        "I1128 11:12:32.1   1 x.go:1] \"FLAG\"\nE1128 11:12:32.3  1 run.go:72] \"command failed\" err={err:?}\n"
    )
}

fn why(program: &str, expects: &str, stderr: &str) -> Result<(), String> {
    let theirs = ["CPUManager".to_owned(), "oidc-issuer-url".to_owned()];
    verdict(program, &[expects.to_owned()], &theirs, &said(stderr)).map_err(|r| r.why)
}

#[test]
fn the_complaint_that_was_asked_for_alone_is_a_pass() {
    let lone = failed(PORT);
    assert_eq!(why("kube-apiserver", PORT, &lone), Ok(()));
    let kubelet = format!(
        "failed to validate kubelet configuration, error: {HEALTH}, path: &TypeMeta{{Kind:,APIVersion:,}}"
    );
    assert_eq!(why("kubelet", HEALTH, &failed(&kubelet)), Ok(()));
    let proxy = failed(&format!("failed validate: {SCORE}"));
    assert_eq!(why("kube-proxy", SCORE, &proxy), Ok(()));
}

#[test]
fn every_other_complaint_is_named_in_one_line() {
    for (program, expects, stderr, words) in [
        (
            "kubelet",
            HEALTH,
            failed("failed to parse kubelet flag: unknown flag: --pod-infra-container-image"),
            "it knows no flag --pod-infra-container-image",
        ),
        (
            "kubelet",
            HEALTH,
            "panic: failed to merge global and in-flight KubeletConfiguration while setting \
             defaults, error: unrecognized feature gate: SidecarContainers\n\ngoroutine 1 \
             [running]:\nk8s.io/x(0x1)\n"
                .to_owned(),
            "it knows no feature gate SidecarContainers",
        ),
        (
            "kubelet",
            HEALTH,
            "panic: failed to merge global and in-flight KubeletConfiguration while setting \
             defaults, error: cannot set feature gate NodeSwap to false, feature is locked to true\n"
                .to_owned(),
            "cannot set feature gate NodeSwap to false, feature is locked to true",
        ),
        (
            "kubelet",
            HEALTH,
            format!(
                "I1128 11:11:05.6 1 codec.go:102] \"Using lenient decoding as strict decoding \
                 failed\" err=\"strict decoding error: unknown field \\\"lostKey\\\", unknown field \
                 \\\"memorySwap.swapBehaviour\\\"\"\n{}",
                failed(&format!("failed to validate kubelet configuration, error: {HEALTH}"))
            ),
            "it would ignore \"lostKey\", it would ignore \"memorySwap.swapBehaviour\"",
        ),
        (
            "kubelet",
            HEALTH,
            failed(&format!(
                "failed to validate kubelet configuration, error: [{HEALTH}, invalid \
                 configuration: memorySwap.swapBehavior \"Foo\" must be one of: \"\", \
                 \"LimitedSwap\" or \"NoSwap\"], path: &TypeMeta{{Kind:,APIVersion:,}}"
            )),
            "memorySwap.swapBehavior \"Foo\" must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"",
        ),
        (
            "kube-apiserver",
            PORT,
            "Usage:\n  kube-apiserver [flags]\n\nError: unknown flag: --insecure-port\n".to_owned(),
            "it knows no flag --insecure-port",
        ),
        (
            "kube-apiserver",
            PORT,
            failed(&format!(
                "[{PORT}, authorization-mode \"Foo\" is not a valid mode, enable-admission-plugins \
                 plugin \"PodSecurityPolicy\" is unknown]"
            )),
            "authorization-mode \"Foo\" is not a valid mode, enable-admission-plugins plugin \
             \"PodSecurityPolicy\" is unknown",
        ),
        (
            "kube-scheduler",
            PORT,
            failed("strict decoding error: unknown field \"lost\""),
            "it would ignore \"lost\"",
        ),
        (
            "kube-proxy",
            SCORE,
            failed("failed complete: unrecognized feature gate: Foo"),
            "it knows no feature gate Foo",
        ),
    ] {
        assert_eq!(why(program, expects, &stderr), Err(words.to_owned()));
    }
}

#[test]
fn etcd_is_asked_about_variables_and_values() {
    const STOP: &str = "failed to list data directory";
    let line = |level: &str, msg: &str, more: &str| {
        format!("{{\"level\":\"{level}\",\"msg\":\"{msg}\"{more}}}\n")
    };
    let stop = line("fatal", STOP, ",\"dir\":\"/x\"");
    let note = line(
        "warn",
        "Running http and grpc server on single port. This is not recommended for production.",
        "",
    );
    assert_eq!(why("etcd", STOP, &format!("{note}{stop}")), Ok(()));
    let unknown = line(
        "warn",
        "unrecognized environment variable",
        ",\"environment-variable\":\"ETCD_ENABLE_V2=true\"",
    );
    let said = why("etcd", STOP, &format!("{unknown}{note}{stop}"));
    assert_eq!(said, Err("it would ignore ETCD_ENABLE_V2".to_owned()));
    let said = why(
        "etcd",
        STOP,
        "flag provided but not defined: -enable-v2\nUsage:\n\n  etcd [flags]\n",
    );
    assert_eq!(said, Err("it knows no flag --enable-v2".to_owned()));
    let value = line(
        "warn",
        "failed to verify flags",
        ",\"error\":\"invalid value \\\"Foo=true\\\" for ETCD_FEATURE_GATES: unrecognized feature gate: Foo\"",
    );
    let said = why("etcd", STOP, &value).expect_err("refused");
    assert!(said.contains("it knows no feature gate Foo"), "{said}");
}

#[test]
fn an_end_without_a_word_and_a_late_one_are_no_pass() {
    assert!(why("kubelet", HEALTH, "I1128 x] \"started\"\n").is_err());
    let late = ProgramOutput {
        ended: ProgramEnd::Late,
        ..said(&failed(PORT))
    };
    let refused = verdict("kube-apiserver", &[PORT.to_owned()], &[], &late);
    assert!(refused.is_err_and(|r| r.why.contains("in time")));
}

#[test]
fn what_people_can_do_depends_on_whose_word_it_is() {
    let theirs = ["CPUManager".to_owned()];
    let refused = |stderr: &str| {
        let said = said(&failed(stderr));
        verdict("kubelet", &[HEALTH.to_owned()], &theirs, &said).expect_err("refused")
    };
    let own = refused("unrecognized feature gate: CPUManager");
    assert!(
        own.fix.contains("correct CPUManager in the cluster"),
        "{own:?}"
    );
    let agents = refused("unrecognized feature gate: CPUManagerPolicy");
    assert!(agents.fix.contains("newer agent"), "{agents:?}");
    assert!(names("it knows no flag --oidc-x", "oidc-x"));
    assert!(!names("it knows no flag --oidc-x", "oidc"));
}
