//! A database file of bbolt, read only: the buckets and keys of one commit.
//!
//! Pages 0 and 1 say in turn where the newest commit begins. Pages of a commit are not rewritten
//! before the commit after the next; so what was read is of one commit if the newest is still the
//! same afterwards, and is read again otherwise. No lock is taken: etcd holds it as long as it runs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::DataError;

const MAGIC: u32 = 0xED0C_DAED;
const LAYOUT: u32 = 2;
/// Before everything on a page: its number, what it is, how many elements, how many pages more.
const PAGE_HEAD: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
/// An element of a leaf that is a bucket.
const BUCKET: u32 = 0x01;
const ELEMENT: usize = 16;
/// Before the pages of a bucket: where they begin, and a counter.
const BUCKET_HEAD: usize = 16;
/// Deepest tree: with four elements a page that is more than any disk holds.
const DEPTH_MAX: usize = 32;
/// Most bytes of one page and those that it continues in. What is read here are small buckets, and
/// a value of etcd has 1.5 MiB.
const PAGE_MAX: usize = 16 * 1024 * 1024;
/// Most keys of a bucket: there are a handful of members and versions.
const KEYS_MAX: usize = 10_000;
/// Most pages of one look.
const PAGES_MAX: usize = 10_000;
/// How often a look is made again because etcd committed meanwhile: it does so ten times a second at
/// most, and a look takes a millisecond.
const LOOKS: usize = 20;

/// An open file.
pub(super) struct Bolt {
    path: PathBuf,
    file: File,
}

/// One commit of it.
pub(super) struct Commit<'a> {
    file: &'a File,
    page_size: u64,
    root: u64,
    number: u64,
    pages: usize,
}

/// Why it cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Damaged(String),
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

