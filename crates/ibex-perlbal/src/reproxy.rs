//! X-REPROXY: the application has answered that something else shall answer.
//!
//! Owns serving files, URLs and services on a backend's word, and the memory of such words (spec part A8). Apart from the
//! proxy because the backend that gave the instruction is free by now. URLs are fetched by the proxy itself, never by the
//! client.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ibex_perlbal_core::dispatcher::Class;
use ibex_perlbal_proto::forward::{ClientBody, client_body, end_to_end, response_head};
use ibex_perlbal_proto::framing::{self, BodyReader};
use ibex_perlbal_proto::head::{Fields, Response};
use ibex_perlbal_proto::reproxy::{
    CacheFor, Reproxy, Source, Url, cache_key, client_status, is_accepted, without_instructions,
};

use crate::backend::Heads;
use crate::client::{Client, Cut, Reply, Turn};
use crate::files::{self, FileReply, Found};
use crate::model::Settings;
use crate::proxy::{expiry, how_many_trailer_bytes};
use crate::pump::{Flow, Reuse, pump};
use crate::registry::State;
use crate::route::{Done, reason_or};
use crate::service::{Service, count};
use crate::upstream::Lease;

/// A target that does not connect or answer within this time is passed over.
const TARGET_TIMEOUT: Duration = Duration::from_secs(5);

/// The application's part of the response.
struct Envelope {
    status: u16,
    reason: Vec<u8>,
    fields: Fields,
}

impl Envelope {
    fn of(response: &Response) -> Self {
        let status = client_status(response.status);
        let reason = if status == response.status {
            response.reason.to_vec()
        } else {
            Vec::new()
        };
        Self {
            status,
            reason: reason_or(status, &reason),
            fields: without_instructions(&end_to_end(response)),
        }
    }
}

/// Obeys an instruction.
pub(crate) async fn serve(
    client: &mut Client,
    turn: &mut Turn,
    service: &Arc<Service>,
    settings: &Settings,
    instruction: Reproxy,
    response: &Response,
) -> Result<Done, Cut> {
    client.balancer.metrics.reproxied(&service.name);
    match instruction.source {
        Source::Service(name) => Ok(Done::HandOver(name)),
        Source::File(path) => {
            count(&service.counters.files_reproxied);
            serve_file(
                client,
                turn,
                settings,
                &path,
                instruction.expected_size,
                Envelope::of(response),
            )
            .await?;
            Ok(Done::Answered)
        }
        Source::Urls(urls) => {
            let envelope = Envelope::of(response);
            if let Some(cache) = &instruction.cache {
                service
                    .reproxy_cache
                    .put(turn, settings, cache, &urls, &envelope.fields);
            }
            let order = Order {
                urls,
                expected_size: instruction.expected_size,
            };
            serve_urls(client, turn, service, settings, order, envelope).await?;
            Ok(Done::Answered)
        }
    }
}

/// Answers from a remembered instruction, without asking a backend.
pub(crate) async fn serve_cached(
    client: &mut Client,
    turn: &mut Turn,
    service: &Arc<Service>,
    settings: &Settings,
    hit: Hit,
) -> Result<Done, Cut> {
    // COMPAT(perlbal): compared as a string, with Internet Explorer's length cut off (ClientProxy.pm, start_reproxy_uri).
    let since = turn
        .request
        .fields
        .first("If-Modified-Since")
        .and_then(|v| v.split(|b| *b == b';').next());
    let unchanged = since.is_some() && since == hit.fields.first("Last-Modified").map(|v| &v[..]);
    if unchanged {
        client
            .reply(
                turn,
                Reply {
                    status: 304,
                    ..Reply::default()
                },
            )
            .await?;
        return Ok(Done::Answered);
    }
    let mut fields = Fields::default();
    fields.push(&b"Date"[..], crate::clock::date());
    for field in hit.fields.iter() {
        fields.push(field.name.clone(), field.value.clone());
    }
    let envelope = Envelope {
        status: 200,
        reason: b"OK".to_vec(),
        fields,
    };
    serve_urls(
        client,
        turn,
        service,
        settings,
        Order {
            urls: hit.urls,
            expected_size: hit.expected_size,
        },
        envelope,
    )
    .await?;
    Ok(Done::Answered)
}

