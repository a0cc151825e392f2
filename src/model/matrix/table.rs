//! The matrix as the README shows it.

use std::collections::BTreeSet;

use super::{
    CGROUP, KUBERNETES, Matrix, Minor, PARTS, Ran, Rule, Says, is_minor, loose_version, minor_of,
};

impl Matrix {
    /// Markdown: a row for each minor of Kubernetes; below it what the rules say and what ran.
    pub fn table(&self) -> String {
        let head = format!(
            "| Kubernetes | {} | systemd, control groups |",
            PARTS.join(" | ")
        );
        let line = "|---".repeat(PARTS.len() + 2) + "|";
        let mut lines = vec![head, line];
        lines.extend(self.kubernetes.iter().map(|minor| self.row(minor)));
        lines.push(String::new());
        lines.push(
            "Others are untested: accepted with a warning. Also refused, or accepted with a \
             warning:\n"
                .to_owned(),
        );
        lines.extend(self.rule.iter().map(sentence));
        lines.extend(self.etcd_table());
        lines.push("\nTested means that a test brought it to Ready:\n".to_owned());
        if self.ran.is_empty() {
            lines.push("* nothing yet".to_owned());
        }
        lines.extend(self.ran.iter().map(|r| {
            let stack = format!(
                "Kubernetes {}, containerd {}, etcd {}, runc {}, CNI plugins {}",
                r.kubernetes, r.containerd, r.etcd, r.runc, r.cni_plugins
            );
            let machine = format!("systemd {} with control groups v{}", r.systemd, r.cgroup);
            format!("* {stack} on {machine} (`{}`)", r.test)
        }));
        let alone = self.alone.iter();
        let alone: Vec<String> = alone
            .map(|(part, versions)| format!("{part} {}", versions.join(", ")))
            .collect();
        if !alone.is_empty() {
            lines.push(format!(
                "\nTested only on its own, with the configuration that it gets here, and in no \
                 stack: {}. In a stack it is untested.",
                alone.join("; ")
            ));
        }
        lines.join("\n") + "\n"
    }

    fn row(&self, minor: &Minor) -> String {
        let ran = self.ran.iter();
        let ran: Vec<&Ran> = ran
            .filter(|r| is_minor(&r.kubernetes, &minor.minor))
            .collect();
        let cells = PARTS.iter().map(|part| self.cell(minor, part, &ran));
        let machines = ran
            .iter()
            .map(|r| format!("{}, v{}: tested", r.systemd, r.cgroup));
        let mut row = vec![named(minor)];
        row.extend(cells);
        row.push(joined(machines));
        format!("| {} |", row.join(" | "))
    }

    /// What was tested of a part with a minor, and what the rules refuse there.
    fn cell(&self, minor: &Minor, part: &str, ran: &[&Ran]) -> String {
        let version = |r: &&Ran| Some(minor_of(&loose_version(r.part(part))?));
        let tested: BTreeSet<String> = ran.iter().filter_map(version).collect();
        let tested = tested.iter().rev().map(|v| format!("{v}: tested"));
        let refused = self.rule.iter().filter_map(|rule| {
            let wanted = rule.when.get(part).filter(|_| rule.says == Says::Refused)?;
            let kubernetes = loose_version(&minor.minor)?;
            let here = rule
                .when
                .get(KUBERNETES)
                .is_none_or(|k| k.matches(&kubernetes));
            let alone = rule.when.keys().all(|k| k == part || k == KUBERNETES);
            (here && alone).then(|| format!("{wanted}: refused"))
        });
        joined(tested.chain(refused))
    }
}

fn named(minor: &Minor) -> String {
    if minor.new {
        minor.minor.clone()
    } else {
        format!("{}, only as the start of an upgrade", minor.minor)
    }
}

/// One after the other, none twice.
fn joined(words: impl Iterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for word in words {
        if !seen.contains(&word) {
            seen.push(word);
        }
    }
    if seen.is_empty() {
        return "untested".to_owned();
    }
    seen.join("; ")
}

fn sentence(rule: &Rule) -> String {
    let said = match rule.says {
        Says::Refused => "refused",
        Says::Warned => "warned",
    };
    let parts: Vec<String> = rule
        .when
        .iter()
        .map(|(part, wanted)| match part.as_str() {
            KUBERNETES => format!("Kubernetes {wanted}"),
            CGROUP => format!("control groups {wanted}"),
            part => format!("{part} {wanted}"),
        })
        .collect();
    format!(
        "* {}: {said}: {} ([source]({}))",
        parts.join(" with "),
        rule.why,
        rule.source
    )
}
