//! systemd asked without a program: by D-Bus, over the socket that systemd keeps for root and that `systemctl` uses.
//!
//! A sweep asks for all units, and the program that does it costs more than all else in a sweep that finds nothing to do.
//! Asked are single properties: all of a unit are some three hundred, and for many of them systemd reads the kernel's
//! files. Where this does not work, for whatever reason, the program is run.
//!
//! ```text
//! NUL AUTH EXTERNAL uid, BEGIN ──► OK ──► units × properties, one call each ──► an answer to each, signals between them
//! ```

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{UnitState, Units};

/// Where systemd listens for root.
const SOCKET: &str = "/run/systemd/private";
/// It answers from memory; one that executes itself anew, a little later.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most units of one question: a node has seven.
const UNITS_MAX: usize = 64;
/// Longest message that is read: an answer is some hundred bytes, what systemd tells of changes a few KiB.
const MESSAGE_MAX: usize = 1024 * 1024;
/// Longest answer to the greeting: a word and a number of the server.
const GREETING_MAX: usize = 256;

const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
/// All that a [`UnitState`] is made of, by interface.
const ASKED: [(&str, &str); 10] = [
    (UNIT, "LoadState"),
    (UNIT, "ActiveState"),
    (UNIT, "SubState"),
    (UNIT, "UnitFileState"),
    (UNIT, "NeedDaemonReload"),
    (UNIT, "InvocationID"),
    (UNIT, "ActiveEnterTimestampMonotonic"),
    (SERVICE, "MainPID"),
    (SERVICE, "NRestarts"),
    (SERVICE, "Result"),
];

/// The fixed part of a message: byte order, kind, flags, version; length of the body, serial, length of the fields.
const HEAD: usize = 16;
/// Where the length of the fields is.
const FIELDS_AT: usize = 12;
const LITTLE_ENDIAN: u8 = b'l';
const VERSION: u8 = 1;

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const REPLY_TO: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// What of a message matters.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    kind: u8,
    /// The serial of the call that it answers.
    reply_to: Option<u32>,
    body: Vec<u8>,
}

/// What stands in a message, in its order; each value begins at a multiple of its size.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Units {
    /// The state of services, as [`Units::show`] says it; `None` where systemd cannot be asked like this.
    pub(super) async fn ask(&self, units: &[String]) -> Option<BTreeMap<String, UnitState>> {
        let services = units.iter().all(|unit| unit.ends_with(".service"));
        if !services || units.len() > UNITS_MAX {
            return None;
        }
        let socket = self.fs.at(SOCKET);
        let asked = async {
            let mut stream = BufReader::new(UnixStream::connect(socket).await?);
            greet(&mut stream).await?;
            states(&mut stream, units).await
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(states)) => Some(states),
            Ok(Err(error)) => {
                tracing::debug!(%error, "systemd is asked by its program");
                None
            }
            Err(_) => {
                tracing::debug!(
                    "systemd does not answer at its socket and is asked by its program"
                );
                None
            }
        }
    }
}

/// Says who we are; the kernel tells the other end the same.
async fn greet(stream: &mut BufReader<UnixStream>) -> io::Result<()> {
    let uid = nix::unistd::geteuid().as_raw().to_string();
    let hello = format!("\0AUTH EXTERNAL {}\r\nBEGIN\r\n", hex(uid.as_bytes()));
    stream.write_all(hello.as_bytes()).await?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() >= GREETING_MAX {
            return Err(broken());
        }
        line.push(stream.read_u8().await?);
    }
    match line.starts_with(b"OK ") {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

async fn states(
    stream: &mut BufReader<UnixStream>,
    units: &[String],
) -> io::Result<BTreeMap<String, UnitState>> {
    let mut calls = Vec::new();
    let mut wanted: BTreeMap<u32, (&str, &str)> = BTreeMap::new();
    let asked = units
        .iter()
        .flat_map(|unit| ASKED.map(|of| (unit.as_str(), of)));
    for (serial, (unit, (interface, property))) in (1..).zip(asked) {
        calls.extend(call(serial, &path_of(unit), interface, property));
        wanted.insert(serial, (unit, property));
    }
    stream.write_all(&calls).await?;
    let mut said: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    while !wanted.is_empty() {
        let message = receive(stream).await?;
        match message.kind {
            RETURN => {}
            ERROR => return Err(io::Error::other("systemd refuses a question")),
            // A signal: systemd tells all that are connected of changes.
            _ => continue,
        }
        let answered = message.reply_to.and_then(|serial| wanted.remove(&serial));
        let (unit, property) = answered.ok_or_else(broken)?;
        let value = Reader::new(&message.body, 0).variant();
        let of_unit = said.entry(unit).or_default();
        of_unit.insert(property, value.ok_or_else(broken)?);
    }
    let mut states = BTreeMap::new();
    for (unit, fields) in said {
        let state = UnitState::read(|key| fields.get(key).map_or("", String::as_str));
        states.insert(unit.to_owned(), state);
    }
    Ok(states)
}

async fn receive(stream: &mut BufReader<UnixStream>) -> io::Result<Message> {
    let mut bytes = vec![0; HEAD];
    stream.read_exact(&mut bytes).await?;
    let whole = length(&bytes).filter(|len| *len <= MESSAGE_MAX);
    bytes.resize(whole.ok_or_else(broken)?, 0);
    let rest = bytes.get_mut(HEAD..).unwrap_or_default();
    stream.read_exact(rest).await?;
    Message::read(&bytes).ok_or_else(broken)
}

/// Of a whole message, by its head.
fn length(head: &[u8]) -> Option<usize> {
    if (*head.first()?, *head.get(3)?) != (LITTLE_ENDIAN, VERSION) {
        return None;
    }
    let body = Reader::new(head, 4).number()?;
    let fields = Reader::new(head, FIELDS_AT).number()?;
    let before = HEAD.checked_add(usize::try_from(fields).ok()?)?;
    let before = before.checked_next_multiple_of(8)?;
    before.checked_add(usize::try_from(body).ok()?)
}

fn call(serial: u32, path: &str, interface: &str, property: &str) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, interface);
    put_text(&mut body, property);
    // They begin at a multiple of eight.
    let mut fields = Vec::new();
    put_field(&mut fields, PATH, b'o', path);
    put_field(
        &mut fields,
        INTERFACE,
        b's',
        "org.freedesktop.DBus.Properties",
    );
    put_field(&mut fields, MEMBER, b's', "Get");
    put_field(&mut fields, DESTINATION, b's', "org.freedesktop.systemd1");
    put_field(&mut fields, SIGNATURE, b'g', "ss");
    let mut out = vec![LITTLE_ENDIAN, CALL, 0, VERSION];
    put_number(&mut out, body.len());
    out.extend(serial.to_le_bytes());
    put_number(&mut out, fields.len());
    out.extend(fields);
    pad(&mut out, 8);
    out.extend(body);
    out
}

