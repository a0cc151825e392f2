//! `pf9-plane cluster backups`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;

use super::{State, align, cell, put};
use crate::admin;
use crate::backups::{Forgotten, NewArchive, NewBackups, Said};
use pf9_hostagent::model::{Fault, FaultCode};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

#[derive(Debug, Args)]
pub(super) struct Backups {
    /// Name or id of the cluster.
    cluster: String,
    #[command(subcommand)]
    verb: BackupsVerb,
}

#[derive(Debug, Subcommand)]
enum BackupsVerb {
    /// Show how masters make them, the newest of each master, its copy in the archive and its last
    /// fire drill, as the masters reported it.
    Show {
        #[command(flatten)]
        state: State,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Set how masters make them. Other settings stay.
    Set(Box<SetArgs>),
    /// Print the public keys that sign backups of this cluster, as a file to keep beside the recovery key: without
    /// the plane it tells a genuine backup from a forged one (`pf9ctl etcd restore --signers FILE`).
    Signers {
        #[command(flatten)]
        state: State,
    },
    /// Stop trusting backups that were signed with this key, whose host was compromised. Keep the keys of hosts that
    /// are merely gone: their backups may be all there is.
    Forget {
        /// Id of the key, see signers.
        #[arg(value_name = "KEY_ID")]
        key: String,
        #[command(flatten)]
        state: State,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("wish").required(true).multiple(true))]
struct SetArgs {
    #[command(flatten)]
    state: State,
    /// Minutes between two backups, 5 to 10080; 0: none by themselves. Default 30.
    #[arg(long, value_name = "MINUTES", group = "wish")]
    every: Option<u32>,
    /// How many each master keeps, 1 to 1000. Default 48.
    #[arg(long, value_name = "N", group = "wish")]
    keep: Option<u32>,
    /// Most bytes that they may have together on each master, e.g. 16GiB; the newest stays whatever its
    /// size. Default 16GiB.
    #[arg(long, value_name = "BYTES", value_parser = size, group = "wish")]
    max_bytes: Option<u64>,
    /// Another directory on the masters, e.g. a mount.
    #[arg(long, value_name = "DIR", group = "wish")]
    dir: Option<String>,
    /// Public half (age1…) of a key that is kept offline: it opens backups without the plane.
    /// `pf9ctl etcd recovery-key FILE` makes one.
    #[arg(long, value_name = "age1…", group = "wish")]
    recovery_recipient: Option<String>,
    /// Days between two fire drills of each master, in which the newest backup is restored into an etcd of
    /// its own; 0: none by themselves. Default 7.
    #[arg(long, value_name = "DAYS", group = "wish")]
    drill_every: Option<u32>,
    /// A file on the masters with a private key that opens backups, for fire drills. Without it the plane
    /// decrypts the backup for the drill.
    #[arg(long, value_name = "FILE", group = "wish")]
    drill_key: Option<String>,
    /// The backup archive is this directory of each master, e.g. of a mount.
    #[arg(long, value_name = "DIR", group = "wish", group = "place")]
    archive_dir: Option<String>,
    /// The mount point that the directory is below: while nothing is mounted there nothing is written.
    #[arg(long, value_name = "DIR", requires = "archive_dir")]
    archive_mount: Option<String>,
    /// The archive is a bucket of the S3-compatible service at this address. Its key is in
    /// /etc/pf9/etcd-archive-credentials of each master.
    #[arg(
        long,
        value_name = "https://host[:port]",
        group = "wish",
        group = "place",
        requires = "archive_bucket"
    )]
    archive_s3: Option<String>,
    /// Its bucket.
    #[arg(long, value_name = "NAME", requires = "archive_s3")]
    archive_bucket: Option<String>,
    /// Its region. Default us-east-1.
    #[arg(long, value_name = "NAME", requires = "archive_s3")]
    archive_region: Option<String>,
    /// Prefix of every name in the bucket.
    #[arg(long, value_name = "PREFIX", requires = "archive_s3")]
    archive_prefix: Option<String>,
    /// The bucket is a part of the path, not of the host name: most services other than Amazon's need this.
    #[arg(long, requires = "archive_s3")]
    archive_path_style: bool,
    /// A file of PEM certificates on the masters: the only authorities that are trusted for it.
    #[arg(long, value_name = "FILE", requires = "archive_s3")]
    archive_authority: Option<String>,
    /// How many backups of each master stay there. Default 336.
    #[arg(long, value_name = "N", requires = "place")]
    archive_keep: Option<u32>,
    /// Most bytes of each master that stay there. Default 100GiB.
    #[arg(long, value_name = "BYTES", value_parser = size, requires = "place")]
    archive_max_bytes: Option<u64>,
    /// Reset a setting to its default; can be repeated.
    #[arg(long, value_name = "SETTING", group = "wish")]
    unset: Vec<Setting>,
}

