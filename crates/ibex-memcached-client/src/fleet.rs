//! Operations on every server of the pool, its gutter included, and what the client itself counted.

use crate::conn::Flow;
use crate::metrics::ServerMetrics;
use crate::near::NearMetrics;
use crate::server::{Effect, Server};
use crate::{Client, Error, done, refused};
use bytes::BytesMut;
use ibex_memcached_proto::reply::Reply;
use std::collections::BTreeMap;

async fn ask(
    server: &Server,
    operation: &'static str,
    effect: Effect,
    line: &str,
    on_reply: impl FnMut(Reply<'_>) -> Result<Flow, crate::conn::Refusal>,
) -> Result<(), Error> {
    if !server.is_usable().await {
        return Err(server.dead());
    }
    let request = |_, out: &mut BytesMut| {
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
        Ok(())
    };
    server.exchange(operation, effect, request, on_reply).await
}

impl Client {
    /// Makes every item of every server invisible.
    ///
    /// # Errors
    /// The first server's error; the others were flushed all the same.
    pub async fn flush_all(&self) -> Result<(), Error> {
        let flushes = self.pool.servers.iter().map(|server| {
            ask(
                server,
                "flush_all",
                Effect::Writes,
                "flush_all",
                |reply| match reply {
                    Reply::Ok => Ok(Flow::Done),
                    other => refused(&other),
                },
            )
        });
        let flushed = futures_util::future::join_all(flushes).await;
        self.pool.flights.forget_all();
        if let Some(near) = &self.pool.near {
            near.forget_all();
        }
        flushed.into_iter().collect()
    }

    /// The version of each server, by its name.
    ///
    /// # Errors
    /// The first server's error.
    pub async fn version(&self) -> Result<BTreeMap<String, String>, Error> {
        let mut versions = BTreeMap::new();
        for server in &self.pool.servers {
            let mut version = None;
            let read = |reply: Reply<'_>| match reply {
                Reply::Version(text) => {
                    done(&mut version, String::from_utf8_lossy(text).into_owned())
                }
                other => refused(&other),
            };
            ask(server, "version", Effect::Reads, "version", read).await?;
            versions.insert(server.name().to_owned(), version.unwrap_or_default());
        }
        Ok(versions)
    }

    /// The statistics of each server, by its name; `section` as in `stats settings`, empty for the general ones.
    ///
    /// # Errors
    /// The first server's error. [`Error::Request`] if `section` has line breaks in it.
    pub async fn stats(
        &self,
        section: &str,
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, Error> {
        if section.contains(char::is_control) {
            return Err(Error::Request("control bytes in a section".to_owned()));
        }
        let line = format!("stats {section}");
        let mut all = BTreeMap::new();
        for server in &self.pool.servers {
            let mut stats = BTreeMap::new();
            let read = |reply: Reply<'_>| match reply {
                Reply::Stat { name, value } => {
                    stats.insert(
                        String::from_utf8_lossy(name).into_owned(),
                        String::from_utf8_lossy(value).into_owned(),
                    );
                    Ok(Flow::More)
                }
                Reply::End | Reply::Ok => Ok(Flow::Done),
                other => refused(&other),
            };
            ask(server, "stats", Effect::Reads, line.trim_end(), read).await?;
            all.insert(server.name().to_owned(), stats);
        }
        Ok(all)
    }

    /// What this client did at each server and how its pool stands, in the order of the configuration, the gutter's servers last. Every exchange is a
    /// `tracing` event at TRACE too, every death and return of a server one at DEBUG, with the fields `server`, `operation`, `elapsed_us` and `error`.
    #[must_use]
    pub fn metrics(&self) -> Vec<ServerMetrics> {
        let servers = self.pool.servers.iter().enumerate();
        servers
            .map(|(index, server)| server.metrics(self.is_in_gutter(index)))
            .collect()
    }

    /// What the near cache did; `None` without one.
    #[must_use]
    pub fn near_metrics(&self) -> Option<NearMetrics> {
        self.pool.near.as_ref().map(crate::near::Near::metrics)
    }
}
