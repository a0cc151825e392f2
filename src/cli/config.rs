//! `config get`, `set`, `validate`, `show`: the daemons' configuration, as they read it.
//!
//! `set` writes one file of its own ([`FILE`]), never a person's, and takes it back when the daemons could not use the
//! whole.

use clap::{Parser, Subcommand};
use serde::Serialize;
use toml::{Table, Value};

use super::context::CommandContext;
use super::output::{Ink, Screen, Show};
use crate::app::{Config, Exit};
use crate::host::fs::{Attrs, FsError};
use crate::host::space;
use crate::model::{Fault, FaultCode, paths};
use crate::telemetry::chain;

/// Where `config set` writes.
const FILE: &str = "/etc/pf9/conf.d/60-pf9ctl.toml";
/// Largest configuration file, as the daemons have it.
const FILE_MAX: u64 = 256 * 1024;
const HEAD: &str = "# Written by pf9ctl config set, which replaces it the next time.\n";

#[derive(Debug, Parser)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    pub(super) verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Show one value, as the daemons use it.
    Get(GetArgs),
    /// Set a value, or reset it to the default; the other files are not touched.
    Set(SetArgs),
    /// Check whether the daemons can use it; shows every fault, with its file and key.
    Validate(ValidateArgs),
    /// Show what the files set; with --effective everything, defaults included.
    Show(ShowArgs),
}

#[derive(Debug, Parser)]
pub(super) struct GetArgs {
    /// The key, with its section: comms.ping_s.
    #[arg(value_name = "KEY")]
    key: String,
    /// As a JSON value.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct SetArgs {
    /// The key, with its section: comms.ping_s.
    #[arg(value_name = "KEY")]
    key: String,
    /// The value, as TOML; text may stand without quotes.
    #[arg(value_name = "VALUE", required_unless_present = "default")]
    value: Option<String>,
    /// Back to what the other files say, or to the default.
    #[arg(long, conflicts_with = "value")]
    default: bool,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct ValidateArgs {
    /// One JSON value instead of lines for people.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct ShowArgs {
    /// Everything, defaults included: what the daemons use.
    #[arg(long)]
    effective: bool,
    /// As JSON instead of TOML.
    #[arg(long)]
    json: bool,
}

impl ConfigVerb {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Get(args) => args.json,
            Self::Set(args) => args.json,
            Self::Validate(args) => args.json,
            Self::Show(args) => args.json,
        }
    }
}

/// Settings, as TOML for people.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Settings(Table);

/// One value.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct One(Value);

/// What `set` did.
#[derive(Debug, Serialize)]
struct Done {
    key: String,
    /// What is in force now.
    value: Value,
    /// What reads it when it starts.
    restart: String,
}

#[derive(Debug, Serialize)]
struct Valid {
    valid: bool,
}

pub(super) fn run(ctx: &CommandContext, verb: &ConfigVerb) -> Result<Exit, Fault> {
    match verb {
        ConfigVerb::Get(args) => {
            let all = effective(&Config::load(&ctx.host)?)?;
            let value = find(&all, &args.key).ok_or_else(|| unknown(&all, &args.key))?;
            ctx.out.show(&One(value.clone()));
        }
        ConfigVerb::Set(args) => ctx.out.show(&set(ctx, args)?),
        ConfigVerb::Validate(_) => {
            Config::load(&ctx.host)?;
            ctx.out.show(&Valid { valid: true });
        }
        ConfigVerb::Show(args) => {
            let config = Config::load(&ctx.host)?;
            let all = effective(&config)?;
            ctx.out.show(&Settings(match args.effective {
                true => all,
                false => without(all, &effective(&Config::default())?),
            }));
        }
    }
    Ok(Exit::Ok)
}

fn effective(config: &Config) -> Result<Table, Fault> {
    Table::try_from(config).map_err(|e| {
        Fault::new(
            FaultCode::Internal,
            "cannot show the configuration",
            e.to_string(),
        )
    })
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, rest)) => match table.get(section)? {
            Value::Table(inner) => find(inner, rest),
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => None,
        },
    }
}

/// What differs.
fn without(all: Table, defaults: &Table) -> Table {
    let mut out = Table::new();
    for (key, value) in all {
        match (value, defaults.get(&key)) {
            (value, Some(default)) if value == *default => {}
            (Value::Table(inner), Some(Value::Table(defaults))) => {
                out.insert(key, Value::Table(without(inner, defaults)));
            }
            (value, _) => {
                out.insert(key, value);
            }
        }
    }
    out
}

fn unknown(all: &Table, key: &str) -> Fault {
    let mut keys = Vec::new();
    leaves(all, "", &mut keys);
    let what = format!("there is no setting {key:?}");
    Fault::new(
        FaultCode::Usage,
        what,
        "the configuration has no such key, or it is not set",
    )
    .fix(format!(
        "the keys are {}, and those of [comms.proxy] (pf9ctl proxy)",
        keys.join(", ")
    ))
}

fn leaves(table: &Table, at: &str, found: &mut Vec<String>) {
    for (key, value) in table {
        let path = match at {
            "" => key.clone(),
            at => format!("{at}.{key}"),
        };
        match value {
            Value::Table(inner) => leaves(inner, &path, found),
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => found.push(path),
        }
    }
}

