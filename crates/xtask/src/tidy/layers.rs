//! Who may depend on whom: every package names its layer in `package.metadata.ibex.layer`, and arrows point to lower layers only.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

/// The harness may be used by every test, whatever its layer.
const TESTKIT: &str = "ibex-testkit";
/// Layer of the client libraries: tests of lower layers may talk to their daemon through them.
const LAYER_CLIENTS: u64 = 4;
/// Layer of the daemons: nobody depends on one, except a test that starts it.
const LAYER_DAEMONS: u64 = 5;
/// Highest layer of the pure crates.
const LAYER_CORES: u64 = 2;
/// What a pure crate must not reach: clocks, sockets, threads, randomness, runtimes.
const IMPURE: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "rustix",
    "getrandom",
    "rand",
    "tracing-subscriber",
    "signal-hook",
    "rusqlite",
    "mysql_async",
];
/// Database drivers, which only `ibex-sql` knows.
const DRIVERS: &[&str] = &["rusqlite", "mysql_async", "libsqlite3-sys"];

/// One package of the workspace.
#[derive(Debug)]
struct Package {
    name: String,
    layer: Option<u64>,
    arrows: Vec<Arrow>,
}

/// One dependency.
#[derive(Debug)]
struct Arrow {
    to: String,
    is_dev: bool,
}

fn packages() -> Result<Vec<Package>> {
    read_packages(&sh::metadata()?)
}

fn read_packages(metadata: &Value) -> Result<Vec<Package>> {
    let listed = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let read = |package: &Value| {
        let arrows = package["dependencies"].as_array().into_iter().flatten();
        let arrows = arrows.filter_map(|arrow| {
            Some(Arrow {
                to: arrow["name"].as_str()?.to_owned(),
                is_dev: arrow["kind"] == "dev",
            })
        });
        Some(Package {
            name: package["name"].as_str()?.to_owned(),
            layer: package["metadata"]["ibex"]["layer"].as_u64(),
            arrows: arrows.collect(),
        })
    };
    Ok(listed.iter().filter_map(read).collect())
}

/// Arrows must point to a lower layer; none points to a daemon.
pub(super) fn arrows() -> Result<Vec<String>> {
    Ok(check_arrows(&packages()?))
}

fn check_arrows(packages: &[Package]) -> Vec<String> {
    let layers: BTreeMap<&str, u64> = packages
        .iter()
        .filter_map(|package| Some((package.name.as_str(), package.layer?)))
        .collect();
    let mut findings = Vec::new();
    for package in packages {
        let Some(own) = package.layer else {
            findings.push(format!(
                "{}: Cargo.toml has no [package.metadata.ibex] layer",
                package.name
            ));
            continue;
        };
        for arrow in &package.arrows {
            let Some(other) = layers.get(arrow.to.as_str()).copied() else {
                continue;
            };
            if let Some(why) = wrong(package, own, arrow, other) {
                findings.push(format!(
                    "{} (layer {own}) → {} (layer {other}): {why}",
                    package.name, arrow.to
                ));
            }
        }
    }
    findings
}

fn wrong(package: &Package, own: u64, arrow: &Arrow, other: u64) -> Option<&'static str> {
    if arrow.is_dev {
        let is_free = arrow.to == TESTKIT
            || arrow.to == package.name
            || other == LAYER_CLIENTS
            || other < own;
        return (!is_free)
            .then_some("a dev-dependency may point up to the testkit and the clients only");
    }
    if other == LAYER_DAEMONS {
        return Some("nobody depends on a daemon; use its client");
    }
    if arrow.to == TESTKIT && package.name != "xtask" && package.name != "integration-tests" {
        return Some("the testkit is for tests; make it a dev-dependency");
    }
    (other >= own).then_some("an arrow must point to a lower layer")
}

/// Layers 0 to 2 have no clock, socket, thread or randomness to reach for.
pub(super) fn purity() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in packages()? {
        if package.layer.is_none_or(|layer| layer > LAYER_CORES) {
            continue;
        }
        for arrow in package
            .arrows
            .iter()
            .filter(|arrow| !arrow.is_dev && IMPURE.contains(&arrow.to.as_str()))
        {
            findings.push(format!(
                "{} → {}: a pure crate gets time, bytes and seeds as arguments",
                package.name, arrow.to
            ));
        }
    }
    Ok(findings)
}

/// Only `ibex-sql` depends on a database driver.
pub(super) fn drivers() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in packages()?
        .iter()
        .filter(|package| package.name != "ibex-sql")
    {
        for arrow in package
            .arrows
            .iter()
            .filter(|arrow| DRIVERS.contains(&arrow.to.as_str()))
        {
            findings.push(format!(
                "{} → {}: go through ibex-sql",
                package.name, arrow.to
            ));
        }
    }
    Ok(findings)
}

/// The slow second TLS provider has not crept in.
pub(super) fn lock_file() -> Result<Vec<String>> {
    let lock = std::fs::read_to_string(sh::root().join("Cargo.lock")).context("read Cargo.lock")?;
    let banned = ["aws-lc-sys", "openssl-sys"];
    let found = banned
        .into_iter()
        .filter(|name| lock.contains(&format!("name = \"{name}\"")));
    Ok(found
        .map(|name| {
            format!("Cargo.lock: {name} is in the tree; `cargo tree -i {name}` says through whom")
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, layer: u64, arrows: &[(&str, bool)]) -> Package {
        let arrows = arrows
            .iter()
            .map(|(to, is_dev)| Arrow {
                to: (*to).to_owned(),
                is_dev: *is_dev,
            })
            .collect();
        Package {
            name: name.to_owned(),
            layer: Some(layer),
            arrows,
        }
    }

    #[test]
    fn only_downward_arrows_pass() {
        let good = [
            package("base", 0, &[]),
            package("kit", 3, &[("base", false), (TESTKIT, true)]),
            package("client", 4, &[("base", false)]),
            package("daemon", 5, &[("kit", false), ("client", true)]),
            package(TESTKIT, 3, &[("base", false)]),
        ];
        assert_eq!(check_arrows(&good), Vec::<String>::new());
    }

    #[test]
    fn upward_sideways_and_daemon_arrows_are_named() {
        let bad = [
            package("base", 0, &[("kit", false)]),
            package("kit", 3, &[("sql", false)]),
            package("sql", 3, &[(TESTKIT, false)]),
            package("daemon", 5, &[]),
            package("app", 6, &[("daemon", false)]),
            package(TESTKIT, 3, &[("app", true)]),
        ];
        assert_eq!(check_arrows(&bad).len(), 5);
    }
}
