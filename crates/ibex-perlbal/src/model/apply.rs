//! What each command does to the model.
//!
//! Owns the semantics and error texts of commands that change something (spec part A3 to A5). Apart from the management
//! port, which shows things. Files and directories that values name are looked at here, and nothing else of the world.

use std::path::Path;
use std::sync::Arc;

use ibex_perlbal_core::dispatcher::{Balance, NodeSpec};
use ibex_perlbal_proto::command::{Access, Command, Error, Thing};
use ibex_perlbal_proto::tunable::{self, Kind, Role, Scope, Tunable, Value};

use super::{FileMark, Model, Plugin, PoolModel, ServiceModel, Vpath, read_nodefile};

/// What one source of commands remembers.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Say `OK` after success.
    pub(crate) verbose: bool,
    /// Current service or pool.
    pub(crate) current: Option<String>,
}

impl Context {
    /// Files are quiet.
    pub(crate) fn for_file() -> Self {
        Self {
            verbose: false,
            current: None,
        }
    }

    /// Management connections are verbose.
    pub(crate) fn for_connection() -> Self {
        Self {
            verbose: true,
            current: None,
        }
    }

    fn current(&self) -> Result<&str, Error> {
        self.current
            .as_deref()
            .ok_or_else(|| Error::new("omitted service/pool name not implied from context"))
    }
}

/// Applies a command that changes the model; the lines are what it prints besides `OK`.
/// On error the model may be half changed: the caller works on a copy.
pub(crate) fn apply(
    model: &mut Model,
    context: &mut Context,
    command: Command,
) -> Result<Vec<String>, Error> {
    match command {
        Command::Create(thing, name) => create(model, context, thing, &name)?,
        Command::Use(name) => {
            if !model.services.contains_key(&name) && !model.pools.contains_key(&name) {
                return Err(Error::new(format!("Non-existent pool or service '{name}'")));
            }
            context.current = Some(name);
        }
        Command::Set { target, key, value } => return set(model, context, target, &key, &value),
        Command::Default { key, value } => drop(model.defaults.insert(key, value)),
        Command::Header(name, change) => {
            let service = service(model, &name)
                .ok_or_else(|| Error::new(format!("service '{name}' does not exist")))?;
            service.changes.push(change);
        }
        Command::Enable(name) => switch(model, &name, true)?,
        Command::Disable(name) => switch(model, &name, false)?,
        Command::PoolAdd { pool, node } => {
            let node = parse_node(&node)?;
            pool_of(model, context, pool)?.add(node);
        }
        Command::PoolRemove { pool, node } => {
            let node = parse_node(&node)?;
            pool_of(model, context, pool)?.remove(&node.address);
        }
        Command::Drain { pool, node, on } => {
            let node = parse_node(&node)?;
            let pool = pool_of(model, context, Some(pool))?;
            let found = pool.nodes.iter_mut().find(|n| n.address == node.address);
            found
                .ok_or_else(|| Error::new(format!("node {} is not in the pool", node.address)))?
                .is_drained = on;
        }
        Command::Load(name) | Command::Reload(name) => {
            let plugin = Plugin::parse(&name)
                .ok_or_else(|| Error::new(format!("Can't locate plugin '{name}'")))?;
            model.loaded.insert(plugin);
        }
        Command::Unload(name) => {
            let plugin = Plugin::parse(&name)
                .ok_or_else(|| Error::new(format!("Can't locate plugin '{name}'")))?;
            model.loaded.remove(&plugin);
            for service in model.services.values_mut() {
                service.plugins.retain(|p| *p != plugin);
            }
        }
        Command::Server { key, value } => server(model, &key, &value)?,
        Command::MimeSet(extension, mime) => {
            model.mime.set(&extension, &mime);
            return Ok(vec![format!("{extension} set to {mime}.")]);
        }
        Command::MimeRemove(extension) => {
            if !model.mime.remove(&extension) {
                return Err(Error::new(format!("{extension} not a defined extension.")));
            }
            return Ok(vec![format!("{extension} removed.")]);
        }
        Command::Verbose(on) => context.verbose = on,
        Command::Vhost {
            selector,
            host,
            service,
        } => vhost(model, context, selector, &host, service)?,
        Command::Vpath {
            selector,
            pattern,
            service: target,
        } => {
            require(model, Plugin::Vpaths, "vpath")?;
            let pattern = regex::bytes::Regex::new(&pattern)
                .map_err(|_| Error::new(format!("Invalid regular expression: '{pattern}'")))?;
            selector_of(model, context, selector)?.vpaths.push(Vpath {
                pattern: Arc::new(pattern),
                service: target,
            });
        }
        Command::Access(access) => set_access(model, context, &access)?,
        Command::Redirect { host, target } => {
            require(model, Plugin::Redirect, "redirect")?;
            current_service(model, context)?
                .redirects
                .insert(&host, target);
        }
        Command::ReloadConfig
        | Command::List(_)
        | Command::Shutdown
        | Command::ShutdownGraceful(_)
        | Command::Quit
        | Command::Include(_)
        | Command::Explain { .. } => {
            return Err(Error::new("command not available here"));
        }
    }
    Ok(Vec::new())
}

