//! `--healthcheck`: the daemon's own program as the client of its admin port.
//!
//! Owns one short HTTP/1.1 request with std only, because container images have neither shell nor curl.

use std::io::{Read, Write};
use std::time::Duration;

use crate::config::common::AdminConfig;
use crate::config::types::{ListenAddr, OptionalAddr};

/// The whole question must be answered within this; a prober asks again anyway.
const TIME_MAX: Duration = Duration::from_secs(3);
/// The answer is a few lines.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Asks `/readyz`; whether it is ready, and what to print.
pub(crate) fn ask(config: &AdminConfig) -> (bool, String) {
    let OptionalAddr::At(addr) = &config.listen else {
        return (
            false,
            "admin port is off (admin.listen = \"none\")\n".to_owned(),
        );
    };
    match exchange(addr) {
        Ok(answer) => {
            let ready = answer
                .lines()
                .next()
                .is_some_and(|line| line.split(' ').nth(1) == Some("200"));
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            (
                ready,
                if body.is_empty() {
                    "no answer\n".to_owned()
                } else {
                    body.to_owned()
                },
            )
        }
        Err(error) => (false, format!("admin port {addr}: {error}\n")),
    }
}

fn exchange(addr: &ListenAddr) -> std::io::Result<String> {
    match addr {
        ListenAddr::Tcp { host, port } => {
            let host = host
                .as_deref()
                .filter(|host| !matches!(*host, "0.0.0.0" | "::"))
                .unwrap_or("127.0.0.1");
            let stream = std::net::TcpStream::connect((host, *port))?;
            stream.set_read_timeout(Some(TIME_MAX))?;
            stream.set_write_timeout(Some(TIME_MAX))?;
            talk(stream)
        }
        ListenAddr::Unix(path) => {
            let stream = std::os::unix::net::UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIME_MAX))?;
            stream.set_write_timeout(Some(TIME_MAX))?;
            talk(stream)
        }
        ListenAddr::Fd(name) => Err(std::io::Error::other(format!(
            "fd:{name} cannot be asked; give --admin ADDR"
        ))),
    }
}

fn talk(mut stream: impl Read + Write) -> std::io::Result<String> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
