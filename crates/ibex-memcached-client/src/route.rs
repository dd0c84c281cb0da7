//! Which server a call goes to: the one the distribution names, or another while that one is dead, by the pool's policy.
//!
//! Lock order: none; the one lock here (the remembered smaller ring) is held for a look or a replacement.

use crate::config::{Config, ServerConfig, WhenDead};
use crate::key::{Choice, Key, Place};
use crate::selector::{Candidate, Selector};
use crate::server::Server;
use crate::{Client, Error, Expiry};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One pool's servers as the choice sees them: those from `first` on in the list of all.
#[derive(Debug)]
pub(crate) struct Ring {
    first: usize,
    candidates: Vec<Candidate>,
    /// Hashed before every key; mostly nothing.
    prefix: Vec<u8>,
    /// The choice with all servers alive.
    all: Selector,
    /// The choice among those alive lately, with who that was: made again when somebody dies or returns, not at every call.
    fewer: Mutex<Option<(Vec<bool>, Arc<Selector>)>>,
}

impl Ring {
    pub(crate) fn new(first: usize, servers: &[ServerConfig], config: &Config) -> Self {
        let candidates: Vec<_> = servers.iter().map(ServerConfig::candidate).collect();
        Self {
            first,
            all: Selector::new(config.distribution, config.hash(), &candidates, |_| true),
            candidates,
            prefix: config.hashed_prefix().to_vec(),
            fewer: Mutex::default(),
        }
    }

    fn number(&self, key: Key<'_>) -> u64 {
        match key.choice {
            Choice::Bytes(bytes) if self.prefix.is_empty() => self.all.number(bytes),
            Choice::Bytes(bytes) => self.all.number(&[&self.prefix, bytes].concat()),
            Choice::Number(number) => number,
        }
    }

    /// The owner of `key` while all are well.
    fn home(&self, key: Key<'_>) -> Option<usize> {
        let index = self.all.server_of_number(self.number(key))?;
        Some(self.first + index)
    }

    fn rehashed(&self, key: Key<'_>, is_alive: impl Fn(usize) -> bool) -> Option<usize> {
        // Bytes that keep an owner's keys together keep them together here too.
        let again = match key.choice {
            Choice::Bytes(bytes) => bytes,
            Choice::Number(_) => key.key,
        };
        self.all
            .rehashed(self.number(key), again, |index| {
                is_alive(self.first + index)
            })
            .map(|index| self.first + index)
    }

    fn among_the_living(
        &self,
        key: Key<'_>,
        config: &Config,
        is_alive: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let alive: Vec<bool> = (0..self.candidates.len())
            .map(|index| is_alive(self.first + index))
            .collect();
        let mut fewer = self.fewer.lock().unwrap_or_else(PoisonError::into_inner);
        let selector = match fewer.as_ref() {
            Some((known, selector)) if *known == alive => Arc::clone(selector),
            Some(_) | None => {
                let made = Arc::new(Selector::new(
                    config.distribution,
                    config.hash(),
                    &self.candidates,
                    |index| alive.get(index).is_some_and(|is_alive| *is_alive),
                ));
                *fewer = Some((alive, Arc::clone(&made)));
                made
            }
        };
        drop(fewer);
        let index = selector.server_of_number(self.number(key))?;
        Some(self.first + index)
    }
}

/// The server of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route<'c> {
    pub(crate) server: &'c Server,
    pub(crate) place: Place,
    /// In the gutter: the longest life of an item.
    expiry_max: Option<Duration>,
}

impl Route<'_> {
    /// `expiry` as this server is told it.
    pub(crate) fn expiry(&self, expiry: Expiry) -> i64 {
        match self.expiry_max {
            Some(max) => expiry.at_most(max).on_wire(),
            None => expiry.on_wire(),
        }
    }
}

impl Client {
    fn is_alive(&self, index: usize) -> bool {
        let server = self.pool.servers.get(index);
        server.is_some_and(|server| !server.is_dead())
    }

    /// The owner of `key`, dead or alive.
    pub(crate) fn home(&self, key: Key<'_>) -> Result<usize, Error> {
        let none = || Error::Config("no servers".to_owned());
        self.pool.main.home(key).ok_or_else(none)
    }

    /// Where a call for `key` goes as far as is known now; its owner if there is no better.
    pub(crate) fn choose(&self, key: Key<'_>) -> Result<usize, Error> {
        let home = self.home(key)?;
        if self.is_alive(home) {
            return Ok(home);
        }
        let pool = &self.pool;
        let is_alive = |index| self.is_alive(index);
        let elsewhere = match pool.config.when_dead {
            WhenDead::Fail | WhenDead::Miss => None,
            WhenDead::Rehash => pool.main.rehashed(key, is_alive),
            WhenDead::Eject => pool.main.among_the_living(key, &pool.config, is_alive),
            WhenDead::Gutter => pool.gutter.as_ref().and_then(|gutter| gutter.home(key)),
        };
        Ok(elsewhere.unwrap_or(home))
    }

    /// The server of `key`, alive as far as is known; one whose dead time is over is probed first.
    pub(crate) async fn route(&self, key: Key<'_>) -> Result<Route<'_>, Error> {
        let mut chosen = self.choose(key)?;
        // Each round finds one more server dead, so there are at most as many as servers; the bound only says so.
        for _ in 0..=self.pool.servers.len() {
            let route = self.route_at(Place(chosen))?;
            if route.server.is_usable().await {
                return Ok(route);
            }
            let next = self.choose(key)?;
            if next == chosen {
                return Err(route.server.dead());
            }
            chosen = next;
        }
        Err(self.route_at(Place(chosen))?.server.dead())
    }

    /// The server at `place`, whatever its state.
    pub(crate) fn route_at(&self, place: Place) -> Result<Route<'_>, Error> {
        let pool = &self.pool;
        let server = pool
            .servers
            .get(place.0)
            .ok_or_else(|| Error::Config("no servers".to_owned()))?;
        let is_gutter = pool
            .gutter
            .as_ref()
            .is_some_and(|gutter| place.0 >= gutter.first);
        Ok(Route {
            server,
            place,
            expiry_max: is_gutter.then_some(pool.config.gutter_expiry_max),
        })
    }

    /// The server that gave a cas number, and no other.
    pub(crate) async fn route_back(&self, place: Place) -> Result<Route<'_>, Error> {
        let route = self.route_at(place)?;
        if route.server.is_usable().await {
            Ok(route)
        } else {
            Err(route.server.dead())
        }
    }

    /// Where `key` lies while its server is dead, for what must be told to both.
    pub(crate) fn gutter_route(&self, key: Key<'_>) -> Option<Route<'_>> {
        let place = self.pool.gutter.as_ref()?.home(key)?;
        self.route_at(Place(place)).ok()
    }

    /// Whether the server at `index` is of the gutter.
    pub(crate) fn is_in_gutter(&self, index: usize) -> bool {
        let gutter = self.pool.gutter.as_ref();
        gutter.is_some_and(|gutter| index >= gutter.first)
    }

    /// The name of the server that holds `key`, which is another than its owner while that is dead and the pool's policy says so.
    ///
    /// # Errors
    /// [`Error::Config`] if there are no servers.
    pub fn server_name<'k>(&self, key: impl Into<Key<'k>>) -> Result<&str, Error> {
        let place = Place(self.choose(key.into())?);
        Ok(self.route_at(place)?.server.name())
    }
}