fn service<'a>(model: &'a mut Model, name: &str) -> Option<&'a mut ServiceModel> {
    model.services.get_mut(name)
}

fn require(model: &Model, plugin: Plugin, verb: &str) -> Result<(), Error> {
    // COMPAT(perlbal): a plugin's command does not exist before LOAD.
    if model.loaded.contains(&plugin) {
        Ok(())
    } else {
        Err(Error::new(format!("unknown command: {verb}")))
    }
}

fn create(model: &mut Model, context: &mut Context, thing: Thing, name: &str) -> Result<(), Error> {
    let as_service = || Error::new(format!("service '{name}' already exists"));
    let as_pool = || Error::new(format!("pool '{name}' already exists"));
    match thing {
        Thing::Service if model.services.contains_key(name) => return Err(as_service()),
        Thing::Service if model.pools.contains_key(name) => return Err(as_pool()),
        Thing::Pool if model.pools.contains_key(name) => return Err(as_pool()),
        Thing::Pool if model.services.contains_key(name) => return Err(as_service()),
        Thing::Service => drop(
            model
                .services
                .insert(name.to_owned(), ServiceModel::default()),
        ),
        Thing::Pool => drop(model.pools.insert(name.to_owned(), PoolModel::default())),
    }
    context.current = Some(name.to_owned());
    Ok(())
}

fn switch(model: &mut Model, name: &str, on: bool) -> Result<(), Error> {
    let service = service(model, name)
        .ok_or_else(|| Error::new(format!("service '{name}' does not exist")))?;
    if service.enabled == on {
        return Err(Error::new(format!(
            "service {name} is already {}",
            if on { "enabled" } else { "disabled" }
        )));
    }
    if !on && service.role == Some(Role::Management) {
        return Err(Error::new("can't disable management service"));
    }
    if on && service.role.is_none() {
        return Err(Error::new(format!(
            "Can't start service '{name}': no role set"
        )));
    }
    service.enabled = on;
    Ok(())
}

fn pool_of<'a>(
    model: &'a mut Model,
    context: &Context,
    name: Option<String>,
) -> Result<&'a mut PoolModel, Error> {
    let name = match name {
        Some(name) => name,
        None => context.current()?.to_owned(),
    };
    model
        .pools
        .get_mut(&name)
        .ok_or_else(|| Error::new(format!("Pool '{name}' not found")))
}

/// Canonical `address:port` of a node: port 80 by default, `unix:/path`, host names as they are.
pub(super) fn node_address(text: &str) -> Option<String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return path.starts_with('/').then(|| text.to_owned());
    }
    if !ibex_perlbal_proto::head::is_host(text.as_bytes())
        || text.is_empty()
        || text.starts_with(':')
    {
        return None;
    }
    let has_port = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').is_some_and(|(_, port)| port.len() > 1),
        None => text.contains(':'),
    };
    Some(if has_port {
        text.to_owned()
    } else {
        format!("{text}:80")
    })
}

fn parse_node(text: &str) -> Result<NodeSpec, Error> {
    let mut words = text.split(' ');
    let address = words
        .next()
        .and_then(node_address)
        .ok_or_else(|| Error::new("Invalid syntax to 'pool' command"))?;
    let mut node = NodeSpec::new(&address);
    for word in words {
        let bad = || Error::new(format!("Unknown node attribute '{word}'"));
        let number = |text: &str| tunable::parse_int(text).ok_or_else(bad);
        match word.split_once('=') {
            None if word.eq_ignore_ascii_case("backup") => node.is_backup = true,
            Some(("weight", value)) => {
                node.weight = u32::try_from(number(value)?).map_err(|_| bad())?
            }
            Some(("max", value)) => {
                node.connections_max = usize::try_from(number(value)?).map_err(|_| bad())?
            }
            _ => return Err(bad()),
        }
    }
    Ok(node)
}

