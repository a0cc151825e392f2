//! Files as etcd writes them, for tests: made from what they are to say.

use std::path::Path;

use super::bolt::fnv1a;

const PAGE: usize = 4096;

/// What the files are to say; by default as of a 3.6 that was founded as such.
pub(crate) struct Sample {
    /// `clusterVersion`.
    pub(crate) cluster: &'static str,
    /// `storageVersion`; 3.5 has none.
    pub(crate) storage: Option<&'static str>,
    /// The target of an ordered lowering.
    pub(crate) lowering: Option<&'static str>,
    /// Number, name, whether it is remembered as a learner.
    pub(crate) members: Vec<(u64, &'static str, bool)>,
    /// With a vote and without, by the log.
    pub(crate) counted: Option<(Vec<u64>, Vec<u64>)>,
    /// Records of the log.
    pub(crate) log: Vec<Record>,
}

/// A record of the log.
#[derive(Clone)]
pub(crate) enum Record {
    /// An entry at this index as every etcd since 3.5 writes it.
    Entry(u64),
    /// An entry at this index as only 3.5 and its predecessors write it.
    Old(u64),
    /// A snapshot up to this index.
    Snapshot(u64),
    /// Agreed on up to this index.
    Committed(u64),
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            cluster: "3.6.0",
            storage: Some("3.6.0"),
            lowering: None,
            members: vec![(1, "one", false)],
            counted: Some((vec![1], Vec::new())),
            log: vec![Record::Entry(4), Record::Entry(5), Record::Committed(5)],
        }
    }
}

impl Sample {
    /// Writes them below a data directory.
    pub(crate) fn write(&self, dir: &Path) {
        for sub in ["member/snap", "member/wal"] {
            std::fs::create_dir_all(dir.join(sub)).expect("directory");
        }
        std::fs::write(dir.join("member/snap/db"), self.database()).expect("database");
        let name = format!("member/wal/{:016x}-{:016x}.wal", 0, 0);
        std::fs::write(dir.join(name), self.wal()).expect("log");
    }

    pub(super) fn database(&self) -> Vec<u8> {
        let text = |s: &str| s.as_bytes().to_vec();
        let mut cluster = vec![(text("clusterVersion"), text(self.cluster))];
        if let Some(target) = self.lowering {
            let value = serde_json::json!({"target-version": target, "enabled": true});
            cluster.push((text("downgrade"), value.to_string().into_bytes()));
        }
        let mut meta = Vec::new();
        if let Some((voters, learners)) = &self.counted {
            let value =
                serde_json::json!({"voters": voters, "learners": learners, "auto_leave": false});
            meta.push((text("confState"), value.to_string().into_bytes()));
        }
        meta.push((text("consistent_index"), vec![0; 8]));
        meta.extend(self.storage.map(|s| (text("storageVersion"), text(s))));
        let members = self.members.iter().map(|(id, name, learner)| {
            let mut value =
                serde_json::json!({"id": id, "peerURLs": ["https://127.0.0.1:2380"], "name": name});
            if *learner {
                value["isLearner"] = true.into();
            }
            (
                format!("{id:x}").into_bytes(),
                value.to_string().into_bytes(),
            )
        });
        let inline = |pairs: Vec<(Vec<u8>, Vec<u8>)>| {
            let mut value = vec![0; 16];
            value.extend(leaf(
                0,
                &pairs
                    .into_iter()
                    .map(|(k, v)| (0, k, v))
                    .collect::<Vec<_>>(),
            ));
            value
        };
        let buckets = vec![
            (1, text("cluster"), inline(cluster)),
            (1, text("members"), inline(members.collect())),
            (1, text("meta"), inline(meta)),
        ];
        let mut root = leaf(3, &buckets);
        root.resize(root.len().next_multiple_of(PAGE), 0);
        let more = u32::try_from(root.len() / PAGE - 1).expect("pages");
        root[12..16].copy_from_slice(&more.to_le_bytes());
        let mut file = [meta_page(0, 6), meta_page(1, 7), page_head(2, 0x10, 0)].concat();
        file.resize(3 * PAGE, 0);
        file.extend(root);
        file
    }

