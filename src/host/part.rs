//! Rules of a download that may be cut at any byte: pure, but for the look at what is there.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::model::Hasher;

/// Where a download begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the first byte; whatever is there is thrown away.
    Anew,
    /// After the bytes that are there.
    Resume(u64),
    /// Everything is there and only to be checked.
    Check,
}

/// What the server's answer means for the bytes that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeAnswer {
    /// The body continues where we are.
    GoesOn,
    /// The body is the whole file: the server knows no ranges.
    Whole,
}

/// Where to begin, with `have` bytes of `total` on disk.
pub fn begin(have: Option<u64>, total: u64) -> Begin {
    match have {
        None | Some(0) => Begin::Anew,
        Some(have) if have < total => Begin::Resume(have),
        Some(have) if have == total => Begin::Check,
        Some(_) => Begin::Anew,
    }
}

/// Reads the head of an answer of `who` to a request for the bytes from `from` on.
pub fn answer(
    who: &str,
    status: u16,
    content_range: Option<&str>,
    from: u64,
    total: u64,
) -> Result<RangeAnswer, String> {
    match (status, content_range) {
        (200, _) => Ok(RangeAnswer::Whole),
        (206, Some(range)) => {
            let want_first = format!("bytes {from}-");
            let want_total = format!("/{total}");
            let fits = range.starts_with(&want_first)
                && (range.ends_with(&want_total) || range.ends_with("/*"));
            if fits {
                Ok(RangeAnswer::GoesOn)
            } else {
                Err(format!(
                    "{who} sent {range:.60}, not from byte {from} of {total}"
                ))
            }
        }
        (206, None) => Err(format!("{who} sent a part without saying which")),
        (other, _) => Err(format!("{who} answered {other}")),
    }
}

/// The hash of what is in a file, and its length; `None` when there is none.
pub fn hashed(path: &Path) -> io::Result<Option<(Hasher, u64)>> {
    const CHUNK: usize = 128 * 1024;
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut hasher = Hasher::new();
    let mut length = 0;
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = file.read(&mut chunk)?;
        match chunk.get(..n) {
            Some(bytes) if !bytes.is_empty() => hasher.update(bytes),
            Some(_) | None => return Ok(Some((hasher, length))),
        }
        length += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A server that holds `data` and may not know ranges.
    fn serve(data: &[u8], from: u64, ranges: bool) -> (u16, Option<String>, Vec<u8>) {
        let total = data.len() as u64;
        if from == 0 || !ranges {
            return (200, None, data.to_vec());
        }
        let body = data[usize::try_from(from).expect("small")..].to_vec();
        (
            206,
            Some(format!("bytes {from}-{}/{total}", total - 1)),
            body,
        )
    }

    proptest! {
        /// Whatever breaks off, and whatever was on disk before, the end is the archive or a part
        /// that is seen to be wrong by its digest; and it ends.
        #[test]
        fn cut_anywhere_it_ends_with_the_archive(
            data in prop::collection::vec(any::<u8>(), 1..300),
            cuts in prop::collection::vec(0usize..300, 0..8),
            ranges in any::<bool>(),
            mut disk in prop::option::of(prop::collection::vec(any::<u8>(), 0..400)),
        ) {
            let total = data.len() as u64;
            let mut cuts = cuts.into_iter();
            let mut rounds = 0;
            loop {
                rounds += 1;
                prop_assert!(rounds < 30, "it does not end");
                match begin(disk.as_ref().map(|d| d.len() as u64), total) {
                    Begin::Check => {
                        if disk.as_ref() == Some(&data) {
                            break;
                        }
                        disk = None;
                        continue;
                    }
                    Begin::Anew => disk = Some(Vec::new()),
                    Begin::Resume(have) => {
                        prop_assert_eq!(disk.as_ref().map(|d| d.len() as u64), Some(have));
                    }
                }
                let part = disk.get_or_insert_default();
                let from = part.len() as u64;
                let (status, range, mut body) = serve(&data, from, ranges);
                if let Some(cut) = cuts.next() {
                    body.truncate(cut);
                }
                match answer("it", status, range.as_deref(), from, total) {
                    Ok(RangeAnswer::Whole) => *part = body,
                    Ok(RangeAnswer::GoesOn) => part.extend(body),
                    Err(why) => prop_assert!(false, "{}", why),
                }
            }
        }
    }

    #[test]
    fn an_answer_for_other_bytes_is_refused() {
        assert_eq!(
            answer("it", 206, Some("bytes 5-9/10"), 5, 10),
            Ok(RangeAnswer::GoesOn)
        );
        assert_eq!(
            answer("it", 206, Some("bytes 5-9/*"), 5, 10),
            Ok(RangeAnswer::GoesOn)
        );
        assert_eq!(answer("it", 200, None, 5, 10), Ok(RangeAnswer::Whole));
        for (status, range) in [
            (206, Some("bytes 4-9/10")),
            (206, Some("bytes 50-59/10")),
            (206, Some("bytes 5-9/11")),
            (206, None),
            (204, None),
            (416, None),
        ] {
            assert!(
                answer("it", status, range, 5, 10).is_err(),
                "{status} {range:?}"
            );
        }
    }
}
