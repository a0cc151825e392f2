//! Whether an image in the runtime is the one that the stack has. Its name alone says nothing.

use super::{Sweep, differs};
use crate::model::{Digest, paths};
use crate::nodelet::ledger::images::ImageRecord;
use crate::nodelet::step::Observed;

impl Sweep<'_> {
    pub(super) async fn image(
        &mut self,
        reference: &str,
        archive: &str,
        bytes: Option<Digest>,
    ) -> Observed {
        let target = match self.images().await {
            Ok(images) => images.get(reference).cloned(),
            Err(why) => return Observed::Unknown { why },
        };
        let on_disk = self.ledger.stack_is_on_disk(&self.ctx.node.stack);
        Looked {
            target: target.as_deref(),
            known: self.ledger.image(reference),
            is_active: archive.starts_with(paths::STACK_CURRENT),
            is_whole: on_disk || self.memory.imported.contains(reference),
        }
        .observed(bytes)
    }
}

/// What is known of an image.
struct Looked<'a> {
    /// What the runtime has by its name.
    target: Option<&'a str>,
    /// What was imported by it.
    known: Option<&'a ImageRecord>,
    /// It is of the active stack, not of one that is staged beside it.
    is_active: bool,
    /// All of it is on the disk.
    is_whole: bool,
}

impl Looked<'_> {
    /// Whether it is the one of these bytes.
    fn observed(&self, bytes: Option<Digest>) -> Observed {
        let (target, known) = match (self.target, self.known) {
            (None, _) => return Observed::Missing,
            (Some(_), None) => return differs("its content is unknown"),
            (Some(target), Some(known)) => (target, known),
        };
        // What runs has that name now: its turn comes with its stack's.
        if known.bytes != bytes && !self.is_active {
            return Observed::Same;
        }
        if known.bytes != bytes {
            return differs("it is not the image of this stack build");
        }
        if known.target != target {
            return differs("another image has its name");
        }
        match self.is_whole {
            true => Observed::Same,
            // By a process that has ended: perhaps with the power, before its files were written.
            false => differs("it may be incomplete on disk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_is_no_image() {
        let (ours, newer) = (Digest::of(b"1"), Digest::of(b"2"));
        let known = ImageRecord {
            bytes: Some(ours),
            target: "sha256:a".into(),
        };
        let looked = |target, known, is_active, is_whole| Looked {
            target,
            known,
            is_active,
            is_whole,
        };
        let same = |l: Looked<'_>, bytes| l.observed(Some(bytes)) == Observed::Same;
        let a = Some("sha256:a");
        assert!(same(looked(a, Some(&known), true, true), ours));
        assert!(
            !same(looked(a, Some(&known), true, true), newer),
            "built again"
        );
        assert!(
            !same(looked(Some("sha256:b"), Some(&known), true, true), ours),
            "replaced"
        );
        assert!(
            !same(looked(a, None, true, true), ours),
            "brought by nobody knows whom"
        );
        assert!(
            !same(looked(a, Some(&known), true, false), ours),
            "not on the disk"
        );
        assert_eq!(
            looked(None, Some(&known), true, true).observed(Some(ours)),
            Observed::Missing
        );
        // What runs keeps its name until the stack beside it becomes the active one.
        assert!(same(looked(a, Some(&known), false, true), newer));
        assert!(!same(
            looked(Some("sha256:b"), Some(&known), false, true),
            ours
        ));
    }
}
