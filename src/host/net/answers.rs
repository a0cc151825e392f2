//! What the packet filter's tools said, kept while the kernel counts no change of its rules.
//!
//! A sweep asks a dozen times what the rules are, each time with a program, and for days they are what they were. The
//! kernel numbers the changes of nftables, by which the tools of iptables work as well, and says the number in one
//! message. What the older back end has is not numbered: where it has tables nothing is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Net;
use super::netlink::{ACK, NETLINK, Netlink, number};
use crate::host::exec::{self, ExecError};
use crate::host::unchanged::FileMark;

/// Which number the rules have (`NFT_MSG_GETGEN`), and the attribute that says it.
const GET_GENERATION: u16 = (10 << 8) | 16;
const GENERATION: u16 = 1;
/// The programs that are asked. An update, or a switch of the back end, is another program.
const TOOLS: [&str; 5] = [
    "nft",
    "iptables",
    "ip6tables",
    "iptables-save",
    "ip6tables-save",
];
/// Most bytes that are kept. What is asked of a machine that is as it should be is answered in a few hundred.
const BYTES_MAX: usize = 128 * 1024;

/// What answers are good for: until any of it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AsOf {
    /// The kernel's number of the rules.
    number: u32,
    /// Which file each of [`TOOLS`] is.
    tools: Vec<Option<FileMark>>,
}

/// The answers. Cheap to clone: all clones have the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    as_of: Option<AsOf>,
    by: BTreeMap<String, Vec<String>>,
    bytes: usize,
}

impl Net {
    /// What was said to `question` while the rules were the same, else what `ask` says. The question names all that
    /// the answer depends on, beside rules and tools.
    pub(super) async fn answered(
        &self,
        question: &str,
        ask: impl Future<Output = Result<Vec<String>, ExecError>>,
    ) -> Result<Vec<String>, ExecError> {
        self.answered_if(question, ask, |_| true).await
    }

    /// The same of what is missing: only that nothing is, is kept. A tool may also have failed for another reason.
    pub(super) async fn lost(
        &self,
        question: &str,
        ask: impl Future<Output = Result<Vec<String>, ExecError>>,
    ) -> Result<Vec<String>, ExecError> {
        self.answered_if(question, ask, <[String]>::is_empty).await
    }

    async fn answered_if(
        &self,
        question: &str,
        ask: impl Future<Output = Result<Vec<String>, ExecError>>,
        is_kept: fn(&[String]) -> bool,
    ) -> Result<Vec<String>, ExecError> {
        let before = self.as_of();
        let kept = before
            .as_ref()
            .and_then(|now| self.answers.lock().find(now, question));
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let answer = ask.await?;
        // Of rules that changed meanwhile nobody knows which ones were seen.
        if is_kept(&answer)
            && let Some(before) = before.filter(|before| self.as_of().as_ref() == Some(before))
        {
            self.answers.lock().keep(before, question, &answer);
        }
        Ok(answer)
    }

    /// None where the kernel does not say, or does not count everything.
    fn as_of(&self) -> Option<AsOf> {
        if self.without(NETLINK) || self.has_legacy() {
            return None;
        }
        let said = Netlink::open().ok()?.ask(GET_GENERATION, ACK, &[]).ok()?;
        let tool = |name: &&str| FileMark::of(&exec::program(&self.fs, name));
        Some(AsOf {
            number: number(said.first()?, GENERATION)?,
            tools: TOOLS.iter().map(tool).collect(),
        })
    }
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn find(&self, now: &AsOf, question: &str) -> Option<Vec<String>> {
        if self.as_of.as_ref() != Some(now) {
            return None;
        }
        self.by.get(question).cloned()
    }