fn set(
    model: &mut Model,
    context: &Context,
    target: Option<String>,
    key: &str,
    value: &str,
) -> Result<Vec<String>, Error> {
    let is_known = |name: &str| model.services.contains_key(name) || model.pools.contains_key(name);
    // `SET highpri.uri_pattern` means the current service's plugin when there is no service of that name.
    let (name, key) = match target {
        Some(name)
            if !is_known(&name)
                && context.current.is_some()
                && (name == "extra" || Plugin::parse(&name).is_some()) =>
        {
            (context.current()?.to_owned(), format!("{name}.{key}"))
        }
        Some(name) => (name, key.to_owned()),
        None => (context.current()?.to_owned(), key.to_owned()),
    };
    if model.services.contains_key(&name) {
        return set_service(model, &name, &key, value);
    }
    match model.pools.get_mut(&name) {
        Some(pool) => set_pool(pool, &key, value).map(|()| Vec::new()),
        None => Err(Error::new(format!("service/pool '{name}' does not exist"))),
    }
}

fn set_pool(pool: &mut PoolModel, key: &str, value: &str) -> Result<(), Error> {
    match key {
        "nodefile" if matches!(value, "none" | "undef" | "null" | "\"\"" | "''") => {
            pool.nodefile = None
        }
        "nodefile" => {
            pool.mark = FileMark::of(value);
            pool.nodes = read_nodefile(value).map_err(|_| Error::new("File not found"))?;
            pool.nodefile = Some(value.to_owned());
        }
        "balance_method" => {
            pool.balance =
                Balance::parse(value).ok_or_else(|| Error::new("Unknown balance method"))?
        }
        _ => return Err(Error::new(format!("Unknown pool parameter '{key}'"))),
    }
    Ok(())
}

fn set_service(
    model: &mut Model,
    name: &str,
    key: &str,
    value: &str,
) -> Result<Vec<String>, Error> {
    if let Some((plugin, setting)) = key.split_once('.') {
        return set_plugin(model, name, plugin, setting, value).map(|()| Vec::new());
    }
    match key {
        "plugins" => return set_plugins(model, name, value),
        "role" => return set_role(model, name, value).map(|()| Vec::new()),
        "nodefile" | "balance_method" => return implicit_pool(model, name, key, value),
        _ => {}
    }
    let tunable = tunable::find(key)
        .ok_or_else(|| Error::new(format!("Unknown service parameter '{key}'")))?;
    check_scope(model, name, tunable)?;
    let checked = tunable::check(tunable, value).map_err(Error)?;
    check_world(model, name, tunable, &checked)?;
    let values = &mut model
        .services
        .get_mut(name)
        .ok_or_else(|| Error::new("Unknown service"))?
        .values;
    if tunable.name == "persist_client_timeout" {
        values.insert("persist_client_idle_timeout", checked.clone());
        values.insert("idle_timeout", checked);
    } else {
        values.insert(tunable.name, checked);
    }
    Ok(Vec::new())
}

fn check_scope(model: &Model, name: &str, tunable: &Tunable) -> Result<(), Error> {
    let role = model.services.get(name).and_then(|s| s.role);
    match tunable.scope {
        Scope::Only(wanted) if role != Some(wanted) => Err(Error::new(format!(
            "The '{}' option can only be set on a '{}' service",
            tunable.name,
            wanted.name()
        ))),
        Scope::Only(_) | Scope::Any => Ok(()),
    }
}

/// Checks that need to look at the world or at other parts of the model.
fn check_world(
    model: &Model,
    service: &str,
    tunable: &Tunable,
    value: &Value,
) -> Result<(), Error> {
    let text = match value {
        Value::Text(text) => text.as_str(),
        Value::Bool(_) | Value::Number(_) | Value::Millis(_) => "",
    };
    let is = |kind: Kind| tunable.kind == kind;
    if is(Kind::Pool) && !model.pools.contains_key(text) {
        return Err(Error::new(format!("Pool '{text}' not found")));
    }
    if is(Kind::Directory) && !Path::new(text).is_dir() {
        return Err(Error::new(match tunable.name {
            "docroot" => format!("Directory not found for service {service}"),
            other => format!("Directory '{text}' not found for '{other}'"),
        }));
    }
    if is(Kind::Directories)
        && let Some(missing) = text
            .split(',')
            .map(str::trim)
            .find(|d| !Path::new(d).is_dir())
    {
        return Err(Error::new(format!(
            "Directory '{missing}' not found for '{}'",
            tunable.name
        )));
    }
    if tunable.name == "enable_ssl" && *value == Value::Bool(true) {
        return Err(Error::new(
            "enable_ssl is not supported yet: terminate TLS in front",
        ));
    }
    if tunable.name == "server_process" && !text.is_empty() {
        return Err(Error::new("server_process is not supported"));
    }
    Ok(())
}

