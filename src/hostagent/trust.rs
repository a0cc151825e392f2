//! Task: this host's trust anchors; carried from the plane to nodelet, and reported in the status.
//!
//! The plane answers a status with the version of its newest document when the host has another one. The document is
//! then fetched, and the stack's manifest under its new signature, so that nodelet finds both. comms reads a refusal
//! from a copy: that order is carried too. A host that lost the note of its machine fetches the document again: the
//! note is in it.

use std::time::Duration;

use tokio::time::Instant;

use super::board::Gathered;
use super::{Agent, blocking, download, plane};
use crate::app::Backoff;
use crate::host::fs::HostFs;
use crate::host::unchanged::FileMark;
use crate::identity;
use crate::local::{Client, LocalError, Method};
use crate::model::{
    DocumentKind, Envelope, Fault, FaultCode, StackRef, TrustAnswer, TrustDocument, TrustStatus,
    TrustVersion, TunnelStatus, paths,
};
use crate::stack;

/// nodelet writes a few small files; systemd may have to start it first.
const DEADLINE: Duration = Duration::from_secs(30);
/// Waits after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The plane says again with every status that there is something to fetch.
const RETRY_CAP: Duration = Duration::from_secs(60);
/// Time between two questions for the document because of a lost note of the machine.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How often it is looked whether the files are the ones that were read: root may replace one or take it away.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// They are read again after so many looks, whatever the file system says of them.
const LOOKS_MAX: u32 = 12;
/// How often comms is asked for an order while the plane does not answer: it tries that rarely, too.
const ASK_COMMS: Duration = Duration::from_secs(5);
/// comms answers from memory.
const COMMS_DEADLINE: Duration = Duration::from_secs(5);

/// What the signed files of this host are signed by; when it changes, they are looked at again.
type Signed = (Option<TrustVersion>, Option<String>, Option<StackRef>);

pub(super) async fn run(agent: Agent) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    let mut obeyed: Vec<Envelope> = Vec::new();
    let mut asked_again: Option<Instant> = None;
    loop {
        let files = marks(&agent.fs);
        look(&agent).await;
        let seen = agent.board.read(signed);
        let wanted = agent.board.read(wanted);
        // The document says which machine is the host: the plane's word, never what is seen here now.
        let lost = agent.board.read(|f| f.machine_fault.is_some());
        // A document that notes no machine is not asked for over and over; and what is there again may
        // be lost again before anybody has looked.
        let early = asked_again.is_some_and(|at| at.elapsed() < ASK_AGAIN);
        // Not while the plane is away: then orders for a copy are what matters.
        let again = lost && !early && agent.plane.answers();
        if wanted.is_some() || again {
            asked_again = again.then(Instant::now).or(asked_again);
            match fetch(&agent).await {
                Ok(()) => {
                    backoff.reset();
                    agent.board.set(|f| &mut f.trust_fault, None);
                    look(&agent).await;
                    // One that nodelet took and that is not the one the plane spoke of: what it
                    // says with the next status counts.
                    agent.board.set(|f| &mut f.wants_trust, None);
                }
                Err(fault) => {
                    tell(&agent, fault);
                    agent.plane.pause(backoff.failed()).await;
                }
            }
            continue;
        }
        let news = agent
            .board
            .wait(|f| (signed(f) != seen || self::wanted(f).is_some()).then_some(()));
        let away = async {
            agent.plane.until_away().await;
            tokio::time::sleep(ASK_COMMS).await;
        };
        let others = async {
            for _ in 0..LOOKS_MAX {
                tokio::time::sleep(LOOK_EVERY).await;
                if lost || marks(&agent.fs) != files {
                    break;
                }
            }
        };
        tokio::select! {
            // cancel-safe: all are
            () = news => {}
            () = away => orders(&agent, &mut obeyed).await,
            () = others => {}
        }
    }
}

/// The version that the plane speaks of, if this host has another.
fn wanted(facts: &Gathered) -> Option<TrustVersion> {
    let have = facts.trust.as_ref().and_then(|t| t.version);
    facts.wants_trust.filter(|wanted| have != Some(*wanted))
}

fn signed(facts: &Gathered) -> Signed {
    (
        facts.trust.as_ref().and_then(|t| t.version),
        facts.spec.as_ref().map(|s| s.envelope.key_id.clone()),
        facts.node.as_ref().and_then(|n| n.stack.clone()),
    )
}

/// What tells the files that [`look`] reads from those that were there before.
fn marks(fs: &HostFs) -> Vec<Option<FileMark>> {
    let keys = fs.list(paths::TRUST_DIR).unwrap_or_default();
    let keys = keys
        .iter()
        .map(|name| format!("{}/{name}", paths::TRUST_DIR));
    let others = [
        paths::TRUST_DIR,
        paths::TRUST_VERSION,
        paths::PLANE_CA,
        paths::MACHINE,
        paths::STACK_CURRENT,
    ];
    keys.chain(others.map(str::to_owned))
        .map(|path| FileMark::of(&fs.at(path)))
        .collect()
}