    fn keep(&mut self, as_of: AsOf, question: &str, answer: &[String]) {
        if self.as_of.as_ref() != Some(&as_of) {
            *self = Self {
                as_of: Some(as_of),
                ..Self::default()
            };
        }
        let bytes = question.len() + answer.iter().map(String::len).sum::<usize>();
        if self.bytes + bytes <= BYTES_MAX && !self.by.contains_key(question) {
            self.bytes += bytes;
            self.by.insert(question.to_owned(), answer.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::host::fs::HostFs;

    fn as_of(number: u32) -> AsOf {
        AsOf {
            number,
            tools: vec![None],
        }
    }

    #[test]
    fn an_answer_is_good_for_its_question_while_nothing_changed_and_all_have_a_bound() {
        let mut kept = Kept::default();
        let some = ["x".to_owned()];
        kept.keep(as_of(1), "a", &some);
        kept.keep(as_of(1), "b", &[]);
        assert_eq!(kept.find(&as_of(1), "a").as_deref(), Some(&some[..]));
        assert_eq!(kept.find(&as_of(1), "b"), Some(Vec::new()));
        assert_eq!(kept.find(&as_of(1), "c"), None);
        assert_eq!(kept.find(&as_of(2), "a"), None, "the rules changed");
        let mut other = as_of(1);
        other.tools = vec![FileMark::of("/".as_ref())];
        assert_eq!(kept.find(&other, "a"), None, "another program");
        kept.keep(as_of(2), "b", &[]);
        assert_eq!(kept.find(&as_of(2), "a"), None);
        kept.keep(as_of(2), "large", &["y".repeat(BYTES_MAX)]);
        assert_eq!(kept.find(&as_of(2), "large"), None);
    }

    /// What is missing is asked for again, whether or not rules changed.
    #[tokio::test]
    async fn only_that_nothing_is_missing_is_kept() {
        const NAME: &str = "host::net::answers::tests::only_that_nothing_is_missing_is_kept";
        if crate::host::testing::in_namespaces(NAME, &["--net"], ":").is_none() {
            return;
        }
        let (net, times) = (Net::new(HostFs::real()), Cell::new(0));
        for (answer, asked) in [(1, 1), (1, 2), (0, 3), (0, 3), (1, 3)] {
            let ask = async {
                times.set(times.get() + 1);
                Ok(vec![String::new(); answer])
            };
            net.lost("what", ask).await.expect("said");
            assert_eq!(times.get(), asked, "{answer} of {asked}");
        }
    }

    /// A question whose answers are counted.
    async fn asked(net: &Net, times: &Cell<u32>) -> u32 {
        let ask = async {
            times.set(times.get() + 1);
            Ok(vec!["said".to_owned()])
        };
        let said = net.answered("what", ask).await.expect("said");
        assert_eq!(said, ["said"]);
        times.get()
    }

    #[tokio::test]
    async fn the_kernel_says_when_rules_changed_and_what_it_does_not_count_is_always_asked() {
        const NAME: &str = "host::net::answers::tests::\
                            the_kernel_says_when_rules_changed_and_what_it_does_not_count_is_always_asked";
        if crate::host::testing::in_namespaces(NAME, &["--net"], ":").is_none() {
            return;
        }
        let net = Net::new(HostFs::real());
        let run = |tool: &str, args: &[&str]| {
            let done = std::process::Command::new(tool).args(args).output();
            let done = done.expect(tool);
            assert!(done.status.success(), "{tool} {args:?}: {done:?}");
        };
        let times = Cell::new(0);
        assert_eq!(asked(&net, &times).await, 1);
        assert_eq!(asked(&net, &times).await, 1, "as it was");
        run("iptables-nft", &["-S"]);
        assert_eq!(asked(&net.clone(), &times).await, 1, "a look is no change");
        for (n, args) in [["-N", "PF9-X"], ["-X", "PF9-X"]].iter().enumerate() {
            run("iptables-nft", args);
            let now = u32::try_from(n).expect("small") + 2;
            assert_eq!(asked(&net, &times).await, now, "{args:?}");
            assert_eq!(asked(&net, &times).await, now, "{args:?}");
        }
        run("iptables-legacy", &["-N", "PF9-X"]);
        assert_eq!(asked(&net, &times).await, 4, "by the other back end");
        assert_eq!(asked(&net, &times).await, 5, "its rules have no number");
    }

    #[tokio::test]
    async fn where_the_kernel_cannot_be_asked_nothing_is_kept() {
        let dir = tempfile::tempdir().expect("tempdir");
        let net = Net::new(HostFs::new(dir.path()));
        let times = Cell::new(0);
        assert_eq!(asked(&net, &times).await, 1);
        assert_eq!(asked(&net, &times).await, 2);
    }
}
