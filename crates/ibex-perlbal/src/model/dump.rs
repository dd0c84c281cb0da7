//! The model as commands that make it again.
//!
//! Owns `DUMPCONFIG`. The order is dependencies before users, so that the text can be run as it is.
// DIFFERS(perlbal): the original's dump leaves out plugins, headers and vhosts and cannot be replayed.

use ibex_perlbal_core::dispatcher::Balance;
use ibex_perlbal_proto::command::AccessVerb;
use ibex_perlbal_proto::forward::HeaderChange;
use ibex_perlbal_proto::tunable::{self, Role};

use super::{Model, PoolModel, ServiceModel};

/// Lines of the dump, without the final `OK`.
pub(crate) fn dump(model: &Model) -> Vec<String> {
    let mut out: Vec<String> = model
        .loaded
        .iter()
        .map(|p| format!("LOAD {}", p.name()))
        .collect();
    out.extend(
        model
            .server
            .iter()
            .map(|(k, v)| format!("SERVER {k} = {}", quoted(v))),
    );
    if !out.is_empty() {
        out.push(String::new());
    }
    for (name, pool) in &model.pools {
        dump_pool(&mut out, name, pool);
    }
    // Selectors last: their maps name other services.
    let (selectors, others): (Vec<_>, Vec<_>) = model
        .services
        .iter()
        .partition(|(_, s)| s.role == Some(Role::Selector));
    for (name, service) in others.into_iter().chain(selectors) {
        dump_service(&mut out, name, service);
    }
    out
}

/// A value with its `#` written so that it is no comment.
fn quoted(value: &str) -> String {
    value.replace('#', "\\#")
}

fn dump_pool(out: &mut Vec<String>, name: &str, pool: &PoolModel) {
    out.push(format!("CREATE POOL {name}"));
    if pool.balance != Balance::Random {
        out.push(format!("  SET balance_method = {}", pool.balance.name()));
    }
    match &pool.nodefile {
        Some(file) => out.push(format!("  SET nodefile = {}", quoted(file))),
        None => {
            for node in &pool.nodes {
                let weight = if node.weight == 1 {
                    String::new()
                } else {
                    format!(" weight={}", node.weight)
                };
                let max = if node.connections_max == 0 {
                    String::new()
                } else {
                    format!(" max={}", node.connections_max)
                };
                let backup = if node.is_backup { " backup" } else { "" };
                out.push(
                    format!("  POOL ADD {name} {}{weight}{max}{backup}", node.address)
                        .replace(&format!("POOL ADD {name}"), &format!("POOL {name} ADD")),
                );
            }
        }
    }
    out.extend(
        pool.nodes
            .iter()
            .filter(|n| n.is_drained)
            .map(|n| format!("  DRAIN {name} {}", n.address)),
    );
    out.push(String::new());
}

fn dump_service(out: &mut Vec<String>, name: &str, service: &ServiceModel) {
    out.push(format!("CREATE SERVICE {name}"));
    if let Some(role) = service.role {
        out.push(format!("  SET role = {}", role.name()));
    }
    for first in ["listen", "pool"] {
        out.extend(
            service
                .values
                .get(first)
                .map(|v| format!("  SET {first} = {v}")),
        );
    }
    for (key, value) in &service.values {
        let is_default = tunable::find(key).is_some_and(|t| {
            !t.default.is_empty() && tunable::check(t, t.default).is_ok_and(|d| d == *value)
        });
        if *key != "listen" && *key != "pool" && !is_default {
            out.push(format!("  SET {key} = {}", quoted(&value.to_string())));
        }
    }
    if !service.plugins.is_empty() {
        let names: Vec<&str> = service.plugins.iter().map(|p| p.name()).collect();
        out.push(format!("  SET plugins = {}", names.join(" ")));
    }
    out.extend(
        service
            .plugin_settings
            .iter()
            .map(|(k, v)| format!("  SET {name}.{k} = {}", quoted(v))),
    );
    out.extend(
        service
            .extra
            .iter()
            .map(|(k, v)| format!("  SET {name}.extra.{k} = {}", quoted(v))),
    );
    dump_rules(out, name, service);
    out.push(format!(
        "{} {name}",
        if service.enabled { "ENABLE" } else { "DISABLE" }
    ));
    out.push(String::new());
}

fn dump_rules(out: &mut Vec<String>, name: &str, service: &ServiceModel) {
    for change in &service.changes {
        out.push(match change {
            HeaderChange::Insert(header, value) => {
                format!("  HEADER {name} INSERT {header}: {}", quoted(value))
            }
            HeaderChange::Remove(header) => format!("  HEADER {name} REMOVE {}", quoted(header)),
        });
    }
    out.extend(
        service
            .vhosts
            .iter()
            .map(|(host, target)| format!("  VHOST {name} {host} = {target}")),
    );
    out.extend(service.vpaths.iter().map(|v| {
        format!(
            "  VPATH {name} {} = {}",
            quoted(v.pattern.as_str()),
            v.service
        )
    }));
    for (verb, network) in &service.access {
        let verb = match verb {
            AccessVerb::Allow => "ALLOW",
            AccessVerb::Deny => "DENY",
            AccessVerb::QueueLow => "QUEUE_LOW",
        };
        out.push(format!("  ACCESS {verb} NETMASK {network}"));
    }
    if service.denies_by_default {
        out.push("  ACCESS POLICY DENY".to_owned());
    }
    out.extend(
        service
            .redirects
            .iter()
            .map(|(host, target)| format!("  REDIRECT HOST {host} {target}")),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::load;

    #[test]
    fn a_dump_makes_the_same_model_again() {
        let lines = [
            "LOAD vhosts",
            "LOAD accesscontrol",
            "LOAD highpri",
            "SERVER max_connections = 100",
            "CREATE POOL p",
            "SET balance_method = p2c",
            "POOL p ADD 10.0.0.1:8080 weight=2",
            "POOL p ADD 10.0.0.2:81 backup",
            "DRAIN p 10.0.0.2:81",
            "CREATE SERVICE web",
            "SET role = reverse_proxy",
            "SET pool = p",
            "SET persist_backend = on",
            "SET hedge_after = 75ms",
            "SET plugins = highpri accesscontrol",
            "SET web.highpri.uri_pattern = ^/\\#x",
            "ACCESS DENY NETMASK 10.0.0.0/8",
            "ACCESS POLICY DENY",
            "HEADER web INSERT X-A: b c",
            "HEADER web REMOVE X-D",
            "CREATE SERVICE sel",
            "SET role = selector",
            "SET listen = 127.0.0.1:8000",
            "SET plugins = vhosts",
            "VHOST sel *.example.com = web",
            "SET sel.extra.note = free",
            "ENABLE sel",
        ]
        .map(str::to_owned);
        let model = load(None, &lines).unwrap();
        // DISABLE of what is disabled is an error of the language; the original prints it as well.
        let text: Vec<String> = dump(&model)
            .into_iter()
            .filter(|l| !l.starts_with("DISABLE"))
            .collect();
        assert_eq!(load(None, &text).unwrap(), model, "{text:#?}");
    }
}
