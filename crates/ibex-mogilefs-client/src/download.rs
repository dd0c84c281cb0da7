//! A file being read. When a replica breaks off, reading goes on from the same byte of the next one.
//!
//! Owns the list of replicas still to try and the count of bytes delivered. Does not verify checksums: bytes are handed on as they come, so only
//! [`crate::Client::fetch`],
//! which holds all of them, can refuse a damaged file.

use crate::error::Error;
use crate::node::{NodeClient, NodeError, NodeResponse};
use bytes::Bytes;

/// A file being read from its replicas.
#[derive(Debug)]
pub struct Download {
    nodes: NodeClient,
    replicas: std::vec::IntoIter<String>,
    current: Option<NodeResponse>,
    length: u64,
    delivered: u64,
}

impl Download {
    /// Opens the first replica that answers. `expected` is the length the tracker knows; a replica of another length is passed over.
    pub(crate) async fn open(
        nodes: NodeClient,
        replicas: Vec<String>,
        expected: Option<u64>,
    ) -> Result<Self, Error> {
        let mut replicas = replicas.into_iter();
        let mut last = None;
        for url in replicas.by_ref() {
            match open_whole(&nodes, &url, expected).await {
                Ok((response, length)) => {
                    return Ok(Self {
                        nodes,
                        replicas,
                        current: Some(response),
                        length,
                        delivered: 0,
                    });
                }
                Err(error) => {
                    tracing::debug!(%url, %error, "replica not usable");
                    last = Some(error);
                }
            }
        }
        Err(last.map_or(Error::NoReplica, Error::Storage))
    }

    /// Length of the file in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Storage`] when the last replica broke off, too.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(response) = &mut self.current else {
                return Ok(None);
            };
            let error = match response.chunk().await {
                Ok(Some(chunk)) => {
                    self.delivered += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Ok(None) if self.delivered == self.length => {
                    self.current = None;
                    return Ok(None);
                }
                Ok(None) => NodeError::Length {
                    expected: self.length,
                    got: self.delivered,
                },
                Err(error) => error,
            };
            self.current = Some(self.resume(error).await?);
        }
    }

    async fn resume(&mut self, mut last: NodeError) -> Result<NodeResponse, Error> {
        for url in self.replicas.by_ref() {
            tracing::debug!(%url, error = %last, delivered = self.delivered, "replica broke off, going on from another");
            match self.nodes.get(&url, self.delivered).await {
                Ok(response) if response.length() == Some(self.length - self.delivered) => {
                    return Ok(response);
                }
                Ok(response) => {
                    last = NodeError::Length {
                        expected: self.length - self.delivered,
                        got: response.length().unwrap_or(0),
                    }
                }
                Err(error) => last = error,
            }
        }
        Err(Error::Storage(last))
    }
}

async fn open_whole(
    nodes: &NodeClient,
    url: &str,
    expected: Option<u64>,
) -> Result<(NodeResponse, u64), NodeError> {
    let response = nodes.get(url, 0).await?;
    let length = response
        .length()
        .ok_or_else(|| NodeError::Http("no length in the response".into()))?;
    match expected {
        Some(expected) if expected != length => Err(NodeError::Length {
            expected,
            got: length,
        }),
        Some(_) | None => Ok((response, length)),
    }
}
