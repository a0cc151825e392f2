//! Fields of a protobuf message, one after the other. Only what etcd's log and the runtime's answer
//! need: numbers and bytes.

/// A field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Of wire type 0.
    Number(u64),
    /// Of wire type 2.
    Bytes(&'a [u8]),
    /// Of fixed size: nothing here has one, others may.
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

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(fields(&bytes).count() <= bytes.len());
        }
    }
}
