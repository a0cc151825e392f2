//! May this etcd have the data as they are on the disk? Asked before a stack becomes the active one,
//! of the files and not of versions alone.
//!
//! ```text
//! rows of the matrix ─┐                 Open      the stack may become active
//! the active etcd    ─┼─ gate (pure) ─► Prepare   the etcd that runs makes its data ready ([`prepare`])
//! its files          ─┘                 Refused   nothing is touched; says the way round, or who has to
//!                                                 come first
//! ```
//!
//! 3.7 does not read one kind of 3.5's entries, so 3.6 has to have taken a snapshot of its log since. It does so every
//! ten thousand entries, or when the cluster version goes down: so etcd's own procedure sets the cluster to work as
//! 3.5, which every member notes with a snapshot, and then back. Nothing is restarted for it; the alternative, a
//! restart with a small `--snapshot-count` and some writes, takes each member away once and makes a snapshot with every
//! second write for as long as it lasts. The proof is the log itself: no such entry after the newest snapshot.

use std::time::Duration;

use semver::Version;
use tokio::time::Instant;

use crate::host::etcd::{Etcd, Lowering};
use crate::host::etcd_data::{self, DataError, DataSeen};
use crate::host::fs::HostFs;
use crate::host::work::brief;
use crate::model::{EtcdDemand, EtcdWay, Fault, FaultCode, Matrix, newest_of, paths};
use crate::stack;
use crate::telemetry::chain;

/// How long etcd may take to note that it works as another minor, and its database to be rewritten:
/// the leader looks every four seconds, and each member needs a snapshot of its log.
pub const PREPARED_WITHIN: Duration = Duration::from_secs(90);
/// Between two looks at the files.
const PAUSE: Duration = Duration::from_secs(1);

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Gate {
    /// It may have them.
    Open,
    /// It may when the etcd that runs has done this.
    Prepare(Lowering),
    /// It may not.
    Refused(Box<Fault>),
}

/// Whether `wants` may have the data that `has`, the active one if there is one, left behind.
pub fn gate(matrix: &Matrix, has: Option<&Version>, data: &DataSeen, wants: &Version) -> Gate {
    let (Some(cluster), Some(layout)) = (&data.cluster, data.laid_out_for()) else {
        return Gate::Refused(unknown(wants));
    };
    if is_minor(cluster, wants) && is_minor(layout, wants) {
        return Gate::Open;
    }
    // Without a program that had them, they are of the last release of the minor that they say.
    let as_written = newest_of(layout);
    let from = has.unwrap_or(&as_written);
    let demand = match matrix.etcd_way(from, wants) {
        Ok(EtcdWay::Step(demand)) => demand,
        // Another one runs than left them: its own start decides.
        Ok(EtcdWay::Same) => return Gate::Open,
        Err(fault) => return Gate::Refused(fault),
    };
    if demand == EtcdDemand::Lowered {
        return Gate::Prepare(Lowering::To(Version::new(wants.major, wants.minor, 0)));
    }
    if !is_minor(cluster, from) {
        if data.lowering_to.is_some() {
            return Gate::Prepare(Lowering::Off);
        }
        let why = format!(
            "etcd works as {}.{} until every master has {}.{}",
            cluster.major, cluster.minor, from.major, from.minor
        );
        return Gate::Refused(refused(
            wants,
            why,
            "bring the other masters there first; it continues automatically",
        ));
    }
    match demand {
        EtcdDemand::MembersAgree => members_agree(data, from, wants),
        EtcdDemand::LogReadable if data.log.old_entries > 0 => {
            let before = Version::new(from.major, from.minor.saturating_sub(1), 0);
            Gate::Prepare(Lowering::To(before))
        }
        EtcdDemand::LogReadable | EtcdDemand::Lowered => Gate::Open,
    }
}

