//! A `.rpm`: a lead, two headers (signatures, then what it is), and a `cpio` archive.

use std::io::{self, Read};

use super::{ENTRIES_MAX, PackageInfo, Take, bad, unzstd};

pub(super) const LEAD_MAGIC: [u8; 4] = [0xed, 0xab, 0xee, 0xdb];
const LEAD: usize = 96;
const HEADER_MAGIC: [u8; 4] = [0x8e, 0xad, 0xe8, 0x01];
/// Most entries, and most bytes, of a header.
const INDEX_MAX: u32 = 4096;
const STORE_MAX: u32 = 4 * 1024 * 1024;
/// Tags of the header, and the one type of value that is read.
const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const ARCH: u32 = 1022;
const STRING: u32 = 6;
/// The head of a file in a `newc` archive, and its parts: each eight hexadecimal digits behind the magic.
const CPIO_HEAD: usize = 110;
const CPIO_MAGIC: &[u8] = b"070701";
const CPIO_MODE: usize = 1;
const CPIO_SIZE: usize = 6;
const CPIO_NAME: usize = 11;
/// Longest path in it.
const PATH_MAX: u64 = 4096;
const TYPE_MASK: u32 = 0o170_000;
const TYPE_FILE: u32 = 0o100_000;
/// The name of the entry that ends it.
const END: &str = "TRAILER!!!";

/// What its header says.
pub(super) fn about(mut file: impl Read) -> io::Result<PackageInfo> {
    let header = to_header(&mut file)?;
    Ok(PackageInfo {
        name: header.text(NAME),
        version: format!("{}-{}", header.text(VERSION), header.text(RELEASE)),
        arch: header.text(ARCH),
        depends: String::new(),
    })
}

/// Each regular file of it, with its size.
pub(super) fn each_file(mut file: impl Read, take: &mut Take<'_>) -> io::Result<()> {
    to_header(&mut file)?;
    let mut archive = unzstd(file)?;
    for _ in 0..ENTRIES_MAX {
        let mut head = [0; CPIO_HEAD];
        archive.read_exact(&mut head)?;
        if head.get(..CPIO_MAGIC.len()) != Some(CPIO_MAGIC) {
            return Err(bad("its archive is of another kind"));
        }
        let number = |part: usize| {
            let begin = CPIO_MAGIC.len() + part * 8;
            let digits = head
                .get(begin..begin + 8)
                .and_then(|d| std::str::from_utf8(d).ok());
            let number = digits.and_then(|d| u32::from_str_radix(d, 16).ok());
            number.ok_or_else(|| bad("a number in its archive is invalid"))
        };
        let (mode, size, length) = (
            number(CPIO_MODE)?,
            u64::from(number(CPIO_SIZE)?),
            u64::from(number(CPIO_NAME)?),
        );
        if length == 0 || length > PATH_MAX {
            return Err(bad("a path in its archive is too long"));
        }
        let mut path = Vec::new();
        archive.by_ref().take(length).read_to_end(&mut path)?;
        skip(&mut archive, padding(CPIO_HEAD as u64 + length))?;
        path.pop();
        let path =
            String::from_utf8(path).map_err(|_| bad("a path in its archive is not UTF-8 text"))?;
        if path == END {
            return Ok(());
        }
        let mut data = archive.by_ref().take(size);
        if mode & TYPE_MASK == TYPE_FILE {
            take(&path, size, &mut data)?;
        }
        let left = data.limit();
        skip(&mut archive, left + padding(size))?;
    }
    Err(bad("it has too many entries"))
}

fn padding(length: u64) -> u64 {
    length.next_multiple_of(4) - length
}

fn skip(from: &mut impl Read, bytes: u64) -> io::Result<()> {
    match io::copy(&mut from.by_ref().take(bytes), &mut io::sink())? == bytes {
        true => Ok(()),
        false => Err(bad("it is truncated")),
    }
}

struct Header {
    index: Vec<u8>,
    store: Vec<u8>,
}

/// The second header; what follows in `file` is the archive.
fn to_header(file: &mut impl Read) -> io::Result<Header> {
    let mut lead = [0; LEAD];
    file.read_exact(&mut lead)?;
    if lead.get(..4) != Some(&LEAD_MAGIC[..]) {
        return Err(bad("it is not an .rpm"));
    }
    let signatures = header(file)?;
    skip(file, (8 - signatures.store.len() as u64 % 8) % 8)?;
    header(file)
}

fn header(file: &mut impl Read) -> io::Result<Header> {
    let mut head = [0; 16];
    file.read_exact(&mut head)?;
    if head.get(..4) != Some(&HEADER_MAGIC[..]) {
        return Err(bad("a header of it is damaged"));
    }
    let (entries, bytes) = (big_endian(&head, 8), big_endian(&head, 12));
    if entries > INDEX_MAX || bytes > STORE_MAX {
        return Err(bad("a header of it is too large"));
    }
    let mut read = |bytes: u64| {
        let mut part = Vec::new();
        file.by_ref().take(bytes).read_to_end(&mut part)?;
        match part.len() as u64 == bytes {
            true => Ok(part),
            false => Err(bad("one of its headers is truncated")),
        }
    };
    Ok(Header {
        index: read(u64::from(entries) * 16)?,
        store: read(u64::from(bytes))?,
    })
}

fn big_endian(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..at + 4).and_then(|p| p.try_into().ok());
    part.map_or(0, u32::from_be_bytes)
}

impl Header {
    fn text(&self, tag: u32) -> String {
        let entry = self
            .index
            .chunks_exact(16)
            .find(|e| big_endian(e, 0) == tag);
        let at = entry
            .filter(|e| big_endian(e, 4) == STRING)
            .and_then(|e| usize::try_from(big_endian(e, 8)).ok());
        let value = at.and_then(|at| self.store.get(at..)).unwrap_or_default();
        let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
        String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
    }
}
