//! The reverse proxy: a request in, a backend's answer out.
//!
//! Owns the order of events of spec part A6: body, priority, queue, exchange, retries, reproxying, response. Apart from
//! `backend` and `pump`, which move bytes. It keeps no state between requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ibex_perlbal_core::dispatcher::{Class, Refused};
use ibex_perlbal_core::retry::{Broken, Schedule, may_retry};
use ibex_perlbal_proto::forward::{
    ClientBody, HeaderChange, RequestPolicy, Trust, client_body, end_to_end, request_head,
    response_head, wanted_upgrade,
};
use ibex_perlbal_proto::framing::{self, BodyReader, RequestBody, ResponseBody, Step};
use ibex_perlbal_proto::head::{Response, Version};
use ibex_perlbal_proto::path::percent_decode;
use ibex_perlbal_proto::reproxy;

use crate::backend::{Answer, Exchange, Failure, exchange};
use crate::client::{Client, Cut, Reply, Turn};
use crate::model::{BackendVersion, Plugin, Settings};
use crate::pump::{Flow, Reuse, pump};
use crate::registry::State;
use crate::reproxy as reproxied;
use crate::route::{Done, is_trusted, reason_or};
use crate::service::{Service, count};
use crate::tunnel;
use crate::upload::{self, Upload};
use crate::upstream::Lease;

/// Body of a reproxying response that is read so that its connection can be used again.
const DROPPED_BODY_MAX: u64 = 64 * 1024;
/// And for this long.
const DROPPED_BODY_TIME: Duration = Duration::from_secs(2);

/// Serves one request.
pub(crate) async fn serve(
    client: &mut Client,
    turn: &mut Turn,
    service: &Arc<Service>,
    settings: &Arc<Settings>,
) -> Result<Done, Cut> {
    if let Some(reply) = refuse_body(turn, settings) {
        turn.keep = false;
        client.reply(turn, reply).await?;
        return Ok(Done::Answered);
    }
    if settings.proxy.reproxy
        && turn.request.is_read()
        && turn.body == RequestBody::None
        && let Some(hit) = service.reproxy_cache.get(turn, settings)
    {
        return reproxied::serve_cached(client, turn, service, settings, hit).await;
    }
    let upload = match upload::prepare(client, turn, &service.name, settings).await {
        Ok(upload) => upload,
        Err(error) => {
            client.reply_body_error(turn, error).await?;
            return Ok(Done::Answered);
        }
    };
    count(&service.counters.proxy_requests);
    let class = classify(turn, settings);
    if class == Class::High {
        count(&service.counters.proxy_requests_highpri);
    }
    let upgrade = wanted_upgrade(&turn.request, &settings.proxy.upgrades).map(str::to_owned);
    let mut attempt = Attempt {
        upgrade,
        service,
        settings,
        upload,
        class,
        retries: 0,
        errors: Schedule::new(settings.proxy.retry_schedule.clone().unwrap_or_default()),
    };
    let done = attempt.run(client, turn).await;
    client.info.set_backend(None);
    done
}

/// Bodies that are refused before anything is read.
fn refuse_body(turn: &Turn, settings: &Settings) -> Option<Reply> {
    let RequestBody::Length(n) = turn.body else {
        return None;
    };
    let limit = settings.body_max;
    if limit > 0 && n > limit {
        return Some(Reply::small(413, "Request body too large"));
    }
    let plugin = settings.proxy.content_length_max;
    (plugin > 0 && n > plugin).then(|| Reply::small(413, "Content too long."))
}

/// Priority of a request (spec part A6.2).
fn classify(turn: &Turn, settings: &Settings) -> Class {
    let by_cookie = settings
        .proxy
        .priority_cookie
        .as_ref()
        .is_some_and(|(name, contents)| {
            let cookies = turn
                .request
                .fields
                .all("Cookie")
                .flat_map(|v| v.split(|b| *b == b';'));
            cookies
                .filter_map(split_cookie)
                .any(|(n, v)| n == name.as_bytes() && contains(&v, contents.as_bytes()))
        });
    let by_uri = settings
        .highpri_uri
        .as_ref()
        .is_some_and(|p| p.is_match(&turn.request.target));
    let by_host = settings
        .highpri_host
        .as_ref()
        .is_some_and(|p| turn.request.host().is_some_and(|h| p.is_match(h)));
    match (by_cookie || by_uri || by_host, turn.is_low) {
        (true, _) => Class::High,
        (false, true) => Class::Low,
        (false, false) => Class::Normal,
    }
}