fn members_agree(data: &DataSeen, from: &Version, wants: &Version) -> Gate {
    if let Some(why) = data.disagreement() {
        let why = format!("in its database {why}");
        let fix = format!(
            "restart etcd {from} on this host (systemctl restart pf9-etcd), which repairs that; it \
             continues automatically"
        );
        return Gate::Refused(refused(wants, why, &fix));
    }
    match data.learner() {
        Some(member) => {
            let why = format!("etcd's member {} has no vote yet", member.named());
            Gate::Refused(refused(
                wants,
                why,
                "wait until its master is ok; it continues automatically",
            ))
        }
        None => Gate::Open,
    }
}

fn is_minor(a: &Version, b: &Version) -> bool {
    (a.major, a.minor) == (b.major, b.minor)
}

fn refused(wants: &Version, why: String, fix: &str) -> Box<Fault> {
    let what = format!("etcd {wants} cannot use the data on this host");
    Box::new(Fault::new(FaultCode::EtcdStepUnfit, what, why).fix(fix))
}

fn unknown(wants: &Version) -> Box<Fault> {
    refused(
        wants,
        "they do not name the cluster's version: it has just started, or is older than 3.5".into(),
        "wait until etcd is healthy; data of an older etcd have to go through 3.5 first",
    )
}

/// The etcd that runs here, or ran last.
pub fn active(fs: &HostFs) -> Option<Version> {
    stack::etcd_content(fs)?.etcd()
}

/// Whether this etcd may have the data of this host.
pub async fn at_hand(fs: &HostFs, wants: &Version) -> Gate {
    look(fs, active(fs).as_ref(), wants).await
}

/// The gate over the files of this host. Without data everything may come; where both etcds are of
/// one minor, nothing is read.
pub async fn look(fs: &HostFs, has: Option<&Version>, wants: &Version) -> Gate {
    let matrix = Matrix::ours();
    if has.is_some_and(|has| is_minor(has, wants)) {
        return Gate::Open;
    }
    let fs = fs.clone();
    let read = move || etcd_data::look(&fs, paths::ETCD_DATA);
    match brief(read).await {
        Ok(Ok(None)) => Gate::Open,
        Ok(Ok(Some(data))) => gate(matrix, has, &data, wants),
        Ok(Err(e)) => Gate::Refused(unreadable(wants, &e)),
        Err(e) => Gate::Refused(refused(wants, e.to_string(), "it is retried automatically")),
    }
}

fn unreadable(wants: &Version, e: &DataError) -> Box<Fault> {
    let what = format!("etcd {wants} cannot use the data on this host");
    let fault = Fault::new(FaultCode::EtcdDataUnreadable, what, chain(e));
    Box::new(fault.fix("check whether etcd is healthy with the active stack"))
}

/// Lets the etcd that runs make its data ready, and looks until they are. Cut off anywhere, it
/// continues from what the files say.
pub async fn prepare(
    etcd: &Etcd,
    fs: &HostFs,
    has: Option<&Version>,
    wants: &Version,
) -> Result<(), Fault> {
    let end = Instant::now() + PREPARED_WITHIN;
    loop {
        let last = match look(fs, has, wants).await {
            Gate::Open => return Ok(()),
            Gate::Refused(fault) => return Err(*fault),
            Gate::Prepare(what) => match etcd.lower(&what).await {
                Ok(()) => format!("etcd was told to {}", said(&what)),
                Err(e) => format!("etcd cannot be told to {}: {}", said(&what), chain(&e)),
            },
        };
        if Instant::now() + PAUSE >= end {
            return Err(not_prepared(wants, &last));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn said(what: &Lowering) -> String {
    match what {
        Lowering::To(to) => format!("work as {}.{}", to.major, to.minor),
        Lowering::Off => "work as its own version again".to_owned(),
    }
}

fn not_prepared(wants: &Version, last: &str) -> Fault {
    let what = format!("etcd's data are not ready for etcd {wants}");
    let why = format!("{last}; not within {} s", PREPARED_WITHIN.as_secs());
    let fix = "see whether every member of etcd is healthy (pf9ctl etcd status); it is retried automatically";
    Fault::new(FaultCode::EtcdNotPrepared, what, why).fix(fix)
}

#[cfg(test)]
mod tests;