fn set_role(model: &mut Model, name: &str, value: &str) -> Result<(), Error> {
    let bad = || Error::new(format!("Role not valid for service {name}"));
    let role = Role::parse(value).ok_or_else(bad)?;
    if role == Role::UploadTracker
        || (role == Role::Echo && !model.loaded.contains(&Plugin::EchoService))
    {
        return Err(bad());
    }
    let service = model.services.get_mut(name).ok_or_else(bad)?;
    service.role = Some(role);
    // Values another role had keep only what every role knows.
    service.values.retain(|key, _| {
        tunable::find(key).is_some_and(|t| t.scope == Scope::Any || t.scope == Scope::Only(role))
    });
    let defaults: Vec<(String, String)> = model
        .defaults
        .iter()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    for (key, value) in defaults {
        let applies = tunable::find(&key)
            .is_some_and(|t| t.scope == Scope::Any || t.scope == Scope::Only(role));
        let unset = tunable::find(&key).is_some_and(|t| {
            !model
                .services
                .get(name)
                .is_some_and(|s| s.values.contains_key(t.name))
        });
        if applies && unset {
            set_service(model, name, &key, &value)?;
        }
    }
    Ok(())
}

fn implicit_pool(
    model: &mut Model,
    name: &str,
    key: &str,
    value: &str,
) -> Result<Vec<String>, Error> {
    // COMPAT(perlbal): pool settings on a service make the pool NAME_pool (Service.pm); obsolete since 1.0.
    let pool_name = match model.services.get(name).and_then(|s| s.text("pool")) {
        Some(pool) => pool.to_owned(),
        None => {
            let pool_name = format!("{name}_pool");
            model.pools.entry(pool_name.clone()).or_default();
            set_service(model, name, "pool", &pool_name)?;
            pool_name
        }
    };
    let pool = model
        .pools
        .get_mut(&pool_name)
        .ok_or_else(|| Error::new(format!("Pool '{pool_name}' not found")))?;
    set_pool(pool, key, value).map(|()| Vec::new())
}

fn set_plugin(
    model: &mut Model,
    name: &str,
    plugin: &str,
    setting: &str,
    value: &str,
) -> Result<(), Error> {
    let unknown = || Error::new(format!("Unknown service parameter '{plugin}.{setting}'"));
    let service = model.services.get_mut(name).ok_or_else(unknown)?;
    if plugin == "extra" {
        service.extra.insert(setting.to_owned(), value.to_owned());
        return Ok(());
    }
    let known = Plugin::parse(plugin)
        .filter(|p| p.settings().contains(&setting))
        .ok_or_else(unknown)?;
    let is_pattern = setting.ends_with("pattern");
    if is_pattern
        && !matches!(value, "undef" | "none" | "null")
        && regex::bytes::Regex::new(value).is_err()
    {
        return Err(Error::new(format!("Invalid regular expression: '{value}'")));
    }
    service.plugin_settings.insert(
        format!("{}.{setting}", known.name().to_ascii_lowercase()),
        value.to_owned(),
    );
    Ok(())
}

fn set_plugins(model: &mut Model, name: &str, value: &str) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    let mut plugins = Vec::new();
    for word in value
        .split([',', ' '])
        .filter(|w| !w.is_empty() && !w.eq_ignore_ascii_case("none"))
    {
        match Plugin::parse(word).filter(|p| model.loaded.contains(p)) {
            Some(plugin) => plugins.push(plugin),
            None => lines.push(format!(
                "ERROR: Plugin {} not loaded; not registered for {name}.",
                word.to_ascii_lowercase()
            )),
        }
    }
    model
        .services
        .get_mut(name)
        .ok_or_else(|| Error::new("Unknown service"))?
        .plugins = plugins;
    Ok(lines)
}

