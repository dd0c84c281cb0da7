//! The TOML configuration: where the commands are, and what the language cannot say.
//!
//! Owns defaults and checks. Services and pools are described in Perlbal's own language, in the file named here, so that
//! existing configurations work as they are. It applies nothing.

use ibex_kit::{AdminConfig, Problem, Validate};

ibex_kit::config! {
    /// Whole configuration of ibex-perlbal.
    pub struct Config {
        /// File in Perlbal's configuration language (CREATE SERVICE, SET, ENABLE, …); read again on SIGHUP. Empty = none.
        /// Default: /etc/perlbal/perlbal.conf if that exists.
        live perlbal_conf: String,
        /// Commands in the same language, run after the file.
        live commands: Vec<String>,
        /// Admin HTTP: health, metrics, status page.
        table admin: AdminConfig = AdminConfig::for_port(ADMIN_PORT),
    }
}

/// Default admin port, from the table of the family.
pub(crate) const ADMIN_PORT: u16 = 9812;

/// Where the original looks for its configuration.
const DEFAULT_CONF: &str = "/etc/perlbal/perlbal.conf";

impl Config {
    /// The file to read, if any.
    #[must_use]
    pub fn conf_file(&self) -> Option<std::path::PathBuf> {
        if !self.perlbal_conf.is_empty() {
            return Some(self.perlbal_conf.clone().into());
        }
        let default = std::path::PathBuf::from(DEFAULT_CONF);
        (self.commands.is_empty() && default.exists()).then_some(default)
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Vec<Problem>> {
        match crate::model::load(self.conf_file().as_deref(), &self.commands) {
            Ok(_) => Ok(()),
            Err(error) => Err(vec![Problem::new("perlbal_conf", error.to_string())]),
        }
    }
}
