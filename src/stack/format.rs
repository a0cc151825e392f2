//! For which machine a file is a program: read from its head, because a shell would try to
//! interpret what the kernel does not know.

/// Enough for the program headers and the name of the loader: linkers put both first.
pub(super) const HEAD_MAX: u64 = 64 * 1024;
/// Longest name of a loader that is looked at.
const LOADER_MAX: usize = 256;

/// What kind of program a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// It names its interpreter in the first line.
    Script,
    /// A program of this architecture (as manifests call them, or a number).
    Elf {
        arch: String,
        /// What loads it; a static one has none.
        loader: Option<String>,
    },
    /// Neither.
    Other,
}

/// Judges the head of a file.
pub(super) fn of(head: &[u8]) -> Format {
    if head.starts_with(b"#!") {
        return Format::Script;
    }
    // 64 bits, little-endian: what both architectures are.
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Format::Other;
    }
    let Some(machine) = number(head, 18, 2) else {
        return Format::Other;
    };
    let arch = match machine {
        62 => "amd64".to_owned(),
        183 => "arm64".to_owned(),
        other => format!("processors of ELF number {other}"),
    };
    Format::Elf {
        arch,
        loader: loader(head),
    }
}

/// The name in the `PT_INTERP` program header.
fn loader(head: &[u8]) -> Option<String> {
    const PT_INTERP: u64 = 3;
    let (table, size) = (number(head, 32, 8)?, number(head, 54, 2)?);
    let count = number(head, 56, 2)?;
    let header = (0..count)
        .filter_map(|i| table.checked_add(i.checked_mul(size)?))
        .find(|at| number(head, *at, 4) == Some(PT_INTERP))?;
    let from = usize::try_from(number(head, header.checked_add(8)?, 8)?).ok()?;
    let name = head.get(from..)?;
    let name = name.get(..LOADER_MAX.min(name.len()))?;
    let end = name.iter().position(|b| *b == 0)?;
    Some(String::from_utf8_lossy(name.get(..end)?).into_owned())
}

/// `len` bytes at `at`, little-endian.
fn number(head: &[u8], at: u64, len: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = head.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn programs_of_this_machine_are_told_from_others() {
        let own = std::fs::read("/proc/self/exe").expect("this program");
        let Format::Elf { arch, loader } = of(&own) else {
            panic!("not recognised");
        };
        assert_eq!(arch == "amd64", cfg!(target_arch = "x86_64"));
        let loader = loader.expect("linked dynamically");
        assert!(std::path::Path::new(&loader).exists(), "{loader}");
        let mut other = own.clone();
        other[18] = 183;
        assert!(matches!(of(&other), Format::Elf { arch, .. } if arch == "arm64"));
        other[4] = 1;
        assert_eq!(of(&other), Format::Other);
        assert_eq!(of(b"#!/bin/sh\n"), Format::Script);
        assert_eq!(of(b"echo hello\n"), Format::Other);
        assert_eq!(of(b""), Format::Other);
    }

    proptest! {
        #[test]
        fn no_head_is_too_odd(mut head in proptest::collection::vec(any::<u8>(), 0..200)) {
            of(&head);
            for (to, from) in head.iter_mut().zip(b"\x7fELF\x02\x01") {
                *to = *from;
            }
            of(&head);
        }
    }
}
