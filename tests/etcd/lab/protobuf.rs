//! protobuf messages, as far as the tests' peers need them: texts, numbers, nested messages.

use bytes::{BufMut, Bytes, BytesMut};

/// A message that is being written.
#[derive(Clone, Default)]
pub(crate) struct Message(BytesMut);

impl Message {
    pub(crate) fn text(self, field: u8, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    pub(crate) fn inside(self, field: u8, message: Self) -> Self {
        self.bytes(field, &message.0)
    }

    pub(crate) fn number(mut self, field: u8, number: u64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(number);
        self
    }

    pub(crate) fn bytes(mut self, field: u8, bytes: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.put_slice(bytes);
        self
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.put_u8((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.put_u8(number as u8);
    }

    pub(crate) fn freeze(self) -> Bytes {
        self.0.freeze()
    }
}

/// The first text with this field number.
pub(crate) fn text_of(mut message: &[u8], wanted: u8) -> Option<String> {
    while !message.is_empty() {
        let tag = varint(&mut message);
        let number = varint(&mut message);
        match tag & 7 {
            0 => {}
            2 => {
                let (bytes, rest) = message.split_at(number as usize);
                message = rest;
                if tag >> 3 == u64::from(wanted) {
                    return Some(String::from_utf8_lossy(bytes).into_owned());
                }
            }
            kind => panic!("a field of kind {kind}"),
        }
    }
    None
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first().expect("a number");
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}
