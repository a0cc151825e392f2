//! `pf9-plane recover`: shows what it will do, asks, and does it.

use std::io::IsTerminal as _;

use clap::Args;
use http::Method;
use serde_json::Value;

use super::super::admin;
use super::super::recover::{Outcome, Review, Row, Wanted};
use super::{State, align, put, text};
use pf9_hostagent::model::{Fault, FaultCode, HostId};

/// Let hosts obey again that have newer specs than this plane: it was restored from a backup.
#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    #[command(flatten)]
    state: State,
    /// Do it without asking.
    #[arg(long)]
    yes: bool,
    /// Also this host, although this removes its node; can be repeated.
    #[arg(long = "remove-node", value_name = "HOST_ID")]
    remove: Vec<HostId>,
}

pub(super) async fn run(args: &RecoverArgs) -> Result<(), Fault> {
    let dir = &args.state.state_dir;
    let review = admin::ask(dir, Method::GET, "/recover", &Value::Null).await?;
    let review: Review = serde_json::from_value(review).map_err(|e| {
        Fault::new(
            FaultCode::PlaneGarbage,
            "cannot read the plane's answer",
            e.to_string(),
        )
    })?;
    put(None, &shown(&review, &args.remove))?;
    let wanted = wanted(&review.rows, &args.remove)?;
    if wanted.hosts.is_empty() && review.told == 0 {
        return Ok(());
    }
    let all = wanted.hosts.len().max(review.told);
    if !args.yes && !asked(all)? {
        return Err(Fault::new(
            FaultCode::Interrupted,
            "nothing was changed",
            "the answer was no",
        ));
    }
    let raised = admin::ask(dir, Method::POST, "/recover", &wanted).await?;
    for row in raised.as_array().into_iter().flatten() {
        let generation = row.get("generation").cloned().unwrap_or_default();
        put(
            None,
            &format!("{} raised to generation {generation}\n", text(row, "host")),
        )?;
    }
    Ok(())
}

/// Hosts to raise: all that lose nothing, and the named ones.
fn wanted(rows: &[Row], remove: &[HostId]) -> Result<Wanted, Fault> {
    if let Some(stranger) = remove.iter().find(|id| {
        !rows
            .iter()
            .any(|r| r.host == **id && r.outcome == Outcome::Removes)
    }) {
        let why = format!("no node of host {stranger} would be removed");
        return Err(Fault::new(FaultCode::Usage, "nothing was changed", why).fix("leave it out"));
    }
    let takes = |r: &&Row| match r.outcome {
        Outcome::Obeys => true,
        Outcome::Removes => remove.contains(&r.host),
        Outcome::Left => false,
    };
    Ok(Wanted {
        hosts: rows.iter().filter(takes).map(|r| r.host).collect(),
        remove: remove.to_vec(),
    })
}

fn shown(review: &Review, remove: &[HostId]) -> String {
    let mut table = vec![
        ["HOST", "NAME", "PLANE", "HOST HAS", "WHAT CHANGES"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in &review.rows {
        let kept = row.outcome == Outcome::Removes && !remove.contains(&row.host);
        let change = match kept {
            true => format!(
                "skipped: {}; to do it: --remove-node {}; to keep it: attach it again first",
                row.change, row.host
            ),
            false => row.change.clone(),
        };
        table.push(vec![
            row.host.to_string(),
            row.hostname.clone(),
            row.plane_generation.to_string(),
            row.host_generation.to_string(),
            change,
        ]);
    }
    let mut out = match review.rows.is_empty() {
        true => "no host that has reported is ahead of this plane\n".to_owned(),
        false => align(&table),
    };
    if review.told > 0 {
        out.push_str(&format!(
            "{} hosts have newer trust documents than this plane knows: they are sent new ones\n",
            review.told
        ));
    }
    if review.silent > 0 {
        out.push_str(&format!(
            "{} hosts have not reported since this plane started: run this again when they have\n",
            review.silent
        ));
    }
    out
}

fn asked(hosts: usize) -> Result<bool, Fault> {
    if !std::io::stdin().is_terminal() {
        return Err(Fault::new(
            FaultCode::Usage,
            "nothing was changed",
            "no terminal to ask on",
        )
        .fix("give --yes to go ahead with what is shown"));
    }
    put(
        None,
        &format!("Raise the generation of {hosts} hosts, so that they accept specs again? [y/N] "),
    )?;
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    Ok(read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pf9_hostagent::model::Generation;

    fn row(n: u128, outcome: Outcome) -> Row {
        Row {
            host: HostId(uuid::Uuid::from_u128(n)),
            hostname: format!("h{n}"),
            plane_generation: Generation(3),
            host_generation: Generation(7),
            outcome,
            change: "something".into(),
        }
    }

    #[test]
    fn a_host_that_would_lose_its_node_is_left_out_unless_named() {
        let rows = [
            row(1, Outcome::Obeys),
            row(2, Outcome::Removes),
            row(3, Outcome::Left),
        ];
        let ids = |remove: &[HostId]| wanted(&rows, remove).map(|w| w.hosts);
        assert_eq!(ids(&[]), Ok(vec![rows[0].host]));
        assert_eq!(ids(&[rows[1].host]), Ok(vec![rows[0].host, rows[1].host]));
        for not_so in [rows[0].host, rows[2].host, HostId::random()] {
            assert_eq!(ids(&[not_so]).expect_err("refused").code, FaultCode::Usage);
        }
        let review = Review {
            rows: rows.to_vec(),
            silent: 2,
            told: 0,
        };
        let text = shown(&review, &[]);
        assert!(
            text.contains("skipped: something; to do it: --remove-node 00000000"),
            "{text}"
        );
        assert!(text.contains("2 hosts have not reported"), "{text}");
        assert!(
            !shown(&review, &[rows[1].host]).contains("skipped"),
            "it is named"
        );
    }
}
