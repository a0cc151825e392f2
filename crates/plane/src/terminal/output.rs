//! A command's output as text that a page can show: pieces of bytes become whole characters, and what would move, hide
//! or colour something becomes a sign that stands where it was.

use super::line::is_hidden;

/// The text of one stream.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// The beginning of a character whose end has not come.
    part: Vec<u8>,
    /// A carriage return came last: a line feed after it is the same end of line.
    returned: bool,
}

impl Text {
    /// What these bytes add.
    pub(super) fn add(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.part);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut left = all.len();
        for chunk in all.utf8_chunks() {
            for c in chunk.valid().chars() {
                self.push(&mut text, c);
            }
            let bad = chunk.invalid();
            left -= chunk.valid().len() + bad.len();
            // At the very end it may only be cut.
            let is_cut = std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none());
            match bad.is_empty() {
                true => {}
                false if left == 0 && is_cut => self.part = bad.to_vec(),
                false => {
                    self.returned = false;
                    text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
        text
    }

    fn push(&mut self, text: &mut String, c: char) {
        let returned = std::mem::replace(&mut self.returned, c == '\r');
        match c {
            '\n' if returned => {}
            '\n' | '\r' => text.push('\n'),
            '\t' => text.push('\t'),
            // Pictures of what they are: ␛ for ESC.
            '\0'..='\x1f' => text
                .push(char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER)),
            '\x7f' => text.push('\u{2421}'),
            c if is_hidden(c) => text.push(char::REPLACEMENT_CHARACTER),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_would_move_or_hide_something_is_shown_as_a_sign() {
        let of = |bytes: &[u8]| Text::default().add(bytes);
        assert_eq!(of(b"a\tb\r\nc\rd\n"), "a\tb\nc\nd\n");
        assert_eq!(of(b"\x1b[31mred\x1b[0m\x07\x7f"), "␛[31mred␛[0m␇␡");
        assert_eq!(
            of("x\u{202e}y\u{200b}\u{9b}z".as_bytes()),
            "x\u{fffd}y\u{fffd}\u{fffd}z"
        );
        assert_eq!(of(b"a\xffb"), "a\u{fffd}b");
    }

    proptest! {
        /// However it is cut, the text is the same.
        #[test]
        fn pieces_are_what_the_whole_is(bytes in prop::collection::vec(any::<u8>(), 0..64), at in 0usize..64) {
            let whole = {
                let mut text = Text::default();
                let mut said = text.add(&bytes);
                said.push_str(&text.add(b"."));
                said
            };
            let at = at.min(bytes.len());
            let mut text = Text::default();
            let mut said = text.add(&bytes[..at]);
            said.push_str(&text.add(&bytes[at..]));
            said.push_str(&text.add(b"."));
            prop_assert_eq!(&said, &whole);
            prop_assert!(said.chars().all(|c| !is_hidden(c) || c == '\n' || c == '\t'));
        }
    }
}
