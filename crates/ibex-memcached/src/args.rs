//! Flags: the family's, and the letters of memcached's own command line.

use crate::ABOUT;
use ibex_kit::{CommonArgs, DaemonArgs, Detach};
use std::path::PathBuf;

/// Flags of ibex-memcached.
#[derive(Debug, clap::Parser)]
#[command(name = ABOUT.name, about = ABOUT.summary)]
pub struct Args {
    /// Flags of every daemon.
    #[command(flatten)]
    pub common: CommonArgs,
    /// TCP port; 0 is off, -1 any free one.
    #[arg(short = 'p', long, value_name = "NUM", allow_negative_numbers = true)]
    port: Option<i32>,
    /// UDP port; 0 is off, -1 any free one. Without -p the TCP port too.
    #[arg(short = 'U', long, value_name = "NUM", allow_negative_numbers = true)]
    udp_port: Option<i32>,
    /// Unix socket to listen on instead of TCP.
    #[arg(short = 's', long, value_name = "FILE")]
    unix_socket: Option<PathBuf>,
    /// Access mask of the unix socket, octal.
    #[arg(short = 'a', long, value_name = "MASK")]
    unix_mask: Option<String>,
    /// Accept the shutdown command.
    #[arg(short = 'A', long)]
    enable_shutdown: bool,
    /// Addresses to listen on, comma list of [notls:|mtls:]host[:port]; may be repeated.
    #[arg(short = 'l', value_name = "ADDR")]
    interfaces: Vec<String>,
    /// Go into the background.
    #[arg(short = 'd', long)]
    daemon: bool,
    /// Accepted and ignored: core size is the supervisor's business.
    #[arg(short = 'r', long)]
    enable_coredumps: bool,
    /// Become this user when started as root.
    #[arg(short = 'u', long, value_name = "USER")]
    user: Option<String>,
    /// Memory for items in megabytes.
    #[arg(short = 'm', long, value_name = "MB")]
    memory_limit: Option<u64>,
    /// Answer "out of memory" rather than evict.
    #[arg(short = 'M', long)]
    disable_evictions: bool,
    /// Connections at one time.
    #[arg(short = 'c', long, value_name = "NUM")]
    conn_limit: Option<u32>,
    /// Accepted and ignored: locking memory needs a privilege the service does not have.
    #[arg(short = 'k', long)]
    lock_memory: bool,
    /// More log; twice for debug, three times for trace.
    #[arg(short = 'v', long = "verbose", action = clap::ArgAction::Count)]
    verbose: u8,
    /// File for the process id.
    #[arg(short = 'P', long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Growth factor of the size classes in the statistics.
    #[arg(short = 'f', long, value_name = "FACTOR")]
    slab_growth_factor: Option<f64>,
    /// Smallest value of the size classes in the statistics.
    #[arg(short = 'n', long, value_name = "BYTES")]
    slab_min_size: Option<u32>,
    /// Accepted and ignored.
    #[arg(short = 'L', long)]
    enable_largepages: bool,
    /// Delimiter of prefixes for "stats detail".
    #[arg(short = 'D', value_name = "CHAR")]
    prefix_delimiter: Option<String>,
    /// Worker threads.
    #[arg(short = 't', long, value_name = "NUM")]
    threads: Option<u32>,
    /// Requests of one connection in a row.
    #[arg(short = 'R', long, value_name = "NUM")]
    max_reqs_per_event: Option<u32>,
    /// No cas numbers.
    #[arg(short = 'C', long)]
    disable_cas: bool,
    /// Queue of connections not yet accepted.
    #[arg(short = 'b', long, value_name = "NUM")]
    listen_backlog: Option<u32>,
    /// Protocol: auto, ascii or binary.
    #[arg(short = 'B', long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// File of users who may log in.
    #[arg(short = 'Y', long, value_name = "FILE")]
    auth_file: Option<String>,
    /// Ask for a SASL login; users from -Y or the file MEMCACHED_SASL_PWDB names.
    #[arg(short = 'S', long)]
    enable_sasl: bool,
    /// Largest item in bytes, with k or m.
    #[arg(short = 'I', long, value_name = "SIZE")]
    max_item_size: Option<String>,
    /// Refuse flush_all.
    #[arg(short = 'F', long)]
    disable_flush_all: bool,
    /// Refuse dumps of keys.
    #[arg(short = 'X', long)]
    disable_dumping: bool,
    /// Refuse watch.
    #[arg(short = 'W', long)]
    disable_watch: bool,
    /// Extended options, comma list.
    #[arg(short = 'o', long = "extended", value_name = "LIST")]
    extended: Vec<String>,
    /// TLS on all TCP addresses, but those of -l notls:…
    #[arg(short = 'Z', long)]
    enable_ssl: bool,
    /// File that keeps the items over a graceful stop (SIGUSR1).
    #[arg(short = 'e', long, value_name = "FILE")]
    memory_file: Option<String>,
    /// Commands that only tests need.
    #[arg(long, hide = true)]
    test_hooks: bool,
}

