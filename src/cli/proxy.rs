//! `proxy set`, `proxy show`: the way out of the customer's network.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;

use super::args::ProxySetArgs;
use super::context::CommandContext;
use super::output::{Ink, Screen, Show};
use crate::app::{Config, Exit};
use crate::egress::{Credentials, NoProxy, ProxyConfig, ProxyUrl};
use crate::host::fs::{Attrs, FsError};
use crate::host::ours::units::{COMMS, NODELET};
use crate::host::space;
use crate::host::units::Active;
use crate::model::{Fault, FaultCode, Secret, paths};
use crate::telemetry::chain;

/// Larger than any password that fits.
const PASSWORD_MAX: u64 = 4096;
/// Largest file that is put back when the new one cannot stay.
const OLD_MAX: u64 = 256 * 1024;

/// The proxy, without its password.
#[derive(Debug, Serialize)]
pub(super) struct ProxyReport {
    url: Option<ProxyUrl>,
    no_proxy: NoProxy,
    /// The user name for the proxy.
    user: Option<String>,
    /// Why the credentials cannot be used.
    fault: Option<Fault>,
    /// What `set` did beside writing.
    effect: Option<&'static str>,
}

/// What the file of ours holds.
#[derive(Serialize)]
struct Written<'a> {
    comms: Section<'a>,
}

#[derive(Serialize)]
struct Section<'a> {
    proxy: &'a ProxyConfig,
}

pub(super) fn show(ctx: &CommandContext) -> Result<Exit, Fault> {
    let proxy = Config::load(&ctx.host)?.comms.proxy;
    let mut report = ProxyReport {
        url: proxy.url,
        no_proxy: proxy.no_proxy,
        user: None,
        fault: None,
        effect: None,
    };
    if report.url.is_some() {
        match Credentials::load(&ctx.host) {
            Ok(credentials) => report.user = credentials.map(|c| c.user().to_owned()),
            Err(fault) => report.fault = Some(fault),
        }
    }
    ctx.out.show(&report);
    Ok(Exit::Ok)
}

pub(super) async fn set(ctx: &CommandContext, args: &ProxySetArgs) -> Result<Exit, Fault> {
    ctx.need_root("set the proxy")?;
    let _lock = ctx.lock("set the proxy")?;
    let wanted = wanted(args)?;
    let credentials = credentials(args)?;
    let before = Before::remember(ctx)?;
    let written = write(ctx, &wanted, credentials.as_ref());
    if let Err(fault) = written.and_then(|()| in_force(ctx, &wanted)) {
        before.back(ctx)?;
        return Err(fault);
    }
    let effect = restart(ctx).await?;
    ctx.out.show(&ProxyReport {
        url: wanted.url,
        no_proxy: wanted.no_proxy,
        user: credentials.map(|c| c.user().to_owned()),
        fault: None,
        effect: Some(effect),
    });
    Ok(Exit::Ok)
}

fn wanted(args: &ProxySetArgs) -> Result<ProxyConfig, Fault> {
    let bad = |why: String| Fault::new(FaultCode::Usage, "cannot set the proxy", why);
    let Some(url) = &args.url else {
        return Ok(ProxyConfig::default());
    };
    // Not repeated: there may be a password in it.
    let url = url.parse().map_err(|e| bad(format!("the URL {e}")))?;
    let no_proxy = args
        .no_proxy
        .parse()
        .map_err(|e| bad(format!("--no-proxy: {e}")))?;
    Ok(ProxyConfig::new(url, no_proxy))
}

fn credentials(args: &ProxySetArgs) -> Result<Option<Credentials>, Fault> {
    let (Some(user), Some(path)) = (&args.user, &args.password_file) else {
        return Ok(None);
    };
    let bad = |why: String| {
        Fault::new(FaultCode::Usage, "cannot set the proxy", why)
            .fix("give a file that holds the password and nothing else")
    };
    let password = read_password(path).map_err(|e| bad(format!("{}: {e}", path.display())))?;
    Credentials::new(user, password)
        .map(Some)
        .map_err(|why| bad(format!("user and password: {why}")))
}

fn read_password(path: &Path) -> std::io::Result<Secret<String>> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin()
            .take(PASSWORD_MAX)
            .read_to_string(&mut text)?;
    } else {
        File::open(path)?
            .take(PASSWORD_MAX)
            .read_to_string(&mut text)?;
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::new(
        line.strip_suffix('\r').unwrap_or(line).to_owned(),
    ))
}

/// Each file atomically, in an order in which a crash in between leaves no proxy without its password, and no password
/// without a proxy.
fn write(
    ctx: &CommandContext,
    wanted: &ProxyConfig,
    credentials: Option<&Credentials>,
) -> Result<(), Fault> {
    let fault = |e: FsError| fs_fault(&e);
    if let Some(credentials) = credentials {
        let attrs = ctx.owners.proxy_credentials();
        let line = credentials.line();
        ctx.host
            .write(paths::PROXY_CREDENTIALS, line.expose().as_bytes(), &attrs)
            .map_err(fault)?;
    }
    if wanted.url.is_some() {
        let section = Section { proxy: wanted };
        let text = toml::to_string(&Written { comms: section })
            .map_err(|e| Fault::new(FaultCode::Files, "cannot set the proxy", e.to_string()))?;
        let text =
            format!("# Written by pf9ctl proxy set, which replaces it the next time.\n{text}");
        ctx.host
            .write(paths::PROXY_CONFIG, text.as_bytes(), &Attrs::mode(0o644))
            .map_err(fault)?;
    } else {
        ctx.host.remove_file(paths::PROXY_CONFIG).map_err(fault)?;
    }
    if credentials.is_none() {
        ctx.host
            .remove_file(paths::PROXY_CREDENTIALS)
            .map_err(fault)?;
    }
    Ok(())
}

