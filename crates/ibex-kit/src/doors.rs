//! Listeners that follow the configuration: a reload opens added addresses, closes removed ones and leaves the rest alone.
//!
//! Owns which addresses a listener name holds and the two steps of a change: first every new address is bound (an error refuses the reload,
//! nothing has happened), then the daemon is told what to open and what to close. Accepting is the daemon's, or [`crate::accept`]'s.

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tracing::info;

use crate::Kit;
use crate::config::types::ListenAddr;
use crate::failure::Failure;
use crate::listen::{self, Listener};
use crate::lock;

/// What a daemon does with listeners that come and go. Both calls come from any thread, one at a time.
pub trait Doors: Send + Sync + 'static {
    /// Accept from it, until it is closed or the daemon drains.
    fn open(&self, listener: Listener);

    /// Accept no more from the listener at this [`Listener::address`]; its connections live on. Connections that wait in the kernel
    /// should be accepted before it is dropped.
    fn close(&self, address: &str);
}

/// One configured address and the sockets that were bound for it.
#[derive(Debug)]
struct Held {
    addr: ListenAddr,
    addresses: Vec<String>,
}

/// Bound listeners of one name, from [`Kit::bind`]; clients that connect wait in the kernel.
#[derive(Debug)]
#[must_use]
pub struct Bound {
    pub(crate) kit: Kit,
    pub(crate) name: &'static str,
    /// The addresses asked for, if sockets passed under the listener's name took their place.
    replaced: Option<Vec<ListenAddr>>,
    held: Vec<Held>,
    listeners: Vec<Listener>,
}

impl Bound {
    pub(crate) fn new(
        kit: &Kit,
        name: &'static str,
        replaced: Option<Vec<ListenAddr>>,
        sockets: Vec<(ListenAddr, Vec<Listener>)>,
    ) -> Self {
        let mut bound = Self {
            kit: kit.clone(),
            name,
            replaced,
            held: Vec::new(),
            listeners: Vec::new(),
        };
        for (addr, listeners) in sockets {
            let addresses = listeners.iter().map(Listener::address).collect();
            bound.held.push(Held { addr, addresses });
            bound.listeners.extend(listeners);
        }
        bound
    }

    /// The bound addresses as published.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// Opens all, and from now on follows what `addrs` finds in a reloaded configuration of type `C`.
    pub fn follow<C: Any>(
        self,
        addrs: impl Fn(&C) -> Vec<ListenAddr> + Send + Sync + 'static,
        doors: impl Doors,
    ) {
        for listener in self.listeners {
            doors.open(listener);
        }
        let kit = self.kit.clone();
        let following = Arc::new(Following {
            kit: self.kit,
            name: self.name,
            replaced: self.replaced,
            held: Mutex::new(self.held),
            doors: Box::new(doors),
        });
        kit.inner.reloader.prepare(move |config: &dyn Any| {
            let Some(config) = config.downcast_ref::<C>() else {
                return Ok(Box::new(|| {}) as Box<dyn FnOnce()>);
            };
            let change = following.prepare(addrs(config))?;
            let following = Arc::clone(&following);
            Ok(Box::new(move || following.commit(change)) as Box<dyn FnOnce()>)
        });
    }
}

struct Following {
    kit: Kit,
    name: &'static str,
    replaced: Option<Vec<ListenAddr>>,
    held: Mutex<Vec<Held>>,
    doors: Box<dyn Doors>,
}

/// What a reload is going to do: the wanted addresses in order, and the sockets of the new ones.
struct Change {
    wanted: Vec<ListenAddr>,
    added: Vec<(ListenAddr, Vec<Listener>)>,
}

impl Following {
    /// Binds what is new. Dropping the result undoes it.
    fn prepare(&self, wanted: Vec<ListenAddr>) -> Result<Change, Failure> {
        // Sockets passed under the listener's name stand for the addresses that were configured at the start.
        let wanted = if self.replaced.as_ref() == Some(&wanted) {
            vec![ListenAddr::Fd(self.name.to_owned())]
        } else {
            wanted
        };
        let held = lock(&self.held);
        let mut added = Vec::new();
        for addr in &wanted {
            if held.iter().any(|held| held.addr == *addr) {
                continue;
            }
            if let ListenAddr::Fd(name) = addr {
                return Err(Failure::config(format!(
                    "listen fd:{name}: sockets are passed at the start only (needs a restart)"
                )));
            }
            added.push((addr.clone(), listen::bind(addr, false, "--listen")?));
        }
        Ok(Change { wanted, added })
    }

    fn commit(&self, change: Change) {
        let mut held = lock(&self.held);
        let added = !change.added.is_empty();
        for (addr, listeners) in change.added {
            let addresses: Vec<String> = listeners.iter().map(Listener::address).collect();
            for listener in listeners {
                info!(listener = self.name, address = %listener.address(), "listening");
                self.doors.open(listener);
            }
            if let ListenAddr::Unix(path) = &addr {
                self.kit.inner.own_sockets.add(path.clone());
            }
            held.push(Held { addr, addresses });
        }
        let (kept, closed): (Vec<Held>, Vec<Held>) = held
            .drain(..)
            .partition(|held| change.wanted.contains(&held.addr));
        *held = kept;
        held.sort_by_key(|held| change.wanted.iter().position(|addr| *addr == held.addr));
        for closed in &closed {
            self.close(closed);
        }
        if added || !closed.is_empty() {
            let addresses = held.iter().flat_map(|held| held.addresses.clone());
            self.kit.republish(self.name, addresses.collect());
        }
    }

    fn close(&self, closed: &Held) {
        for address in &closed.addresses {
            self.doors.close(address);
            info!(listener = self.name, address = %address, "no longer listening");
        }
        if let ListenAddr::Unix(path) = &closed.addr {
            let path: &PathBuf = path;
            self.kit.inner.own_sockets.remove(path);
        }
    }
}
