//! Questions over a node's side channel: one connection per question, since digests are rare and a connection costs nothing beside reading a file.

use ibex_mogilefs_proto::line::split_line;
use ibex_mogilefs_proto::side::SideAnswer;
use ibex_mogilefs_proto::{HashAlgorithm, Step};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest answer line.
const ANSWER_BYTES_MAX: usize = 8192;

/// A digest of a file from its node; [`SideAnswer::Unsupported`] asks for HTTP instead. `background` lets the node do it behind everything else.
///
/// # Errors
/// The connection; a node without side channel refuses it.
pub(crate) async fn digest(
    address: &str,
    path: &str,
    algorithm: HashAlgorithm,
    background: bool,
    connect: Duration,
    wait: Duration,
) -> io::Result<SideAnswer> {
    let reason = if background { " fsck" } else { "" };
    let ask = async {
        let mut stream = tokio::time::timeout(connect, TcpStream::connect(address)).await??;
        stream
            .write_all(format!("{algorithm} {path}{reason}\r\n").as_bytes())
            .await?;
        let mut input = bytes::BytesMut::new();
        loop {
            match split_line(&input, ANSWER_BYTES_MAX).map_err(io::Error::other)? {
                Step::Frame { line, .. } => {
                    return SideAnswer::parse(line, path)
                        .ok_or_else(|| io::Error::other("answer to another question"));
                }
                Step::Need => {
                    if stream.read_buf(&mut input).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    };
    tokio::time::timeout(wait, ask).await?
}
