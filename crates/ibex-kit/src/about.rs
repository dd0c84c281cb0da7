//! Who a daemon is: the constant facts that flags, paths, logs and pages share.
//!
//! Owns the version line. A value, not behaviour: the daemon crates each define one constant of it.

/// The facts of one daemon.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The binary's name, such as `ibex-gearmand`.
    pub name: &'static str,
    /// The short name of its files and metrics, such as `gearmand`.
    pub short: &'static str,
    /// One line: what it is.
    pub summary: &'static str,
    /// `env!("CARGO_PKG_VERSION")` of the daemon.
    pub version: &'static str,
    /// Default port of the admin HTTP on loopback.
    pub admin_port: u16,
    /// What the man page says about the original's flags; may be empty.
    pub original_flags: &'static str,
}

/// The commit this was built from, when the build was told (`IBEX_REVISION`), else `dev`.
pub(crate) const REVISION: &str = match option_env!("IBEX_REVISION") {
    Some(revision) => revision,
    None => "dev",
};

/// The day of the commit, when the build was told (`IBEX_REVISION_DATE`).
pub(crate) const REVISION_DATE: &str = match option_env!("IBEX_REVISION_DATE") {
    Some(date) => date,
    None => "",
};

/// The compiler, from the build script.
pub(crate) const RUSTC: &str = env!("IBEX_RUSTC");

impl About {
    /// What stands behind the name on the `--version` line: `0.3.0 (a1b2c3d 2026-11-20, rustc 1.95.0)`.
    #[must_use]
    pub fn version_line(&self) -> String {
        let revision = [REVISION, REVISION_DATE].join(" ");
        format!("{} ({}, rustc {RUSTC})", self.version, revision.trim_end())
    }

    /// The configuration file read when none is named.
    #[must_use]
    pub fn default_config(&self) -> std::path::PathBuf {
        std::path::PathBuf::from(format!("/etc/ibex/{}.toml", self.short))
    }
}