fn set(ctx: &CommandContext, args: &SetArgs) -> Result<Done, Fault> {
    ctx.need_root("change the configuration")?;
    let _lock = ctx.lock("change the configuration")?;
    if args.key.starts_with("comms.proxy") {
        let what = format!("cannot set {}", args.key);
        let why = "the proxy, its exceptions and its password are set together";
        return Err(Fault::new(FaultCode::Usage, what, why).fix("pf9ctl proxy set URL"));
    }
    let fault = |e: FsError| files(&e);
    let before = ctx.host.read_text(FILE, FILE_MAX).map_err(fault)?;
    let mut ours: Table = match &before {
        Some(text) => text.parse().map_err(|_| {
            let why = format!("{FILE} is no longer valid TOML");
            Fault::new(
                FaultCode::ConfigInvalid,
                "cannot change the configuration",
                why,
            )
            .fix(format!("fix it, or remove it: rm {FILE}"))
        })?,
        None => Table::new(),
    };
    let keys: Vec<&str> = args.key.split('.').collect();
    match &args.value {
        Some(text) => put(&mut ours, &keys, typed(text)),
        None => take(&mut ours, &keys),
    }
    write(ctx, &ours).map_err(fault)?;
    let loaded = Config::load(&ctx.host).and_then(|config| {
        let all = effective(&config)?;
        let found = find(&all, &args.key).cloned();
        let value = found.ok_or_else(|| unknown(&all, &args.key))?;
        match args.value.as_deref().map(typed) {
            Some(wanted) if wanted != value => Err(overruled(&args.key)),
            Some(_) | None => Ok(value),
        }
    });
    match loaded {
        Ok(value) => Ok(Done {
            restart: restart(&args.key),
            key: args.key.clone(),
            value,
        }),
        Err(fault) => {
            back(ctx, before).map_err(|e| files(&e))?;
            Err(fault)
        }
    }
}

fn overruled(key: &str) -> Fault {
    let what = format!("{key} is left as it was");
    let why = format!("another file, read after {FILE}, sets it too");
    Fault::new(FaultCode::ConfigInvalid, what, why).fix(format!(
        "look for it in {}, and take it out there",
        paths::CONFIG_DIR
    ))
}

/// As TOML; what is none is text.
fn typed(text: &str) -> Value {
    let alone: Result<Table, _> = format!("value = {text}").parse();
    let value = alone
        .ok()
        .and_then(|mut t| t.remove("value").filter(|_| t.is_empty()));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn put(table: &mut Table, keys: &[&str], value: Value) {
    match keys {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let inner = table
                .entry((*key).to_owned())
                .or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

fn take(table: &mut Table, keys: &[&str]) {
    match keys {
        [] => {}
        [key] => {
            table.remove(*key);
        }
        [key, rest @ ..] => {
            if let Some(Value::Table(inner)) = table.get_mut(*key) {
                take(inner, rest);
                if inner.is_empty() {
                    table.remove(*key);
                }
            }
        }
    }
}

fn write(ctx: &CommandContext, ours: &Table) -> Result<(), FsError> {
    if ours.is_empty() {
        return ctx.host.remove_file(FILE);
    }
    // A table of plain values is always written.
    let text = format!("{HEAD}{}", toml::to_string(ours).unwrap_or_default());
    ctx.host.write(FILE, text.as_bytes(), &Attrs::mode(0o644))
}

fn back(ctx: &CommandContext, before: Option<String>) -> Result<(), FsError> {
    match before {
        Some(text) => ctx.host.write(FILE, text.as_bytes(), &Attrs::mode(0o644)),
        None => ctx.host.remove_file(FILE),
    }
}

/// What to restart after a change of a section.
fn restart(key: &str) -> String {
    let units = match key.split('.').next().unwrap_or_default() {
        "comms" => "pf9-comms",
        "hostagent" => "pf9-hostagent",
        "nodelet" => "pf9-nodeletd",
        _ => "pf9-comms pf9-hostagent pf9-nodeletd",
    };
    format!("systemctl try-restart {units}")
}

fn files(error: &FsError) -> Fault {
    let code = match space::is_full(&error.source) {
        true => FaultCode::DiskFull,
        false => FaultCode::Files,
    };
    Fault::new(code, "cannot change the configuration", chain(error))
}

impl Show for Settings {
    fn screen(&self, _: usize) -> Screen {
        let mut screen = Screen::default();
        let text = toml::to_string(&self.0).unwrap_or_default();
        if text.is_empty() {
            screen.line([(
                Ink::Dim,
                "# no file sets anything: every value is the default".into(),
            )]);
        }
        for line in text.lines() {
            let ink = if line.starts_with('[') {
                Ink::Bold
            } else {
                Ink::Plain
            };
            screen.line([(ink, line.to_owned())]);
        }
        screen
    }
}

impl Show for One {
    fn screen(&self, _: usize) -> Screen {
        let mut screen = Screen::default();
        let text = match &self.0 {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        text.lines()
            .for_each(|line| screen.line([(Ink::Plain, line.to_owned())]));
        screen
    }
}

impl Show for Valid {
    fn screen(&self, _: usize) -> Screen {
        let mut screen = Screen::default();
        screen.line([(Ink::Good, "the daemons can use it".into())]);
        screen
    }
}

impl Show for Done {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        screen.row(
            "set",
            Ink::Bold,
            &format!("{} = {}", self.key, self.value),
            width,
        );
        screen.row("in", Ink::Plain, FILE, width);
        screen.row("then", Ink::Plain, &self.restart, width);
        screen.gap();
        screen
    }
}
