//! Where a job server listens, and the way to a byte stream from there.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use ibex_gearman_proto::DEFAULT_PORT;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::Config;
use crate::error::Error;

/// A job server: `host`, `host:port`, `[v6]:port` or `unix:/path`. The default port is 4730.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Place);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Anything a connection can run over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Address {
    /// Connects; names are resolved anew each time.
    pub(crate) async fn connect(&self, config: &Config) -> std::io::Result<Box<dyn Stream>> {
        match &self.0 {
            Place::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                #[cfg(feature = "tls")]
                if let Some(tls) = &config.tls {
                    return Ok(Box::new(tls.connect(host, stream).await?));
                }
                #[cfg(not(feature = "tls"))]
                let _plain = config;
                Ok(Box::new(stream))
            }
            Place::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "{host}:{port}"),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Config(format!("server {text:?}: {why}"));
        let text_trimmed = text.trim();
        if let Some(path) = text_trimmed.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(bad("path missing"))
            } else {
                Ok(Self(Place::Unix(path.into())))
            };
        }
        let (host, port) = match text_trimmed.strip_prefix('[') {
            Some(rest) => {
                let (host, tail) = rest.split_once(']').ok_or_else(|| bad("']' missing"))?;
                (host, tail.strip_prefix(':'))
            }
            None if text_trimmed.matches(':').count() > 1 => (text_trimmed, None),
            None => text_trimmed
                .split_once(':')
                .map_or((text_trimmed, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port
                .parse()
                .map_err(|_| bad("port is no number from 0 to 65535"))?,
        };
        if host.is_empty() {
            return Err(bad("host missing"));
        }
        Ok(Self(Place::Tcp {
            host: host.to_owned(),
            port,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("127.0.0.1:7", "127.0.0.1:7"),
            ("gear", "gear:4730"),
            ("[::1]:9", "[::1]:9"),
            ("[::1]", "[::1]:4730"),
            ("::1", "[::1]:4730"),
            ("unix:/run/g", "unix:/run/g"),
            (" a:1 ", "a:1"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in ["", ":1", "a:x", "a:65536", "unix:", "[::1"] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
