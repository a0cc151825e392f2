//! Which containerd may follow which on a machine with containers.

use super::{Matrix, loose_version};
use crate::model::{Fault, FaultCode};

impl Matrix {
    /// Whether `to` may take over from `from`: within a minor, to the next one, or from one long-term line to
    /// a later one. What is not a version is not judged.
    pub fn containerd_way(&self, from: &str, to: &str) -> Result<(), Box<Fault>> {
        let (Some(old), Some(new)) = (loose_version(from), loose_version(to)) else {
            return Ok(());
        };
        let minor = |v: &semver::Version| format!("{}.{}", v.major, v.minor);
        let long = |v| self.containerd.long_term.contains(&minor(v));
        let next = old.major == new.major && new.minor <= old.minor + 1;
        if next || (long(&old) && long(&new)) {
            return Ok(());
        }
        let why = "containerd goes from one minor to the next, or from one long-term line to a later one; \
                   other steps are untested";
        let lines = self.containerd.long_term.join(", ");
        let what = format!("containerd {to} does not follow containerd {from}");
        let fix =
            format!("upgrade through a stack of a minor in between; long-term lines are {lines}");
        Err(Box::new(
            Fault::new(FaultCode::StackUnfit, what, why).fix(fix),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_the_next_minor_or_from_one_long_term_line_to_another() {
        let may = |from, to| Matrix::ours().containerd_way(from, to).is_ok();
        for (from, to) in [
            ("2.3.7", "2.3.9"),
            ("2.3.7", "2.4.2"),
            ("1.7.28", "2.3.7"),
            // Back to where it came from.
            ("2.4.2", "2.3.7"),
        ] {
            assert!(may(from, to), "{from} to {to}");
        }
        for (from, to) in [("1.7.28", "2.2.9"), ("2.2.9", "2.4.2"), ("1.7.28", "2.4.2")] {
            assert!(!may(from, to), "{from} to {to}");
        }
        let said = Matrix::ours()
            .containerd_way("2.2.9", "2.4.2")
            .expect_err("refused");
        assert!(said.to_string().contains("1.7, 2.3"), "{said}");
    }
}
