//! `plan`: what nodelet would do now, and why. Changes nothing.

use std::time::Duration;

use serde::Serialize;

use super::context::CommandContext;
use super::output::{Ink, Screen, Show};
use crate::app::Exit;
use crate::model::{Fault, paths};
use crate::nodelet::plan::PlanWords;

/// A plan looks at everything on the machine, the cluster included.
const PLAN: Duration = Duration::from_secs(150);

/// nodelet's answer.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Plan(pub(super) PlanWords);

pub(super) async fn run(ctx: &CommandContext) -> Result<Exit, Fault> {
    ctx.out.waiting("looking at the machine");
    let plan = ask(ctx, "cannot show the plan").await?;
    ctx.out.show(&Plan(plan));
    Ok(Exit::Ok)
}

/// Asks nodelet; `what` cannot be done where it does not answer.
pub(super) async fn ask(ctx: &CommandContext, what: &str) -> Result<PlanWords, Fault> {
    let client = ctx
        .socket(paths::NODELET_SOCKET)
        .map_err(|e| e.fault(what))?;
    client
        .get("/v1/plan", PLAN)
        .await
        .map_err(|e| e.fault(what))
}

impl Show for Plan {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        let mut phase = None;
        for step in &self.0.steps {
            if phase != Some(step.phase) {
                phase = Some(step.phase);
                screen.gap();
                screen.line([
                    (Ink::Dim, format!("  {:>3}  ", step.phase.order())),
                    (Ink::Bold, step.phase.name().to_owned()),
                ]);
            }
            screen.line([(Ink::Plain, format!("       {}", step.what))]);
            let mut why = Screen::default();
            why.row("because", Ink::Dim, &step.why, width.saturating_sub(7));
            screen.indented(why, 7);
        }
        screen.gap();
        if let Some(waits) = &self.0.waits {
            let text = format!("{}, needed by: {}", waits.what, waits.phase.name());
            screen.row("then waits", Ink::Warn, &text, width);
        }
        if let Some(address) = &self.0.api_address {
            screen.row("API", Ink::Plain, &address.to_string(), width);
        }
        if let Some(order) = &self.0.maintenance {
            let text = format!(
                "none of this is done before {}: {} ordered a maintenance",
                order.until, order.by
            );
            screen.row("maintenance", Ink::Warn, &text, width);
        }
        let summary = match (self.0.steps.len(), &self.0.waits) {
            (0, None) => "  Nothing to do: the node matches its spec.".to_owned(),
            (0, Some(_)) => "  Nothing can be done before that.".to_owned(),
            (1, _) => "  1 step to do; nothing was changed.".to_owned(),
            (n, _) => format!("  {n} steps to do; nothing was changed."),
        };
        screen.line([(Ink::Bold, summary)]);
        screen.gap();
        screen
    }
}