/// Settings that can be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Setting {
    Every,
    Keep,
    MaxBytes,
    Dir,
    RecoveryRecipient,
    DrillEvery,
    DrillKey,
    Archive,
}

impl Backups {
    pub(super) async fn run(self) -> Result<(), Fault> {
        let at = format!("/clusters/{}/backups", self.cluster);
        match self.verb {
            BackupsVerb::Show { state, json } => {
                let answer = admin::ask(&state.state_dir, Method::GET, &at, &Value::Null).await?;
                let text = if json {
                    format!("{answer:#}\n")
                } else {
                    screen(&answer)
                };
                put(None, &text)
            }
            BackupsVerb::Set(args) => {
                let dir = args.state.state_dir.clone();
                let body = serde_json::to_value(args.wanted()?).map_err(|e| {
                    Fault::new(FaultCode::OutputFailed, "cannot ask", e.to_string())
                })?;
                let answer = admin::ask(&dir, Method::POST, &at, &body).await?;
                put(None, &policy(&answer["policy"]))
            }
            BackupsVerb::Signers { state } => {
                let answer = admin::ask(&state.state_dir, Method::GET, &at, &Value::Null).await?;
                put(None, &signers(&self.cluster, &answer))
            }
            BackupsVerb::Forget { key, state } => {
                let at = format!("{at}/forget");
                let answer =
                    admin::ask(&state.state_dir, Method::POST, &at, &Forgotten { key }).await?;
                put(None, &signers(&self.cluster, &answer))
            }
        }
    }
}

impl SetArgs {
    fn wanted(self) -> Result<NewBackups, Fault> {
        let archive = self.archive();
        let mut wanted = NewBackups {
            every_minutes: self.every.map(Some),
            keep: self.keep.map(Some),
            max_bytes: self.max_bytes.map(Some),
            dir: self.dir.map(Some),
            recovery_recipient: self.recovery_recipient.map(Some),
            archive: archive.map(Some),
            drill_every_days: self.drill_every.map(Some),
            drill_key: self.drill_key.map(Some),
        };
        for setting in self.unset {
            let both = match setting {
                Setting::Every => back(&mut wanted.every_minutes),
                Setting::Keep => back(&mut wanted.keep),
                Setting::MaxBytes => back(&mut wanted.max_bytes),
                Setting::Dir => back(&mut wanted.dir),
                Setting::RecoveryRecipient => back(&mut wanted.recovery_recipient),
                Setting::DrillEvery => back(&mut wanted.drill_every_days),
                Setting::DrillKey => back(&mut wanted.drill_key),
                Setting::Archive => back(&mut wanted.archive),
            };
            if both {
                let what = "the backup settings are unchanged";
                let why = format!("{setting:?} is set and unset at once");
                return Err(Fault::new(FaultCode::Usage, what, why));
            }
        }
        Ok(wanted)
    }