async fn serve_file(
    client: &mut Client,
    turn: &mut Turn,
    settings: &Settings,
    path: &Bytes,
    expected: Option<u64>,
    envelope: Envelope,
) -> Result<(), Cut> {
    client.info.set_state(State::WaitOpen);
    let path = path_of(path);
    let found = match allowed_root(&path, &settings.proxy.reproxy_roots) {
        Some(root) => files::open(&path, root.as_deref()).ok(),
        None => None,
    };
    let opened = match found {
        Some(Found::File(opened)) if expected.is_none_or(|n| n == opened.size) => opened,
        _ => return client.reply(turn, Reply::small(404, "")).await,
    };
    let given = envelope
        .fields
        .first("Content-Type")
        .map(|v| String::from_utf8_lossy(v).into_owned());
    let content_type = given.unwrap_or_else(|| {
        client
            .balancer
            .state
            .load()
            .model
            .mime
            .of(path.as_os_str().as_encoded_bytes())
            .to_owned()
    });
    let mut fields = envelope.fields;
    files::add_validators(&mut fields, &opened);
    let reply = FileReply {
        opened,
        status: envelope.status,
        reason: envelope.reason,
        fields,
        content_type,
        max_ranges: settings.max_ranges,
    };
    files::serve(client, turn, reply).await
}

fn path_of(bytes: &Bytes) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// The root a path has to stay beneath: `None` when it is in none of the allowed ones, `Some(None)` when all is allowed.
fn allowed_root(path: &Path, roots: &[PathBuf]) -> Option<Option<PathBuf>> {
    if !path.is_absolute() {
        return None;
    }
    if roots.is_empty() {
        return Some(None);
    }
    roots
        .iter()
        .find(|r| path.starts_with(r))
        .cloned()
        .map(Some)
}

/// URLs to try.
struct Order {
    urls: Vec<Url>,
    expected_size: Option<u64>,
}