fn selector_of<'a>(
    model: &'a mut Model,
    context: &Context,
    name: Option<String>,
) -> Result<&'a mut ServiceModel, Error> {
    let name = match name {
        Some(name) => name,
        None => context.current()?.to_owned(),
    };
    let service = model
        .services
        .get_mut(&name)
        .filter(|s| s.role == Some(Role::Selector));
    service.ok_or_else(|| Error::new(format!("Service '{name}' is not a selector service")))
}

fn vhost(
    model: &mut Model,
    context: &Context,
    selector: Option<String>,
    host: &str,
    service: Option<String>,
) -> Result<(), Error> {
    require(model, Plugin::Vhosts, "vhost")?;
    let selector = selector_of(model, context, selector)?;
    match service {
        Some(service) => selector.vhosts.insert(host, service),
        None if selector.vhosts.remove(host) => {}
        None => return Err(Error::new(format!("vhost '{host}' is not defined"))),
    }
    Ok(())
}

fn current_service<'a>(
    model: &'a mut Model,
    context: &Context,
) -> Result<&'a mut ServiceModel, Error> {
    let missing = || {
        Error::new("No service name in context from CREATE SERVICE <name> or USE <service_name>")
    };
    let name = context.current.as_deref().ok_or_else(missing)?;
    model.services.get_mut(name).ok_or_else(missing)
}

fn set_access(model: &mut Model, context: &Context, access: &Access) -> Result<(), Error> {
    require(model, Plugin::AccessControl, "access")?;
    let service = current_service(model, context)?;
    match access {
        Access::Policy { allow } => service.denies_by_default = !*allow,
        Access::Reset => {
            service.access.clear();
            service.denies_by_default = false;
        }
        Access::Rule { verb, network } => service.access.push((*verb, *network)),
    }
    Ok(())
}

