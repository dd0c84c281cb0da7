//! Requests and answers over kept connections.
//!
//! Apart because a connection that was kept may be closed at any moment: what was not sent is sent again on a new one, what was sent is never
//! repeated.

use crate::error::Error;
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use tokio::net::TcpStream;

/// Bytes of an answer: one job of the largest argument in all its forms.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// Connections kept; more are opened when needed and closed after.
const IDLE_MAX: usize = 64;

type Sender = SendRequest<Full<Bytes>>;

pub(super) struct Connections {
    authority: String,
    authorization: Option<HeaderValue>,
    idle: Mutex<Vec<Sender>>,
}

impl Connections {
    pub(super) fn new(url: &str, token: &str) -> Result<Self, Error> {
        let authority = url
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'))
            .filter(|rest| {
                !rest.is_empty() && !rest.contains('/') && HeaderValue::from_str(rest).is_ok()
            });
        let Some(authority) = authority else {
            return Err(Error::Config(
                "a daemon's address is http://HOST:PORT".to_owned(),
            ));
        };
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authorization = match token {
            "" => None,
            token => {
                let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| Error::Config("the token cannot be sent".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            authority: if has_port {
                authority.to_owned()
            } else {
                format!("{authority}:7373")
            },
            authorization,
            idle: Mutex::default(),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.authority
    }

    /// One request and its answer: status and body, which is null when it is no JSON.
    pub(super) async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value), Error> {
        let mut request = self.request(method, path, body)?;
        loop {
            let kept = self.kept();
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            match sender.try_send_request(request).await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
                    let body = body.await.map_err(Error::unanswered)?.to_bytes();
                    self.keep(sender);
                    return Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    Some(_) | None => return Err(Error::unanswered(error.into_error())),
                },
            }
        }
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.authorization {
            request = request.header(header::AUTHORIZATION, token);
        }
        let body = body.map(ToString::to_string).unwrap_or_default();
        request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Error::Invalid(error.to_string()))
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push(sender);
        }
    }

    async fn connect(&self) -> Result<Sender, Error> {
        let stream = TcpStream::connect(&self.authority)
            .await
            .map_err(Error::unanswered)?;
        stream.set_nodelay(true).map_err(Error::unanswered)?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(Error::unanswered)?;
        // Ends when the sender is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "connection to the daemon ended");
            }
        });
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let address = |url: &str| {
            Connections::new(url, "")
                .ok()
                .map(|connections| connections.address().to_owned())
        };
        assert_eq!(
            address("http://127.0.0.1:1/").as_deref(),
            Some("127.0.0.1:1")
        );
        assert_eq!(address("http://jobs").as_deref(), Some("jobs:7373"));
        assert_eq!(address("http://[::1]:80").as_deref(), Some("[::1]:80"));
        for none in [
            "",
            "127.0.0.1:1",
            "https://jobs",
            "http://",
            "http://jobs/v1",
            "http://a\nb",
        ] {
            assert_eq!(address(none), None, "{none}");
        }
        assert!(Connections::new("http://jobs", "a\nb").is_err());
    }
}
