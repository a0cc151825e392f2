//! Fields of a protobuf message, one after the other. Only what etcd's log and the runtime's calls
//! need: numbers and bytes.

/// A field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Wire type 0.
    Number(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Of fixed size: nothing here uses one; other messages may.
    Fixed,
}

/// The fields of a message; ends with an error where it is none.
pub(super) struct Fields<'a>(&'a [u8]);

/// These bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoMessage;

/// Reads them as fields.
pub(super) fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields(bytes)
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), NoMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(NoMessage))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = usize::try_from(self.number()?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        (tag >> 3 != 0).then_some((tag >> 3, value))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

/// A message that is being written, field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A field of bytes.
    pub(super) fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.put(u64::from(field) << 3 | 2);
        self.put(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A field of text.
    pub(super) fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    /// A field that is a message.
    pub(super) fn inside(self, field: u32, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    /// A field of a number.
    pub(super) fn number(mut self, field: u32, number: u64) -> Self {
        self.put(u64::from(field) << 3);
        self.put(number);
        self
    }

    /// An entry of a map from text to text.
    pub(super) fn entry(self, field: u32, key: &str, value: &str) -> Self {
        self.inside(field, &Self::default().text(1, key).text(2, value))
    }

    /// Its bytes.
    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }

    fn put(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_bytes_are_read_and_what_is_cut_off_is_none() {
        let message = [8, 0x96, 1, 18, 2, b'a', b'b', 0xa2, 6, 0];
        let read: Result<Vec<_>, _> = fields(&message).collect();
        let wanted = vec![
            (1, Value::Number(150)),
            (2, Value::Bytes(b"ab")),
            (100, Value::Bytes(b"")),
        ];
        assert_eq!(read, Ok(wanted));
        let cut: Result<Vec<_>, _> = fields(&message[..6]).collect();
        assert_eq!(cut, Err(NoMessage));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let inside = Message::default().number(2, u64::MAX);
        let message = Message::default()
            .text(1, &"x".repeat(300))
            .inside(20, &inside)
            .entry(3, "a", "b");
        let bytes = message.done();
        let read: Result<Vec<_>, _> = fields(&bytes).collect();
        let read = read.expect("a message");
        assert_eq!(read[0], (1, Value::Bytes("x".repeat(300).as_bytes())));
        let (20, Value::Bytes(inner)) = read[1] else {
            panic!("{read:?}");
        };
        assert_eq!(fields(inner).next(), Some(Ok((2, Value::Number(u64::MAX)))));
        assert_eq!(read[2], (3, Value::Bytes(&[10, 1, b'a', 18, 1, b'b'])));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(fields(&bytes).count() <= bytes.len());
        }
    }
}