/// Words of `-o` without effect here: the memory they tune does not exist in this daemon.
const IGNORED_WORDS: &[&str] = &[
    "no_hashexpand",
    "slab_reassign",
    "no_slab_reassign",
    "slab_automove",
    "no_slab_automove",
    "slab_automove_ratio",
    "slab_automove_window",
    "tail_repair_time",
    "hash_algorithm",
    "lru_crawler_sleep",
    "lru_crawler_tocrawl",
    "hot_lru_pct",
    "warm_lru_pct",
    "hot_max_factor",
    "warm_max_factor",
    "temporary_ttl",
    "slab_sizes",
    "slab_chunk_max",
    "no_inline_ascii_resp",
    "inline_ascii_resp",
    "modern",
    "no_chunked_items",
    "no_drop_privileges",
    "drop_privileges",
    "resp_obj_mem_limit",
    "relaxed_privileges",
    "ssl_keyformat",
    "ssl_ciphers",
    "ssl_kernel_tls",
];

impl Args {
    fn words(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let words = self
            .extended
            .iter()
            .flat_map(|list| list.split(','))
            .filter(|word| !word.is_empty());
        words.map(|word| match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        })
    }

    /// The settings of `-o`, in the order they were written: the last one counts.
    fn extended_settings(&self) -> Vec<(String, toml::Value)> {
        let mut settings: Vec<(String, toml::Value)> = Vec::new();
        let mut set = |key: &str, value: Option<toml::Value>| {
            settings.extend(value.map(|value| (key.to_owned(), value)));
        };
        for (word, value) in self.words() {
            match word {
                "maxconns_fast" => set("maxconns_fast", Some(true.into())),
                "no_maxconns_fast" => set("maxconns_fast", Some(false.into())),
                "lru_crawler" | "no_lru_crawler" => {
                    set("lru_crawler", Some((word == "lru_crawler").into()))
                }
                "lru_maintainer" | "no_lru_maintainer" => {
                    set("lru_maintainer", Some((word == "lru_maintainer").into()))
                }
                "no_modern" => {
                    for key in ["maxconns_fast", "lru_crawler", "lru_maintainer"] {
                        set(key, Some(false.into()));
                    }
                }
                "watcher_logbuf_size" | "worker_logbuf_size" => {
                    set(word, value.map(|kilobytes| format!("{kilobytes}K").into()))
                }
                "track_sizes" => set("track_sizes", Some(true.into())),
                "ns" => set("ns_delimiter", value.map(Into::into)),
                "ssl_chain_cert" => set("tls_cert", value.map(Into::into)),
                "ssl_key" => set("tls_key", value.map(Into::into)),
                "ssl_ca_cert" => set("tls_ca", value.map(Into::into)),
                "ssl_verify_mode" => set("tls_verify", value.map(integer)),
                "ssl_session_cache" => set("tls_session_cache", Some(true.into())),
                "ssl_wbuf_size" => set(
                    "tls_write_buffer",
                    value.map(|kilobytes| format!("{kilobytes}K").into()),
                ),
                // DIFFERS(memcached): TLS 1.0 and 1.1 are not spoken; who asks for them gets 1.2.
                "ssl_min_version" => set(
                    "tls_min_version",
                    value.map(|version| match version {
                        "0" | "1" | "2" => "1.2".into(),
                        "3" => "1.3".into(),
                        other => other.into(),
                    }),
                ),
                "read_buf_mem_limit" => set(
                    "read_buf_mem_limit",
                    value.map(|megabytes| format!("{megabytes}M").into()),
                ),
                "idle_timeout" => set(
                    "idle_timeout",
                    value.map(|seconds| format!("{seconds}s").into()),
                ),
                "hashpower" => set("hash_power", value.map(integer)),
                known if IGNORED_WORDS.contains(&known) => {}
                // An unknown key is refused by the loader, with a suggestion.
                unknown => set(unknown, Some(value.unwrap_or("true").into())),
            }
        }
        settings
    }

    fn users_file(&self) -> Option<String> {
        let from_environment = || {
            std::env::var("MEMCACHED_SASL_PWDB")
                .ok()
                .filter(|_| self.enable_sasl)
        };
        self.auth_file.clone().or_else(from_environment)
    }

    /// The addresses the original's letters ask for, in the family's notation.
    fn addresses(&self) -> Vec<String> {
        if let Some(path) = &self.unix_socket {
            return vec![format!("unix:{}", path.display())];
        }
        let mut addresses = self.common.listen.clone();
        // COMPAT(memcached): -U without -p sets both ports (memcached.c, main).
        let given = self.port.or(self.udp_port.filter(|port| *port != 0));
        if given == Some(0) {
            return addresses;
        }
        let port = given.map_or(11211, any_port);
        let of_mode = self.interfaces_of("").collect::<Vec<_>>();
        addresses.extend(
            of_mode
                .into_iter()
                .map(|interface| address(interface, port)),
        );
        if addresses.is_empty() && given.is_some() && self.interfaces().next().is_none() {
            addresses.push(format!(":{port}"));
        }
        addresses
    }

    fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.interfaces
            .iter()
            .flat_map(|list| list.split(','))
            .filter(|interface| !interface.is_empty())
    }

    /// Interfaces with a prefix such as `notls:`, which is taken off; the empty one means those without.
    fn interfaces_of(&self, prefix: &str) -> impl Iterator<Item = &str> {
        self.interfaces().filter_map(move |interface| {
            let known = TLS_PREFIXES
                .iter()
                .find_map(|known| Some((*known, interface.strip_prefix(known)?)));
            let (found, host) = known.unwrap_or(("", interface));
            (found == prefix).then_some(host)
        })
    }

    fn addresses_of(&self, prefix: &str) -> Vec<String> {
        let port = self.port.map_or(11211, any_port);
        let interfaces = self.interfaces_of(prefix);
        interfaces
            .map(|interface| address(interface, port))
            .collect()
    }

    /// The addresses for datagrams.
    fn datagram_addresses(&self) -> Vec<String> {
        let port = match self.udp_port {
            None | Some(0) => return Vec::new(),
            Some(_) if self.unix_socket.is_some() => return Vec::new(),
            Some(port) => any_port(port),
        };
        let plain = |interface| {
            let mut prefixes = TLS_PREFIXES.iter();
            let stripped = prefixes.find_map(|prefix| str::strip_prefix(interface, prefix));
            stripped.unwrap_or(interface)
        };
        let hosts = self.interfaces().map(plain);
        let mut addresses: Vec<String> = hosts.map(|host| with_port(host, port)).collect();
        // Two listeners of one host make one address.
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            addresses.push(format!(":{port}"));
        }
        addresses
    }
}

