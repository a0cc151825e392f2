//! The shorter way to a stack: what differs from the one that is here. When it is tried, and when it is given up.
//!
//! Rejected: to go on with it whatever happens, as with an archive. There is another way, and a plane whose file is
//! damaged would keep a node from its stack for ever.

use std::fs;
use std::path::Path;

use super::OfStack;
use crate::hostagent::fetch::Target;
use crate::hostagent::{Agent, plane};
use crate::local::{LocalError, StatusCode};
use crate::model::{DeltaOffer, Fault, FaultCode, StackRef};
use crate::stack;

/// Tries of a delta, one after the other, that bring not one byte: then it is the plane's file that ends there, and
/// no line that is bad.
const BARREN_MAX: u32 = 3;
/// Times that the plane is asked for a delta that it says is being made: five to ten minutes, in which it makes some
/// ten of them.
pub(super) const AWAITED_MAX: u32 = 16;

/// How it stands with the shorter way to a stack: what differs from the one that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shorter {
    /// It is looked for, after so many tries in turn that brought nothing, and so often that it was not made yet.
    Open { barren: u32, awaited: u32 },
    /// It was staged: when nodelet asks for the stack anyway, it was no good.
    Had,
    /// It is no good: the archive is fetched.
    Closed,
}

/// What the plane has of the shorter way.
pub(super) enum Offered {
    Delta(Box<Target<OfStack>>),
    NotYet,
    Nothing,
}

impl Shorter {
    pub(super) const fn new() -> Self {
        Self::Open {
            barren: 0,
            awaited: 0,
        }
    }
}

/// What a try of the delta says of the next one. Bytes that came are never thrown away for the archive's sake.
pub(super) fn after(shorter: Shorter, failed: Option<FaultCode>, more: bool) -> Shorter {
    let Some(code) = failed else {
        return Shorter::Had;
    };
    match (code, shorter) {
        // The archive would have it no better.
        (
            FaultCode::PlaneAway
            | FaultCode::DiskFull
            | FaultCode::DiskFailed
            | FaultCode::DescriptorsFull
            | FaultCode::MemoryLow
            | FaultCode::StackIo,
            _,
        ) => shorter,
        (FaultCode::StackFetch, Shorter::Open { awaited, .. }) if more => {
            Shorter::Open { barren: 0, awaited }
        }
        (FaultCode::StackFetch, Shorter::Open { barren, awaited }) if barren + 1 < BARREN_MAX => {
            let barren = barren + 1;
            Shorter::Open { barren, awaited }
        }
        // It is not what the plane said, or the plane does not give it.
        (_, Shorter::Open { .. } | Shorter::Had | Shorter::Closed) => Shorter::Closed,
    }
}

/// What the plane has of what differs from the stack that is here, where that is the smaller one.
pub(super) async fn offered(
    agent: &Agent,
    stack: &StackRef,
    archive: u64,
) -> Result<Offered, Fault> {
    let here = stack::current(&agent.fs).ok().flatten();
    let Some(here) = here.filter(|here| here != stack) else {
        return Ok(Offered::Nothing);
    };
    let url = format!("/v1/stacks/{}/from/{}", stack.manifest, here.manifest);
    let offer = agent.plane.poll::<DeltaOffer>(&url, plane::CALL_DEADLINE);
    let offer = match offer.await {
        Ok(offer) => offer,
        Err(LocalError::Refused { status, .. }) if status == StatusCode::SERVICE_UNAVAILABLE => {
            return Ok(Offered::NotYet);
        }
        // A plane that is away for a moment is no reason to fetch thirty times as much from it afterwards.
        Err(e @ (LocalError::Unreachable { .. } | LocalError::Timeout { .. })) => {
            return Err(plane::fault(&e, &format!("cannot fetch stack {stack}")));
        }
        // Whatever the plane does not have or cannot say: there is the archive.
        Err(LocalError::Refused { .. } | LocalError::Malformed { .. }) => None,
    };
    let Some(offer) = offer.filter(|o| o.bytes < archive) else {
        return Ok(Offered::Nothing);
    };
    let (to, from) = (&stack.manifest, &here.manifest);
    Ok(Offered::Delta(Box::new(Target {
        done: agent.fs.at(stack::staged_delta(to, from)),
        part: agent.fs.at(stack::staged_delta_part(to, from)),
        url: format!("{url}/delta"),
        total: offer.bytes,
        sha256: offer.sha256,
        wanted: OfStack {
            stack: stack.clone(),
            total: offer.bytes,
            from: Some(here),
        },
    })))
}

/// Something of it is there for nodelet: a look at two names, with each of its reports while it unpacks.
pub(super) fn is_staged(agent: &Agent, stack: &StackRef) -> bool {
    let here = stack::current(&agent.fs).ok().flatten();
    let delta = here.map(|here| stack::staged_delta(&stack.manifest, &here.manifest));
    let archive = stack::staged_archive(&stack.manifest);
    let mut staged = [Some(archive), delta].into_iter().flatten();
    staged.any(|path| agent.fs.at(path).exists())
}

pub(super) fn length(part: &Path) -> u64 {
    fs::metadata(part).map_or(0, |part| part.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a try of a delta ended with, from the first one on, and what is tried then.
    fn walk(tries: &[(FaultCode, bool)]) -> Shorter {
        let each = |shorter, (code, more): &(FaultCode, bool)| after(shorter, Some(*code), *more);
        tries.iter().fold(Shorter::new(), each)
    }

    #[test]
    fn bytes_that_come_are_gone_on_with_and_a_file_that_never_does_is_given_up() {
        use FaultCode::{DiskFailed, DiskFull, PlaneAway, StackDamaged, StackFetch, StackIo};
        let open = |barren| Shorter::Open { barren, awaited: 0 };
        let (slow, dead) = ((StackFetch, true), (StackFetch, false));
        assert_eq!(walk(&[slow; 50]), open(0), "a bad line");
        assert_eq!(walk(&[dead, dead]), open(2));
        assert_eq!(walk(&[dead, dead, slow]), open(0), "it comes after all");
        assert_eq!(walk(&[dead; 3]), Shorter::Closed);
        for code in [PlaneAway, DiskFull, DiskFailed, StackIo] {
            assert_eq!(walk(&[(code, false); 50]), open(0), "{code:?}");
        }
        for code in [StackDamaged, FaultCode::StackUnknown, FaultCode::NotFound] {
            assert_eq!(walk(&[(code, true)]), Shorter::Closed, "{code:?}");
        }
        assert_eq!(after(open(2), None, true), Shorter::Had);
    }
}
