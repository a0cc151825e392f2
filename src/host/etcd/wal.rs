//! Whose the data of a member are, read from its write-ahead log without etcd: each file of the log begins
//! with a checksum and then with the ids of cluster and member.
//!
//! The form is the one of 3.5 to 3.7: frames of eight bytes of length (the top byte says how much filling
//! follows) and a record; the first record is a checksum (kind 4), the second the metadata (kind 1). Only
//! the head of a file is read; what cannot be followed is said, never guessed.

use std::fs::File;
use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::host::fs::HostFs;
use crate::host::protobuf::{Value, fields};

/// Below a data directory.
pub const WAL_DIR: &str = "member/wal";
/// Two short records; all that is read of a file.
const HEAD: u64 = 4096;
/// A file of the log ends so; others there are of an etcd that is making one.
const SUFFIX: &str = ".wal";
/// Kinds of records.
const METADATA: u64 = 1;
const CHECKSUM: u64 = 4;

/// Whose data these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataId {
    /// The cluster's id in hexadecimal digits, as etcd prints it.
    pub cluster_id: String,
    /// The member's.
    pub member_id: String,
}

/// Whose data are in this directory; `None`: no log was begun there.
pub fn identity(fs: &HostFs, data: &str) -> Result<Option<DataId>, String> {
    let dir = format!("{data}/{WAL_DIR}");
    let names = fs.list(&dir).map_err(|e| crate::telemetry::chain(&e))?;
    // The newest: older ones may be on their way out.
    let Some(name) = names.iter().rfind(|n| n.ends_with(SUFFIX)) else {
        return Ok(None);
    };
    let path = format!("{dir}/{name}");
    let mut head = Vec::new();
    File::open(fs.at(&path))
        .and_then(|file| file.take(HEAD).read_to_end(&mut head))
        .map_err(|e| format!("{path} cannot be read: {e}"))?;
    match of_head(&head) {
        Some(id) => Ok(Some(id)),
        None => Err(format!("{path} does not begin as a log of etcd does")),
    }
}

/// By the first bytes of a file of the log.
fn of_head(head: &[u8]) -> Option<DataId> {
    let (first, rest) = frame(head)?;
    (kind_and_data(first)?.0 == CHECKSUM).then_some(())?;
    let (second, _) = frame(rest)?;
    let (kind, data) = kind_and_data(second)?;
    (kind == METADATA).then_some(())?;
    let (mut member, mut cluster) = (None, None);
    for field in fields(data?) {
        match field.ok()? {
            (1, Value::Number(id)) => member = Some(id),
            (2, Value::Number(id)) => cluster = Some(id),
            (_, Value::Number(_) | Value::Bytes(_) | Value::Fixed) => {}
        }
    }
    Some(DataId {
        cluster_id: format!("{:x}", cluster?),
        member_id: format!("{:x}", member?),
    })
}

/// The first record, and what follows it.
fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let field = u64::from_le_bytes(*length);
    let record = usize::try_from(field & 0x00ff_ffff_ffff_ffff).ok()?;
    let top = field >> 56;
    let filling = if top & 0x80 == 0 {
        0
    } else {
        (top & 0x7) as usize
    };
    let end = record.checked_add(filling)?;
    Some((rest.get(..record)?, rest.get(end..)?))
}

fn kind_and_data(record: &[u8]) -> Option<(u64, Option<&[u8]>)> {
    let (mut kind, mut data) = (None, None);
    for field in fields(record) {
        match field.ok()? {
            (1, Value::Number(n)) => kind = Some(n),
            (3, Value::Bytes(bytes)) => data = Some(bytes),
            (_, Value::Number(_) | Value::Bytes(_) | Value::Fixed) => {}
        }
    }
    Some((kind?, data))
}

#[cfg(test)]
pub(crate) fn log_head() -> Vec<u8> {
    let number = |mut n: u64| {
        let mut bytes = Vec::new();
        while n > 0x7f {
            bytes.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    };
    let ids = [
        &[0x08][..],
        &number(0x8e9e_05c5_2164_694d),
        &[0x10],
        &number(0xcdf8_1819_4e3a_8c32),
    ]
    .concat();
    let checksum = vec![0x08, 4, 0x10, 0];
    let metadata = [&[0x08, 1, 0x10, 7, 0x1a, ids.len() as u8][..], &ids].concat();
    let mut bytes = Vec::new();
    for record in [checksum, metadata] {
        let filling = (8 - record.len() % 8) % 8;
        let top = if filling == 0 {
            0
        } else {
            0x80 | filling as u64
        };
        bytes.extend((record.len() as u64 | top << 56).to_le_bytes());
        bytes.extend(&record);
        bytes.extend(vec![0; filling]);
    }
    bytes.extend([0; 64]);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ids_are_those_that_etcd_prints() {
        let id = of_head(&log_head()).expect("a log");
        assert_eq!(id.member_id, "8e9e05c52164694d");
        assert_eq!(id.cluster_id, "cdf818194e3a8c32");
        assert_eq!(of_head(&[0; 4096]), None, "space that was reserved");
        assert_eq!(of_head(b""), None);
    }

    #[test]
    fn a_directory_without_a_log_has_no_data() {
        let dir = tempfile::tempdir().expect("directory");
        let fs = HostFs::new(dir.path());
        assert_eq!(identity(&fs, "/data"), Ok(None));
        let wal = dir.path().join("data/member/wal");
        std::fs::create_dir_all(&wal).expect("directory");
        std::fs::write(wal.join("0.tmp"), b"x").expect("write");
        assert_eq!(identity(&fs, "/data"), Ok(None), "one that is being made");
        std::fs::write(wal.join("0-0.wal"), log_head()).expect("write");
        let id = identity(&fs, "/data").expect("readable").expect("data");
        assert_eq!(id.member_id, "8e9e05c52164694d");
        std::fs::write(wal.join("1-1.wal"), b"nonsense").expect("write");
        let why = identity(&fs, "/data").expect_err("no log");
        assert!(why.contains("1-1.wal"), "{why}");
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            of_head(&bytes);
        }

        #[test]
        fn a_damaged_head_is_another_or_none(at in 0usize..60, to in any::<u8>()) {
            let mut bytes = log_head();
            bytes[at] = to;
            of_head(&bytes);
        }
    }
}
