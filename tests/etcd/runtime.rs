//! containerd of each minor that a configuration is written for, with that configuration: nodelet's own phases test it,
//! write it, start the program with it, and compare what it reports through the CRI.

use std::thread;

use pf9_hostagent::host::fs::Attrs;
use pf9_hostagent::model::{
    Digest, STACK_SCHEMA, StackArchive, StackComponent, StackFile, StackImage, StackManifest, paths,
};

use crate::lab::cri::Cri;
use crate::lab::nri::{GIVES, Plugin};
use crate::lab::protobuf::{Message, text_of};
use crate::lab::{Lab, Machine, Programs, script};

/// A stack of these versions, as far as phases ask.
pub(crate) fn manifest(kubernetes: &str, containerd: &str, etcd: &str) -> StackManifest {
    let component = |name: &str, version: String| StackComponent {
        name: name.into(),
        version,
    };
    let images = [
        "pause",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ];
    StackManifest {
        schema: STACK_SCHEMA,
        name: "pf9-kube".into(),
        version: "1.37.2-1".into(),
        kubernetes: kubernetes.parse().expect("a version"),
        arch: "amd64".into(),
        archive: StackArchive {
            sha256: Digest::of(b"archive"),
            size: 1,
        },
        components: vec![
            component("containerd", containerd.into()),
            component("etcd", etcd.into()),
        ],
        files: vec![StackFile {
            path: "bin/containerd".into(),
            mode: 0o755,
            sha256: Digest::of(containerd.as_bytes()),
            size: 1,
            component: "containerd".into(),
        }],
        images: images
            .map(|name| StackImage {
                reference: format!("pf9.local/{name}:tests"),
                path: format!("images/{name}.tar"),
                component: name.into(),
                roles: Vec::new(),
            })
            .into(),
        addons: Vec::new(),
        requires: Vec::new(),
        security: false,
    }
}

/// A machine on which nothing runs yet, that is to have this stack.
pub(crate) fn machine(lab: &mut Lab, manifest: StackManifest) -> &mut Machine {
    let machine = &mut lab.machines[0];
    machine.node.manifest = Some(manifest);
    let stack = machine.node.spec().stack.dir_name();
    let current = machine.fs.at(paths::STACK_CURRENT);
    let unpacked = machine.fs.at(format!("{}/{stack}", paths::STACKS));
    std::os::unix::fs::symlink(current, unpacked).expect("link");
    // Its processes' capabilities are this process's.
    let may = std::fs::read("/proc/self/status").expect("status");
    let attrs = Attrs::mode(0o644);
    machine
        .fs
        .write("/proc/1/status", &may, &attrs)
        .expect("write");
    machine
}

/// Runs pods in the machine's network: none of these tests needs another.
struct Pods {
    cri: Cri,
    pod: String,
    config: Message,
}

impl Pods {
    /// One pod.
    async fn new(machine_socket: std::path::PathBuf) -> Self {
        let cri = Cri(machine_socket);
        let who = Message::default()
            .text(1, "toy")
            .text(2, "toy-1")
            .text(3, "default");
        let namespaces = Message::default()
            .number(1, NODE)
            .number(2, 1)
            .number(3, NODE);
        let linux = Message::default()
            .text(1, GROUP)
            .inside(2, Message::default().inside(1, namespaces));
        let config = Message::default().inside(1, who).inside(8, linux);
        let made = cri.call(
            "RunPodSandbox",
            Message::default().inside(1, config.clone()),
        );
        let pod = text_of(&made.await.expect("a pod"), 1).expect("its id");
        Self { cri, pod, config }
    }

    /// Creates a container in it, with this device.
    async fn container(&self, device: Option<&str>) -> Result<String, String> {
        let mut container = Message::default()
            .inside(1, Message::default().text(1, "toy"))
            .inside(2, Message::default().text(1, "pf9.local/busybox:tests"))
            .text(3, "/bin/sleep")
            .text(4, "1000000");
        if let Some(device) = device {
            container = container.inside(17, Message::default().text(1, device));
        }
        let question = Message::default()
            .text(1, &self.pod)
            .inside(2, container)
            .inside(3, self.config.clone());
        let made = self.cri.call("CreateContainer", question).await?;
        let id = text_of(&made, 1).expect("its id");
        self.cri
            .call("StartContainer", Message::default().text(1, &id))
            .await?;
        Ok(id)
    }

    /// Its environment.
    async fn environment(&self, container: &str) -> String {
        let question = Message::default().text(1, container).text(2, "/bin/env");
        let said = self.cri.call("ExecSync", question).await.expect("it runs");
        text_of(&said, 1).unwrap_or_default()
    }

