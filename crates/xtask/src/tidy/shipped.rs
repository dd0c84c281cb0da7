//! What a daemon ships with beside its code: a unit, a service in the compose file, an example configuration, its pages; and pages whose links work.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ibex_testkit::family::DAEMONS;

use crate::sh;

/// Pages every daemon has under `docs/<area>/`.
const PAGES: &[&str] = &[
    "protocol.md",
    "operating.md",
    "compatibility.md",
    "failure-modes.md",
];

/// Every daemon has its unit, compose service, example and pages.
pub(super) fn complete() -> Result<Vec<String>> {
    let root = sh::root();
    let compose = fs::read_to_string(root.join("docker-compose.yml")).unwrap_or_default();
    let mut findings = Vec::new();
    for member in DAEMONS {
        let mut wanted = vec![
            format!("deploy/systemd/{}.service", member.binary),
            format!("deploy/examples/{}.toml", member.short),
        ];
        wanted.extend(
            PAGES
                .iter()
                .map(|page| format!("docs/{}/{page}", member.docs)),
        );
        findings.extend(
            wanted
                .into_iter()
                .filter(|path| !root.join(path).is_file())
                .map(|path| format!("{}: {path} is missing", member.binary)),
        );
        if !compose.contains(&format!("target: {}\n", member.binary)) {
            findings.push(format!(
                "{}: no service in docker-compose.yml builds this target",
                member.binary
            ));
        }
    }
    findings.dedup();
    Ok(findings)
}

/// Relative links in README, CHANGELOG and `docs/` lead to files that exist.
pub(super) fn links() -> Result<Vec<String>> {
    let root = sh::root();
    let mut pages = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    walk(&root.join("docs"), &mut pages)?;
    let mut findings = Vec::new();
    for page in pages.iter().filter(|page| page.is_file()) {
        let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
        let dir = page.parent().unwrap_or(root);
        for target in targets(&text) {
            if !dir.join(target).exists() {
                findings.push(format!(
                    "{}: link to {target} leads nowhere",
                    page.strip_prefix(root).unwrap_or(page).display()
                ));
            }
        }
    }
    Ok(findings)
}

fn walk(dir: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    Ok(())
}

/// The relative targets of `](target)` outside code, without their anchors.
fn targets(text: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        for piece in line.split("](").skip(1) {
            let target = piece.split(')').next().unwrap_or_default();
            let target = target.split('#').next().unwrap_or_default();
            let is_relative = !target.is_empty()
                && !target.contains("://")
                && !target.starts_with("mailto:")
                && !target.contains(' ');
            if is_relative {
                targets.push(target);
            }
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_relative_links_only() {
        let text = "see [a](docs/a.md#x), [b](https://example.org/) and [c](#here)\n```\n[d](not/a/link)\n```\n[e](../e.md)";
        assert_eq!(targets(text), ["docs/a.md", "../e.md"]);
    }
}
