//! The container runtime's status, by the one question of the CRI that nodelet asks:
//! `runtime.v1.RuntimeService/Status` with everything (`verbose`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::NAMESPACE;
use super::grpc::{CallError, Client};
use crate::host::protobuf::{Message, NoMessage, Value, fields};

/// containerd answers from memory.
const ANSWER: Duration = Duration::from_secs(10);
/// Field `verbose` of `StatusRequest`.
const VERBOSE: u32 = 1;

/// The status that the runtime reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// e.g. `RuntimeReady`.
    pub conditions: Vec<Condition>,
    /// More, by name; `config` is the effective configuration, as JSON.
    pub info: BTreeMap<String, String>,
}

/// One condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Which.
    pub kind: String,
    /// It holds.
    pub holds: bool,
    /// Why not.
    pub message: String,
}

/// Asks the runtime that listens here.
pub(super) async fn status(socket: &Path) -> Result<Status, CallError> {
    let mut client = Client::connect(socket, NAMESPACE, ANSWER).await?;
    let question = Message::default().number(VERBOSE, 1);
    let answer = client.call("runtime.v1.RuntimeService/Status", question);
    let truncated = |NoMessage| CallError::Answer("its status is truncated");
    Status::read(&answer.await?).map_err(truncated)
}

impl Status {
    /// `runtime.v1.StatusResponse`, as far as it is used.
    fn read(message: &[u8]) -> Result<Self, NoMessage> {
        let mut status = Self::default();
        for field in fields(message) {
            match field? {
                (1, Value::Bytes(conditions)) => {
                    for field in fields(conditions) {
                        if let (1, Value::Bytes(condition)) = field? {
                            status.conditions.push(Condition::read(condition)?);
                        }
                    }
                }
                (2, Value::Bytes(entry)) => {
                    let (mut key, mut value) = (String::new(), String::new());
                    for field in fields(entry) {
                        match field? {
                            (1, Value::Bytes(bytes)) => key = text(bytes),
                            (2, Value::Bytes(bytes)) => value = text(bytes),
                            _ => {}
                        }
                    }
                    status.info.insert(key, value);
                }
                _ => {}
            }
        }
        Ok(status)
    }

    /// The condition of this name, if the runtime reports it.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }
}

impl Condition {
    fn read(message: &[u8]) -> Result<Self, NoMessage> {
        let mut condition = Self::default();
        for field in fields(message) {
            match field? {
                (1, Value::Bytes(bytes)) => condition.kind = text(bytes),
                (2, Value::Number(number)) => condition.holds = number != 0,
                (4, Value::Bytes(bytes)) => condition.message = text(bytes),
                _ => {}
            }
        }
        Ok(condition)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            Status::read(&bytes).ok();
        }
    }

    #[test]
    fn a_truncated_status_is_an_error() {
        Status::read(&[0x0a, 0x7f, 1]).expect_err("cut off");
    }
}
