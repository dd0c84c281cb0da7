//! What the management port shows, in the original's layouts.
//!
//! Owns every listing of spec part A12. Apart from `manage` because these are many small formats and nothing else. It
//! changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ibex_perlbal_core::dispatcher::Class;
use ibex_perlbal_proto::command::{Error, Listing, verbs};
use ibex_perlbal_proto::tunable::Role;

use crate::balancer::Balancer;
use crate::model::{Plugin, dump};
use crate::registry::ClientInfo;
use crate::route::{Choice, choose_for};
use crate::service::Service;

/// Lines of a listing, including its end.
pub(crate) fn listing(balancer: &Arc<Balancer>, what: &Listing) -> Result<Vec<String>, Error> {
    let mut out = match what {
        Listing::DumpConfig => return Ok(dump(&balancer.state.load().model)),
        Listing::Services => services(balancer),
        Listing::Service(name) => service(balancer, name)?,
        Listing::Pools => pools(balancer),
        Listing::Pool(name) => pool(balancer, name)?,
        Listing::Nodes(only) => nodes(balancer, only.as_deref()),
        Listing::States(only) => states(balancer, only.as_deref())?,
        Listing::Socks { summary: false } => socks(balancer),
        Listing::Socks { summary: true } => socks_summary(balancer),
        Listing::Queues => queues(balancer),
        Listing::Backends => backends(balancer),
        Listing::Pending => pending(balancer),
        Listing::NoVerify => noverify(balancer),
        Listing::ReproxyState => reproxy_state(balancer),
        Listing::Proc => proc(balancer),
        Listing::Uptime => uptime(balancer),
        Listing::Fd => fd(),
        Listing::Plugins => plugins(balancer),
        Listing::Patterns => patterns(balancer),
        Listing::Stats => stats(balancer),
        Listing::Recent => balancer
            .state
            .load()
            .services
            .values()
            .flat_map(|s| s.recent())
            .collect(),
        Listing::Mime => balancer
            .state
            .load()
            .model
            .mime
            .iter()
            .map(|(e, t)| format!("{e} {t}"))
            .collect(),
        Listing::Help => verbs().iter().map(|v| (*v).to_owned()).collect(),
        Listing::Metrics => vec!["metrics are at /metrics of the admin port".to_owned()],
        Listing::Nothing => Vec::new(),
    };
    out.push(".".to_owned());
    Ok(out)
}

fn proxies(balancer: &Balancer) -> Vec<Arc<Service>> {
    balancer
        .state
        .load()
        .services
        .values()
        .filter(|s| s.settings.load().role == Some(Role::ReverseProxy))
        .cloned()
        .collect()
}

fn services(balancer: &Balancer) -> Vec<String> {
    let state = balancer.state.load();
    let line = |(name, s): (&String, &crate::model::ServiceModel)| {
        let listen = s.text("listen").unwrap_or("not_listening");
        format!(
            "{name} {listen} {}",
            if s.enabled { "ENABLED" } else { "DISABLED" }
        )
    };
    state.model.services.iter().map(line).collect()
}

fn service(balancer: &Balancer, name: &str) -> Result<Vec<String>, Error> {
    let state = balancer.state.load();
    let service = state
        .services
        .get(name)
        .ok_or_else(|| Error::new("Unknown service"))?;
    let settings = service.settings.load();
    let mut out = vec![format!("SERVICE {name}")];
    out.push(format!(
        "     listening: {}",
        settings.model.text("listen").unwrap_or("--")
    ));
    out.push(format!(
        "          role: {}",
        settings.role.map_or("--", Role::name)
    ));
    match settings.role {
        Some(Role::ReverseProxy) => show_proxy(balancer, service, &mut out),
        Some(Role::WebServer) => {
            out.push(format!("  pend clients: {}", 0));
            let docroot = settings
                .web
                .docroot
                .as_ref()
                .map(|d| d.display().to_string())
                .unwrap_or_default();
            out.push(format!("        docroot: {docroot}"));
        }
        Some(Role::Selector | Role::Management | Role::UploadTracker | Role::Echo) | None => {}
    }
    Ok(out)
}

