//! What would be done, in words.

use super::super::check;
use super::super::context;
use super::super::fit;
use super::super::inbox;
use super::super::job::{self, Job, Order, Orders};
use super::super::ledger::LedgerFile;
use super::super::observe::{Memory, Sweep};
use super::super::phase;
use super::super::plan::{PlanWords, plan};
use super::super::removal;
use super::super::roll;
use super::own::add_own;
use crate::host::Host;
use crate::model::{Fault, Timestamp};

/// What would be done now: the same look and the same plan, and nothing else.
pub async fn dry_run(host: &Host, orders: &Orders) -> Result<PlanWords, Fault> {
    let now = Timestamp::now();
    let file = LedgerFile::look(&host.fs);
    let ledger = &file.ledger;
    let mut removed = Vec::new();
    let job = job::decide(orders, &file.seen());
    let work = match fit::judged(&host.fs, job, orders, &file.seen(), None).await {
        Job::Nothing(_) => return Ok(PlanWords::default()),
        Job::Node(work) => work,
        Job::Hold(hold) => hold.keeps.ok_or(hold.fault)?,
        Job::Remove(order, _) => {
            let after = job::after_removal(orders);
            let words = removal::words(ledger);
            match after.filter(|_| order == Order::Another) {
                None => return Ok(words),
                Some(work) => {
                    removed = words.steps;
                    work
                }
            }
        }
    };
    let record = roll::look(&host.fs);
    let (work, cordoned) = roll::worked_by(record.as_ref(), work, ledger.installed.as_ref());
    let (trust, host_id) = inbox::whom_to_believe(&host.fs)?;
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
