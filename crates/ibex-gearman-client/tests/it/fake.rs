//! A job server by script: reads requests as readable text, sends the responses it is told to.

use bytes::BytesMut;
use ibex_base::escape::Escaped;
use ibex_gearman_proto::{Decoder, Incoming, Response, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Fake {
    listener: TcpListener,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    pub(crate) async fn accept(&self) -> Peer {
        Peer {
            stream: self.listener.accept().await.unwrap().0,
            unread: BytesMut::new(),
        }
    }
}

pub(crate) struct Peer {
    stream: TcpStream,
    unread: BytesMut,
}

impl Peer {
    /// The next request: its name and its payload as text; `None` at the end of the stream.
    pub(crate) async fn request(&mut self) -> Option<String> {
        loop {
            if let Step::Frame { message, consumed } =
                Decoder::default().parse(&self.unread).unwrap()
            {
                let Incoming::Request(request) = message else {
                    panic!("{message:?}")
                };
                let debug = format!("{request:?}");
                let name = debug.split([' ', '(']).next().unwrap();
                let text = format!("{name} {}", Escaped(&self.unread[12..consumed]));
                self.unread.split_to(consumed).clear();
                return Some(text);
            }
            if self.stream.read_buf(&mut self.unread).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Reads requests until one contains `what`.
    pub(crate) async fn expect(&mut self, what: &str) -> String {
        loop {
            let request = self
                .request()
                .await
                .unwrap_or_else(|| panic!("stream ended before {what}"));
            if request.contains(what) {
                return request;
            }
        }
    }

    pub(crate) async fn send(&mut self, response: Response<&[u8]>) {
        let mut wire = Vec::new();
        response.encode(&mut wire);
        self.stream.write_all(&wire).await.unwrap();
    }
}
