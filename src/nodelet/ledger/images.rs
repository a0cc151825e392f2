//! Which images of a stack the runtime has: names do not say it, because a stack that was built again may call another
//! image the same, and anybody may give a name to something else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Ledger;
use crate::model::Digest;

/// An image as it was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// Digest of its archive.
    pub bytes: Option<Digest>,
    /// What the runtime calls it, whatever its name.
    pub target: String,
}

impl Ledger {
    /// What is known of the image with this name.
    pub fn image(&self, reference: &str) -> Option<&ImageRecord> {
        self.images.get(reference)
    }

    /// It was imported, and the runtime has these now. What it has no more is forgotten: so there are no more records
    /// than images.
    pub fn note_image(
        &mut self,
        reference: &str,
        bytes: Option<Digest>,
        there: &BTreeMap<String, String>,
    ) {
        self.images.retain(|name, _| there.contains_key(name));
        if let Some(target) = there.get(reference) {
            let target = target.clone();
            let record = ImageRecord { bytes, target };
            self.images.insert(reference.to_owned(), record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_runtime_has_no_more_is_forgotten() {
        let mut ledger = Ledger::default();
        let there = |names: &[&str]| -> BTreeMap<String, String> {
            names
                .iter()
                .map(|n| ((*n).to_owned(), format!("sha256:{n}")))
                .collect()
        };
        ledger.note_image("a", None, &there(&["a", "b"]));
        assert_eq!(ledger.image("a").expect("noted").target, "sha256:a");
        assert_eq!(ledger.image("b"), None, "not ours");
        ledger.note_image("c", None, &there(&["c"]));
        assert_eq!(ledger.image("a"), None);
        ledger.note_image("d", None, &there(&["c"]));
        assert_eq!(ledger.image("d"), None, "it did not come");
    }
}