fn show_proxy(balancer: &Balancer, service: &Service, out: &mut Vec<String>) {
    let settings = service.settings.load();
    let (waiting, pending, idle) = service
        .upstream
        .look(|core, now| (core.waiting(), core.pending(now), core.idle_count()));
    out.push(format!("  pend clients: {waiting}"));
    out.push(format!("  pend backend: {}", pending.len()));
    for p in &pending {
        let state = if p.is_verifying {
            "verifying_backend"
        } else {
            "connecting"
        };
        out.push(format!("   {} - {state} - {}s", p.node, p.age.as_secs()));
    }
    if settings.proxy.reproxy_cache > 0 {
        let (entries, limit) = (service.reproxy_cache.len(), settings.proxy.reproxy_cache);
        let (hits, lookups) = (
            service.reproxy_cache.hits.load(Ordering::Relaxed),
            service.reproxy_cache.lookups.load(Ordering::Relaxed),
        );
        out.push(format!(
            "    cache size: {entries}/{limit} ({}%)",
            percent(entries as u64, limit as u64)
        ));
        out.push(format!("    cache hits: {hits}"));
        out.push(format!("cache hit rate: {}%", percent(hits, lookups)));
    }
    out.push(format!(
        " connect-ahead: {idle}/{}",
        settings.proxy.dispatcher.connect_ahead
    ));
    out.push(format!(
        "          pool: {}",
        settings.proxy.pool.as_deref().unwrap_or("")
    ));
    out.push("         nodes:".to_owned());
    let state = balancer.state.load();
    let pool = settings
        .proxy
        .pool
        .as_ref()
        .and_then(|p| state.model.pools.get(p));
    for node in pool.iter().flat_map(|p| &p.nodes) {
        let requests = balancer.book.requests(&node.address);
        out.push(format!("{:16}{:<21} {requests:7}", "", node.address));
    }
}

/// `part` of `whole` in percent with two digits.
fn percent(part: u64, whole: u64) -> String {
    let hundredths = part.saturating_mul(10_000).checked_div(whole).unwrap_or(0);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn pools(balancer: &Balancer) -> Vec<String> {
    let state = balancer.state.load();
    let mut out = Vec::new();
    for (name, pool) in &state.model.pools {
        let users = state
            .model
            .services
            .values()
            .filter(|s| s.text("pool") == Some(name))
            .count();
        out.push(format!("{name} nodes {}", pool.nodes.len()));
        out.push(format!("{name} services {users}"));
    }
    out
}

fn pool(balancer: &Balancer, name: &str) -> Result<Vec<String>, Error> {
    let state = balancer.state.load();
    let pool = state
        .model
        .pools
        .get(name)
        .ok_or_else(|| Error::new(format!("pool '{name}' does not exist")))?;
    Ok(pool
        .nodes
        .iter()
        .map(|n| format!("{} {}", n.address, balancer.book.requests(&n.address)))
        .collect())
}

fn nodes(balancer: &Balancer, only: Option<&str>) -> Vec<String> {
    let only = only.map(|o| {
        if o.contains(':') {
            o.to_owned()
        } else {
            format!("{o}:80")
        }
    });
    let mut verifies: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    for service in proxies(balancer) {
        for (address, counters) in service.upstream.look(|core, _| core.nodes()) {
            *verifies.entry(address).or_default() += counters.verifies;
        }
    }
    let mut out = Vec::new();
    for (address, facts) in balancer.book.all() {
        if only.as_ref().is_some_and(|o| *o != *address) {
            continue;
        }
        let verified = verifies.get(&address).copied().unwrap_or(0);
        let numbers = [
            ("lastresponse", facts.last_response),
            ("requests", facts.requests),
            ("connects", facts.connects),
            ("lastconnect", facts.last_connect),
            ("attempts", facts.attempts),
            ("lastattempt", facts.last_attempt),
            ("verifies", verified),
        ];
        out.extend(
            facts
                .codes()
                .iter()
                .map(|(code, n)| format!("{address} responsecodes {code} {n}")),
        );
        out.extend(
            numbers
                .iter()
                .map(|(key, n)| format!("{address} {key} {n}")),
        );
    }
    out
}

/// Class of a connection of a service, as the original names its objects.
fn class_of(balancer: &Balancer, info: &ClientInfo) -> &'static str {
    let state = balancer.state.load();
    match state
        .services
        .get(&info.service)
        .and_then(|s| s.settings.load().role)
    {
        Some(Role::ReverseProxy) => "ClientProxy",
        Some(Role::WebServer) => "ClientHTTP",
        _ => "ClientHTTPBase",
    }
}