fn split_cookie(pair: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let at = pair.iter().position(|b| *b == b'=')?;
    let name = ibex_perlbal_proto::head::trim_blanks(&pair[..at]);
    Some((percent_decode(name), percent_decode(&pair[at + 1..])))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|w| w == part)
}

/// What one round came to.
enum Round {
    Done(Done),
    Again(Duration),
}

/// A request and its tries.
struct Attempt<'a> {
    service: &'a Arc<Service>,
    settings: &'a Arc<Settings>,
    upload: Upload,
    class: Class,
    retries: u32,
    errors: Schedule,
    upgrade: Option<String>,
}

impl Attempt<'_> {
    async fn run(&mut self, client: &mut Client, turn: &mut Turn) -> Result<Done, Cut> {
        loop {
            match self.round(client, turn).await? {
                Round::Done(done) => return Ok(done),
                Round::Again(delay) => {
                    client.balancer.metrics.retried(&self.service.name);
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    async fn round(&mut self, client: &mut Client, turn: &mut Turn) -> Result<Round, Cut> {
        client.info.set_state(State::WaitBackend);
        let watches = !self.settings.proxy.finishes_for_gone_clients;
        let asked = Instant::now();
        let answer = tokio::select! {
            biased;
            answer = self.service.upstream.ask(self.class) => answer,
            () = client.gone(), if watches && !matches!(self.upload, Upload::Stream { .. }) => return Err(Cut),
        };
        client
            .balancer
            .metrics
            .waited(&self.service.name, asked.elapsed());
        match answer {
            Ok(lease) => self.over(client, turn, lease).await,
            Err(refused) => {
                let reply = match refused {
                    Refused::QueueFull => Reply::small(503, "Too many requests are waiting"),
                    Refused::TimedOut | Refused::Unreachable => Reply::small(503, ""),
                };
                self.fail(client, turn, reply.with("Retry-After", "1"))
                    .await
            }
        }
    }

    async fn fail(
        &mut self,
        client: &mut Client,
        turn: &mut Turn,
        reply: Reply,
    ) -> Result<Round, Cut> {
        if matches!(self.upload, Upload::Stream { .. }) {
            turn.keep = false;
        }
        client.reply(turn, reply).await?;
        Ok(Round::Done(Done::Answered))
    }

    /// The exchange over one connection.
    async fn over(
        &mut self,
        client: &mut Client,
        turn: &mut Turn,
        mut lease: Lease,
    ) -> Result<Round, Cut> {
        let (node, uses) = (Arc::clone(&lease.node), lease.uses);
        client.info.set_backend(Some(Arc::clone(&node)));
        let version = match self.settings.proxy.version {
            BackendVersion::V10 => Version::V10,
            BackendVersion::V11 => Version::V11,
        };
        let out_body = self.upload.out_body(version == Version::V11);
        let head = self.request_head(client, turn, out_body, version);
        let terms = Exchange {
            head: &head,
            out_body,
            limits: self.settings.response_limits,
            patience: self.settings.proxy.backend_timeout,
            watches_client: !self.settings.proxy.finishes_for_gone_clients,
            may_switch: self.upgrade.is_some(),
        };
        let sent = Instant::now();
        match exchange(client, turn, lease.wire(), &self.upload, &terms).await {
            Ok(answer) => {
                client
                    .balancer
                    .book
                    .responded(&node, answer.response.status);
                client
                    .balancer
                    .metrics
                    .answered(&self.service.name, sent.elapsed());
                self.pass_on(client, turn, lease, answer).await
            }
            Err(Failure::ClientGone) => Err(Cut),
            Err(Failure::Body(error)) => {
                drop(lease);
                client.reply_body_error(turn, error).await?;
                Ok(Round::Done(Done::Answered))
            }
            Err(Failure::Slow) => {
                drop(lease);
                self.fail(client, turn, Reply::small(504, "")).await
            }
            Err(Failure::Broken { silent }) => {
                drop(lease);
                let broken = Broken {
                    was_reused: uses > 0 && silent,
                    is_idempotent: turn.request.is_idempotent(),
                    is_replayable: self.upload.is_replayable() && self.upgrade.is_none(),
                    retries: self.retries,
                };
                if may_retry(broken, self.settings.proxy.retries_max) {
                    self.retries += 1;
                    return Ok(Round::Again(Duration::ZERO));
                }
                self.fail(client, turn, Reply::small(502, "")).await
            }
        }
    }

    fn request_head(
        &self,
        client: &Client,
        turn: &Turn,
        body: ibex_perlbal_proto::forward::OutBody,
        version: Version,
    ) -> BytesMut {
        let proxy = &self.settings.proxy;
        let trust = match (is_trusted(client, self.settings), proxy.blind) {
            (false, _) => Trust::Untrusted,
            (true, false) => Trust::Trusted,
            (true, true) => Trust::Blind,
        };
        let changes: Vec<HeaderChange> = turn
            .changes
            .iter()
            .chain(&self.settings.changes)
            .cloned()
            .collect();
        let extra = self.extra_fields(client, turn, trust);
        let peer = client.ip.to_string();
        request_head(
            &turn.request,
            &RequestPolicy {
                persist: proxy.persist,
                reproxy: proxy.reproxy,
                trust,
                peer: &peer,
                body,
                version,
                default_host: &self.service.name,
                underscores: proxy.underscores,
                extra: &extra,
                changes: &changes,
                upgrade: self.upgrade.as_deref(),
            },
        )
    }

    fn extra_fields(
        &self,
        client: &Client,
        turn: &Turn,
        trust: Trust,
    ) -> Vec<(&'static str, String)> {
        let proxy = &self.settings.proxy;
        let mut extra = Vec::new();
        if proxy.request_ids && !turn.request.fields.has("X-Request-Id") {
            extra.push(("X-Request-Id", client.balancer.request_id()));
        }
        if trust != Trust::Blind && proxy.sends_port {
            extra.push(("X-Forwarded-Port", client.info.local_port.to_string()));
        }
        if trust != Trust::Blind && proxy.sends_proto {
            extra.push(("X-Forwarded-Proto", "http".to_owned()));
        }
        if self.settings.model.has(Plugin::Queues) {
            let queue = |class| {
                self.service
                    .upstream
                    .look(|core, now| core.queue(class, now))
            };
            let ((normal, normal_age), (high, high_age)) =
                (queue(Class::Normal), queue(Class::High));
            extra.push(("X-Queue-Count", normal.to_string()));
            extra.push(("X-Queue-Age", normal_age.as_secs().to_string()));
            extra.push(("X-HP-Queue-Count", high.to_string()));
            extra.push(("X-HP-Queue-Age", high_age.as_secs().to_string()));
        }
        if let Some(reason) = self
            .upload
            .reason()
            .filter(|_| client.balancer.shows_upload_reasons)
        {
            extra.push(("X-PERLBAL-BUFFERED-UPLOAD-REASON", reason.text().to_owned()));
        }
        extra
    }

    /// Makes something of a response head.
    async fn pass_on(
        &mut self,
        client: &mut Client,
        turn: &mut Turn,
        lease: Lease,
        answer: Answer,
    ) -> Result<Round, Cut> {
        let Answer { response, is_early } = answer;
        if response.status == 101 {
            tunnel::run(client, turn, lease, &response, self.settings).await?;
            return Ok(Round::Done(Done::Answered));
        }
        if self.service.settings.load().model.has(Plugin::Stats) {
            let url = client.info.url().unwrap_or_default();
            self.service.remember(format!(
                "{} {:<6.4} {url}",
                self.service.name,
                turn.started.elapsed().as_secs_f64()
            ));
        }
        if response.status == 500
            && self.settings.proxy.retry_schedule.is_some()
            && turn.request.is_read()
            && self.upload.is_replayable()
            && let Some(delay) = self.errors.next_delay()
        {
            drop(lease);
            return Ok(Round::Again(delay));
        }
        let framed = framing::response_body(&response, turn.request.is_head());
        let Ok((body, keeps)) = framed else {
            drop(lease);
            return self.fail(client, turn, Reply::small(502, "")).await;
        };
        let reuse = if keeps && !is_early && self.settings.proxy.persist {
            Reuse::Until(expiry(&response))
        } else {
            Reuse::No
        };
        if is_early {
            turn.keep = false;
        }
        if self.settings.proxy.reproxy
            && !is_early
            && let Some(instruction) = reproxy::instruction(&response.fields)
        {
            finish_elsewhere(lease, body, reuse);
            let done = reproxied::serve(
                client,
                turn,
                self.service,
                self.settings,
                instruction,
                &response,
            )
            .await?;
            return Ok(Round::Done(done));
        }
        deliver(
            client,
            turn,
            lease,
            &response,
            Delivery {
                body,
                reuse,
                buffer_max: self.settings.proxy.buffer,
                patience: self.settings.proxy.backend_timeout,
            },
        )
        .await?;
        Ok(Round::Done(Done::Answered))
    }
}

struct Delivery {
    body: ResponseBody,
    reuse: Reuse,
    buffer_max: usize,
    patience: Duration,
}

/// Passes a response on as it is.
async fn deliver(
    client: &mut Client,
    turn: &mut Turn,
    lease: Lease,
    response: &Response,
    how: Delivery,
) -> Result<(), Cut> {
    let fields = end_to_end(response);
    let body = client_body(how.body, turn.request.version);
    let described = response
        .fields
        .first("Content-Length")
        .filter(|_| body == ClientBody::None && response.status != 204);
    turn.status = response.status;
    let policy = client.policy(turn, body);
    let head = response_head(
        response.status,
        &reason_or(response.status, &response.reason),
        &fields,
        described,
        &policy,
    );
    client.info.set_state(State::XferRes);
    let flow = Flow {
        head,
        reader: BodyReader::for_response(how.body, how_many_trailer_bytes()),
        body,
        reuse: how.reuse,
        buffer_max: how.buffer_max,
        patience: how.patience,
    };
    pump(client, turn, lease, flow).await
}

/// Trailers of a backend are read and dropped up to this size.
pub(crate) const fn how_many_trailer_bytes() -> usize {
    16 * 1024
}

/// When the backend closes the connection, if it said so.
pub(crate) fn expiry(response: &Response) -> Option<Instant> {
    let value = response.fields.first("Keep-Alive")?;
    let timeout =
        ibex_perlbal_proto::head::list(value).find_map(|p| p.strip_prefix(b"timeout="))?;
    let secs = ibex_base::ascii::parse_u64(timeout)?;
    Instant::now().checked_add(Duration::from_secs(secs.min(86_400)))
}

/// Reads the rest of a response nobody wants, so that its connection can go back, without keeping the client waiting.
fn finish_elsewhere(mut lease: Lease, body: ResponseBody, reuse: Reuse) {
    let Reuse::Until(expires) = reuse else { return };
    if matches!(body, ResponseBody::Length(n) if n > DROPPED_BODY_MAX) {
        return;
    }
    let mut reader = BodyReader::for_response(body, how_many_trailer_bytes());
    if matches!(reader.next(&mut lease.wire().buffer), Ok(Step::End))
        && lease.wire().buffer.is_empty()
    {
        return lease.give_back(expires);
    }
    tokio::spawn(async move {
        let mut dropped = 0;
        let all = async {
            while dropped <= DROPPED_BODY_MAX {
                match reader.next(&mut lease.wire().buffer) {
                    Ok(Step::Data(data)) => dropped += data.len() as u64,
                    Ok(Step::End) => return lease.wire().buffer.is_empty(),
                    Ok(Step::Need) if matches!(lease.wire().fill().await, Ok(n) if n > 0) => {}
                    _ => return false,
                }
            }
            false
        };
        if tokio::time::timeout(DROPPED_BODY_TIME, all).await == Ok(true) {
            lease.give_back(expires);
        }
    });
}
