//! Configuration in a support bundle: only settings on the list. Comments are removed, too: people write passwords
//! into them.

use toml::{Table, Value};

use super::redact::{Cleaned, Redactor};

/// Keys of `hostagent.toml` and `conf.d`, dotted. A key that is new there is shown when it stands here.
pub(super) const AGENT: [&str; 15] = [
    "log.level",
    "log.format",
    "log.max_mib",
    "log.keep",
    "comms.ping_s",
    "comms.reconnect_cap_s",
    "comms.proxy.url",
    "comms.proxy.no_proxy",
    "comms.tls.min_version",
    "comms.tls.ca_file",
    "comms.tls.pin_sha256",
    "hostagent.status_s",
    "nodelet.sweep_s",
    "support.bundle_on_request",
    "support.logs",
];
/// Keys of the tunnel's allow-list.
pub(super) const SERVICES: [&str; 9] = [
    "service.name",
    "service.connect",
    "service.who",
    "service.max_streams",
    "service.opens_per_s",
    "service.idle_s",
    "service.class",
    "service.allow_beyond_loopback",
    "service.allow_link_local",
];

/// What stands in the place of the value of a key that is not on the list.
const REMOVED: &str = "<removed: not on the list of what is shown>";

/// The text with the values of these keys; an error says why it cannot be read, without repeating it.
pub(super) fn shown(text: &str, keys: &[&str], redactor: &Redactor) -> Result<Cleaned, String> {
    // Its own words would show the line.
    let table: Table = text
        .parse()
        .map_err(|_| "it is not valid TOML, so none of it is shown".to_owned())?;
    let mut redactions = 0;
    let table = walk(table, "", keys, redactor, &mut redactions);
    let text = toml::to_string(&table).map_err(|_| "it cannot be rewritten".to_owned())?;
    Ok(Cleaned { text, redactions })
}

fn walk(table: Table, at: &str, keys: &[&str], redactor: &Redactor, count: &mut u64) -> Table {
    let mut out = Table::new();
    for (key, value) in table {
        let path = match at {
            "" => key.clone(),
            at => format!("{at}.{key}"),
        };
        let below = keys.iter().any(|k| k.starts_with(&format!("{path}.")));
        let new = match value {
            Value::Table(inner) if below => Value::Table(walk(inner, &path, keys, redactor, count)),
            Value::Array(all) if below => Value::Array(
                all.into_iter()
                    .map(|one| match one {
                        Value::Table(inner) => {
                            Value::Table(walk(inner, &path, keys, redactor, count))
                        }
                        _ => removed(count),
                    })
                    .collect(),
            ),
            value if keys.contains(&path.as_str()) => cleaned(value, redactor, count),
            _ => removed(count),
        };
        // A name may be a secret that slipped into the wrong place.
        let key = redactor.clean(&key);
        *count += key.redactions;
        out.insert(key.text, new);
    }
    out
}

fn removed(count: &mut u64) -> Value {
    *count += 1;
    Value::String(REMOVED.to_owned())
}

fn cleaned(value: Value, redactor: &Redactor, count: &mut u64) -> Value {
    match value {
        Value::String(text) => {
            let cleaned = redactor.clean(&text);
            *count += cleaned.redactions;
            Value::String(cleaned.text)
        }
        Value::Array(all) => {
            let all = all.into_iter().map(|v| cleaned(v, redactor, count));
            Value::Array(all.collect())
        }
        Value::Table(_) => removed(count),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::super::known::Known;
    use super::*;

    fn show(text: &str, keys: &[&str]) -> Result<Cleaned, String> {
        shown(text, keys, &Redactor::new(Known::default()))
    }

    #[test]
    fn only_what_is_on_the_list_is_shown() {
        let text = "# the password is hunter2\n[log]\nlevel = \"info\"\n[comms.proxy]\nurl = \"http://u:hunter2@p:1\"\n\
                    password = \"hunter2\"\n[later]\nkey = \"hunter2\"\n";
        let shown = show(text, &AGENT).expect("shown");
        assert!(!shown.text.contains("hunter2"), "{}", shown.text);
        assert!(shown.text.contains("level = \"info\""), "{}", shown.text);
        assert!(shown.text.contains("@p:1"), "{}", shown.text);
        assert_eq!(shown.redactions, 3);
        let broken = show("password = hunter2", &AGENT).expect_err("broken");
        assert!(!broken.contains("hunter2"));
        let services =
            "[[service]]\nname = \"kubelet\"\nconnect = \"127.0.0.1:1\"\npassword = \"hunter2\"\n";
        let shown = show(services, &SERVICES).expect("shown");
        assert!(shown.text.contains("kubelet") && !shown.text.contains("hunter2"));
    }

    /// Every setting there is was decided about.
    #[test]
    fn the_list_has_every_setting() {
        let defaults = toml::Table::try_from(crate::app::Config::default()).expect("table");
        let mut found = Vec::new();
        fn leaves(table: &Table, at: &str, found: &mut Vec<String>) {
            for (key, value) in table {
                let path = if at.is_empty() {
                    key.clone()
                } else {
                    format!("{at}.{key}")
                };
                match value {
                    Value::Table(inner) => leaves(inner, &path, found),
                    _ => found.push(path),
                }
            }
        }
        leaves(&defaults, "", &mut found);
        for key in found {
            assert!(AGENT.contains(&key.as_str()), "{key}");
        }
    }
}
