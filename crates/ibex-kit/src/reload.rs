//! Reload: load and check anew, keep the old configuration on any error, tell what changed and what needs a restart.
//!
//! Owns the configuration in force and its subscribers. SIGHUP and `POST /-/reload` both come here; two at once are
//! serialised. Keys marked `restart` keep their old value and are named.

use std::any::Any;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::common::Common;
use crate::config::error::Origin;
use crate::config::layers::Layers;
use crate::config::load::{Loaded, Schema, Sources, field, keys, leaf, prune, set};
use crate::config::print;
use crate::config::schema::{ConfigTable, Reload, Validate};
use crate::failure::Failure;
use crate::lock;

type Subscriber = Box<dyn Fn(&dyn Any) + Send + Sync>;
/// Does what may fail of a change, and returns what does the rest; see [`Reloader::prepare`].
type Preparer = Box<dyn Fn(&dyn Any) -> Result<Box<dyn FnOnce()>, Failure> + Send + Sync>;
type Loader = Box<dyn Fn() -> Result<Candidate, String> + Send + Sync>;
type Builder =
    Box<dyn Fn(&toml::Table) -> Result<Box<dyn Any + Send + Sync>, String> + Send + Sync>;

/// What a reload found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Report {
    pub(crate) changed: Vec<String>,
    pub(crate) needs_restart: Vec<String>,
}

/// A freshly loaded configuration, without its type.
struct Candidate {
    layers: Layers,
}

/// The configuration in force and the way to load it again.
#[derive(Default)]
pub(crate) struct Reloader {
    schema: Option<Schema>,
    now: Mutex<Layers>,
    loader: Option<Loader>,
    builder: Option<Builder>,
    /// Held through a reload and all that follows of it: the next one begins with what this one left.
    turn: Mutex<()>,
    preparers: Mutex<Vec<Preparer>>,
    subscribers: Mutex<Vec<Subscriber>>,
    pub(crate) successes: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Unix time of the last success in seconds, 0 = never; the start counts as one.
    pub(crate) last_success: AtomicU64,
    pub(crate) last_failed: std::sync::atomic::AtomicBool,
}

impl Reloader {
    /// Remembers how this process was configured.
    pub(crate) fn new<C: ConfigTable + Validate>(
        schema: Schema,
        sources: Sources,
        loaded: &Loaded<C>,
    ) -> Self {
        let again = schema.clone();
        let loader = move || {
            let loaded: Loaded<C> = sources.load(&again).map_err(|errors| errors.to_string())?;
            Ok(Candidate {
                layers: loaded.layers,
            })
        };
        let fields = C::fields();
        let builder = move |tree: &toml::Table| {
            let config: C = prune(tree, &fields)
                .try_into()
                .map_err(|error: toml::de::Error| error.to_string())?;
            Ok(Box::new(config) as Box<dyn Any + Send + Sync>)
        };
        Self {
            schema: Some(schema),
            now: Mutex::new(loaded.layers.clone()),
            loader: Some(Box::new(loader)),
            builder: Some(Box::new(builder)),
            last_success: AtomicU64::new(crate::unix_seconds()),
            ..Self::default()
        }
    }

    pub(crate) fn subscribe(&self, subscriber: impl Fn(&dyn Any) + Send + Sync + 'static) {
        lock(&self.subscribers).push(Box::new(subscriber));
    }

    /// Adds somebody whose part of a reload may fail. All are asked before anything changes: one error refuses the reload, and what the others
    /// returned is dropped. Otherwise all that was returned is called, then the subscribers.
    pub(crate) fn prepare(
        &self,
        preparer: impl Fn(&dyn Any) -> Result<Box<dyn FnOnce()>, Failure> + Send + Sync + 'static,
    ) {
        lock(&self.preparers).push(Box::new(preparer));
    }

