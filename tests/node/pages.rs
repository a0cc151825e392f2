//! A page behind the API server's proxy of pods, as a person's browser sees it: through `kubectl proxy`,
//! the plane and the tunnel. Its links are what the API server made of them.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::demo::{Outcome, eventually, kubectl};
use crate::network::PATIENCE;
use crate::running::{line_with, lines, start};

const POD: &str = "hello-worker-1";
const PORT: u16 = 8082;

pub(crate) fn lead_on() -> Outcome {
    let serve = format!(
        "mkdir -p /tmp/pages && cd /tmp/pages && echo '<a href=\"/next.txt\">next</a>' >index.html && \
         echo landed >next.txt && exec httpd -f -p {PORT} -h /tmp/pages"
    );
    let _server = start(&["kubectl", "exec", "-i", POD, "--", "sh", "-c", &serve])?;
    let listens = format!("netstat -ltn | grep :{PORT}");
    eventually("the pod listens", PATIENCE, || {
        kubectl(&["exec", POD, "--", "sh", "-c", &listens]).map(drop)
    })?;
    let mut proxy = start(&["kubectl", "proxy", "--port=0", "--append-server-path"])?;
    let seen = lines(proxy.0.stdout.take().ok_or("no stdout")?);
    let line = line_with(&seen, "Starting to serve on ", PATIENCE)?;
    let local = line.rsplit(' ').next().unwrap_or_default().to_owned();
    let root = format!("/api/v1/namespaces/default/pods/{POD}:{PORT}/proxy");
    // Without a slash at its end the API server sends on to where it has one.
    let (moved, _) = get(&local, &root)?;
    let location = moved.lines().find_map(|l| l.strip_prefix("location: "));
    assert_eq!(location.map(str::trim), Some("proxy/"), "{moved}");
    let (_, page) = get(&local, &format!("{root}/"))?;
    let link = page
        .split("href=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let link = link.ok_or(format!("no link in {page:?}"))?;
    assert_eq!(link, format!("{root}/next.txt"));
    let (_, landed) = get(&local, link)?;
    assert_eq!(landed.trim(), "landed");
    // A client that sends the plane's token directly gets the same bytes: Kubernetes' conformance tests compare them.
    assert_eq!(kubectl(&["get", "--raw", &format!("{root}/")])?, page);
    Ok(())
}

/// The head, its names in lower case, and the body.
fn get(local: &str, path: &str) -> Outcome<(String, String)> {
    let say = |e: std::io::Error| format!("{local}{path}: {e}");
    let mut socket = TcpStream::connect(local).map_err(say)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(say)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {local}\r\nAccept: text/html\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(say)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).map_err(say)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(format!("no answer: {answer:?}"))?;
    let lower = |line: &str| match line.split_once(':') {
        Some((name, value)) => format!("{}:{value}", name.to_ascii_lowercase()),
        None => line.to_owned(),
    };
    let head: Vec<String> = head.lines().map(lower).collect();
    Ok((head.join("\n"), body.to_owned()))
}
