//! Which daemons there are and where their admin ports listen.
//!
//! A family file is TOML: `[[daemon]]` tables with `name` (unique), `admin` (`host:port` or `unix:/path`) and optionally `token_file`. Without a
//! file, the default
//! admin ports on loopback are taken, and a daemon that does not answer there is simply not shown as a fault.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;

/// Default admin ports, by daemon.
const DEFAULTS: [(&str, &str); 7] = [
    ("memcached", "127.0.0.1:9811"),
    ("perlbal", "127.0.0.1:9812"),
    ("mogilefsd", "127.0.0.1:9813"),
    ("mogstored", "127.0.0.1:9814"),
    ("gearmand", "127.0.0.1:9815"),
    ("schwartzd", "127.0.0.1:9816"),
    ("journal", "127.0.0.1:9818"),
];

/// Where a family file is looked for when none is named.
const DEFAULT_PATH: &str = "/etc/ibex/family.toml";

/// One daemon's admin port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// The name it is called by on the command line.
    pub name: String,
    /// `host:port` or `unix:/path`.
    pub admin: String,
    /// File with the bearer token of a guarded admin port.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    daemon: Vec<Daemon>,
}

/// The daemons this invocation knows.
#[derive(Debug, Clone)]
pub struct Family {
    daemons: Vec<Daemon>,
    /// True when nobody listed them: then silence on a port is no fault.
    pub is_guess: bool,
}

impl Family {
    /// The named file, else `$IBEX_FAMILY`, else `/etc/ibex/family.toml`, else the default ports.
    ///
    /// # Errors
    /// When a named file is missing or any file does not parse.
    pub fn load(named: Option<&Path>) -> anyhow::Result<Self> {
        let path = named
            .map(Path::to_path_buf)
            .or_else(|| std::env::var_os("IBEX_FAMILY").map(PathBuf::from))
            .or_else(|| Some(PathBuf::from(DEFAULT_PATH)).filter(|path| path.exists()));
        let Some(path) = path else {
            return Ok(Self::defaults());
        };
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("read family file {}", path.display()))?;
        let file: File = toml::from_str(&text)
            .with_context(|| format!("parse family file {}", path.display()))?;
        Ok(Self {
            daemons: file.daemon,
            is_guess: false,
        })
    }

    fn defaults() -> Self {
        let daemons = DEFAULTS
            .iter()
            .map(|&(name, admin)| Daemon {
                name: name.to_owned(),
                admin: admin.to_owned(),
                token_file: None,
            })
            .collect();
        Self {
            daemons,
            is_guess: true,
        }
    }

    /// All daemons, in the file's order.
    #[must_use]
    pub fn daemons(&self) -> &[Daemon] {
        &self.daemons
    }

    /// The daemon called `name`; `ibex-` in front of it is accepted.
    ///
    /// # Errors
    /// When there is none; the message lists those there are.
    pub fn find(&self, name: &str) -> anyhow::Result<&Daemon> {
        let short = name.strip_prefix("ibex-").unwrap_or(name);
        let Some(daemon) = self.daemons.iter().find(|daemon| daemon.name == short) else {
            let known: Vec<_> = self
                .daemons
                .iter()
                .map(|daemon| daemon.name.as_str())
                .collect();
            bail!("no daemon is called {name:?}; known: {}", known.join(", "));
        };
        Ok(daemon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_wins_over_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("family.toml");
        std::fs::write(
            &path,
            "[[daemon]]\nname = \"gearmand1\"\nadmin = \"unix:/run/g.sock\"\n",
        )
        .unwrap();
        let family = Family::load(Some(&path)).unwrap();
        assert!(!family.is_guess);
        assert_eq!(
            family.find("ibex-gearmand1").unwrap().admin,
            "unix:/run/g.sock"
        );
        let error = family.find("memcached").unwrap_err().to_string();
        assert!(error.contains("known: gearmand1"), "{error}");
    }

    #[test]
    fn a_named_file_must_exist_and_parse() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("family.toml");
        assert!(Family::load(Some(&path)).is_err());
        std::fs::write(&path, "[[daemon]]\nnane = \"x\"\n").unwrap();
        assert!(Family::load(Some(&path)).is_err());
    }
}