async fn serve_urls(
    client: &mut Client,
    turn: &mut Turn,
    service: &Arc<Service>,
    settings: &Settings,
    mut order: Order,
    envelope: Envelope,
) -> Result<(), Cut> {
    client.info.set_state(State::WaitRes);
    let targets = &client.balancer.targets;
    // Targets that failed lately go last; the order of the application holds otherwise.
    order
        .urls
        .sort_by_key(|u| targets.is_shunned(&address_of(u)));
    for url in &order.urls {
        let address = address_of(url);
        let tried = tokio::time::timeout(
            TARGET_TIMEOUT,
            try_url(client, turn, settings, url, &address),
        )
        .await;
        match tried {
            Ok(Some((lease, response))) if accepts(&response, &order, turn) => {
                return deliver(client, turn, settings, lease, &response, envelope).await;
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => client.balancer.targets.failed(&address),
        }
        client.balancer.metrics.failed_over(&service.name);
    }
    client.reply(turn, Reply::small(503, "")).await
}

fn address_of(url: &Url) -> String {
    if url.host.contains(':') {
        format!("[{}]:{}", url.host, url.port)
    } else {
        format!("{}:{}", url.host, url.port)
    }
}

fn accepts(response: &Response, order: &Order, turn: &Turn) -> bool {
    let length = response
        .fields
        .first("Content-Length")
        .and_then(|v| ibex_base::ascii::parse_u64(v));
    let well_framed = framing::response_body(response, turn.request.is_head()).is_ok();
    well_framed && is_accepted(response.status, length, order.expected_size)
}

/// Asks one target. A reused connection that turns out closed is replaced once.
async fn try_url(
    client: &Client,
    turn: &Turn,
    settings: &Settings,
    url: &Url,
    address: &str,
) -> Option<(Lease, Response)> {
    let upstream = client.balancer.targets.upstream(
        address,
        client.balancer.reproxy_connections_max(address),
        &client.balancer.book,
    );
    let head = request_for(turn, settings, url);
    for _ in 0..2 {
        let mut lease = upstream.ask(Class::Normal).await.ok()?;
        let was_reused = lease.uses > 0;
        let wire = lease.wire();
        let sent = wire.socket.write_all(&head, TARGET_TIMEOUT).await;
        let mut heads = Heads::new(settings.response_limits);
        match if sent.is_ok() {
            heads.next(&wire.socket, &mut wire.buffer, None).await.ok()
        } else {
            None
        } {
            Some(response) => return Some((lease, response)),
            None if was_reused => {}
            None => return None,
        }
    }
    None
}

fn request_for(turn: &Turn, settings: &Settings, url: &Url) -> BytesMut {
    let method: &[u8] = if turn.request.is_head() {
        b"HEAD"
    } else {
        b"GET"
    };
    let host = turn
        .request
        .host()
        .filter(|h| !settings.proxy.reproxy_host_of_url && !h.is_empty());
    let host = host
        .cloned()
        .unwrap_or_else(|| Bytes::from(url.authority.clone()));
    let mut out = BytesMut::with_capacity(256);
    for part in [
        method,
        b" ",
        &url.path,
        b" HTTP/1.1\r\nHost: ",
        &host,
        b"\r\nConnection: keep-alive\r\n",
    ] {
        out.extend_from_slice(part);
    }
    if turn.request.is_read() {
        for name in ["Range", "If-Range"] {
            if let Some(value) = turn.request.fields.first(name) {
                for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Fields that come from the target because they describe its body.
const TARGET_FIELDS: [&str; 2] = ["Content-Range", "Accept-Ranges"];

async fn deliver(
    client: &mut Client,
    turn: &mut Turn,
    settings: &Settings,
    lease: Lease,
    response: &Response,
    envelope: Envelope,
) -> Result<(), Cut> {
    let Ok((framed, keeps)) = framing::response_body(response, turn.request.is_head()) else {
        return Err(Cut);
    };
    let Envelope {
        mut status,
        mut reason,
        mut fields,
    } = envelope;
    if matches!(response.status, 206 | 416) {
        status = response.status;
        reason = response.reason.to_vec();
    }
    for name in TARGET_FIELDS {
        if let Some(value) = response.fields.first(name) {
            fields.set(name, value.clone());
        }
    }
    if !fields.has("Content-Type")
        && let Some(value) = response.fields.first("Content-Type")
    {
        fields.push(&b"Content-Type"[..], value.clone());
    }
    for name in ["Last-Modified", "ETag"] {
        if let Some(value) = response.fields.first(name).filter(|_| !fields.has(name)) {
            fields.push(name.as_bytes().to_vec(), value.clone());
        }
    }
    if status == 200 && turn.request.is_read() && is_current(turn, &fields) {
        // The body is not wanted: the connection to the target is given up with it.
        drop(lease);
        return not_modified(client, turn, &fields).await;
    }
    let body = client_body(framed, turn.request.version);
    let described = response
        .fields
        .first("Content-Length")
        .filter(|_| body == ClientBody::None);
    turn.status = status;
    let policy = client.policy(turn, body);
    let head = response_head(
        status,
        &reason_or(status, &reason),
        &fields,
        described,
        &policy,
    );
    client.info.set_state(State::XferRes);
    let reuse = if keeps {
        Reuse::Until(expiry(response))
    } else {
        Reuse::No
    };
    let flow = Flow {
        head,
        reader: BodyReader::for_response(framed, how_many_trailer_bytes()),
        body,
        reuse,
        buffer_max: settings.proxy.reproxy_buffer,
        patience: settings.proxy.backend_timeout,
    };
    pump(client, turn, lease, flow).await
}

/// True when the client has the very thing, by the validators it is about to be sent.
fn is_current(turn: &Turn, fields: &Fields) -> bool {
    use ibex_perlbal_proto::range::{Validators, is_not_modified};
    let modified = fields
        .first("Last-Modified")
        .and_then(|v| ibex_perlbal_proto::date::parse(v));
    let etag = fields.first("ETag").map(|v| {
        String::from_utf8_lossy(v)
            .trim_start_matches("W/")
            .to_owned()
    });
    if turn.request.fields.has("If-None-Match") {
        return etag.is_some_and(|etag| {
            is_not_modified(
                &turn.request.fields,
                &Validators {
                    etag,
                    modified: 0,
                    size: 0,
                },
            )
        });
    }
    modified.is_some_and(|modified| {
        is_not_modified(
            &turn.request.fields,
            &Validators {
                etag: String::new(),
                modified,
                size: 0,
            },
        )
    })
}

async fn not_modified(client: &mut Client, turn: &mut Turn, fields: &Fields) -> Result<(), Cut> {
    turn.status = 304;
    let policy = client.policy(turn, ClientBody::None);
    let mut kept = fields.clone();
    kept.remove("Content-Type");
    let head = response_head(304, b"Not Modified", &kept, None, &policy);
    client.wire.socket.write_all(&head, turn.entry.idle).await?;
    Ok(())
}

/// A remembered instruction.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    urls: Vec<Url>,
    fields: Fields,
    expected_size: Option<u64>,
}

struct Entry {
    hit: Hit,
    expires: Instant,
    used: u64,
}

/// Instructions remembered by X-REPROXY-CACHE-FOR, least recently used out first.
#[derive(Default)]
pub(crate) struct Cache {
    entries: Mutex<HashMap<Bytes, Entry>>,
    clock: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) lookups: AtomicU64,
}

impl Cache {
    /// The instruction for a request, if it is remembered and still fresh.
    pub(crate) fn get(&self, turn: &Turn, settings: &Settings) -> Option<Hit> {
        if settings.proxy.reproxy_cache == 0 {
            return None;
        }
        count(&self.lookups);
        let key = cache_key(turn.request.host(), &turn.request.target);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if entries.get(&key).is_some_and(|e| e.expires <= now) {
            entries.remove(&key);
        }
        let entry = entries.get_mut(&key)?;
        entry.used = self.clock.fetch_add(1, Ordering::Relaxed);
        count(&self.hits);
        Some(entry.hit.clone())
    }

    fn put(
        &self,
        turn: &Turn,
        settings: &Settings,
        cache: &CacheFor,
        urls: &[Url],
        fields: &Fields,
    ) {
        let limit = settings.proxy.reproxy_cache;
        if limit == 0 || !turn.request.is_read() {
            return;
        }
        let Some(expires) =
            Instant::now().checked_add(Duration::from_secs(cache.secs.min(365 * 86_400)))
        else {
            return;
        };
        let mut kept = Fields::default();
        for name in &cache.names {
            for value in fields.all(name) {
                kept.push(name.clone(), value.clone());
            }
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        while entries.len() >= limit {
            let oldest = entries
                .iter()
                .min_by_key(|(_, e)| e.used)
                .map(|(k, _)| k.clone());
            let Some(oldest) = oldest else { break };
            entries.remove(&oldest);
        }
        let used = self.clock.fetch_add(1, Ordering::Relaxed);
        let hit = Hit {
            urls: urls.to_vec(),
            fields: kept,
            expected_size: None,
        };
        entries.insert(
            cache_key(turn.request.host(), &turn.request.target),
            Entry { hit, expires, used },
        );
    }

    pub(crate) fn len(&self) -> usize {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Forgets everything (`SET reproxy_cache_maxsize = 0`).
    pub(crate) fn clear(&self) {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}