/// Reads what is trusted now, and whether it is known which machine the host is.
async fn look(agent: &Agent) {
    let fs = agent.fs.clone();
    let spec_key = agent
        .board
        .read(|f| f.spec.as_ref().map(|s| s.envelope.key_id.clone()));
    let (machine, found) = blocking(move || {
        let trusted = identity::trust_status(&fs).map(|status| TrustStatus {
            spec_key,
            stack_key: stack::signer(&fs),
            ..status
        });
        (identity::machine_fault(&fs), trusted)
    })
    .await;
    if let Some(fault) = &machine
        && agent.board.read(|f| f.machine_fault.is_none())
    {
        tracing::warn!(code = fault.code.word(), "{fault}");
    }
    agent.board.set(|f| &mut f.machine_fault, machine);
    match found {
        Ok(status) => agent.board.set(|f| &mut f.trust, Some(status)),
        Err(e) => tell(agent, e.fault("cannot tell which keys this host trusts")),
    }
}

/// Document and manifest, and then nodelet.
async fn fetch(agent: &Agent) -> Result<(), Fault> {
    let what = "cannot get the trust document";
    let answer = agent
        .plane
        .poll::<TrustAnswer>("/v1/hosts/self/trust", plane::CALL_DEADLINE)
        .await
        .map_err(|e| plane::fault(&e, what))?
        .ok_or_else(|| Fault::new(FaultCode::PlaneGarbage, what, "the plane's answer is empty"))?;
    if let Some(stack) = agent.board.read(Gathered::stack)
        && let Some(signer) = signer(agent, &answer)
    {
        // Without it nodelet applies the document anyway; the next one brings it again.
        if let Err(fault) = download::sign_anew(agent, &stack, &signer).await {
            tracing::warn!(code = fault.code.word(), "{fault}");
        }
    }
    hand_over(agent, &answer).await?;
    tracing::info!("trust document handed to nodelet");
    Ok(())
}

/// The key that signs from now on, as far as this process can tell; nodelet judges for itself.
fn signer(agent: &Agent, answer: &TrustAnswer) -> Option<String> {
    let trust = identity::trust(&agent.fs).ok()?;
    let document = answer
        .documents
        .iter()
        .find_map(|e| e.open::<TrustDocument>(DocumentKind::Trust, &trust).ok())?;
    document.keys.first().map(|key| key.id.clone())
}

async fn hand_over(agent: &Agent, answer: &TrustAnswer) -> Result<(), Fault> {
    agent
        .nodelet
        .send::<_, serde_json::Value>(Method::PUT, "/v1/trust", answer, DEADLINE)
        .await
        .map(drop)
        .map_err(|e| e.fault("cannot hand the trust document to nodelet"))
}

/// Asks comms whether the plane gave it an order for this machine, and carries it.
async fn orders(agent: &Agent, obeyed: &mut Vec<Envelope>) {
    if agent.plane.answers() {
        return;
    }
    let status = async {
        Client::unix(agent.fs.at(paths::COMMS_SOCKET))?
            .get::<TunnelStatus>("/v1/status", COMMS_DEADLINE)
            .await
    };
    let Ok::<_, LocalError>(status) = status.await else {
        return;
    };
    if status.orders.is_empty() || status.orders == *obeyed {
        return;
    }
    let answer = TrustAnswer {
        documents: status.orders.clone(),
    };
    match hand_over(agent, &answer).await {
        Ok(()) => *obeyed = status.orders,
        Err(fault) => tell(agent, fault),
    }
}

fn tell(agent: &Agent, fault: Fault) {
    let known = agent.board.read(|f| f.trust_fault.as_ref() == Some(&fault));
    if !known {
        tracing::warn!(code = fault.code.word(), "{fault}");
        agent.board.set(|f| &mut f.trust_fault, Some(fault));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    #[test]
    fn each_file_that_is_replaced_is_noticed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let mut before = marks(&fs);
        assert_eq!(marks(&fs), before);
        let mut is_other = |what: &str| {
            let now = marks(&fs);
            assert_ne!(now, before, "{what}");
            before = now;
        };
        let key = format!("{}/a.json", paths::TRUST_DIR);
        let others = [paths::TRUST_VERSION, paths::PLANE_CA, paths::MACHINE];
        for path in [key.as_str()].into_iter().chain(others) {
            for text in ["1", "2"] {
                fs.write(path, text.as_bytes(), &Attrs::mode(0o644))
                    .expect("write");
                is_other(path);
            }
        }
        fs.remove_file(&key).expect("remove");
        is_other("a key is gone");
        for stack in ["a", "b"] {
            let at = format!("{}/{stack}", paths::STACKS);
            fs.make_dir(at, &Attrs::mode(0o755)).expect("directory");
            fs.link(paths::STACK_CURRENT, stack).expect("link");
            is_other(stack);
        }
    }
}
