//! The way to the plane as the configuration has it: the daemon's, enrolment's and the test's.

use super::context::CommandContext;
use crate::app::Config;
use crate::egress::Egress;
use crate::identity::TlsPolicy;
use crate::model::Fault;

/// How this machine goes to its plane, once for enrolment and for every look at the identity.
pub(super) struct Way {
    pub(super) egress: Egress,
    pub(super) tls: TlsPolicy,
}

impl Way {
    pub(super) fn load(ctx: &CommandContext, config: &Config) -> Result<Self, Fault> {
        Ok(Self {
            egress: Egress::load(&ctx.host, &config.comms.proxy)?,
            tls: TlsPolicy::load(&ctx.host, &config.comms.tls)?,
        })
    }
}

/// A proxy in the shell's environment is not the agent's: said where that may be the reason.
pub(super) fn not_read(
    fault: Fault,
    config: &Config,
    env: impl Fn(&str) -> Option<String>,
) -> Fault {
    let set = ["https_proxy", "HTTPS_PROXY"];
    let named = set
        .into_iter()
        .find(|name| env(name).is_some_and(|v| !v.is_empty()));
    match named {
        Some(name) if config.comms.proxy.url.is_none() && fault.code.is_no_way_out() => {
            let fix = format!(
                "{}; {name} is set in this shell, which the agent does not read: pf9ctl proxy set URL",
                fault.fix
            );
            fault.fix(fix)
        }
        Some(_) | None => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FaultCode;

    #[test]
    fn a_proxy_of_the_shell_is_mentioned_when_there_is_no_way() {
        let fault = |code| Fault::new(code, "cannot enrol", "no name").fix("check");
        let shell = |name: &str| (name == "HTTPS_PROXY").then(|| "http://u:pw@p:1".to_owned());
        let mut config = Config::default();
        let said = not_read(fault(FaultCode::PlaneRefused), &config, shell).fix;
        assert!(
            said.starts_with("check; HTTPS_PROXY is set") && !said.contains("pw"),
            "{said}"
        );
        let same = [
            not_read(fault(FaultCode::TokenUsed), &config, shell),
            not_read(fault(FaultCode::PlaneRefused), &config, |_| None),
            {
                config.comms.proxy.url = "http://p:1".parse().ok();
                not_read(fault(FaultCode::PlaneRefused), &config, shell)
            },
        ];
        assert!(same.iter().all(|f| f.fix == "check"), "{same:?}");
    }
}