fn states(balancer: &Balancer, only: Option<&str>) -> Result<Vec<String>, Error> {
    if only.is_some_and(|o| !balancer.state.load().services.contains_key(o)) {
        return Err(Error::new("Service not found."));
    }
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for info in balancer.clients.all() {
        if only.is_none_or(|o| o == info.service) {
            *counts
                .entry((class_of(balancer, &info), info.state()))
                .or_default() += 1;
        }
    }
    for service in proxies(balancer) {
        if only.is_none_or(|o| o == service.name) {
            let (pending, idle, all) = service
                .upstream
                .look(|core, now| (core.pending(now), core.idle_count(), core.conn_count()));
            let verifying = pending.iter().filter(|p| p.is_verifying).count();
            let by_state = [
                ("connecting", pending.len() - verifying),
                ("verifying_backend", verifying),
                ("bored", idle),
                ("xfer_res", all - idle - pending.len()),
            ];
            for (state, n) in by_state.into_iter().filter(|(_, n)| *n > 0) {
                *counts.entry(("BackendHTTP", state)).or_default() += n;
            }
        }
    }
    Ok(counts
        .iter()
        .map(|((class, state), n)| format!("Perlbal::{class} {state} {n}"))
        .collect())
}

fn socks(balancer: &Balancer) -> Vec<String> {
    let mut lines: Vec<(i32, String)> = Vec::new();
    for info in balancer.clients.all() {
        let requests = info.requests.load(Ordering::Relaxed);
        let mut text = format!(
            "{:5} {:5}s Perlbal::{}(R): open to {}: localport={}; reqs={requests}; {}",
            info.fd,
            info.opened.elapsed().as_secs(),
            class_of(balancer, &info),
            info.peer,
            info.local_port,
            info.state()
        );
        if let Some(url) = info.url() {
            text.push_str("; ");
            text.push_str(&url);
        }
        if let Some(node) = info.backend() {
            text.push_str(&format!("; backend={node}"));
        }
        lines.push((info.fd, text));
    }
    lines.sort();
    let mut out = vec!["   fd    age".to_owned()];
    out.extend(lines.into_iter().map(|(_, text)| text));
    for (address, service) in balancer.listeners() {
        out.push(format!("{:5} {:5}s Perlbal::TCPListener(R): open: listening on {address} for service '{service}'", "-", balancer.started.elapsed().as_secs()));
    }
    out
}

fn socks_summary(balancer: &Balancer) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for info in balancer.clients.all() {
        *counts.entry(class_of(balancer, &info)).or_default() += 1;
    }
    let backends: usize = proxies(balancer)
        .iter()
        .map(|s| s.upstream.look(|core, _| core.conn_count()))
        .sum();
    counts.insert("BackendHTTP", backends);
    counts.insert("TCPListener", balancer.listeners().len());
    let mut out: Vec<String> = counts
        .iter()
        .map(|(class, n)| format!("{n:5} Perlbal::{class}"))
        .collect();
    out.push(String::new());
    out.push("Aggregate write buffer: 0.0k".to_owned());
    out.push(format!("            Open files: {}", open_files()));
    out
}