    fn wal(&self) -> Vec<u8> {
        self.wal_of(0xabc, 0xdef)
    }

    fn wal_of(&self, member: u64, cluster: u64) -> Vec<u8> {
        let mut file = Vec::new();
        let mut add = |kind: u64, data: Vec<u8>| {
            let record = [number(1, kind), number(2, 7), bytes(3, &data)].concat();
            let padding = record.len().next_multiple_of(8) - record.len();
            let mut head = record.len() as u64;
            if padding > 0 {
                head |= (0x80 | padding as u64) << 56;
            }
            file.extend(head.to_le_bytes());
            file.extend(record);
            file.resize(file.len() + padding, 0);
        };
        add(4, Vec::new());
        add(1, [number(1, member), number(2, cluster)].concat());
        add(5, [number(1, 0), number(2, 0)].concat());
        for record in &self.log {
            match record {
                Record::Entry(index) => {
                    let request = [bytes(100, &number(1, 9)), bytes(4, b"")].concat();
                    let request = if *index % 2 == 0 { Vec::new() } else { request };
                    add(2, entry(*index, &request));
                }
                Record::Old(index) => {
                    let request =
                        [number(1, 9), bytes(2, b"PUT"), bytes(3, b"/0/version")].concat();
                    add(2, entry(*index, &request));
                }
                Record::Snapshot(index) => add(5, [number(1, *index), number(2, 2)].concat()),
                Record::Committed(index) => {
                    add(3, [number(1, 2), number(2, 1), number(3, *index)].concat())
                }
            }
        }
        // Made longer beforehand.
        file.resize(file.len() + 4096, 0);
        file
    }
}

/// How the log of a member begins whose ids have sixteen digits.
pub(crate) fn log_head() -> Vec<u8> {
    Sample::default().wal_of(0x8e9e_05c5_2164_694d, 0xcdf8_1819_4e3a_8c32)
}

fn entry(index: u64, request: &[u8]) -> Vec<u8> {
    [
        number(1, 0),
        number(2, 2),
        number(3, index),
        bytes(4, request),
    ]
    .concat()
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn number(field: u64, n: u64) -> Vec<u8> {
    [varint(field << 3), varint(n)].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [
        varint(field << 3 | 2),
        varint(value.len() as u64),
        value.to_vec(),
    ]
    .concat()
}

fn page_head(id: u64, kind: u16, count: u16) -> Vec<u8> {
    let mut page = [
        &id.to_le_bytes()[..],
        &kind.to_le_bytes(),
        &count.to_le_bytes(),
    ]
    .concat();
    page.resize(16, 0);
    page
}

fn meta_page(id: u64, number: u64) -> Vec<u8> {
    let mut meta = Vec::new();
    for n in [0xED0C_DAED_u32, 2, PAGE as u32, 0] {
        meta.extend(n.to_le_bytes());
    }
    for n in [3_u64, 0, 2, 5, number] {
        meta.extend(n.to_le_bytes());
    }
    let sum = fnv1a(&meta);
    let mut page = [page_head(id, 4, 0), meta, sum.to_le_bytes().to_vec()].concat();
    page.resize(PAGE, 0);
    page
}

fn leaf(id: u64, pairs: &[(u32, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut page = page_head(id, 2, pairs.len() as u16);
    let mut at = 16 * pairs.len();
    let mut values = Vec::new();
    for (n, (flags, key, value)) in pairs.iter().enumerate() {
        // From the element itself.
        for number in [
            *flags,
            (at - 16 * n) as u32,
            key.len() as u32,
            value.len() as u32,
        ] {
            page.extend(number.to_le_bytes());
        }
        at += key.len() + value.len();
        values.extend([key.clone(), value.clone()].concat());
    }
    page.extend(values);
    page
}
