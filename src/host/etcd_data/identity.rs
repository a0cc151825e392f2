//! Whose the data of a member are: each file of the log begins with a sum and then with the ids of cluster
//! and member. Only the head of the newest file is read; what cannot be followed is said, never guessed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::wal::{self, Bad, METADATA, Records, SUM};
use super::{DataError, LOG};
use crate::host::fs::HostFs;
use crate::host::protobuf::{Value, fields};
use crate::telemetry::chain;

/// Two short records; all that is read of a file.
const HEAD: u64 = 4096;

/// Whose data these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataId {
    /// The cluster's id in hexadecimal digits, as etcd prints it.
    pub cluster_id: String,
    /// The member's.
    pub member_id: String,
}

/// The member that owns the data in this directory; `None`: there is no log yet.
pub fn identity(fs: &HostFs, data: &str) -> Result<Option<DataId>, String> {
    let files = wal::files(&fs.at(format!("{data}/{LOG}"))).map_err(|e| chain(&e))?;
    // The newest: older ones may be on their way out.
    files.last().map(|path| of_file(path)).transpose()
}

fn of_file(path: &Path) -> Result<DataId, String> {
    let io = |source| {
        let path = path.to_owned();
        chain(&DataError::Io { path, source })
    };
    let file = File::open(path).map_err(io)?;
    match of_head(file.take(HEAD)) {
        Ok(Some(id)) => Ok(id),
        Err(Bad::Io(source)) => Err(io(source)),
        Ok(None) | Err(Bad::Cut | Bad::Wrong(_)) => Err(format!(
            "{} does not start like an etcd WAL",
            path.display()
        )),
    }
}

/// By the first bytes of a file of the log.
fn of_head(head: impl Read) -> Result<Option<DataId>, Bad> {
    let mut records = Records::of(head);
    if !matches!(records.next()?, Some((SUM, _))) {
        return Ok(None);
    }
    let Some((METADATA, data)) = records.next()? else {
        return Ok(None);
    };
    Ok(of_metadata(data))
}

fn of_metadata(data: &[u8]) -> Option<DataId> {
    let (mut member, mut cluster) = (None, None);
    for field in fields(data) {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::log_head;
    use super::*;

    fn of(bytes: &[u8]) -> Option<DataId> {
        of_head(bytes).ok().flatten()
    }

    #[test]
    fn the_ids_are_those_that_etcd_prints() {
        let id = of(&log_head()).expect("a log");
        assert_eq!(id.member_id, "8e9e05c52164694d");
        assert_eq!(id.cluster_id, "cdf818194e3a8c32");
        assert_eq!(of(&[0; 4096]), None, "space that was reserved");
        assert_eq!(of(b""), None);
        // What follows is not read: a log that breaks later still identifies its member.
        let mut long = log_head();
        long.extend([0xff; 8192]);
        assert_eq!(of(&long), Some(id));
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
            of(&bytes);
        }

        #[test]
        fn a_damaged_head_is_another_or_none(at in 0usize..60, to in any::<u8>()) {
            let mut bytes = log_head();
            bytes[at] = to;
            of(&bytes);
        }
    }
}