impl Bolt {
    /// `None`: there is no such file.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, DataError> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self {
                path: path.to_owned(),
                file,
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataError::Io {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// What `look` sees at one commit.
    pub(super) fn at_one_commit<T>(
        &mut self,
        look: impl Fn(&mut Commit<'_>) -> Result<T, Fault>,
    ) -> Result<T, DataError> {
        let mut last = Fault::Damaged("it was being written throughout".into());
        for _ in 0..LOOKS {
            let tried = Commit::newest(&self.file).and_then(|mut commit| {
                let seen = look(&mut commit);
                let now = Commit::newest(&self.file)?;
                Ok((seen, now.number == commit.number))
            });
            match tried {
                Ok((Ok(seen), true)) => return Ok(seen),
                Ok((Err(fault), true)) | Err(fault) => {
                    last = fault;
                    break;
                }
                Ok((_, false)) => {}
            }
        }
        let path = self.path.clone();
        Err(match last {
            Fault::Io(source) => DataError::Io { path, source },
            Fault::Damaged(why) => DataError::Damaged { path, why },
        })
    }
}

impl<'a> Commit<'a> {
    fn newest(file: &'a File) -> Result<Self, Fault> {
        let first = Self::meta(file, 0);
        // The size of a page is known from the first; where that one is damaged, from trying.
        let second = match &first {
            Ok(meta) => Self::meta(file, meta.page_size),
            Err(_) => (12..=16)
                .map(|bits| Self::meta(file, 1 << bits))
                .find(Result::is_ok)
                .unwrap_or_else(|| Err(Fault::Damaged("it has no beginning".into()))),
        };
        match (first, second) {
            (Ok(a), Ok(b)) => Ok(if a.number > b.number { a } else { b }),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (Err(fault), Err(_)) => Err(fault),
        }
    }

    fn meta(file: &'a File, at: u64) -> Result<Self, Fault> {
        let mut page = [0; PAGE_HEAD + 64];
        read_at(file, &mut page, at)?;
        let damaged = |why: &str| Fault::Damaged(why.to_owned());
        let meta = page.get(PAGE_HEAD..).unwrap_or_default();
        let (summed, sum) = meta.split_at_checked(56).unwrap_or_default();
        if u32_at(meta, 0)? != MAGIC || u32_at(meta, 4)? != LAYOUT {
            return Err(damaged("it is not a database of etcd"));
        }
        if fnv1a(summed) != u64_at(sum, 0)? {
            return Err(damaged("its beginning is damaged"));
        }
        let page_size = u64::from(u32_at(meta, 8)?);
        if !page_size.is_power_of_two() || !(1024..=65_536).contains(&page_size) {
            return Err(damaged("its pages have an odd size"));
        }
        Ok(Self {
            file,
            page_size,
            root: u64_at(meta, 16)?,
            number: u64_at(meta, 48)?,
            pages: 0,
        })
    }

    /// Keys and values of a bucket, in order; empty where there is no such bucket.
    pub(super) fn bucket(&mut self, name: &str) -> Result<Pairs, Fault> {
        let Some(place) = self.find(name.as_bytes())? else {
            return Ok(Vec::new());
        };
        let root = u64_at(&place, 0)?;
        let mut pairs = Vec::new();
        if root == 0 {
            // A small one is in the place of its address.
            let page = place.get(BUCKET_HEAD..).unwrap_or_default();
            leaf(page, &mut pairs)?;
        } else {
            self.walk(root, DEPTH_MAX, &mut pairs)?;
        }
        Ok(pairs.into_iter().map(|(_, k, v)| (k, v)).collect())
    }

    /// Where a bucket is.
    fn find(&mut self, name: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let mut all = Vec::new();
        self.walk(self.root, DEPTH_MAX, &mut all)?;
        let is = |(flags, key, value)| (flags & BUCKET != 0 && key == name).then_some(value);
        Ok(all.into_iter().find_map(is))
    }

    fn walk(&mut self, page: u64, depth: usize, pairs: &mut Elements) -> Result<(), Fault> {
        let bytes = self.page(page)?;
        match u16_at(&bytes, 8)? {
            LEAF => leaf(&bytes, pairs),
            BRANCH if depth > 0 => {
                for n in 0..usize::from(u16_at(&bytes, 10)?) {
                    let child = u64_at(&bytes, PAGE_HEAD + n * ELEMENT + 8)?;
                    self.walk(child, depth - 1, pairs)?;
                }
                Ok(())
            }
            kind => Err(Fault::Damaged(format!("page {page} is of kind {kind}"))),
        }
    }

    fn page(&mut self, number: u64) -> Result<Vec<u8>, Fault> {
        self.pages += 1;
        let too_much = || Fault::Damaged(format!("page {number} points past the end"));
        if self.pages > PAGES_MAX {
            return Err(too_much());
        }
        let at = number.checked_mul(self.page_size).ok_or_else(too_much)?;
        let mut head = [0; PAGE_HEAD];
        read_at(self.file, &mut head, at)?;
        if u64_at(&head, 0)? != number {
            return Err(Fault::Damaged(format!("page {number} has another number")));
        }
        let pages = u64::from(u32_at(&head, 12)?) + 1;
        let len = usize::try_from(pages * self.page_size).unwrap_or(usize::MAX);
        if len > PAGE_MAX {
            return Err(too_much());
        }
        let mut bytes = vec![0; len];
        read_at(self.file, &mut bytes, at)?;
        Ok(bytes)
    }
}

type Elements = Vec<(u32, Vec<u8>, Vec<u8>)>;

fn leaf(page: &[u8], elements: &mut Elements) -> Result<(), Fault> {
    for n in 0..usize::from(u16_at(page, 10)?) {
        if elements.len() >= KEYS_MAX {
            return Err(Fault::Damaged(format!(
                "a bucket has more than {KEYS_MAX} keys"
            )));
        }
        let at = PAGE_HEAD + n * ELEMENT;
        let number = |offset| Ok::<_, Fault>(u32_at(page, at + offset)? as usize);
        let (from, key, value) = (at + number(4)?, number(8)?, number(12)?);
        let part = |from: usize, len: usize| {
            let bytes = from.checked_add(len).and_then(|end| page.get(from..end));
            bytes.map(<[u8]>::to_vec).ok_or_else(short)
        };
        elements.push((
            u32_at(page, at)?,
            part(from, key)?,
            part(from + key, value)?,
        ));
    }
    Ok(())
}

fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Result<(), Fault> {
    file.read_exact_at(buffer, at).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => short(),
        _ => Fault::Io(e),
    })
}

fn short() -> Fault {
    Fault::Damaged("it is truncated".into())
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Fault> {
    let part = at.checked_add(N).and_then(|end| bytes.get(at..end));
    part.and_then(|p| p.try_into().ok()).ok_or_else(short)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Fault> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Fault> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Fault> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

/// The sum of a beginning.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
