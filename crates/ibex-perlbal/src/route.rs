//! From an accepted request to the role that answers it.
//!
//! Owns the hooks of the plugins, the choices of selectors (spec part A10), and the hand-over between services. Apart from
//! the roles so that a chain of selectors is a loop here and not a web of calls. It writes small refusals only.

use std::pin::Pin;
use std::sync::Arc;

use ibex_perlbal_proto::command::AccessVerb;
use ibex_perlbal_proto::head::Request;
use ibex_perlbal_proto::netmask::observed_address;
use ibex_perlbal_proto::reply::reason;
use ibex_perlbal_proto::tunable::Role;

use crate::client::{Client, Cut, Reply, Turn};
use crate::model::{Plugin, Settings};
use crate::service::Service;
use crate::{proxy, web};

/// Services one request may pass through; more is a circle.
const HOPS_MAX: usize = 10;

/// What a role did with a request.
pub(crate) enum Done {
    /// Answered, or the connection is cut.
    Answered,
    /// Another service shall answer.
    HandOver(String),
}

/// Answers a request through a service. Boxed, since a response may name another service.
pub(crate) fn dispatch<'a>(
    client: &'a mut Client,
    turn: &'a mut Turn,
    service: Arc<Service>,
) -> Pin<Box<dyn Future<Output = Result<(), Cut>> + Send + 'a>> {
    Box::pin(run(client, turn, service))
}

async fn run(client: &mut Client, turn: &mut Turn, first: Arc<Service>) -> Result<(), Cut> {
    let mut service = first;
    for _ in 0..HOPS_MAX {
        let settings = service.settings.load_full();
        if let Some(reply) = hooks(client, turn, &settings) {
            return client.reply(turn, reply).await;
        }
        let done = match settings.role {
            Some(Role::ReverseProxy) => proxy::serve(client, turn, &service, &settings).await?,
            Some(Role::WebServer) => web::serve(client, turn, &service, &settings).await?,
            Some(Role::Selector) => select(client, turn, &service, &settings).await?,
            other @ (Some(Role::Management | Role::UploadTracker | Role::Echo) | None) => {
                let text = format!(
                    "Can't map to service type {}",
                    other.map_or("none", Role::name)
                );
                client.reply(turn, Reply::small(500, &text)).await?;
                Done::Answered
            }
        };
        match done {
            Done::Answered => return Ok(()),
            Done::HandOver(name) => {
                let found = client.balancer.state.load().services.get(&name).cloned();
                let Some(next) = found else {
                    return client.reply(turn, Reply::small(404, "")).await;
                };
                service = next;
            }
        }
    }
    client
        .reply(turn, Reply::small(500, "Too many services in a row"))
        .await
}

/// `start_http_request` hooks: what plugins answer before a role is asked.
fn hooks(client: &Client, turn: &mut Turn, settings: &Settings) -> Option<Reply> {
    for plugin in &settings.model.plugins {
        let reply = match plugin {
            Plugin::AccessControl => access(client, turn, settings),
            Plugin::Redirect => redirect(turn, settings),
            Plugin::NotModified => not_modified(turn, settings),
            Plugin::AutoRemoveLeadingDir => {
                remove_leading_dir(turn, settings);
                None
            }
            Plugin::EchoService
            | Plugin::Highpri
            | Plugin::Include
            | Plugin::LazyCdn
            | Plugin::MaxContentLength
            | Plugin::Queues
            | Plugin::Stats
            | Plugin::Vhosts
            | Plugin::Vpaths
            | Plugin::XffExtras => None,
        };
        if reply.is_some() {
            return reply;
        }
    }
    None
}

/// True when forwarding fields of this client are believed.
pub(crate) fn is_trusted(client: &Client, settings: &Settings) -> bool {
    settings.always_trusted || settings.trusted.iter().any(|m| m.contains(client.ip))
}

fn access(client: &Client, turn: &mut Turn, settings: &Settings) -> Option<Reply> {
    let observes = settings
        .model
        .plugin_settings
        .get("accesscontrol.use_observed_ip")
        .is_some_and(|v| v == "1");
    let address = if observes {
        let forwarded = turn
            .request
            .fields
            .first("X-Forwarded-For")
            .cloned()
            .unwrap_or_default();
        observed_address(
            client.ip,
            is_trusted(client, settings),
            &forwarded,
            &settings.trusted,
        )
    } else {
        client.ip
    };
    let rule = settings
        .model
        .access
        .iter()
        .find(|(_, network)| network.contains(address))
        .map(|(verb, _)| *verb);
    let denied = match rule {
        Some(AccessVerb::Allow) => false,
        Some(AccessVerb::Deny) => true,
        Some(AccessVerb::QueueLow) => {
            turn.is_low = true;
            false
        }
        None => settings.model.denies_by_default,
    };
    denied.then(|| Reply::small(403, "Access denied."))
}

fn redirect(turn: &Turn, settings: &Settings) -> Option<Reply> {
    let target = settings
        .model
        .redirects
        .find(turn.request.host().map(|h| &h[..]))?;
    let location = format!(
        "http://{target}{}",
        String::from_utf8_lossy(&turn.request.target)
    );
    Some(Reply::small(301, "").with("Location", location))
}

