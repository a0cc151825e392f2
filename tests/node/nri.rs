//! A plugin of the runtime, as far as one is needed to see that the runtime listens to it: it gives every
//! container that is made a variable.
//!
//! ```text
//! trunk: connection u32, length u32, bytes     1: the runtime asks the plugin, 2: the plugin asks
//! in it: length u32, stream u32, kind u8, flags u8, message        (ttrpc, protobuf)
//! ```

use std::io::{Read, Write};
use std::process::ChildStdin;
use std::sync::mpsc;

use crate::demo::Outcome;
use crate::network::PATIENCE;
use crate::running::{Running, start};

/// What the containers get.
pub(crate) const VARIABLE: (&str, &str) = ("SEEN_BY", "nri");
const SOCKET: &str = "/run/pf9-containerd/nri.sock";

const ASKS_PLUGIN: u32 = 1;
const ASKS_RUNTIME: u32 = 2;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const HEAD: usize = 10;
/// The bit of `CREATE_CONTAINER` (4) among the events that a plugin wants.
const CREATE_CONTAINER: u64 = 1 << 3;
/// No message of a small node is larger.
const LONGEST: usize = 4 << 20;

/// A plugin that is connected and knows all containers; it works until it is dropped.
pub(crate) struct Plugin {
    _running: Running,
}

impl Plugin {
    pub(crate) fn connect(node: &str) -> Outcome<Self> {
        let to = format!("UNIX-CONNECT:{SOCKET}");
        let mut running = start(&["shell", node, "socat", "-", &to])?;
        let mut into = running.0.stdin.take().ok_or("no stdin")?;
        let from = running.0.stdout.take().ok_or("no stdout")?;
        let about = [field(1, b"test"), field(2, b"10")].concat();
        let register = [
            field(1, b"nri.pkg.api.v1alpha1.Runtime"),
            field(2, b"RegisterPlugin"),
            field(3, &about),
        ];
        send(&mut into, ASKS_RUNTIME, 1, REQUEST, &register.concat())?;
        let (synchronized, is) = mpsc::channel();
        std::thread::spawn(move || serve(from, into, &synchronized));
        is.recv_timeout(PATIENCE)
            .map_err(|e| format!("the runtime did not show its containers: {e}"))?;
        Ok(Self { _running: running })
    }
}

/// Answers what the runtime asks, until it is gone.
fn serve(mut from: impl Read, mut into: ChildStdin, synchronized: &mpsc::Sender<()>) {
    let mut waiting = Vec::new();
    while let Some((connection, bytes)) = frame(&mut from) {
        if connection != ASKS_PLUGIN {
            continue;
        }
        waiting.extend(bytes);
        while let Some((stream, message)) = whole(&mut waiting) {
            let has = |method: &str| {
                message
                    .windows(method.len())
                    .any(|w| w == method.as_bytes())
            };
            let answer = if has("Configure") {
                [varint(2 << 3), varint(CREATE_CONTAINER)].concat()
            } else if has("CreateContainer") {
                let variable = [
                    field(1, VARIABLE.0.as_bytes()),
                    field(2, VARIABLE.1.as_bytes()),
                ];
                field(1, &field(4, &variable.concat()))
            } else {
                Vec::new()
            };
            if send(&mut into, ASKS_PLUGIN, stream, RESPONSE, &field(2, &answer)).is_err() {
                return;
            }
            // Nobody waits any more.
            if has("Synchronize") && synchronized.send(()).is_err() {
                return;
            }
        }
    }
}

fn frame(from: &mut impl Read) -> Option<(u32, Vec<u8>)> {
    let mut head = [0; 8];
    from.read_exact(&mut head).ok()?;
    let mut bytes = vec![0; usize::try_from(number(&head[4..])).ok()?.min(LONGEST)];
    from.read_exact(&mut bytes).ok()?;
    Some((number(&head[..4]), bytes))
}

/// The first message, if all of it is here.
fn whole(waiting: &mut Vec<u8>) -> Option<(u32, Vec<u8>)> {
    let head: Vec<u8> = waiting.get(..HEAD)?.to_vec();
    let end = HEAD + usize::try_from(number(&head[..4])).ok()?;
    let message = waiting.get(HEAD..end)?.to_vec();
    waiting.drain(..end);
    Some((number(&head[4..8]), message))
}

fn send(into: &mut ChildStdin, connection: u32, stream: u32, kind: u8, message: &[u8]) -> Outcome {
    let len = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = [connection.to_be_bytes(), len(HEAD + message.len())].concat();
    bytes.extend([len(message.len()), stream.to_be_bytes()].concat());
    bytes.extend([kind, 0]);
    bytes.extend(message);
    into.write_all(&bytes)
        .and_then(|()| into.flush())
        .map_err(|e| format!("the plugin's connection: {e}"))
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |n, b| (n << 8) | u32::from(*b))
}

/// A field of protobuf that has a length.
fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    let len = varint(bytes.len() as u64);
    [varint((number << 3) | 2), len, bytes.to_vec()].concat()
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}
