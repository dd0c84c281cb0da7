//! Where a worker's jobs come from: databases directly, or a daemon.
//!
//! Apart so that the rest of the worker is the same for both. A database is looked at and slept on; a daemon holds the call until there is a job.

use crate::client::Client;
use crate::error::Error;
use crate::grab::Grab;
use crate::handle::Handle;
use crate::hooks::Hooks;
use crate::remote::Remote;
use crate::worker::Held;
use std::sync::Arc;
use std::time::Duration;

/// Where jobs come from: made of a [`Client`] or a [`Remote`].
#[derive(Debug, Clone)]
pub struct Source(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Databases(Client),
    Daemon(Remote),
}

impl From<&Client> for Source {
    fn from(client: &Client) -> Self {
        Self(Kind::Databases(client.clone()))
    }
}

impl From<&Remote> for Source {
    fn from(remote: &Remote) -> Self {
        Self(Kind::Daemon(remote.clone()))
    }
}

impl Source {
    pub(super) fn is_daemon(&self) -> bool {
        matches!(self.0, Kind::Daemon(_))
    }

    /// One job, if there is one; a daemon is given time to find one.
    pub(super) async fn grab(&self, want: &Grab, wait: Duration) -> Result<Option<Held>, Error> {
        match &self.0 {
            Kind::Databases(client) => {
                let job = client.grab(want).await?.pop();
                Ok(job.map(|job| Held::Row(Box::new(job))))
            }
            Kind::Daemon(remote) => {
                let grip = remote.fetch(want, wait).await?;
                Ok(grip.map(|grip| Held::Lease(Box::new(grip))))
            }
        }
    }

    /// The job behind a handle, whoever has it.
    pub(super) async fn peek(&self, handle: &Handle) -> Result<Option<Held>, Error> {
        let job = self.client()?.peek(handle).await?;
        Ok(job.map(|job| Held::Row(Box::new(job))))
    }

    /// The job behind a handle, unless somebody has it.
    pub(super) async fn grab_handle(
        &self,
        handle: &Handle,
        grab_for: u64,
    ) -> Result<Option<Held>, Error> {
        let job = self.client()?.grab_handle(handle, grab_for).await?;
        Ok(job.map(|job| Held::Row(Box::new(job))))
    }

    fn client(&self) -> Result<&Client, Error> {
        match &self.0 {
            Kind::Databases(client) => Ok(client),
            Kind::Daemon(_) => Err(Error::Invalid(
                "a daemon hands out jobs by function, not by handle".to_owned(),
            )),
        }
    }

    pub(super) fn hooks(&self) -> &[Arc<dyn Hooks>] {
        match &self.0 {
            Kind::Databases(client) => client.hooks(),
            Kind::Daemon(_) => &[],
        }
    }

    /// Resolves at the next insert of this process; a daemon has waited already.
    pub(super) fn inserted(&self) -> Option<tokio::sync::futures::Notified<'_>> {
        match &self.0 {
            Kind::Databases(client) => Some(client.inserted()),
            Kind::Daemon(_) => None,
        }
    }

    /// Resolves when a limit, a parent or a batch of this process let a job go; wakes the others who wait.
    pub(super) async fn stirred(&self) {
        match &self.0 {
            Kind::Databases(client) => {
                client.stirred().await;
                client.wake();
            }
            Kind::Daemon(_) => std::future::pending().await,
        }
    }
}
