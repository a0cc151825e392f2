//! A machine whose way out is a proxy, set in a shell that lets nobody else read new files: the tunnel goes by it, and so do
//! the runtime's pulls of images, once the remedy of the node's warning was followed; the cluster's own addresses are reached
//! without it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::demo::{NODES, Outcome, agent_is_ok, demo, eventually, kubectl, shell, up};
use crate::likes::fix_of;

/// A sweep a minute, and what it does.
const SWEPT: Duration = Duration::from_secs(150);
/// A tunnel that is dialled again, or a pod that is started and pulls.
const SOON: Duration = Duration::from_secs(60);
/// Where the demo's machines reach this one, and the plane on it.
const HERE: &str = "10.99.0.1";
const PLANE: &str = "10.99.0.1:8443";
/// A registry that only the proxy might know.
const REGISTRY: &str = "registry.example";
/// Longest head of a request.
const HEAD_MAX: usize = 8 * 1024;
const DROP_IN: &str = "/etc/systemd/system/pf9-containerd.service.d";

/// A proxy that lets through to the plane alone.
struct Proxy {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn begin() -> io::Result<Self> {
        let listener = TcpListener::bind((HERE, 0))?;
        let at = listener.local_addr()?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = asked.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let told = told.clone();
                // A client that goes away in the middle is no fault of the proxy.
                std::thread::spawn(move || drop(serve(client, &told)));
            }
        });
        Ok(Self { at, asked })
    }

    fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }

    fn was_asked(&self, line: &str) -> Outcome {
        let asked = self.asked();
        match asked.iter().any(|said| said == line) {
            true => Ok(()),
            false => Err(format!("{line:?} is not among {asked:?}")),
        }
    }
}

fn serve(mut client: TcpStream, told: &Mutex<Vec<String>>) -> io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or_default();
    let line = line.strip_suffix(" HTTP/1.1").unwrap_or(line).to_owned();
    let is_plane = line == format!("CONNECT {PLANE}");
    let mut asked = told.lock().unwrap_or_else(PoisonError::into_inner);
    asked.push(line);
    drop(asked);
    if !is_plane {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
    }
    let mut plane = TcpStream::connect(PLANE)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from, mut to) = (client.try_clone()?, plane.try_clone()?);
    std::thread::spawn(move || {
        let copied = io::copy(&mut from, &mut to);
        drop(to.shutdown(std::net::Shutdown::Write));
        copied
    });
    io::copy(&mut plane, &mut client)?;
    client.shutdown(std::net::Shutdown::Both)
}

#[test]
fn ae_a_proxy_is_the_way_of_the_tunnel_and_of_images() -> Outcome {
    up()?;
    let node = NODES[1];
    let proxy = Proxy::begin().map_err(|e| e.to_string())?;
    let done = by(node, &proxy);
    shell(
        node,
        &format!(
            "pf9ctl proxy set --none; rm -rf {DROP_IN} && systemctl daemon-reload && systemctl restart pf9-containerd"
        ),
    )?;
    done?;
    eventually("without it", SOON, || {
        demo(&["metrics", node, "tunnel"])?;
        agent_is_ok(node)
    })
}

fn by(node: &str, proxy: &Proxy) -> Outcome {
    let own = format!("hello-{node}");
    let path = "jsonpath={.status.podIP} {.status.containerStatuses[0].containerID}";
    let before = kubectl(&["get", "pod", &own, "-o", path])?;
    let ip = before.split_whitespace().next().unwrap_or_default();
    shell(
        node,
        &format!("umask 077 && pf9ctl proxy set http://{}", proxy.at),
    )?;
    eventually("the tunnel goes by the proxy", SOON, || {
        proxy.was_asked(&format!("CONNECT {PLANE}"))?;
        demo(&["metrics", node, "tunnel"]).map(drop)
    })?;
    let code = "runtime-proxy";
    let mut fix = String::new();
    eventually("the runtime's is reported", SWEPT, || {
        fix = fix_of(node, code)?.ok_or("it is not")?;
        Ok(())
    })?;
    let line = fix.split("Environment=").nth(1);
    let line = line.and_then(|rest| rest.split(" (").next());
    let line = line.ok_or_else(|| format!("no line in {fix:?}"))?;
    shell(
        node,
        &format!(
            "mkdir -p {DROP_IN} && printf '[Service]\\nEnvironment=%s\\n' '{line}' >{DROP_IN}/proxy.conf && \
             systemctl daemon-reload && systemctl restart pf9-containerd"
        ),
    )?;
    eventually("its remedy helps", SWEPT, || match fix_of(node, code)? {
        None => agent_is_ok(node),
        Some(fix) => Err(fix),
    })?;
    assert_eq!(kubectl(&["get", "pod", &own, "-o", path])?, before);
    pulls(node, "by-proxy", &format!("{REGISTRY}/none:1"))?;
    eventually("an image is pulled by the proxy", SOON, || {
        proxy.was_asked(&format!("CONNECT {REGISTRY}:443"))
    })?;
    pulls(node, "directly", &format!("{ip}:443/none:1"))?;
    let why = "jsonpath={.status.containerStatuses[0].state.waiting.message}";
    eventually("one of a pod's address without it", SOON, || {
        let said = kubectl(&["get", "pod", "directly", "-o", why])?;
        match said.contains("connection refused") {
            true => Ok(()),
            false => Err(said),
        }
    })?;
    let asked = proxy.asked();
    assert!(!asked.iter().any(|line| line.contains(ip)), "{asked:?}");
    kubectl(&["delete", "pod", "by-proxy", "directly", "--now"]).map(drop)
}

/// A pod whose image is nowhere yet.
fn pulls(node: &str, name: &str, image: &str) -> Outcome {
    kubectl(&["delete", "pod", name, "--ignore-not-found", "--now"])?;
    let overrides = serde_json::json!({"spec": {"nodeName": node}});
    kubectl(&[
        "run",
        name,
        &format!("--image={image}"),
        "--restart=Never",
        &format!("--overrides={overrides}"),
    ])
    .map(drop)
}
