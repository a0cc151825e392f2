//! When the probe results of a service are enough to end it: pure.
//!
//! A slow machine is not a hung service. So silence counts only after two minutes and four questions at least, each with a
//! quarter of a minute to be answered in; a service that used the processor meanwhile has five; a round in which we came late
//! ourselves counts for nothing; and one that has just been started is left alone. What did not help is done again ever more
//! seldom.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::host::ours::units;

/// So many questions in a row have to be in vain: one may be lost for any reason.
const ASKED_MIN: u32 = 4;
/// No answer for this long. A busy machine gives each process some milliseconds in every quarter of a minute, which is all
/// that an answer takes. A minute would do but for disks: storage whose path fails over answers nobody for up to two
/// (iSCSI's `replacement_timeout`), etcd's `/livez` reads what waits for it, and others wait for the journal that does.
/// (Defragmentation makes an etcd silent for longer, and counts for nothing.)
const SILENT: Duration = Duration::from_secs(120);
/// The same of any that worked meanwhile: it may be slow.
const BUSY: Duration = Duration::from_secs(300);
/// It answers, and says for so long that it is not well: kubelet and kube-proxy wait two minutes for themselves.
const ILL: Duration = Duration::from_secs(300);
/// How long a service may take from its start to its first answer.
const BEGINS: Duration = Duration::from_secs(180);
/// A twentieth of the time on a processor is work; what hangs uses none, but for timers of its runtime.
const WORKS: u32 = 20;
/// Pause after the first time that it was ended, doubled with each one that follows.
const AGAIN: Duration = Duration::from_secs(300);
/// Longest such pause.
const AGAIN_CAP: Duration = Duration::from_secs(3600);
/// Well for so long after it was ended: it helped, and the next time is a first one.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// A service of the node that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    Runtime,
    Etcd,
    Kubelet,
    KubeProxy,
}

/// The probe results of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It answers.
    Well,
    /// It is unhealthy for a reason outside the node: no conclusion.
    Nothing,
    /// It answers that it is not well.
    Ill(String),
    /// No answer came in time.
    Silent(String),
}

/// The process behind a unit that runs.
#[derive(Clone, Debug)]
pub(super) struct Up {
    /// Changes with every start.
    pub(super) invocation: String,
    /// How long the unit has been up.
    pub(super) age: Duration,
    /// The processor time that its process has used.
    pub(super) worked: Option<Duration>,
}

/// End a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mend {
    /// In words.
    pub(super) why: String,
    /// How often that was so, with this time.
    pub(super) times: u32,
}

/// What is known of all of them.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    of: BTreeMap<Service, Record>,
    /// When the round before this one was.
    last: Option<Duration>,
}

#[derive(Debug, Default)]
struct Record {
    bad: Option<Bad>,
    /// How often it was ended, in all.
    times: u32,
    /// How often without help.
    in_vain: u32,
    /// When last.
    ended: Option<Duration>,
}

#[derive(Debug)]
struct Bad {
    invocation: String,
    since: Duration,
    worked: Option<Duration>,
    asked: u32,
}

impl Service {
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Runtime => units::CONTAINERD,
            Self::Etcd => units::ETCD,
            Self::Kubelet => units::KUBELET,
            Self::KubeProxy => units::KUBE_PROXY,
        }
    }
}

impl Said {
    pub(super) fn is_well(&self) -> bool {
        match self {
            Self::Well | Self::Nothing => true,
            Self::Ill(_) | Self::Silent(_) => false,
        }
    }
}

impl Pulse {
    /// Takes in a probe result of `now`; returns whether to end the service. `up`: the unit runs.
    pub(super) fn hear(
        &mut self,
        service: Service,
        said: Said,
        up: Option<Up>,
        now: Duration,
    ) -> Option<Mend> {
        let record = self.of.entry(service).or_default();
        let (Some(up), false) = (up, said.is_well()) else {
            record.bad = None;
            let helped = |at: Duration| now.saturating_sub(at) >= FORGOTTEN;
            if said == Said::Well && record.ended.is_some_and(helped) {
                record.in_vain = 0;
            }
            return None;
        };
        record.hear(&said, &up, now)
    }

    /// Whether this round came in time. One that did not says nothing of anybody: the machine slept, or is too slow for
    /// us as well. `most`: as long as there may be between two rounds.
    pub(super) fn is_in_time(&mut self, now: Duration, most: Duration) -> bool {
        let last = self.last.replace(now);
        let in_time = last.is_none_or(|last| now.saturating_sub(last) <= most);
        if !in_time {
            self.of.values_mut().for_each(|record| record.bad = None);
        }
        in_time
    }
}

impl Record {
    fn hear(&mut self, said: &Said, up: &Up, now: Duration) -> Option<Mend> {
        self.bad = self.bad.take().filter(|b| b.invocation == up.invocation);
        let bad = self.bad.get_or_insert_with(|| Bad {
            invocation: up.invocation.clone(),
            since: now,
            worked: up.worked,
            asked: 0,
        });
        bad.asked += 1;
        let lasts = now.saturating_sub(bad.since);
        let used = up.worked.zip(bad.worked);
        let used = used.map_or(Duration::ZERO, |(now, then)| now.saturating_sub(then));
        let (most, why) = match said {
            Said::Well | Said::Nothing => return None,
            Said::Ill(why) => (ILL, why),
            Said::Silent(why) if used > lasts / WORKS => (BUSY, why),
            Said::Silent(why) => (SILENT, why),
        };
        let rests = |at: Duration| now.saturating_sub(at) < pause(self.in_vain);
        if bad.asked < ASKED_MIN || lasts < most || up.age < BEGINS || self.ended.is_some_and(rests)
        {
            return None;
        }
        let why = format!("{why}, for {} s", lasts.as_secs());
        self.bad = None;
        self.ended = Some(now);
        self.times = self.times.saturating_add(1);
        self.in_vain = self.in_vain.saturating_add(1);
        Some(Mend {
            why,
            times: self.times,
        })
    }
}

/// How long after it was ended that often in vain.
fn pause(in_vain: u32) -> Duration {
    let doubled = 2u32.saturating_pow(in_vain.saturating_sub(1).min(16));
    AGAIN.saturating_mul(doubled).min(AGAIN_CAP)
}
