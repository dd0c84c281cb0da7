//! What the commands have said: services, pools, plugins and their settings, as plain values.
//!
//! Owns the configuration as an immutable picture. A command builds a changed copy; the running balancer moves from one
//! picture to the next or stays where it is, so a failed command changes nothing and a reload is one step.
//! It listens on nothing and knows no connection.

mod apply;
mod dump;
mod environment;
mod load;
mod plugin;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) use apply::{Context, apply};
pub(crate) use dump::dump;
pub(crate) use environment::System;
pub(crate) use load::{FileMark, expand_includes, load, read_nodefile};
pub(crate) use plugin::Plugin;
pub(crate) use settings::{BackendVersion, Settings};

use ibex_perlbal_core::dispatcher::{Balance, NodeSpec};
use ibex_perlbal_proto::command::AccessVerb;
use ibex_perlbal_proto::forward::HeaderChange;
use ibex_perlbal_proto::mime::MimeTypes;
use ibex_perlbal_proto::netmask::Netmask;
use ibex_perlbal_proto::tunable::{Role, Value};
use ibex_perlbal_proto::vhost::HostMap;

/// Everything the commands have said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) pools: BTreeMap<String, PoolModel>,
    pub(crate) services: BTreeMap<String, ServiceModel>,
    /// `DEFAULT` values by parameter, as written.
    pub(crate) defaults: BTreeMap<String, String>,
    pub(crate) loaded: BTreeSet<Plugin>,
    pub(crate) mime: MimeTypes,
    /// `SERVER` options as written.
    pub(crate) server: BTreeMap<String, String>,
}

/// One pool.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PoolModel {
    pub(crate) nodes: Vec<NodeSpec>,
    /// File the nodes come from.
    pub(crate) nodefile: Option<String>,
    /// Which version of that file was read.
    pub(crate) mark: Option<FileMark>,
    pub(crate) balance: Balance,
}

impl PoolModel {
    /// Adds a node at the end; one of the same address moves there.
    pub(crate) fn add(&mut self, node: NodeSpec) {
        self.remove(&node.address);
        self.nodes.push(node);
    }

    pub(crate) fn remove(&mut self, address: &str) {
        self.nodes.retain(|n| *n.address != *address);
    }
}

/// One service.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ServiceModel {
    pub(crate) role: Option<Role>,
    /// Values set by hand or by `DEFAULT`.
    pub(crate) values: BTreeMap<&'static str, Value>,
    pub(crate) changes: Vec<HeaderChange>,
    pub(crate) plugins: Vec<Plugin>,
    /// `plugin.key` settings.
    pub(crate) plugin_settings: BTreeMap<String, String>,
    /// `extra.key` settings, free-form.
    pub(crate) extra: BTreeMap<String, String>,
    pub(crate) vhosts: HostMap<String>,
    pub(crate) vpaths: Vec<Vpath>,
    pub(crate) access: Vec<(AccessVerb, Netmask)>,
    pub(crate) denies_by_default: bool,
    pub(crate) redirects: HostMap<String>,
    pub(crate) enabled: bool,
}

/// One line of a path map.
#[derive(Debug, Clone)]
pub(crate) struct Vpath {
    pub(crate) pattern: Arc<regex::bytes::Regex>,
    pub(crate) service: String,
}

impl PartialEq for Vpath {
    fn eq(&self, other: &Self) -> bool {
        self.pattern.as_str() == other.pattern.as_str() && self.service == other.service
    }
}

impl ServiceModel {
    pub(crate) fn has(&self, plugin: Plugin) -> bool {
        self.plugins.contains(&plugin)
    }

    /// Addresses listened on while enabled.
    pub(crate) fn listen(&self) -> Vec<String> {
        match self.values.get("listen") {
            Some(Value::Text(list)) => list.split(',').map(str::to_owned).collect(),
            Some(_) | None => Vec::new(),
        }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(Value::Text(text)) => Some(text),
            Some(_) | None => None,
        }
    }
}