fn put_field(out: &mut Vec<u8>, code: u8, kind: u8, text: &str) {
    pad(out, 8);
    out.extend([code, 1, kind, 0]);
    if kind == b'g' {
        out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        out.extend(text.as_bytes());
        out.push(0);
    } else {
        put_text(out, text);
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    pad(out, 4);
    put_number(out, text.len());
    out.extend(text.as_bytes());
    out.push(0);
}

fn put_number(out: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    out.extend(number.to_le_bytes());
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// The object of a unit: of its name all but letters and digits are written as numbers, and a digit that comes first.
fn path_of(unit: &str) -> String {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for (n, byte) in unit.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => path.push(byte.into()),
            b'0'..=b'9' if n > 0 => path.push(byte.into()),
            _ => path.push_str(&format!("_{byte:02x}")),
        }
    }
    path
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an answer of systemd")
}

impl Message {
    fn read(bytes: &[u8]) -> Option<Self> {
        let kind = *bytes.get(1)?;
        let mut reader = Reader::new(bytes, FIELDS_AT);
        let fields = usize::try_from(reader.number()?).ok()?;
        let end = HEAD.checked_add(fields)?;
        let mut reply_to = None;
        while reader.at < end {
            reader.take(0, 8)?;
            let (code, value) = (reader.byte()?, reader.variant()?);
            if code == REPLY_TO {
                reply_to = value.parse().ok();
            }
        }
        reader.take(0, 8)?;
        let body = bytes.get(reader.at..)?.to_vec();
        Some(Self {
            kind,
            reply_to,
            body,
        })
    }
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    fn take(&mut self, len: usize, aligned: usize) -> Option<&'a [u8]> {
        let from = self.at.checked_next_multiple_of(aligned)?;
        let to = from.checked_add(len)?;
        let taken = self.bytes.get(from..to)?;
        self.at = to;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1, 1)?.first().copied()
    }

    fn number(&mut self) -> Option<u32> {
        let four = self.take(4, 4)?;
        Some(u32::from_le_bytes(four.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u64> {
        let eight = self.take(8, 8)?;
        Some(u64::from_le_bytes(eight.try_into().ok()?))
    }

    /// Bytes behind their number.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        self.take(len, 1)
    }

    fn text(&mut self) -> Option<String> {
        let text = String::from_utf8_lossy(self.counted()?).into_owned();
        self.byte()?;
        Some(text)
    }

    fn signature(&mut self) -> Option<&'a [u8]> {
        let len = self.byte()?;
        let signature = self.take(len.into(), 1)?;
        self.byte()?;
        Some(signature)
    }

    /// A value with its kind before it, as `systemctl show` writes it. None of a kind that is not asked for.
    fn variant(&mut self) -> Option<String> {
        Some(match self.signature()? {
            b"s" | b"o" => self.text()?,
            b"g" => String::from_utf8_lossy(self.signature()?).into_owned(),
            b"b" => match self.number()? {
                0 => "no".to_owned(),
                _ => "yes".to_owned(),
            },
            b"u" => self.number()?.to_string(),
            b"t" => self.long()?.to_string(),
            b"ay" => hex(self.counted()?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
