//! Everything small that the tracker keeps in memory: domains, classes, settings, hosts and devices at one moment.

use ibex_mogilefs_core::{ClassId, Cluster, DomainId, Policy};
use ibex_mogilefs_proto::HashAlgorithm;
use std::collections::BTreeMap;

/// The database's small tables and the monitor's observations, joined.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) cluster: Cluster,
    pub(crate) domains: BTreeMap<DomainId, Domain>,
    pub(crate) settings: BTreeMap<String, String>,
}

/// A namespace of keys.
#[derive(Debug, Clone)]
pub(crate) struct Domain {
    pub(crate) id: DomainId,
    pub(crate) name: Vec<u8>,
    /// Always has class 0.
    pub(crate) classes: BTreeMap<ClassId, Class>,
}

/// How files of a class are kept.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub(crate) id: ClassId,
    pub(crate) name: Vec<u8>,
    pub(crate) mindevcount: u32,
    pub(crate) hash: Option<HashAlgorithm>,
    pub(crate) policy: Policy,
    /// The policy as it is stored; empty for none.
    pub(crate) policy_text: String,
}

/// Name of class 0.
pub(crate) const DEFAULT_CLASS: &[u8] = b"default";

impl Class {
    /// Class 0 of a domain that has no row for it.
    pub(crate) fn default_with(mindevcount: u32) -> Self {
        Self {
            id: ClassId(0),
            name: DEFAULT_CLASS.to_vec(),
            mindevcount,
            hash: None,
            policy: Policy::default(),
            policy_text: String::new(),
        }
    }
}

impl Domain {
    pub(crate) fn class_named(&self, name: &[u8]) -> Option<&Class> {
        self.classes.values().find(|class| class.name == name)
    }
}

impl Snapshot {
    pub(crate) fn domain_named(&self, name: &[u8]) -> Option<&Domain> {
        self.domains.values().find(|domain| domain.name == name)
    }

    /// The class of a file; files whose class or domain is gone are kept as those of a default class.
    pub(crate) fn class_of(
        &self,
        domain: DomainId,
        class: ClassId,
        default_mindevcount: u32,
    ) -> Class {
        self.domains
            .get(&domain)
            .and_then(|domain| domain.classes.get(&class))
            .cloned()
            .unwrap_or_else(|| Class::default_with(default_mindevcount))
    }

    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.setting(name)
            .is_some_and(|value| !value.is_empty() && value != "0")
    }
}
