//! What is written is as the other end reads it; what it says is read, in whatever order and with whatever between.

use proptest::prelude::*;
use tokio::net::UnixListener;

use super::*;
use crate::host::fs::{Attrs, HostFs};
use crate::host::units::Active;

const ETCD: &str = "pf9-etcd.service";
const NETWORK: &str = "pf9-network.service";
const SIGNAL: u8 = 4;

/// As `dbus-daemon` and systemd's own library read it.
#[test]
fn a_question_is_written_as_others_read_it() {
    let path = path_of("pf9-a.service");
    assert_eq!(path, "/org/freedesktop/systemd1/unit/pf9_2da_2eservice");
    let written: [&[u8]; 9] = [
        b"l\x01\x00\x012\x00\x00\x00\x07\x00\x00\x00\xa8\x00\x00\x00",
        b"\x01\x01o\x000\x00\x00\x00/org/freedesktop/systemd1/unit/pf9_2da_2eservice\x00",
        b"\x00\x00\x00\x00\x00\x00\x00\x02\x01s\x00\x1f\x00\x00\x00org.freedesktop.DBus.Properties\x00",
        b"\x03\x01s\x00\x03\x00\x00\x00Get\x00",
        b"\x00\x00\x00\x00\x06\x01s\x00\x18\x00\x00\x00org.freedesktop.systemd1\x00",
        b"\x00\x00\x00\x00\x00\x00\x00\x08\x01g\x00\x02ss\x00",
        b"\x1d\x00\x00\x00org.freedesktop.systemd1.Unit\x00",
        b"\x00\x00",
        b"\x09\x00\x00\x00LoadState\x00",
    ];
    assert_eq!(call(7, &path, UNIT, "LoadState"), written.concat());
    assert_eq!(length(&written.concat()), Some(written.concat().len()));
    assert!(path_of("1a").ends_with("/_31a"));
}

/// A value, with its kind before it.
fn variant(property: &str, word: &str) -> Vec<u8> {
    let (kind, value): (&[u8], Vec<u8>) = match property {
        "NeedDaemonReload" => (b"b", u32::from(word == "yes").to_le_bytes().into()),
        "MainPID" | "NRestarts" => (b"u", word.parse::<u32>().expect("u").to_le_bytes().into()),
        "ActiveEnterTimestampMonotonic" => {
            (b"t", word.parse::<u64>().expect("t").to_le_bytes().into())
        }
        "InvocationID" => {
            let bytes: Vec<u8> = word.bytes().map(|b| b - b'0').collect();
            let len = u32::try_from(bytes.len()).expect("short");
            (b"ay", [&len.to_le_bytes()[..], &bytes].concat())
        }
        _ => {
            let len = u32::try_from(word.len()).expect("short");
            (
                b"s",
                [&len.to_le_bytes()[..], word.as_bytes(), &[0]].concat(),
            )
        }
    };
    let mut out = vec![u8::try_from(kind.len()).expect("short")];
    out.extend(kind);
    out.push(0);
    pad(&mut out, if kind == b"t" { 8 } else { 4 });
    out.extend(value);
    out
}

fn message(kind: u8, reply_to: u32, body: &[u8]) -> Vec<u8> {
    let mut fields = vec![REPLY_TO, 1, b'u', 0];
    fields.extend(reply_to.to_le_bytes());
    put_field(&mut fields, SIGNATURE, b'g', "v");
    let mut out = vec![LITTLE_ENDIAN, kind, 1, VERSION];
    put_number(&mut out, body.len());
    out.extend(1u32.to_le_bytes());
    put_number(&mut out, fields.len());
    out.extend(fields);
    pad(&mut out, 8);
    out.extend(body);
    out
}

/// What is known of a unit there.
fn word(unit: &str, property: &str) -> &'static str {
    match (unit, property) {
        (ETCD, "LoadState") => "loaded",
        (ETCD, "ActiveState") => "active",
        (ETCD, "SubState") => "running",
        (ETCD, "UnitFileState") => "enabled",
        (ETCD, "NeedDaemonReload") => "yes",
        (ETCD, "InvocationID") => "0123456701234567",
        (ETCD, "ActiveEnterTimestampMonotonic") => "5000000",
        (ETCD, "MainPID") => "17",
        (ETCD, "NRestarts") => "2",
        (ETCD, "Result") => "success",
        (_, "LoadState") => "not-found",
        (_, "ActiveState") => "inactive",
        (_, "NeedDaemonReload") => "no",
        (_, "ActiveEnterTimestampMonotonic" | "MainPID" | "NRestarts") => "0",
        _ => "",
    }
}