    fn archive(&self) -> Option<NewArchive> {
        let (keep, max_bytes) = (self.archive_keep, self.archive_max_bytes);
        if let Some(path) = self.archive_dir.clone() {
            let mount = self.archive_mount.clone();
            return Some(NewArchive::Dir {
                path,
                mount,
                keep,
                max_bytes,
            });
        }
        Some(NewArchive::S3 {
            endpoint: self.archive_s3.clone()?,
            region: self.archive_region.clone(),
            bucket: self.archive_bucket.clone()?,
            prefix: self.archive_prefix.clone().unwrap_or_default(),
            path_style: self.archive_path_style,
            authority: self.archive_authority.clone(),
            keep,
            max_bytes,
        })
    }
}

/// Resets a field; true if it is set in the same command.
fn back<T>(said: &mut Said<T>) -> bool {
    matches!(said.replace(None), Some(Some(_)))
}

/// Bytes, or a number with KiB, MiB, GiB or TiB.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let wrong = || format!("{text:?} is not a number of bytes, nor one with KiB, MiB, GiB or TiB");
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit: u64 = match text.get(digits.len()..) {
        Some("") => 1,
        Some("KiB") => 1 << 10,
        Some("MiB") => 1 << 20,
        Some("GiB") => 1 << 30,
        Some("TiB") => 1 << 40,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(unit)
        .ok_or_else(|| format!("{text} is too much"))
}

/// The policy in words, a setting a line.
fn policy(policy: &Value) -> String {
    let number = |field: &str| policy.pointer(field).and_then(Value::as_u64).unwrap_or(0);
    let gib = |field: &str| format!("{:.1} GiB", number(field) as f64 / GIB);
    let named = |field: &str, without: &str| match cell(policy, field).as_str() {
        "-" => without.to_owned(),
        text => text.to_owned(),
    };
    let every = |field: &str, unit: &str| match number(field) {
        0 => "never by themselves".to_owned(),
        n => format!("every {n} {unit}"),
    };
    let archive = match cell(policy, "archive.target.kind").as_str() {
        "dir" => format!("directory {}", cell(policy, "archive.target.path")),
        "s3" => format!(
            "bucket {} at {}",
            cell(policy, "archive.target.bucket"),
            cell(policy, "archive.target.endpoint")
        ),
        _ => "none".to_owned(),
    };
    let mut rows = vec![
        ("backups", every("/every_minutes", "minutes")),
        (
            "kept on each master",
            format!("{}, at most {}", number("/keep"), gib("/max_bytes")),
        ),
        ("directory", named("dir", "the agent's own")),
        (
            "opened with the plane away by",
            named("recovery_recipient", "NOBODY: set --recovery-recipient"),
        ),
        ("archive", archive),
    ];
    if policy["archive"].is_object() {
        let kept = format!(
            "{} of each master, at most {}",
            number("/archive/keep"),
            gib("/archive/max_bytes")
        );
        rows.push(("kept there", kept));
    }
    rows.push(("fire drills", every("/drill_every_days", "days")));
    rows.push(("opened for them by", named("drill_key", "the plane")));
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    align(&rows)
}

/// The file with the signing keys.
fn signers(cluster: &str, answer: &Value) -> String {
    let mut text = format!("# trusted signers of backups of cluster {cluster}: host, public key\n");
    for signer in answer["signers"].as_array().into_iter().flatten() {
        let is = match signer["isMaster"].as_bool() {
            Some(true) => "a master",
            Some(false) | None => "no longer a master",
        };
        text.push_str(&format!(
            "# key {}, {is}\n{}\n",
            cell(signer, "key"),
            cell(signer, "line")
        ));
    }
    text
}

