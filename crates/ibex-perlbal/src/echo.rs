//! The echo role of the EchoService plugin.
//!
//! Owns lines in, the same lines out. It exists to try out connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ibex_kit::Stream;

use crate::balancer::Balancer;
use crate::service::Service;
use crate::socket::Socket;

/// Longest line that is echoed; beyond, the connection closes.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// A client that does not read its own echo for this long is closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Echoes until the client or the daemon goes.
pub(crate) async fn serve(balancer: Arc<Balancer>, service: Arc<Service>, stream: Stream) {
    let draining = balancer.kit.draining();
    tokio::select! {
        () = echo(&service, Socket::from(stream)) => {}
        () = draining.cancelled() => {}
    }
}

async fn echo(service: &Service, socket: Socket) {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line = buffer.split_to(end + 1);
            let text = line.strip_suffix(b"\r\n").unwrap_or(&line[..end]);
            tokio::time::sleep(service.settings.load().echo_delay).await;
            if socket.write_two(text, b"\r\n", PATIENCE).await.is_err() {
                return;
            }
        }
        if buffer.len() > LINE_BYTES_MAX
            || !matches!(socket.read(&mut buffer).await, Ok(n) if n > 0)
        {
            return;
        }
    }
}