fn queues(balancer: &Balancer) -> Vec<String> {
    let mut out = Vec::new();
    for service in proxies(balancer) {
        for (class, name) in [
            (Class::Normal, "normal"),
            (Class::High, "highpri"),
            (Class::Low, "lowpri"),
        ] {
            let (count, age) = service.upstream.look(|core, now| core.queue(class, now));
            out.push(format!("{}-{name}.age {}", service.name, age.as_secs()));
            out.push(format!("{}-{name}.count {count}", service.name));
        }
    }
    out
}

fn backends(balancer: &Balancer) -> Vec<String> {
    let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for service in proxies(balancer) {
        for (address, counters) in service.upstream.look(|core, _| core.nodes()) {
            *counts.entry(address).or_default() += counters.busy + counters.idle;
        }
    }
    counts
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(a, n)| format!("{a} {n}"))
        .collect()
}

fn pending(balancer: &Balancer) -> Vec<String> {
    let of = |s: &Arc<Service>| {
        s.upstream
            .look(|core, now| core.pending(now))
            .into_iter()
            .map(|p| format!("{} {} {}", s.name, p.node, p.age.as_secs()))
            .collect::<Vec<_>>()
    };
    proxies(balancer).iter().flat_map(of).collect()
}

fn noverify(balancer: &Balancer) -> Vec<String> {
    let of = |s: &Arc<Service>| {
        s.upstream
            .look(|core, now| core.noverify(now))
            .into_iter()
            .map(|(a, left)| format!("{a} {}", left.as_secs()))
            .collect::<Vec<_>>()
    };
    proxies(balancer).iter().flat_map(of).collect()
}

fn reproxy_state(balancer: &Balancer) -> Vec<String> {
    let mut out = Vec::new();
    for (address, [connecting, idle, waiting, all]) in balancer.targets.overview() {
        for (name, n) in [
            ("connecting", connecting),
            ("bored", idle),
            ("clients_queued", waiting),
            ("backends", all),
        ] {
            if n > 0 {
                out.push(format!("{name} {address} {n}"));
            }
        }
    }
    let state = balancer.state.load();
    let limit = state
        .model
        .server
        .get("max_reproxy_connections")
        .map_or("0", String::as_str);
    out.push(format!("SERVER max_reproxy_connections = {limit}"));
    out
}

fn proc(balancer: &Balancer) -> Vec<String> {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    // Clock ticks are 100 a second on every Linux this runs on.
    let seconds = |index: usize| {
        fields
            .get(index)
            .and_then(|t| t.parse::<u64>().ok())
            .map_or_else(
                || "0.00".to_owned(),
                |t| format!("{}.{:02}", t / 100, t % 100),
            )
    };
    let requests: u64 = balancer
        .clients
        .all()
        .iter()
        .map(|c| c.requests.load(Ordering::Relaxed))
        .sum();
    vec![
        format!("time: {}", crate::clock::unix_secs()),
        format!("pid: {}", std::process::id()),
        format!("utime: {}", seconds(11)),
        format!("stime: {}", seconds(12)),
        format!("reqs: {requests}"),
    ]
}

fn uptime(balancer: &Balancer) -> Vec<String> {
    vec![
        format!("starttime {}", balancer.started_unix),
        format!("uptime {}", balancer.started.elapsed().as_secs()),
        format!("version {}", env!("CARGO_PKG_VERSION")),
    ]
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn fd() -> Vec<String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(0);
    vec![format!("max {limit}"), format!("cur {}", open_files())]
}

fn plugins(balancer: &Balancer) -> Vec<String> {
    let state = balancer.state.load();
    let with = state
        .model
        .services
        .iter()
        .filter(|(_, s)| !s.plugins.is_empty());
    with.map(|(name, s)| {
        format!(
            "{name} {}",
            s.plugins
                .iter()
                .map(|p| p.name())
                .collect::<Vec<_>>()
                .join(" ")
        )
    })
    .collect()
}

