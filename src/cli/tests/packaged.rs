use super::*;
use crate::app::Config;
use crate::comms::Services;
use crate::model::paths;

fn shipped(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What is commented out is what the programs do without it.
#[test]
fn the_commented_configuration_is_the_default() {
    let text = shipped("etc/hostagent.toml");
    let bare: String = text
        .lines()
        .filter_map(|l| l.strip_prefix('#'))
        .filter(|l| !l.starts_with(' ') && !l.is_empty())
        .map(|l| format!("{l}\n"))
        .collect();
    let rig = Rig::new();
    rig.file(paths::CONFIG, &bare);
    assert_eq!(Config::load(&rig.host), Ok(Config::default()));
    let keys = serde_json::to_value(Config::default()).expect("json");
    for (section, keys) in keys.as_object().expect("sections") {
        explained(&text, section, keys);
    }
    rig.file(paths::CONFIG, &text);
    assert_eq!(Config::load(&rig.host), Ok(Config::default()));
}

/// Each section has its head, each key its line below it, before the next head.
fn explained(text: &str, section: &str, keys: &serde_json::Value) {
    let head = format!("\n#[{section}]\n");
    let (_, after) = text
        .split_once(&head)
        .unwrap_or_else(|| panic!("{section}"));
    let lines = after.split("\n#[").next().unwrap_or(after);
    for (key, value) in keys.as_object().expect("keys") {
        if value.is_object() {
            explained(text, &format!("{section}.{key}"), value);
        } else {
            let line = format!("\n#{key} = ");
            assert!(
                format!("\n{lines}").contains(&line),
                "{section}.{key} is not explained"
            );
        }
    }
}

/// The mode of the key keeps it root's; the services of the two users do not even see where it is.
#[test]
fn what_root_orders_with_is_out_of_sight_of_both_users() {
    for unit in ["pf9-comms", "pf9-hostagent"] {
        let path = format!("{}/systemd/{unit}.service", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).expect("unit");
        let hidden = text
            .lines()
            .filter_map(|l| l.strip_prefix("InaccessiblePaths="))
            .flat_map(str::split_whitespace);
        let key = std::path::Path::new(paths::ORDER_KEY);
        let mut hidden = hidden.map(|p| p.trim_start_matches('-'));
        assert!(hidden.any(|dir| key.starts_with(dir)), "{unit}");
        let root = text.lines().any(|l| l == "User=root");
        assert!(!root && text.contains("\nUser=pf9"), "{unit}");
    }
}

/// Only comms leaves the host, only nodelet changes it: what a program of ours could be talked into
/// beyond its job, the kernel refuses.
#[test]
fn each_service_is_kept_to_its_job() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = |name: &str| {
        let path = root.join(format!("systemd/pf9-{name}.service"));
        std::fs::read_to_string(path).expect("unit")
    };
    let values = |unit: &str, key: &str| -> Vec<String> {
        let lines = unit.lines();
        let lines = lines.filter_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        lines
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect()
    };
    for (name, writes) in [
        (
            "comms",
            &["/run/pf9", paths::COMMS_STATE, "-/etc/pf9/certs/hostagent"][..],
        ),
        ("hostagent", &["/run/pf9", paths::HOSTAGENT_STATE][..]),
    ] {
        let unit = unit(name);
        assert_eq!(values(&unit, "ReadWritePaths"), writes, "{name}");
        assert_eq!(values(&unit, "ProtectSystem"), ["strict"], "{name}");
        for key in ["NoNewPrivileges", "PrivateDevices", "ProtectKernelTunables"] {
            assert_eq!(values(&unit, key), ["yes"], "{name}: {key}");
        }
        for key in ["CapabilityBoundingSet", "AmbientCapabilities"] {
            assert!(unit.contains(&format!("\n{key}=\n")), "{name}: {key}");
            assert!(values(&unit, key).is_empty(), "{name}: {key}");
        }
    }
    let hostagent = unit("hostagent");
    assert_eq!(values(&hostagent, "IPAddressDeny"), ["any"]);
    assert!(values(&hostagent, "IPAddressAllow").is_empty());
}

#[test]
fn the_allow_list_names_the_services_planes_ask_for() {
    let rig = Rig::new();
    let file = "/etc/pf9/services.d/kubernetes.toml";
    rig.file(file, &shipped("etc/services.d/kubernetes.toml"));
    let services = Services::load(&rig.host).expect("services");
    let names: Vec<&String> = services.iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["agent-metrics", "etcd-metrics", "kube-apiserver", "kubelet"]
    );
}

/// Units, directories and users name the same things as the programs do.
#[test]
fn units_directories_and_users_fit_the_programs() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = |name: &str| std::fs::read_to_string(root.join("systemd").join(name)).expect("unit");
    assert!(unit("pf9-comms.service").contains(&format!("\nUser={}\n", paths::USER_COMMS)));
    assert!(unit("pf9-hostagent.service").contains(&format!("\nUser={}\n", paths::USER_HOSTAGENT)));
    // A machine that is no host runs nothing, and fails at nothing.
    for (name, enrolled) in [
        ("pf9-comms.service", paths::ENDPOINTS),
        ("pf9-hostagent.service", paths::HOST_ID),
    ] {
        let condition = format!("\nConditionPathExists={enrolled}\n");
        assert!(unit(name).contains(&condition), "{name}");
    }
    let socket = format!("\nListenStream={}\n", paths::NODELET_SOCKET);
    assert!(unit("pf9-nodeletd.socket").contains(&socket));
    for name in [
        "pf9-comms.service",
        "pf9-hostagent.service",
        "pf9-nodeletd.service",
    ] {
        let text = unit(name);
        // Ends with the exit code of a wrong configuration are not repeated, but by nodelet: its
        // socket would repeat them without a pause.
        let stays_down = format!("\nRestartPreventExitStatus=64 {}\n", Exit::Config.code());
        let by_socket = name == "pf9-nodeletd.service";
        assert_ne!(text.contains(&stays_down), by_socket, "{name}");
        assert!(text.contains("\nRestartSec=5s\n"), "{name}");
        assert!(
            text.contains("\nType=notify\n") && text.contains("\nWatchdogSec="),
            "{name}"
        );
        // What the watchdog ended is started again.
        let again = ["\nRestart=always\n", "\nRestart=on-failure\n"];
        assert!(again.iter().any(|line| text.contains(line)), "{name}");
    }
    let dirs = shipped("tmpfiles.d/pf9-hostagent.conf");
    for dir in [
        paths::COMMS_STATE,
        paths::HOSTAGENT_STATE,
        paths::NODELET_STATE,
        paths::LOG_DIR,
    ] {
        assert!(dirs.contains(&format!("d {dir} ")), "{dir}");
    }
    let users = shipped("sysusers.d/pf9-hostagent.conf");
    for user in [paths::USER_COMMS, paths::USER_HOSTAGENT] {
        assert!(users.contains(&format!("\nu {user} ")), "{user}");
    }
}
