//! What would be done, as text.

use std::time::Duration;

use super::super::check;
use super::super::context;
use super::super::fit;
use super::super::inbox;
use super::super::job::{self, Job, Orders, RemovalOrder};
use super::super::ledger::LedgerFile;
use super::super::observe::{Memory, Sweep};
use super::super::phase;
use super::super::plan::{PlanWords, plan};
use super::super::removal;
use super::super::roll::{self, RollSeen, Said};
use super::own::add_own;
use crate::host::Host;
use crate::model::Fault;
use crate::stack;

/// What would be done now: the same look and the same plan, and nothing else.
pub async fn dry_run(host: &Host, orders: &Orders) -> Result<PlanWords, Fault> {
    let now = crate::seam::clock::now();
    let file = LedgerFile::look(&host.fs);
    let ledger = &file.ledger;
    let mut removed = Vec::new();
    let job = job::decide(orders, &file.seen());
    let job = match roll::checks_fit(&host.fs, &file, &job) {
        true => job,
        false => fit::or_hold(&host.fs, job, orders, &file.seen(), None).await,
    };
    let work = match job {
        Job::Nothing(_) => return Ok(PlanWords::default()),
        Job::Node(work) => work,
        Job::Hold(hold) => hold.keeps.ok_or(hold.fault)?,
        Job::Remove(order, _) => {
            let after = job::after_removal(orders);
            let words = removal::words(ledger);
            match after.filter(|_| order == RemovalOrder::Another) {
                None => return Ok(words),
                Some(work) => {
                    removed = words.steps;
                    work
                }
            }
        }
    };
    let own = roll::own_stack(&host.fs, &file, &work.node);
    let (active, etcd) = (stack::current(&host.fs), stack::current_etcd(&host.fs));
    let (active, etcd) = (active.ok().flatten(), etcd.ok().flatten());
    let seen = RollSeen {
        now,
        spent: Duration::ZERO,
        installed: ledger.installed.as_ref(),
        own: own.as_ref().filter(|_| removed.is_empty()),
        active: active.as_ref(),
        etcd: etcd.as_ref(),
        said: Said::Nothing,
    };
    let (work, cordoned) = roll::would_be_worked_by(roll::look(&host.fs), &work, &seen);
    let (trust, host_id) = inbox::trust_anchors(&host.fs)?;
    let (mut ctx, _) = context::gather(host, &trust, host_id, work.role, &work.node, None, now)?;
    context::look_further(host, &mut ctx).await;
    ctx.cordoned = cordoned;
    let mut phases = phase::all(&ctx);
    add_own(host, &mut phases);
    let mut memory = Memory::default();
    let units = check::units_of(&phases);
    let mut sweep = Sweep::begin(host, ledger, &trust, &ctx, &mut memory, &units).await;
    let order = check::order(&host.fs, &file);
    let snapshot = sweep.all(&phases, order).await;
    let mut words = plan(&phases, &snapshot, order).words();
    words.steps.splice(0..0, removed);
    Ok(words)
}