fn server(model: &mut Model, key: &str, value: &str) -> Result<(), Error> {
    let numeric = || {
        tunable::parse_int(value)
            .map(drop)
            .ok_or_else(|| Error::new("Expected numeric parameter"))
    };
    match key {
        "max_connections" | "nice_level" | "aio_threads" | "max_reproxy_connections" => numeric()?,
        _ if key.starts_with("max_reproxy_connections(") && key.ends_with(')') => numeric()?,
        "aio_mode" => match value.to_ascii_lowercase().as_str() {
            "none" | "ioaio" => {}
            "linux" => return Err(Error::new("Linux::AIO no longer supported, sorry")),
            _ => return Err(Error::new("Unknown AIO mode.  Must be one of: none, ioaio")),
        },
        "track_obj" | "crash_backtrace" => {
            tunable::parse_bool(value).ok_or_else(|| Error::new("Expecting boolean value"))?;
        }
        "pidfile" => {}
        // COMPAT(perlbal): the text names the value, not the option (Perlbal.pm, MANAGE_server).
        _ => return Err(Error::new(format!("unknown server option '{value}'"))),
    }
    model.server.insert(key.to_owned(), value.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ibex_perlbal_proto::command::{self, NoEnvironment};

    /// Runs lines; the answers of the last one.
    fn run(lines: &[&str]) -> Result<(Model, Vec<String>), String> {
        let (mut model, mut context) = (Model::default(), Context::for_file());
        let mut last = Vec::new();
        for line in lines {
            let text = command::prepare(line, &NoEnvironment)
                .map_err(|e| e.0)?
                .ok_or("empty")?;
            last = command::parse(&text)
                .and_then(|c| apply(&mut model, &mut context, c))
                .map_err(|e| e.0)?;
        }
        Ok((model, last))
    }

    fn error(lines: &[&str]) -> String {
        run(lines).expect_err("an error")
    }

    #[test]
    fn a_proxy() {
        let (model, _) = run(&[
            "CREATE POOL p",
            "POOL ADD 10.0.0.1:8080",
            "POOL p ADD 10.0.0.2 weight=3 max=4 backup",
            "CREATE SERVICE s",
            "SET role = reverse_proxy",
            "SET pool = p",
            "SET persist_backend = on",
            "ENABLE s",
        ])
        .unwrap();
        let pool = &model.pools["p"];
        assert_eq!(*pool.nodes[0].address, *"10.0.0.1:8080");
        assert_eq!(
            (
                &*pool.nodes[1].address,
                pool.nodes[1].weight,
                pool.nodes[1].connections_max,
                pool.nodes[1].is_backup
            ),
            ("10.0.0.2:80", 3, 4, true)
        );
        assert!(
            model.services["s"].enabled
                && model.services["s"].values["persist_backend"] == Value::Bool(true)
        );
    }

    #[test]
    fn error_texts() {
        for (lines, expected) in [
            (
                &["CREATE SERVICE a", "CREATE POOL a"][..],
                "service 'a' already exists",
            ),
            (
                &["SET role = selector"],
                "omitted service/pool name not implied from context",
            ),
            (
                &["SET x.role = selector"],
                "service/pool 'x' does not exist",
            ),
            (&["USE x"], "Non-existent pool or service 'x'"),
            (
                &["CREATE SERVICE a", "SET role = nonsense"],
                "Role not valid for service a",
            ),
            (
                &["CREATE SERVICE a", "SET role = web_server", "SET pool = p"],
                "The 'pool' option can only be set on a 'reverse_proxy' service",
            ),
            (
                &["CREATE SERVICE a", "SET role = web_server", "SET frob = p"],
                "Unknown service parameter 'frob'",
            ),
            (
                &[
                    "CREATE SERVICE a",
                    "SET role = reverse_proxy",
                    "SET pool = p",
                ],
                "Pool 'p' not found",
            ),
            (
                &[
                    "CREATE SERVICE a",
                    "SET role = web_server",
                    "SET docroot = /does/not/exist",
                ],
                "Directory not found for service a",
            ),
            (&["POOL x ADD 1.2.3.4"], "Pool 'x' not found"),
            (&["ENABLE x"], "service 'x' does not exist"),
            (
                &[
                    "CREATE SERVICE a",
                    "SET role = selector",
                    "ENABLE a",
                    "ENABLE a",
                ],
                "service a is already enabled",
            ),
            (
                &[
                    "CREATE SERVICE a",
                    "SET role = management",
                    "ENABLE a",
                    "DISABLE a",
                ],
                "can't disable management service",
            ),
            (
                &["CREATE POOL p", "SET balance_method = magic"],
                "Unknown balance method",
            ),
            (
                &["CREATE POOL p", "SET nodefile = /does/not/exist"],
                "File not found",
            ),
            (&["VHOST a = b"], "unknown command: vhost"),
            (
                &[
                    "LOAD vhosts",
                    "CREATE SERVICE a",
                    "SET role = web_server",
                    "VHOST a b = c",
                ],
                "Service 'a' is not a selector service",
            ),
            (&["SERVER frob = 1"], "unknown server option '1'"),
            (
                &["SERVER max_connections = x"],
                "Expected numeric parameter",
            ),
            (
                &["LOAD accesscontrol", "ACCESS POLICY DENY"],
                "No service name in context from CREATE SERVICE <name> or USE <service_name>",
            ),
        ] {
            assert_eq!(error(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn defaults_apply_to_roles_set_later() {
        let (model, _) = run(&[
            "CREATE SERVICE early",
            "SET role = web_server",
            "DEFAULT persist_client = on",
            "CREATE SERVICE late",
            "SET role = web_server",
        ])
        .unwrap();
        assert!(
            !model.services["early"]
                .values
                .contains_key("persist_client")
        );
        assert_eq!(
            model.services["late"].values["persist_client"],
            Value::Bool(true)
        );
    }

    #[test]
    fn plugins_that_are_not_loaded() {
        let (model, lines) = run(&[
            "LOAD Vhosts",
            "CREATE SERVICE s",
            "SET role = selector",
            "SET plugins = vhosts, queues",
        ])
        .unwrap();
        assert_eq!(
            lines,
            ["ERROR: Plugin queues not loaded; not registered for s."]
        );
        assert_eq!(model.services["s"].plugins, [Plugin::Vhosts]);
        let (model, _) = run(&[
            "LOAD highpri",
            "CREATE SERVICE s",
            "SET role = reverse_proxy",
            "SET plugins = highpri",
            "SET s.Highpri.uri_pattern = ^/x",
            "SET highpri.host_pattern = none",
        ])
        .unwrap();
        assert_eq!(model.services["s"].plugin_settings.len(), 2);
    }

    #[test]
    fn implicit_pools() {
        let (model, _) = run(&[
            "CREATE SERVICE s",
            "SET role = reverse_proxy",
            "SET balance_method = random",
        ])
        .unwrap();
        assert_eq!(model.services["s"].text("pool"), Some("s_pool"));
    }
}