    /// Whether somebody set the addresses of a listener to others than the defaults: `NAME_listen` or `NAME.listen` where there is such a key, else
    /// `listen`. A configuration file that spells the defaults out, as the examples do, sets nothing.
    pub(crate) fn sets_listener(&self, name: &str) -> bool {
        let own = [format!("{name}_listen"), format!("{name}.listen")];
        let known = self
            .schema
            .as_ref()
            .map(|schema| keys(&schema.fields, ""))
            .unwrap_or_default();
        let key = own.iter().find(|key| known.contains(key));
        self.is_set(key.map_or("listen", String::as_str))
    }

    fn is_set(&self, key: &str) -> bool {
        let now = lock(&self.now);
        let default = self
            .schema
            .as_ref()
            .and_then(|schema| leaf(&schema.defaults, key));
        now.origins
            .get(key)
            .is_some_and(|origin| *origin != Origin::Default)
            && leaf(&now.tree, key) != default
    }

    /// The effective configuration as text.
    pub(crate) fn print(&self) -> String {
        self.schema.as_ref().map_or_else(String::new, |schema| {
            print::effective(schema, &lock(&self.now))
        })
    }

    /// Loads again. On success the subscribers are called and the kit's own tables returned.
    pub(crate) fn reload(&self) -> Result<(Report, Common), String> {
        let (Some(loader), Some(builder), Some(schema)) =
            (&self.loader, &self.builder, &self.schema)
        else {
            return Err("this process has no configuration to reload".to_owned());
        };
        let _turn = lock(&self.turn);
        let mut now = lock(&self.now);
        let result = loader().and_then(|mut candidate| {
            let report = compare(schema, &now, &mut candidate.layers);
            let config = builder(&candidate.layers.tree)?;
            let common = prune(&candidate.layers.tree, &Common::fields());
            let common: Common = common
                .try_into()
                .map_err(|error: toml::de::Error| error.to_string())?;
            let mut steps = Vec::new();
            for preparer in lock(&self.preparers).iter() {
                steps.push(preparer(config.as_ref()).map_err(|failure| failure.to_string())?);
            }
            Ok((report, candidate.layers, config, common, steps))
        });
        match result {
            Ok((report, layers, config, common, steps)) => {
                *now = layers;
                drop(now);
                for step in steps {
                    step();
                }
                for subscriber in lock(&self.subscribers).iter() {
                    subscriber(config.as_ref());
                }
                self.successes.fetch_add(1, Ordering::Relaxed);
                self.last_failed.store(false, Ordering::Relaxed);
                self.last_success
                    .store(crate::unix_seconds(), Ordering::Relaxed);
                Ok((report, common))
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.last_failed.store(true, Ordering::Relaxed);
                Err(error)
            }
        }
    }
}

/// The keys that differ; those that need a restart get their old value back in `new`.
fn compare(schema: &Schema, old: &Layers, new: &mut Layers) -> Report {
    let mut report = Report::default();
    for key in keys(&schema.fields, "") {
        let before = leaf(&old.tree, &key).cloned();
        if before.as_ref() == leaf(&new.tree, &key) {
            continue;
        }
        let live = field(&schema.fields, &key).is_some_and(|field| field.reload == Reload::Live);
        if live {
            report.changed.push(key);
            continue;
        }
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        match before {
            Some(value) => set(&mut new.tree, &path, value),
            None => unset(&mut new.tree, &path),
        }
        match old.origins.get(&key) {
            Some(origin) => drop(new.origins.insert(key.clone(), origin.clone())),
            None => drop(new.origins.remove(&key)),
        }
        report.needs_restart.push(key);
    }
    report
}

fn unset(tree: &mut toml::Table, path: &[String]) {
    match path {
        [] => {}
        [last] => drop(tree.remove(last)),
        [head, rest @ ..] => {
            if let Some(toml::Value::Table(inner)) = tree.get_mut(head) {
                unset(inner, rest);
            }
        }
    }
}