/// The daemons read all files: another one may say otherwise.
fn in_force(ctx: &CommandContext, wanted: &ProxyConfig) -> Result<(), Fault> {
    let found = Config::load(&ctx.host)?.comms.proxy;
    if found == *wanted {
        return Ok(());
    }
    let why = format!(
        "a file other than {} sets [comms.proxy] too",
        paths::PROXY_CONFIG
    );
    Err(
        Fault::new(FaultCode::ConfigInvalid, "the proxy is left as it was", why).fix(format!(
            "look for it in {} and {}, and take it out there",
            paths::CONFIG,
            paths::CONFIG_DIR
        )),
    )
}

/// A tunnel that runs, or would if it could, takes the new way now; so does nodelet.
async fn restart(ctx: &CommandContext) -> Result<&'static str, Fault> {
    let fault = |e| {
        Fault::new(
            FaultCode::Units,
            "the proxy is set, but the agent does not run with it",
            chain(&e),
        )
        .fix("see systemctl status pf9-comms pf9-nodeletd and journalctl -u pf9-comms -u pf9-nodeletd")
    };
    let names = [COMMS, NODELET].map(str::to_owned);
    let units = ctx.units.show(&names).await.map_err(fault)?;
    let active = |unit: &str| units.get(unit).map(|state| state.active);
    // Backups leave by it, and the container runtime's proxy is compared with it.
    let told = matches!(
        active(NODELET),
        Some(Active::Active | Active::Reloading | Active::Activating)
    );
    // The tunnel first: it is the way back to the plane, and nodelet may take minutes to end, or not come up.
    let effect = match active(COMMS) {
        Some(Active::Active | Active::Reloading | Active::Activating | Active::Failed) => {
            ctx.units.restart(COMMS).await.map_err(fault)?;
            match told {
                true => {
                    "pf9-comms and pf9-nodeletd were restarted with this proxy; test it: pf9ctl proxy test"
                }
                false => "pf9-comms was restarted with this proxy; test it: pf9ctl proxy test",
            }
        }
        Some(Active::Deactivating | Active::Inactive | Active::Other) | None => {
            "pf9-comms does not run; it and pf9ctl node prep use this proxy when they start"
        }
    };
    if told {
        ctx.units.restart(NODELET).await.map_err(fault)?;
    }
    Ok(effect)
}

/// The two files as they were.
struct Before {
    config: Option<Vec<u8>>,
    credentials: Option<Vec<u8>>,
}

impl Before {
    fn remember(ctx: &CommandContext) -> Result<Self, Fault> {
        let read = |path| ctx.host.read(path, OLD_MAX).map_err(|e| fs_fault(&e));
        Ok(Self {
            config: read(paths::PROXY_CONFIG)?,
            credentials: read(paths::PROXY_CREDENTIALS)?,
        })
    }

    fn back(self, ctx: &CommandContext) -> Result<(), Fault> {
        for (path, bytes, attrs) in [
            (
                paths::PROXY_CREDENTIALS,
                self.credentials,
                ctx.owners.proxy_credentials(),
            ),
            (paths::PROXY_CONFIG, self.config, Attrs::mode(0o644)),
        ] {
            match bytes {
                Some(bytes) => ctx.host.write(path, &bytes, &attrs),
                None => ctx.host.remove_file(path),
            }
            .map_err(|e| fs_fault(&e))?;
        }
        Ok(())
    }
}

fn fs_fault(error: &FsError) -> Fault {
    let code = space::code_of(&error.source, FaultCode::Files);
    Fault::new(code, "cannot set the proxy", chain(error))
}

impl Show for ProxyReport {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        match &self.url {
            None => screen.row("proxy", Ink::Bold, "none: directly to the plane", width),
            Some(url) => {
                screen.row("proxy", Ink::Bold, &url.to_string(), width);
                let user = match (&self.user, &self.fault) {
                    (Some(user), _) => format!("{user}, with a password"),
                    (None, Some(fault)) => fault.to_string(),
                    (None, None) => "none".to_owned(),
                };
                let ink = match self.fault {
                    Some(_) => Ink::Bad,
                    None => Ink::Plain,
                };
                screen.row("user", ink, &user, width);
                let list = match self.no_proxy.is_empty() {
                    true => "nobody".to_owned(),
                    false => self.no_proxy.to_string().replace(',', ", "),
                };
                screen.row("without it", Ink::Plain, &list, width);
            }
        }
        if let Some(effect) = self.effect {
            screen.row("now", Ink::Plain, effect, width);
        }
        screen.gap();
        screen
    }
}