    async fn remove(self) {
        let pod = || Message::default().text(1, &self.pod);
        for call in ["StopPodSandbox", "RemovePodSandbox"] {
            self.cri.call(call, pod()).await.expect(call);
        }
        // Their previous groups: in each hierarchy, or the only one.
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").expect("control groups");
        let hierarchies = hierarchies.map(|entry| entry.expect("entry").path());
        for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
            let group = hierarchy.join(GROUP.trim_start_matches('/'));
            if group.is_dir() {
                std::fs::remove_dir(&group).expect("nothing runs in it");
            }
        }
    }
}

/// The cgroup of the pods.
const GROUP: &str = "/pf9-tests";
/// `NamespaceMode::NODE`.
const NODE: u64 = 2;
/// What a device of the machine does to a container that gets it.
const DEVICE: &str = r#"{"cdiVersion": "0.6.0", "kind": "pf9.local/toy",
  "devices": [{"name": "one", "containerEdits": {"env": ["GIVEN_BY_DEVICE=yes"]}}]}"#;

/// The file is tested, written, used for a start and compared with what the runtime reports; then a container requests
/// a device of the machine, and a plugin registers.
#[test]
fn each_containerd_takes_our_file_and_lets_in_what_the_spec_says() {
    let all = Programs::containerds();
    let minors: Vec<_> = all.iter().map(|(v, _)| (v.major, v.minor)).collect();
    assert_eq!(
        minors,
        [(2, 2), (2, 3), (2, 4)],
        "those that a file is written for"
    );
    for (version, programs) in all {
        for open in [false, true] {
            println!("containerd {version}, open: {open}");
            let bin = tempfile::tempdir().expect("directory");
            let mut lab = Lab::with(&programs.with_runc(bin.path()), 1);
            let manifest = manifest("1.37.2", &version.to_string(), "3.7.3");
            let machine = machine(&mut lab, manifest);
            machine.node.spec_mut().runtime.cdi = open;
            machine.node.spec_mut().runtime.nri = open;
            machine.settled();
            let plan = machine.plan();
            assert!(plan.is_settled(), "containerd {version}: {plan:?}");
            lets_in(machine, open);
            machine.stop();
        }
    }
}

fn lets_in(machine: &mut Machine, open: bool) {
    let images = machine.fs.at("/images");
    std::fs::create_dir_all(&images).expect("directory");
    script("images.py", &[&images.to_string_lossy()]);
    let write = |path: &str, text: &str| {
        let attrs = Attrs::mode(0o644);
        machine
            .fs
            .write(path, text.as_bytes(), &attrs)
            .expect("write");
    };
    std::fs::create_dir_all(machine.fs.at("/etc/cdi")).expect("directory");
    write("/etc/cdi/toy.json", DEVICE);
    write("/etc/hosts", "127.0.0.1 localhost\n");
    write("/etc/resolv.conf", "");
    let socket = machine.fs.at(paths::CONTAINERD_SOCKET);
    let plugin = Plugin::join(&machine.fs.at("/run/pf9-containerd/nri.sock"));
    assert_eq!(
        plugin.is_ok(),
        open,
        "{:?}\n{}",
        plugin.err(),
        machine.log()
    );
    let log = machine.log();
    let environment = machine.inside(async move |node| {
        for name in ["pause", "busybox"] {
            let imported = node
                .host
                .runtime
                .import(&format!("/images/{name}.tar"))
                .await;
            imported.unwrap_or_else(|e| panic!("{e:?}"));
        }
        let pods = Pods::new(socket).await;
        let asked = thread::spawn(move || plugin.map(|mut p| p.change_one().map(|()| p)));
        let with = pods.container(Some("pf9.local/toy=one")).await;
        let with = match with {
            Ok(id) => Ok(pods.environment(&id).await),
            Err(why) => Err(why),
        };
        let plugin = asked.join().expect("the plugin's thread");
        if open {
            plugin.expect("let in").expect("asked");
        }
        pods.remove().await;
        with
    });
    if open {
        let environment = environment.unwrap_or_else(|e| panic!("{e}\n{log}"));
        let has = |line: &str| environment.lines().any(|l| l == line);
        assert!(has("GIVEN_BY_DEVICE=yes"), "{environment}");
        assert!(has(&format!("{}={}", GIVES.0, GIVES.1)), "{environment}");
    } else {
        let refused = environment.expect_err("no device is given");
        assert!(refused.contains("pf9.local/toy=one"), "{refused}");
    }
}
