//! The operator's backup policy.

use serde::{Deserialize, Deserializer, Serialize};

use pf9_hostagent::model::{ArchivePolicy, ArchiveTarget, BackupPolicy};

/// Field by field: an absent field is unchanged, and `null` sets its default. (If replaced as a whole, a change of the
/// number kept would remove the recovery key.)
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct NewBackups {
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub(crate) every_minutes: Said<u32>,
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub(crate) keep: Said<u32>,
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub(crate) max_bytes: Said<u64>,
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Said<String>,
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub(crate) recovery_recipient: Said<String>,
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub(crate) archive: Said<NewArchive>,
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub(crate) drill_every_days: Said<u32>,
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub(crate) drill_key: Said<String>,
}

/// Absent; reset to the default; set.
pub(crate) type Said<T> = Option<Option<T>>;

/// An archive, always set as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "lowercase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub(crate) enum NewArchive {
    Dir {
        path: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mount: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_bytes: Option<u64>,
    },
    S3 {
        endpoint: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        region: Option<String>,
        bucket: String,
        #[serde(default)]
        prefix: String,
        #[serde(default)]
        path_style: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        authority: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_bytes: Option<u64>,
    },
}

/// Distinguishes `null` from an absent field.
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Said<T>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl NewArchive {
    fn policy(self) -> ArchivePolicy {
        let (target, keep, max_bytes) = match self {
            Self::Dir {
                path,
                mount,
                keep,
                max_bytes,
            } => (ArchiveTarget::Dir { path, mount }, keep, max_bytes),
            Self::S3 {
                endpoint,
                region,
                bucket,
                prefix,
                path_style,
                authority,
                keep,
                max_bytes,
            } => {
                let region = region.unwrap_or_else(ArchiveTarget::region_default);
                let target = ArchiveTarget::S3 {
                    endpoint,
                    region,
                    bucket,
                    prefix,
                    path_style,
                    authority,
                };
                (target, keep, max_bytes)
            }
        };
        let mut policy = ArchivePolicy::new(target);
        policy.keep = keep.unwrap_or(policy.keep);
        policy.max_bytes = max_bytes.unwrap_or(policy.max_bytes);
        policy
    }
}

impl NewBackups {
    /// The new policy, or the invalid field and why.
    pub(crate) fn over(self, had: &BackupPolicy) -> Result<BackupPolicy, (String, String)> {
        fn number<T>(said: Said<T>, had: T, unless_told: T) -> T {
            said.map_or(had, |said| said.unwrap_or(unless_told))
        }
        let none = BackupPolicy::default();
        let had = had.clone();
        let archive = self.archive.map(|said| said.map(NewArchive::policy));
        let policy = BackupPolicy {
            every_minutes: number(self.every_minutes, had.every_minutes, none.every_minutes),
            keep: number(self.keep, had.keep, none.keep),
            max_bytes: number(self.max_bytes, had.max_bytes, none.max_bytes),
            dir: self.dir.unwrap_or(had.dir),
            recovery_recipient: self.recovery_recipient.unwrap_or(had.recovery_recipient),
            plane_recipient: had.plane_recipient,
            archive: archive.unwrap_or(had.archive),
            drill_every_days: number(
                self.drill_every_days,
                had.drill_every_days,
                none.drill_every_days,
            ),
            drill_key: self.drill_key.unwrap_or(had.drill_key),
        };
        if let Some((field, why)) = policy.fault() {
            return Err((format!("etcdBackup.{}", camel(field)), why));
        }
        // The form is right; is it also a key?
        if let Some(text) = &policy.recovery_recipient
            && let Err(why) = text.parse::<age::x25519::Recipient>()
        {
            let why = format!("is not an age public key: {why}");
            return Err(("etcdBackup.recoveryRecipient".to_owned(), why));
        }
        Ok(policy)
    }
}

fn camel(field: &str) -> String {
    let mut parts = field.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut all, part| {
        let (head, tail) = part.split_at(part.len().min(1));
        all.push_str(&head.to_uppercase());
        all.push_str(tail);
        all
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn over(had: &BackupPolicy, said: Value) -> Result<BackupPolicy, (String, String)> {
        let said: NewBackups = serde_json::from_value(said).expect("a wish");
        // As the command sends it.
        let sent = serde_json::to_value(&said).expect("json");
        assert_eq!(
            serde_json::from_value::<NewBackups>(sent).expect("again"),
            said
        );
        said.over(had)
    }

    #[test]
    fn absent_fields_stay_and_null_resets_them() {
        let (_, public) = pf9_hostagent::backup::seal::new_key();
        let said = json!({"keep": 3, "recoveryRecipient": public, "drillEveryDays": 30,
            "archive": {"kind": "s3", "endpoint": "https://s3.example.com", "bucket": "b", "pathStyle": true}});
        let had = over(&BackupPolicy::default(), said).expect("good");
        let more = over(&had, json!({"everyMinutes": 60})).expect("good");
        assert_eq!(
            more,
            BackupPolicy {
                every_minutes: 60,
                ..had.clone()
            }
        );
        let back = json!({"archive": null, "keep": null, "recoveryRecipient": null, "drillEveryDays": null});
        assert_eq!(over(&had, back), Ok(BackupPolicy::default()));
        let dir = json!({"archive": {"kind": "dir", "path": "/mnt/nas/etcd", "mount": "/mnt/nas", "keep": 9}});
        let dir = over(&had, dir).expect("good").archive.expect("there");
        assert_eq!(
            (dir.target.to_string().as_str(), dir.keep),
            ("/mnt/nas/etcd", 9)
        );
    }

    #[test]
    fn an_invalid_policy_is_refused_with_field_and_value() {
        let none = BackupPolicy::default();
        let s3 = |field: &str, value: Value| {
            let mut archive =
                json!({"kind": "s3", "endpoint": "https://s3.example.com", "bucket": "b"});
            archive[field] = value;
            json!({"archive": archive})
        };
        for (said, field, words) in [
            (json!({"everyMinutes": 4}), "everyMinutes", "4 is not"),
            (json!({"keep": 0}), "keep", "0 is not"),
            (json!({"dir": "mnt"}), "dir", "mnt"),
            (json!({"drillEveryDays": 400}), "drillEveryDays", "400"),
            (json!({"drillKey": "key"}), "drillKey", "key is no"),
            (s3("bucket", "a/b".into()), "archive.bucket", "\"a/b\""),
            (s3("region", "".into()), "archive.region", "\"\""),
            (s3("prefix", "/x".into()), "archive.prefix", "\"/x\""),
            (s3("endpoint", "s3".into()), "archive.endpoint", "\"s3\""),
            (s3("authority", "ca".into()), "archive.authority", "\"ca\""),
            (s3("keep", 0.into()), "archive.keep", "0 is not"),
        ] {
            let (at, why) = over(&none, said).expect_err(field);
            assert_eq!(at, format!("etcdBackup.{field}"));
            assert!(why.contains(words), "{at}: {why}");
        }
        // A private key sent by mistake is not repeated.
        let private = json!({"recoveryRecipient": "AGE-SECRET-KEY-1QQQ"});
        let (_, why) = over(&none, private).expect_err("private");
        assert!(!why.contains("QQQ"), "{why}");
        for unknown in [
            json!({"keeps": 1}),
            json!({"archive": {"kind": "ftp"}}),
            s3("key", "x".into()),
        ] {
            assert!(serde_json::from_value::<NewBackups>(unknown).is_err());
        }
    }
}