/// A systemd that has read so many questions before it answers them, the last one first.
async fn answers(listener: UnixListener, questions: usize, refuses: Option<&str>) {
    let (stream, _) = listener.accept().await.expect("a caller");
    let mut stream = BufReader::new(stream);
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"BEGIN\r\n") {
        greeting.push(stream.read_u8().await.expect("greeting"));
    }
    assert!(greeting.starts_with(b"\0AUTH EXTERNAL 3"), "{greeting:?}");
    stream.write_all(b"OK 0123\r\n").await.expect("write");
    let mut all = Vec::new();
    for _ in 0..questions {
        let mut head = [0; HEAD];
        stream.read_exact(&mut head).await.expect("head");
        let mut rest = vec![0; length(&head).expect("length") - HEAD];
        stream.read_exact(&mut rest).await.expect("question");
        let serial = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let text = String::from_utf8_lossy(&rest).into_owned();
        let unit = [ETCD, NETWORK]
            .into_iter()
            .find(|unit| text.contains(&path_of(unit)));
        let property = text.trim_end_matches('\0');
        let property = property.rsplit('\0').next().expect("property").to_owned();
        all.push((serial, unit.expect("unit"), property));
    }
    let mut said = Vec::new();
    for (serial, unit, property) in all.iter().rev() {
        said.extend(message(SIGNAL, *serial, &variant("Result", "x")));
        let kind = match refuses {
            Some(refused) if refused == property => ERROR,
            _ => RETURN,
        };
        let body = variant(property, word(unit, property));
        said.extend(message(kind, *serial, &body));
    }
    stream.write_all(&said).await.expect("write");
}

/// A machine with this socket of systemd, and a program that says `x.service` whatever it is asked.
fn machine() -> (tempfile::TempDir, Units, UnixListener) {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    let tool = "#!/bin/sh\necho Id=x.service\n";
    fs.write("/usr/bin/systemctl", tool.as_bytes(), &Attrs::mode(0o755))
        .expect("tool");
    fs.make_dir("/run/systemd", &Attrs::mode(0o755))
        .expect("directory");
    let listener = UnixListener::bind(fs.at(SOCKET)).expect("bind");
    (dir, Units::new(fs), listener)
}

#[tokio::test]
async fn all_units_are_asked_for_at_once_and_no_program_is_run() {
    let (_dir, units, listener) = machine();
    let names = [ETCD, NETWORK].map(str::to_owned);
    let asks = units.show(&names);
    let (shown, ()) = tokio::join!(asks, answers(listener, 2 * ASKED.len(), None));
    let shown = shown.expect("shown");
    let etcd = &shown[ETCD];
    assert!(etcd.loaded && etcd.enabled && etcd.need_reload);
    assert_eq!(etcd.active, Active::Active);
    assert_eq!((etcd.main_pid, etcd.restarts), (Some(17), 2));
    assert_eq!((&*etcd.sub, &*etcd.result), ("running", "success"));
    assert_eq!(etcd.invocation, "00010203040506070001020304050607");
    assert_eq!(etcd.active_at, Some(Duration::from_secs(5)));
    let network = &shown[NETWORK];
    assert!(!network.loaded && !network.active.is_up() && !network.need_reload);
    assert_eq!((network.main_pid, network.active_at), (None, None));
    assert_eq!(shown.len(), 2);
}

#[tokio::test]
async fn where_it_does_not_answer_like_this_the_program_is_run() {
    let by_program = |shown: BTreeMap<String, UnitState>| {
        assert_eq!(shown.keys().collect::<Vec<_>>(), ["x.service"]);
    };
    let names = [ETCD.to_owned()];
    // An older one without one of the properties.
    let (_dir, units, listener) = machine();
    let asks = units.show(&names);
    let (shown, ()) = tokio::join!(asks, answers(listener, ASKED.len(), Some("NRestarts")));
    by_program(shown.expect("shown"));
    // One that ends in the middle.
    let (_dir, units, listener) = machine();
    let ends = async { drop(listener.accept().await.expect("a caller")) };
    let (shown, ()) = tokio::join!(units.show(&names), ends);
    by_program(shown.expect("shown"));
    // What is no service has other properties; and there is no socket.
    let (_dir, units, listener) = machine();
    let socket = ["pf9-nodeletd.socket".to_owned()];
    by_program(units.show(&socket).await.expect("shown"));
    drop(listener);
    by_program(units.show(&names).await.expect("shown"));
}

proptest! {
    #[test]
    fn no_message_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        Message::read(&bytes);
        length(&bytes);
        let odd = [&[LITTLE_ENDIAN, RETURN, 0, VERSION][..], &bytes].concat();
        Message::read(&odd);
        if let Some(whole) = length(&odd) {
            prop_assert!(whole >= HEAD);
        }
    }
}
