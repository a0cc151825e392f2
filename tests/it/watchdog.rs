//! A whole daemon under systemd's protocol: it reports ready, and then that it is alive.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::Duration;

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_daemon_whose_work_goes_on_feeds_the_watchdog() {
    let dir = tempfile::tempdir().expect("tempdir");
    for made in ["run/pf9", "var/log/pf9/kube", "var/opt/pf9/nodelet"] {
        std::fs::create_dir_all(dir.path().join(made)).expect("directory");
    }
    let told = dir.path().join("notify");
    let socket = UnixDatagram::bind(&told).expect("socket");
    let patience = Some(Duration::from_secs(30));
    socket.set_read_timeout(patience).expect("time-out");
    let _daemon = Daemon(
        Command::new(crate::support::program("pf9-nodeletd"))
            .arg("--root")
            .arg(dir.path())
            .env("NOTIFY_SOCKET", &told)
            .env("WATCHDOG_USEC", "2000000")
            .spawn()
            .expect("start"),
    );
    let mut heard = Vec::new();
    while heard.iter().filter(|m| *m == "WATCHDOG=1").count() < 3 {
        let mut message = [0; 256];
        let n = socket.recv(&mut message).expect("a message");
        let text = std::str::from_utf8(&message[..n]).expect("text");
        heard.extend(text.lines().map(str::to_owned));
    }
    assert!(heard.contains(&"READY=1".to_owned()), "{heard:?}");
    // What `systemctl status` shows.
    let line = heard.iter().find_map(|m| m.strip_prefix("STATUS="));
    assert!(
        line.is_some_and(|l| l.contains("; none, spec 0")),
        "{heard:?}"
    );
}
