//! Whether a stream of the plane may reach a service now: pure.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::services::Service;
use crate::app::Bucket;
use crate::wire::Code;

/// Streams of the plane that are carried at the same time, of all services and sessions: what each
/// may hold on its way through here adds up. The services that the package ships take less.
pub(super) const CARRIED_MAX: u32 = 448;

/// Why a stream is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) why: String,
}

/// What one service carries now.
#[derive(Debug, Default)]
struct Load {
    open: u32,
    opens: Option<Bucket>,
}

/// The load of all services, over all sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct Admission(Arc<Mutex<BTreeMap<String, Load>>>);

/// One of a service's streams; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    all: Admission,
    name: String,
}

impl Load {
    fn admit(&mut self, service: &Service, who: &str, now: Duration) -> Result<(), Refusal> {
        let refuse = |code, why: String| Err(Refusal { code, why });
        if !service.who.is_empty() && !service.who.iter().any(|w| w == who) {
            return refuse(Code::NotAllowed, format!("{who:?} may not open it"));
        }
        if self.open >= service.max_streams {
            let why = format!("{} streams are open, the limit", self.open);
            return refuse(Code::TooMany, why);
        }
        if let Some(rate) = service.opens_per_s {
            let bucket = self.opens.get_or_insert_with(|| Bucket::new(rate, rate));
            if bucket.take(now).is_err() {
                let why = format!("more than {rate} streams were opened in a second");
                return refuse(Code::TooMany, why);
            }
        }
        self.open += 1;
        Ok(())
    }
}

impl Admission {
    /// Lets a stream in, or says why not. `now` is measured from any fixed moment.
    pub(super) fn admit(
        &self,
        name: &str,
        service: &Service,
        who: &str,
        now: Duration,
    ) -> Result<Place, Refusal> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().map(|load| load.open).sum::<u32>() >= CARRIED_MAX {
            let why = format!("{CARRIED_MAX} streams are open, the limit for this host");
            return Err(Refusal {
                code: Code::TooMany,
                why,
            });
        }
        // Only names of the allow-list come this far.
        let load = all.entry(name.to_owned()).or_default();
        load.admit(service, who, now)?;
        Ok(Place {
            all: self.clone(),
            name: name.to_owned(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = all.get_mut(&self.name) {
            load.open = load.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::services::Target;
    use super::*;

    fn service() -> Service {
        Service {
            target: Target::Tcp(([127, 0, 0, 1], 1).into()),
            max_streams: 2,
            who: Vec::new(),
            opens_per_s: None,
            idle: None,
        }
    }

    const NOW: Duration = Duration::from_secs(9);

    #[test]
    fn places_are_counted_over_all_sessions_and_given_back() {
        let (all, service) = (Admission::default(), service());
        let first = all.admit("a", &service, "x", NOW).expect("first");
        let _second = all.clone().admit("a", &service, "x", NOW).expect("second");
        let third = all.admit("a", &service, "x", NOW).expect_err("third");
        assert_eq!(third.code, Code::TooMany);
        assert!(all.admit("b", &service, "x", NOW).is_ok());
        drop(first);
        assert!(all.admit("a", &service, "x", NOW).is_ok());
    }

    #[test]
    fn all_services_together_have_a_bound() {
        let (all, mut service) = (Admission::default(), service());
        service.max_streams = CARRIED_MAX;
        let admit = |name: &str| all.admit(name, &service, "x", NOW);
        let mut places: Vec<_> = (0..CARRIED_MAX)
            .map(|n| admit(if n % 2 == 0 { "a" } else { "b" }).expect("room"))
            .collect();
        assert_eq!(admit("c").expect_err("full").code, Code::TooMany);
        places.pop();
        assert!(admit("c").is_ok());
    }

    #[test]
    fn only_who_is_named_may_ask() {
        let (all, mut service) = (Admission::default(), service());
        service.who = vec!["operator".into()];
        for stranger in ["", "kubeconfig", "operator "] {
            let refused = all
                .admit("a", &service, stranger, NOW)
                .expect_err("refused");
            assert_eq!(refused.code, Code::NotAllowed, "{stranger:?}");
        }
        assert!(all.admit("a", &service, "operator", NOW).is_ok());
    }

    #[test]
    fn opens_have_a_rate_and_who_is_refused_for_another_reason_costs_none() {
        let (all, mut service) = (Admission::default(), service());
        service.opens_per_s = Some(2);
        service.who = vec!["operator".into()];
        let ask = |who: &str, now| all.admit("a", &service, who, now).map(drop);
        for _ in 0..10 {
            ask("stranger", NOW).expect_err("not allowed");
        }
        ask("operator", NOW).expect("first");
        ask("operator", NOW).expect("second");
        assert_eq!(ask("operator", NOW).expect_err("third").code, Code::TooMany);
        ask("operator", NOW + Duration::from_millis(500)).expect("half a second later");
    }
}