fn not_modified(turn: &Turn, settings: &Settings) -> Option<Reply> {
    let pattern = settings.notmodified_host.as_ref()?;
    let matches = turn.request.fields.has("If-Modified-Since")
        && turn.request.host().is_some_and(|h| pattern.is_match(h));
    matches.then(|| Reply {
        status: 304,
        ..Reply::default()
    })
}

fn remove_leading_dir(turn: &mut Turn, settings: &Settings) {
    let name = settings
        .web
        .docroot
        .as_ref()
        .and_then(|d| d.file_name())
        .map(|n| format!("/{}", n.to_string_lossy()));
    if let Some(rest) = name.and_then(|n| {
        turn.request
            .target
            .strip_prefix(n.as_bytes())
            .map(<[u8]>::to_vec)
    }) && rest.first() == Some(&b'/')
    {
        turn.request.target = rest.into();
    }
}

async fn select(
    client: &mut Client,
    turn: &mut Turn,
    service: &Service,
    settings: &Settings,
) -> Result<Done, Cut> {
    if !settings.latency.is_zero() {
        tokio::time::sleep(settings.latency).await;
    }
    turn.changes.extend(settings.changes.iter().cloned());
    let choice = choose(turn, settings);
    let chosen = match choice {
        Choice::Service(name) => Some(name),
        Choice::Twiddled { service, host } => {
            turn.request.fields.set("Host", host);
            Some(service)
        }
        Choice::Refused(_) | Choice::Undecided => settings.default_service.clone(),
    };
    if let Some(name) = chosen {
        let exists = client.balancer.state.load().services.contains_key(&name);
        if exists && name != service.name {
            return Ok(Done::HandOver(name));
        }
    }
    let reply = match choose(turn, settings) {
        Choice::Refused(text) => Reply::small(404, text),
        Choice::Undecided
            if !settings.model.has(Plugin::Vhosts) && !settings.model.has(Plugin::Vpaths) =>
        {
            Reply::small(500, "No service selector configured.")
        }
        Choice::Undecided | Choice::Service(_) | Choice::Twiddled { .. } => {
            Reply::small(404, "Not Found (no configured vhost)")
        }
    };
    client.reply(turn, reply).await?;
    Ok(Done::Answered)
}

/// What the selector plugins say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    Service(String),
    /// `/__using/ALT/…`: the service of `HOST;using:ALT`, with Host replaced.
    Twiddled {
        service: String,
        host: String,
    },
    Refused(&'static str),
    Undecided,
}

/// Asks the selector plugins in their order.
fn choose(turn: &Turn, settings: &Settings) -> Choice {
    choose_for(&turn.request, settings)
}

/// The same for a request that is not on its way.
pub(crate) fn choose_for(request: &Request, settings: &Settings) -> Choice {
    let mut last = Choice::Undecided;
    for plugin in &settings.model.plugins {
        let choice = match plugin {
            Plugin::Vhosts => by_host(request, settings),
            Plugin::Vpaths => settings
                .model
                .vpaths
                .iter()
                .find(|v| v.pattern.is_match(&request.target))
                .map_or(Choice::Undecided, |v| Choice::Service(v.service.clone())),
            Plugin::AccessControl
            | Plugin::AutoRemoveLeadingDir
            | Plugin::EchoService
            | Plugin::Highpri
            | Plugin::Include
            | Plugin::LazyCdn
            | Plugin::MaxContentLength
            | Plugin::NotModified
            | Plugin::Queues
            | Plugin::Redirect
            | Plugin::Stats
            | Plugin::XffExtras => Choice::Undecided,
        };
        match choice {
            Choice::Undecided => {}
            Choice::Refused(_) => last = choice,
            Choice::Service(_) | Choice::Twiddled { .. } => return choice,
        }
    }
    last
}

fn by_host(request: &Request, settings: &Settings) -> Choice {
    let host = request.host().map(|h| &h[..]);
    if let Some(rest) = request.target.strip_prefix(b"/__using/") {
        let alternative = rest.split(|b| *b == b'/').next().unwrap_or_default();
        let alternative = String::from_utf8_lossy(alternative).to_ascii_lowercase();
        let name = ibex_perlbal_proto::vhost::normal_host(host.unwrap_or_default());
        return match settings
            .model
            .vhosts
            .exact(&format!("{name};using:{alternative}"))
        {
            Some(service) => Choice::Twiddled {
                service: service.clone(),
                host: alternative,
            },
            None => Choice::Refused("Vhost twiddling not configured for requested pair."),
        };
    }
    match settings.model.vhosts.find(host) {
        Some(service) => Choice::Service(service.clone()),
        None => Choice::Refused("Not Found (no configured vhost)"),
    }
}

/// Reason phrase for a status passed on without one.
pub(crate) fn reason_or(status: u16, given: &[u8]) -> Vec<u8> {
    if given.is_empty() {
        reason(status).as_bytes().to_vec()
    } else {
        given.to_vec()
    }
}
