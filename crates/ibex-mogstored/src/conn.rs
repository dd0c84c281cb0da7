//! One HTTP connection: hyper's loop with our limits. Owns timeouts and the end at shutdown; requests are [`crate::handler`]'s.

use crate::handler::Handler;
use crate::stall::Stalling;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ibex_kit::{Kit, Stream};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

/// Longest request head in bytes; paths are short and clients send few headers.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Serves a connection until either side has enough, or the daemon stops.
pub(crate) async fn serve(handler: Arc<Handler>, kit: Kit, stream: Stream) {
    let config = handler.live.config();
    let stream = Stalling::new(stream, config.idle_timeout.std());
    let service = service_fn(|request| {
        let handler = Arc::clone(&handler);
        let busy = kit.busy();
        async move {
            let response = handler.answer(request).await;
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout.std())
        .max_buf_size(HEAD_BYTES_MAX)
        .pipeline_flush(true)
        // COMPAT(mogstored): readers written against the original match `Content-Length:` as it stands.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let (draining, cut) = (kit.draining(), kit.cut());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = cut.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
