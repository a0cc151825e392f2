//! A plugin for the Node Resource Interface: it registers with the runtime, and gives each new container an environment
//! variable.
//!
//! Its socket carries two connections, distinguished by the header of each piece (connection, length): one on which the
//! plugin calls, one on which it is called. Both speak ttrpc: length, stream, kind, flags, and a message.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};

use super::protobuf::{Message, text_of};

/// Environment variable of every container while the plugin is registered.
pub(crate) const GIVES: (&str, &str) = ("GIVEN_BY_PLUGIN", "yes");
/// Ids of the runtime's and the plugin's connection.
const RUNTIME: u32 = 2;
const PLUGIN: u32 = 1;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
/// It subscribes to the creation of containers (the fourth event).
const EVENTS: u64 = 1 << 3;

/// A registered plugin.
pub(crate) struct Plugin {
    stream: UnixStream,
    raw: BytesMut,
    /// Received ttrpc bytes of each connection, [`RUNTIME`]'s last.
    came: [BytesMut; 2],
}

impl Plugin {
    /// Registers, and receives the running containers.
    pub(crate) fn join(socket: &Path) -> io::Result<Self> {
        let mut plugin = Self {
            stream: UnixStream::connect(socket)?,
            raw: BytesMut::new(),
            came: Default::default(),
        };
        plugin
            .stream
            .set_read_timeout(Some(Duration::from_secs(30)))?;
        let who = Message::default().text(1, "toy").text(2, "10");
        let question = Message::default()
            .text(1, "nri.pkg.api.v1alpha1.Runtime")
            .text(2, "RegisterPlugin")
            .bytes(3, &who.freeze());
        plugin.send(RUNTIME, 1, REQUEST, question)?;
        while plugin.serve()? != "Synchronize" {}
        Ok(plugin)
    }

    /// Answers until it has been called for a container.
    pub(crate) fn change_one(&mut self) -> io::Result<()> {
        while self.serve()? != "CreateContainer" {}
        Ok(())
    }

    /// Answers one call; returns its name. Answers to the plugin's own calls are skipped.
    fn serve(&mut self) -> io::Result<String> {
        let (connection, stream, kind, message) = self.next()?;
        if (connection, kind) != (PLUGIN, REQUEST) {
            return Ok(String::new());
        }
        let method = text_of(&message, 2).expect("a method");
        let (name, value) = GIVES;
        let answer = match method.as_str() {
            "Configure" => Message::default().number(2, EVENTS),
            "CreateContainer" => {
                let variable = Message::default().text(1, name).text(2, value);
                Message::default().inside(1, Message::default().inside(4, variable))
            }
            _ => Message::default(),
        };
        let answer = Message::default().bytes(2, &answer.freeze());
        self.send(PLUGIN, stream, RESPONSE, answer)?;
        Ok(method)
    }

    fn send(&mut self, connection: u32, stream: u32, kind: u8, message: Message) -> io::Result<()> {
        let message = message.freeze();
        let mut frame = BytesMut::new();
        frame.put_u32(connection);
        frame.put_u32(10 + message.len() as u32);
        frame.put_u32(message.len() as u32);
        frame.put_u32(stream);
        frame.put_slice(&[kind, 0]);
        frame.put_slice(&message);
        self.stream.write_all(&frame)
    }

    /// Connection, stream, kind and message of the next one.
    fn next(&mut self) -> io::Result<(u32, u32, u8, BytesMut)> {
        loop {
            for connection in [PLUGIN, RUNTIME] {
                let came = &mut self.came[connection as usize - 1];
                let length = came.get(..4).map_or(0, |mut head| head.get_u32() as usize);
                if came.len() >= 10 + length && came.len() >= 10 {
                    let mut frame = came.split_to(10 + length);
                    frame.advance(4);
                    let (stream, kind) = (frame.get_u32(), frame.get_u8());
                    frame.advance(1);
                    return Ok((connection, stream, kind, frame));
                }
            }
            self.more()?;
        }
    }

    /// Reads one more piece.
    fn more(&mut self) -> io::Result<()> {
        loop {
            if self.raw.len() >= 8 {
                let mut head = &self.raw[..8];
                let (connection, length) = (head.get_u32(), head.get_u32() as usize);
                if self.raw.len() >= 8 + length {
                    let mut piece = self.raw.split_to(8 + length);
                    piece.advance(8);
                    self.came[connection as usize - 1].unsplit(piece);
                    return Ok(());
                }
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.raw.put_slice(&chunk[..n]),
            }
        }
    }
}
