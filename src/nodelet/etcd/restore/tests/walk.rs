//! A restore, broken at every point: see [`crate::seam::walk`].

use std::collections::BTreeMap;

use super::*;
use crate::host::ours::paths::WRITTEN_BY_ROOT;
use crate::host::temps;
use crate::seam::walk::{Scenario, files, walk};

pub(crate) struct Restore;

impl Scenario for Restore {
    const NAME: &'static str = "restore";
    type World = Machine;

    async fn begin(&self) -> Machine {
        let machine = Machine::new();
        machine.restore();
        machine
    }

    async fn life(&self, machine: &mut Machine, starts: bool) -> bool {
        if starts {
            temps::collect(&machine.host.fs, WRITTEN_BY_ROOT);
        }
        for _ in 0..20 {
            match machine.step_on().await {
                Went::On(_) => {}
                Went::Ended(None) | Went::Nothing => return true,
                // It changed nothing, and root asks again.
                Went::Ended(Some(_)) => {
                    machine.restore();
                    return false;
                }
                Went::Waits(_) | Went::Failed(_) => return false,
            }
            let up = machine.text(&machine.state("up")).is_some();
            let data = machine.data();
            let known = matches!(data.as_deref(), Some("old" | "new\n"));
            assert!(known || !up, "etcd runs with {data:?}");
        }
        false
    }

    fn boot(&self, machine: &mut Machine) {
        machine.boot();
    }

    async fn end(&self, machine: &mut Machine) -> BTreeMap<String, String> {
        machine.phases();
        let mut end = files(&machine.host.fs, |path| path.contains(".json"));
        let old = machine.names().len();
        end.insert("data".to_owned(), format!("{:?} {old}", machine.data()));
        end.retain(|path, _| !path.starts_with("/run/") && !path.ends_with(".prev"));
        end
    }
}

#[tokio::test]
async fn a_restore_broken_anywhere_ends_with_the_snapshots_data() {
    walk(&Restore, 60).await;
}