fn patterns(balancer: &Balancer) -> Vec<String> {
    let state = balancer.state.load();
    let mut out = vec!["High priority pattern buffer:".to_owned()];
    for (name, service) in state
        .services
        .iter()
        .filter(|(_, s)| s.settings.load().model.has(Plugin::Highpri))
    {
        let settings = service.settings.load();
        for (key, pattern) in [
            ("uri_pattern", &settings.highpri_uri),
            ("host_pattern", &settings.highpri_host),
        ] {
            if let Some(pattern) = pattern {
                out.push(format!("SET {name}.highpri.{key} = {}", pattern.as_str()));
            }
        }
    }
    out
}

fn stats(balancer: &Balancer) -> Vec<String> {
    let state = balancer.state.load();
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    let mut out = Vec::new();
    for (name, service) in state
        .services
        .iter()
        .filter(|(_, s)| s.settings.load().model.has(Plugin::Stats))
    {
        let c = &service.counters;
        for (key, counter) in [
            ("files_reproxied", &c.files_reproxied),
            ("files_sent", &c.files_sent),
            ("proxy_requests", &c.proxy_requests),
            ("proxy_requests_highpri", &c.proxy_requests_highpri),
            ("web_requests", &c.web_requests),
        ] {
            let n = counter.load(Ordering::Relaxed);
            *totals.entry(key).or_default() += n;
            out.push(format!("{name:<15} {key:<25} {n:>12}"));
        }
    }
    out.extend(
        totals
            .iter()
            .map(|(key, n)| format!("{:<15} {key:<25} {n:>12}", "total")),
    );
    out
}

/// Which services a request would meet.
pub(crate) fn explain(
    balancer: &Balancer,
    host: &str,
    method: &str,
    target: &str,
) -> Result<Vec<String>, Error> {
    let state = balancer.state.load();
    let text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut buffer = bytes::BytesMut::from(text.as_bytes());
    let parsed = ibex_perlbal_proto::head::RequestParser::default()
        .parse(&mut buffer, &ibex_perlbal_proto::head::Limits::default());
    let request = parsed
        .map_err(|r| Error::new(r.to_string()))?
        .ok_or_else(|| Error::new("no request"))?;
    let mut out = Vec::new();
    for (name, service) in state
        .services
        .iter()
        .filter(|(_, s)| s.settings.load().role == Some(Role::Selector))
    {
        let settings = service.settings.load();
        let choice = match choose_for(&request, &settings) {
            Choice::Service(target) => target,
            Choice::Twiddled { service, host } => format!("{service} (Host: {host})"),
            Choice::Refused(_) | Choice::Undecided => settings
                .default_service
                .clone()
                .unwrap_or_else(|| "404".to_owned()),
        };
        let pool = state
            .model
            .services
            .get(&choice)
            .and_then(|s| s.text("pool"))
            .map(|p| format!(" pool {p}"))
            .unwrap_or_default();
        out.push(format!("{name} -> {choice}{pool}"));
    }
    out.push(".".to_owned());
    Ok(out)
}

/// The same facts for programs.
pub(crate) fn status(balancer: &Balancer) -> serde_json::Value {
    let state = balancer.state.load();
    let services: serde_json::Map<String, serde_json::Value> = state
        .services
        .iter()
        .map(|(name, s)| {
            let settings = s.settings.load();
            let (waiting, idle, conns) = s.upstream.look(|core, _| (core.waiting(), core.idle_count(), core.conn_count()));
            let value = serde_json::json!({
                "role": settings.role.map(Role::name), "enabled": settings.model.enabled, "listen": settings.model.text("listen"),
                "clients": s.client_count(), "waiting": waiting, "backend_connections": conns, "backend_idle": idle,
            });
            (name.clone(), value)
        })
        .collect();
    serde_json::json!({ "uptime_seconds": balancer.started.elapsed().as_secs(), "services": services })
}
