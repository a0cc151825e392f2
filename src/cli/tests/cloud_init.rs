//! docs/cloud-init.md: what stands there is taken by cloud-init and by this program.

use std::process::Command;

use serde_json::Value;

use super::*;

const PAGE: &str = include_str!("../../../docs/cloud-init.md");

fn blocks() -> Vec<&'static str> {
    let parts = PAGE.split("```yaml\n").skip(1);
    let blocks: Vec<&str> = parts.filter_map(|p| p.split("```").next()).collect();
    assert_eq!(blocks.len(), 2, "the two distributions");
    blocks
}

/// cloud-init's own word, by the schema of its own.
#[test]
fn the_user_data_of_the_page_are_cloud_inits() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("user-data");
    let judged = |text: &str| {
        std::fs::write(&file, text).expect("write");
        let mut cloud_init = Command::new("cloud-init");
        // scripts/test has one that is not installed.
        if let Some(usr) = std::env::var_os("PF9_CLOUD_INIT").map(PathBuf::from) {
            cloud_init = Command::new(usr.join("bin/cloud-init"));
            cloud_init.env("PYTHONPATH", usr.join("lib/python3/dist-packages"));
        }
        let said = cloud_init
            .args(["schema", "--config-file"])
            .arg(&file)
            .output();
        let said = said.expect("cloud-init: scripts/test brings it");
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        (said.status.success(), text)
    };
    for block in blocks() {
        let (good, text) = judged(block);
        assert!(good && text.contains("Valid"), "{text}");
        let (good, _) = judged(
            &block
                .replacen("cloud-config\n", "cloud-config\nruncmd: 7\n", 1)
                .replace("\nruncmd:\n", "\nbootcmd:\n"),
        );
        assert!(!good, "it refuses nothing");
    }
}

/// Every command of ours in it exists, and prompts for nothing.
#[test]
fn what_the_user_data_run_is_what_this_program_takes() {
    let data: Value = serde_saphyr::from_str(blocks()[0]).expect("yaml");
    let mut seen = 0;
    for line in data["runcmd"].as_array().expect("runcmd") {
        let words: Vec<&str> = line
            .as_array()
            .expect("words")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        if words.first() != Some(&"pf9ctl") {
            continue;
        }
        seen += 1;
        command()
            .try_get_matches_from(&words)
            .unwrap_or_else(|e| panic!("{words:?}: {e}"));
        assert!(words.contains(&"--no-prompt"), "{words:?}");
    }
    assert_eq!(seen, 1);
    let token = data["write_files"][0]["path"].as_str().expect("path");
    assert_eq!(data["write_files"][0]["permissions"], "0600");
    assert!(
        PAGE.contains(&format!("--token-file, {token},"))
            && PAGE.contains(&format!("[rm, -f, {token}]"))
    );
}