/// Prefixes of `-l`.
const TLS_PREFIXES: [&str; 2] = ["notls:", "mtls:"];

/// -1 lets the system choose.
fn any_port(port: i32) -> i32 {
    if port == -1 { 0 } else { port }
}

/// The host of `-l` with another port.
fn with_port(interface: &str, port: i32) -> String {
    let host = match interface.rsplit_once(':') {
        Some((host, own)) if own.parse::<u16>().is_ok() && !host.contains("::") => host,
        _ => interface,
    };
    address(host, port)
}

/// `host`, `host:port`, `[v6]:port` or a bare IPv6 address, with the port of `-p` where none is given.
fn address(interface: &str, port: i32) -> String {
    if interface.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("[{interface}]:{port}");
    }
    let has_port = interface
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port {
        interface.to_owned()
    } else {
        format!("{interface}:{port}")
    }
}

/// A number, or the text as it is, for the loader to refuse.
fn integer(text: &str) -> toml::Value {
    text.parse::<i64>()
        .map_or_else(|_| text.into(), toml::Value::Integer)
}

/// `-I`: bytes, or with k or m.
fn item_size(text: &str) -> toml::Value {
    text.to_uppercase().into()
}

impl DaemonArgs for Args {
    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn listen_key() -> Option<&'static str> {
        None
    }

    fn settings(&self) -> Vec<(String, toml::Value)> {
        let mut settings: Vec<(String, toml::Value)> = Vec::new();
        let mut set = |key: &str, value: Option<toml::Value>| {
            settings.extend(value.map(|value| (key.to_owned(), value)));
        };
        let on = |given: bool| given.then_some(toml::Value::Boolean(true));
        let number =
            |number: Option<u32>| number.map(|number| toml::Value::Integer(i64::from(number)));
        let addresses = self.addresses();
        let list = |addresses: Vec<String>| {
            let addresses: Vec<toml::Value> = addresses.into_iter().map(Into::into).collect();
            toml::Value::from(addresses)
        };
        let has_others = TLS_PREFIXES
            .iter()
            .any(|prefix| self.interfaces_of(prefix).next().is_some());
        let is_tcp_off = (self.port == Some(0) || has_others) && self.unix_socket.is_none();
        set(
            "listen",
            (is_tcp_off || !addresses.is_empty()).then(|| list(addresses)),
        );
        set("tls", on(self.enable_ssl));
        for (key, prefix) in [("listen_plain", "notls:"), ("listen_mtls", "mtls:")] {
            let addresses = self.addresses_of(prefix);
            set(key, (!addresses.is_empty()).then(|| list(addresses)));
        }
        let datagrams = self.datagram_addresses();
        set("udp", (!datagrams.is_empty()).then(|| list(datagrams)));
        set(
            "memory",
            self.memory_limit
                .map(|megabytes| format!("{megabytes}M").into()),
        );
        set("memory_file", self.memory_file.clone().map(Into::into));
        set("no_evictions", on(self.disable_evictions));
        set("limits.connections", number(self.conn_limit));
        set(
            "item_size_max",
            self.max_item_size.as_deref().map(item_size),
        );
        set("threads", number(self.threads));
        set("requests_per_turn", number(self.max_reqs_per_event));
        set("no_cas", on(self.disable_cas));
        set("protocol", self.protocol.clone().map(Into::into));
        set("sasl", on(self.enable_sasl));
        set("auth_file", self.users_file().map(Into::into));
        set("no_flush_all", on(self.disable_flush_all));
        set("no_dumping", on(self.disable_dumping));
        set("no_watch", on(self.disable_watch));
        set("shutdown_command", on(self.enable_shutdown));
        set("test_hooks", on(self.test_hooks));
        set("backlog", number(self.listen_backlog));
        set(
            "growth_factor",
            self.slab_growth_factor.map(toml::Value::Float),
        );
        set("chunk_size", number(self.slab_min_size));
        set(
            "prefix_delimiter",
            self.prefix_delimiter.clone().map(toml::Value::String),
        );
        let mask = self.unix_mask.as_deref().map(|mask| {
            i64::from_str_radix(mask, 8).map_or_else(|_| mask.into(), toml::Value::Integer)
        });
        set("unix_mask", mask);
        set(
            "verbosity",
            (self.verbose > 0).then(|| i64::from(self.verbose.min(2)).into()),
        );
        let level = match self.verbose {
            0 => None,
            1 => Some("info"),
            2 => Some("debug"),
            _ => Some("trace"),
        };
        set(
            "log.level",
            level
                .filter(|_| self.common.log_level.is_none())
                .map(Into::into),
        );
        settings.extend(self.extended_settings());
        settings
    }

    fn ignored(&self) -> Vec<String> {
        let flags = [
            (self.enable_coredumps, "-r"),
            (self.lock_memory, "-k"),
            (self.enable_largepages, "-L"),
        ];
        let flags = flags
            .iter()
            .filter(|(given, _)| *given)
            .map(|(_, flag)| (*flag).to_owned());
        let words = self
            .words()
            .filter(|(word, _)| IGNORED_WORDS.contains(word))
            .map(|(word, _)| format!("-o {word}"));
        flags.chain(words).collect()
    }

    fn detach(&self) -> Detach {
        Detach {
            background: self.daemon,
            pid_file: self.pidfile.clone(),
            user: self.user.clone(),
        }
    }
}