fn screen(answer: &Value) -> String {
    let mut text = policy(&answer["policy"]);
    text.push('\n');
    let head = [
        "MASTER", "TAKEN", "NEWEST", "BYTES", "KEPT", "ARCHIVE", "DRILL",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    let mut wrong = String::new();
    for master in answer["masters"].as_array().into_iter().flatten() {
        let columns = [
            "hostname",
            "last.taken_at",
            "last.name",
            "last.sealed_bytes",
            "count",
            "archive.last",
            "drill.at",
        ];
        table.push(columns.iter().map(|path| cell(master, path)).collect());
        for (what, path) in [
            ("no new backup", "stale.why"),
            ("the last backup failed", "failing.why"),
            ("the last copy failed", "archive.failing.why"),
            ("the last drill failed", "drill.fault.why"),
            ("the drill that is due cannot run", "drillFailing.why"),
        ] {
            let why = cell(master, path);
            if why != "-" {
                wrong.push_str(&format!("{}: {what}: {why}\n", cell(master, "hostname")));
            }
        }
    }
    match table.len() {
        1 => text.push_str("no master has reported a backup\n"),
        _ => text.push_str(&align(&table)),
    }
    text + &wrong
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        verb: BackupsVerb,
    }

    fn wanted(line: &str) -> Result<Value, String> {
        let words = std::iter::once("backups").chain(line.split(' '));
        let parsed = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        let BackupsVerb::Set(args) = parsed.verb else {
            return Err("not set".into());
        };
        let wanted = args.wanted().map_err(|fault| fault.to_string())?;
        Ok(serde_json::to_value(wanted).expect("json"))
    }

    #[test]
    fn only_what_is_named_is_sent() {
        let set = |rest: &str| wanted(&format!("set --state-dir d {rest}"));
        assert_eq!(set("--keep 3"), Ok(json!({"keep": 3})));
        assert_eq!(
            set("--max-bytes 2GiB --unset archive --unset drill-key"),
            Ok(json!({"maxBytes": 2_147_483_648_u64, "archive": null, "drillKey": null}))
        );
        assert_eq!(
            set("--archive-s3 https://s3 --archive-bucket b --archive-path-style --archive-keep 9"),
            Ok(
                json!({"archive": {"kind": "s3", "endpoint": "https://s3", "bucket": "b", "prefix": "",
                "pathStyle": true, "keep": 9}})
            )
        );
        assert_eq!(
            set("--archive-dir /mnt/nas --archive-mount /mnt --drill-every 30"),
            Ok(
                json!({"archive": {"kind": "dir", "path": "/mnt/nas", "mount": "/mnt"}, "drillEveryDays": 30})
            )
        );
    }

    #[test]
    fn contradictory_options_are_refused() {
        for rest in [
            "",
            "--keep x",
            "--max-bytes 2GB",
            "--max-bytes -1",
            "--max-bytes 99999999TiB",
            "--archive-s3 https://s3",
            "--archive-bucket b",
            "--archive-mount /mnt",
            "--archive-keep 3",
            "--archive-dir /a --archive-s3 https://s3 --archive-bucket b",
            "--keep 3 --unset keep",
            "--unset plane",
        ] {
            let line = format!("set --state-dir d {rest}");
            assert!(wanted(line.trim()).is_err(), "{rest}");
        }
    }

    #[test]
    fn the_signers_file_round_trips() {
        use pf9_hostagent::model::{BackupSigner, HostId, SigningKey};
        let signer = BackupSigner {
            host_id: HostId::random(),
            key: SigningKey::generate().expect("key").0.trusted(),
        };
        let answer =
            json!({"signers": [{"key": signer.key.id, "line": signer.line(), "isMaster": false}]});
        let text = signers("c", &answer);
        assert!(text.contains("no longer a master"), "{text}");
        assert_eq!(BackupSigner::lines(&text), Ok(vec![signer]));
    }

    #[test]
    fn the_screen_shows_the_policy_and_its_faults() {
        let policy = pf9_hostagent::model::BackupPolicy::default();
        let answer = json!({"policy": policy, "masters": [{
            "hostname": "m1", "last": {"name": "n", "taken_at": "t", "sealed_bytes": 7}, "count": 2,
            "archive": {"last": "n", "failing": {"why": "it is full"}},
            "drill": {"at": "d"}, "drillFailing": {"why": "nobody answers"},
        }]});
        let text = screen(&answer);
        for words in [
            "every 30 minutes",
            "48, at most 16.0 GiB",
            "NOBODY",
            "every 7 days",
            "the plane\n",
            "m1: the last copy failed: it is full",
            "m1: the drill that is due cannot run: nobody answers",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
