//! The command language of config files and of the management port.
//!
//! Owns the steps from a line of text to a [`Command`] and the error texts of wrong lines (spec parts A2 and A3).
//! Apart from the daemon, which carries commands out. It knows neither services nor pools, only their names.

mod line;
mod parse;

pub use line::{Environment, NoEnvironment, prepare};
pub use parse::{parse, verbs};

use crate::forward::HeaderChange;

/// Why a line is no command; the text is what follows `ERROR: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

impl Error {
    /// An error with the text shown behind `ERROR: `.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A service or a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// A service.
    Service,
    /// A pool.
    Pool,
}

/// What a listing command shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// All services.
    Services,
    /// One service.
    Service(String),
    /// All pools.
    Pools,
    /// One pool.
    Pool(String),
    /// Counters of all nodes, or of one.
    Nodes(Option<String>),
    /// Client and backend states, of all services or one.
    States(Option<String>),
    /// Sockets, in full or summed up.
    Socks {
        /// Only counts per class.
        summary: bool,
    },
    /// Waiting requests per proxy service.
    Queues,
    /// Busy backend connections per node.
    Backends,
    /// Backend connections being made.
    Pending,
    /// Nodes whose verification failed lately.
    NoVerify,
    /// Reproxy connections.
    ReproxyState,
    /// Process times.
    Proc,
    /// Start time and version.
    Uptime,
    /// Open files.
    Fd,
    /// Plugins per service.
    Plugins,
    /// Highpri patterns.
    Patterns,
    /// Counters of the Stats plugin.
    Stats,
    /// Last requests seen by the Stats plugin.
    Recent,
    /// Content types.
    Mime,
    /// Names of the commands.
    Help,
    /// Prometheus text.
    Metrics,
    /// Settings as replayable commands.
    DumpConfig,
    /// A debugging aid of the Perl process: nothing to show.
    Nothing,
}

/// A rule of the AccessControl plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// What happens to requests no rule matches: allow or deny.
    Policy {
        /// True for allow.
        allow: bool,
    },
    /// Forget all rules.
    Reset,
    /// Add a rule.
    Rule {
        /// `allow`, `deny` or `queue_low`.
        verb: AccessVerb,
        /// The network it is about.
        network: crate::netmask::Netmask,
    },
}

/// What an access rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessVerb {
    /// Let the request pass.
    Allow,
    /// 403.
    Deny,
    /// Low priority.
    QueueLow,
}

/// One command. Names of services, pools and parameters are lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Create a service or pool and make it current.
    Create(Thing, String),
    /// Make a service or pool current.
    Use(String),
    /// Set a parameter of the named or current service or pool.
    Set {
        /// The service, pool or plugin named before the key.
        target: Option<String>,
        /// Parameter, `plugin.parameter` or `extra.parameter`.
        key: String,
        /// Value as written.
        value: String,
    },
    /// Default for services whose role is set later.
    Default {
        /// Parameter.
        key: String,
        /// Value as written.
        value: String,
    },
    /// Change request fields of a service.
    Header(String, HeaderChange),
    /// Start listening.
    Enable(String),
    /// Stop listening.
    Disable(String),
    /// Add a node, `address[:port] [key=value…]`.
    PoolAdd {
        /// Pool, or the current one.
        pool: Option<String>,
        /// Node with attributes.
        node: String,
    },
    /// Remove a node.
    PoolRemove {
        /// Pool, or the current one.
        pool: Option<String>,
        /// Node address.
        node: String,
    },
    /// Give a node no new requests.
    Drain {
        /// Pool.
        pool: String,
        /// Node address.
        node: String,
        /// False for `UNDRAIN`.
        on: bool,
    },
    /// Enable a plugin's commands.
    Load(String),
    /// Disable a plugin.
    Unload(String),
    /// Load a plugin again.
    Reload(String),
    /// Read the config file again and apply what changed.
    ReloadConfig,
    /// Show something.
    List(Listing),
    /// Set a process-wide option.
    Server {
        /// Option.
        key: String,
        /// Value as written.
        value: String,
    },
    /// End at once, without reply.
    Shutdown,
    /// Finish what is in flight, then end; after so many seconds in any case.
    ShutdownGraceful(Option<u64>),
    /// Define a content type.
    MimeSet(String, String),
    /// Forget an extension.
    MimeRemove(String),
    /// Print `OK` after successful commands or not.
    Verbose(bool),
    /// Close the management connection.
    Quit,
    /// Map a host to a service.
    Vhost {
        /// Selector, or the current service.
        selector: Option<String>,
        /// Host or pattern.
        host: String,
        /// Target; `None` removes the mapping.
        service: Option<String>,
    },
    /// Map a path pattern to a service.
    Vpath {
        /// Selector, or the current service.
        selector: Option<String>,
        /// Regular expression.
        pattern: String,
        /// Target.
        service: String,
    },
    /// Change access rules of the current service.
    Access(Access),
    /// Redirect a host on the current service.
    Redirect {
        /// Host or pattern.
        host: String,
        /// Target host.
        target: String,
    },
    /// Run the commands of files.
    Include(Vec<String>),
    /// Say which service a request would meet.
    Explain {
        /// Host.
        host: String,
        /// Method.
        method: String,
        /// Target.
        target: String,
    },
}
