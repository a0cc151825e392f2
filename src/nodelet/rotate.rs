//! Certificates to replace before they are due: which ones, by what they are. A replaced one is another certificate, so
//! no order has to be withdrawn.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::certs;
use crate::host::documents::{Document, Store};
use crate::host::fs::HostFs;
use crate::model::{CertPurpose, Digest, NodeSpec, Timestamp, paths};
use crate::telemetry::chain;

/// A digest for each certificate of a master, several times over.
const NOTE_MAX: u64 = 8192;
const MODE: u32 = 0o600;
/// Older ones are gone from the machine.
const KEPT: usize = 32;

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    schema: u32,
    replace: Vec<Digest>,
}

impl Document for Note {
    const SCHEMA: u32 = 1;
}

fn store(fs: &HostFs) -> Store {
    Store::new(fs.clone(), paths::ROTATE, MODE, NOTE_MAX)
}

/// Those to replace. An unreadable note asks for nothing: what is due is renewed without it.
pub(super) fn wanted(fs: &HostFs) -> BTreeSet<Digest> {
    let note = store(fs).look(|note: Note| Ok(note.replace));
    note.value.unwrap_or_default().into_iter().collect()
}

/// Notes that the certificate for this purpose has to be replaced. Answers until when the present one is valid.
pub(super) fn order(
    fs: &HostFs,
    purpose: CertPurpose,
    node: &NodeSpec,
) -> Result<Timestamp, String> {
    let seen = certs::in_use(fs, purpose, node)
        .map_err(|e| chain(&e))?
        .ok_or("there is none yet; it has been requested")?;
    let mut replace: Vec<Digest> = wanted(fs).into_iter().filter(|d| *d != seen.own).collect();
    replace.push(seen.own);
    let over = replace.len().saturating_sub(KEPT);
    replace.drain(..over);
    let note = Note {
        schema: Note::SCHEMA,
        replace,
    };
    store(fs).save(&note).map_err(|e| chain(&e))?;
    Ok(seen.not_after)
}
