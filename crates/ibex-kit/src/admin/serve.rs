//! The admin port's accept loop and connections.
//!
//! Owns the limits: connections at one time, header time, body size. Runs on the control thread's own runtime, apart from
//! the data ports, so that it answers while they are saturated.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tracing::debug;

use super::{Answer, Request, answer, text};
use crate::Kit;
use crate::listen::{AsyncListener, Listener, Stream};

/// A request's headers must arrive within this; a prober needs milliseconds. Policy: close.
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
/// A connection lives at most this long, so that idle ones cannot fill the limit for ever. Policy: close.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
/// The longest request body: a log filter. Policy: 413.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Serves the admin listener until its runtime ends.
pub(crate) async fn serve(kit: Kit, listener: Listener) {
    let listener = match listener.into_tokio() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(error = %error, "admin port cannot be served");
            return;
        }
    };
    let limit = usize::try_from(kit.common().admin.connections).unwrap_or(usize::MAX);
    accept_loop(
        kit,
        listener,
        Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
    )
    .await;
}

async fn accept_loop(kit: Kit, listener: AsyncListener, limit: Arc<Semaphore>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(error = %error, "admin accept failed");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        // Over the limit the connection is closed at once by dropping it.
        if let Ok(permit) = Arc::clone(&limit).try_acquire_owned() {
            let kit = kit.clone();
            let peer = peer.to_string();
            tokio::spawn(async move {
                connection(kit, stream, peer).await;
                drop(permit);
            });
        } else {
            debug!(%peer, "too many admin connections");
        }
    }
}

async fn connection(kit: Kit, stream: Stream, peer: String) {
    let service = service_fn(|request| {
        let (kit, peer) = (kit.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(handle(kit, request, peer).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX);
    let served = http.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME_MAX, served).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => debug!(%peer, error = %error, "admin connection ended"),
    }
}

async fn handle(kit: Kit, request: http::Request<Incoming>, peer: String) -> Answer {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return text(http::StatusCode::PAYLOAD_TOO_LARGE, "body too large\n");
    };
    let request = Request {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: body.to_bytes(),
        peer,
    };
    // Pages are daemons' code and may take a lock for a moment; a blocking thread keeps the health paths quick.
    let answered = tokio::task::spawn_blocking(move || answer(&kit, &request)).await;
    answered.unwrap_or_else(|_| text(http::StatusCode::INTERNAL_SERVER_ERROR, "the page failed\n"))
}
