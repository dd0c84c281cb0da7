//! Flags: the family's, and the letters of memcached's own command line.

use crate::ways::{Item, Mode, Speaks, Way};
use crate::{ABOUT, PROTOCOL_VERSION};
use ibex_kit::{CommonArgs, DaemonArgs, Detach};
use std::ffi::OsString;
use std::path::PathBuf;

/// Flags of ibex-memcached.
#[derive(Debug, clap::Parser)]
#[command(name = ABOUT.name, about = ABOUT.summary, disable_version_flag = true)]
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
    /// Addresses to listen on, comma list of [notls:|btls:|mtls:][proto[ascii|binary|negotiating]:][tag[NAME]:]host[:port]; may be repeated.
    #[arg(short = 'l', value_name = "ADDR")]
    interfaces: Vec<String>,
    /// Go into the background.
    #[arg(short = 'd', long)]
    daemon: bool,
    /// Let a crash write a core file of any size.
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
    /// Lock all memory; without the privilege a warning is all that comes of it.
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
    /// Accepted and ignored: network cards have no say in which thread serves a connection.
    #[arg(short = 'N', long, value_name = "NUM")]
    napi_ids: Option<u32>,
    /// Print the version of the protocol, then ours, and end.
    #[arg(short = 'V')]
    protocol_version: bool,
    /// Print the version and end.
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Print the licence and end.
    #[arg(short = 'i', long)]
    license: bool,
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

/// What `-i` prints.
const LICENCE: &str = "ibex-memcached is free software under the MIT licence or the Apache License, Version 2.0, at your choice.\n\
    It shares no code with memcached, whose protocol it speaks.\n";

/// Words of `-o` without effect here: the memory they tune does not exist in this daemon.
const IGNORED_WORDS: &[&str] = &[
    "no_hashexpand",
    "slab_sizes",
    "no_inline_ascii_resp",
    "inline_ascii_resp",
    "modern",
    "no_drop_privileges",
    "drop_privileges",
    "resp_obj_mem_limit",
    "relaxed_privileges",
    "ssl_kernel_tls",
];

/// Words of `-o` that are read, checked and shown by `stats settings`.
const SHOWN_WORDS: &[&str] = &[
    "slab_automove_ratio",
    "slab_automove_window",
    "slab_chunk_max",
    "lru_crawler_sleep",
    "lru_crawler_tocrawl",
    "tail_repair_time",
    "hash_algorithm",
    "hot_lru_pct",
    "warm_lru_pct",
    "hot_max_factor",
    "warm_max_factor",
    "temporary_ttl",
];

/// What `no_modern` stands for, as far as it is only shown.
const SHOWN_OF_NO_MODERN: &[&str] = &[
    "slab_reassign=no",
    "slab_automove=0",
    "slab_chunk_max=1024",
    "hash_algorithm=jenkins",
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

    /// The settings of `-o`, in the order they were written: the last one counts. A word without the value it needs becomes one that the loader refuses.
    fn extended_settings(&self) -> Vec<(String, toml::Value)> {
        let mut settings: Vec<(String, toml::Value)> = Vec::new();
        let mut shown: Vec<toml::Value> = Vec::new();
        for (word, given) in self.words() {
            let mut set = |key: &str, value: toml::Value| settings.push((key.to_owned(), value));
            let value = given.unwrap_or_default();
            match word {
                "maxconns_fast" | "lru_crawler" | "lru_maintainer" | "track_sizes" => {
                    set(word, true.into());
                }
                "no_maxconns_fast" => set("maxconns_fast", false.into()),
                "no_lru_crawler" => set("lru_crawler", false.into()),
                "no_lru_maintainer" => set("lru_maintainer", false.into()),
                "no_modern" => {
                    for key in ["maxconns_fast", "lru_crawler", "lru_maintainer"] {
                        set(key, false.into());
                    }
                    shown.extend(SHOWN_OF_NO_MODERN.iter().map(|text| (*text).into()));
                }
                "slab_reassign" => shown.push("slab_reassign=yes".into()),
                "no_slab_reassign" => shown.push("slab_reassign=no".into()),
                "slab_automove" => {
                    shown.push(format!("slab_automove={}", given.unwrap_or("1")).into());
                }
                "no_slab_automove" => shown.push("slab_automove=0".into()),
                "no_chunked_items" => shown.push("slab_chunk_max=1024".into()),
                known if SHOWN_WORDS.contains(&known) => {
                    shown.push(format!("{known}={value}").into());
                }
                known if IGNORED_WORDS.contains(&known) => {}
                known => {
                    let (key, value) = valued(known, given);
                    set(&key, value);
                }
            }
        }
        if !shown.is_empty() {
            settings.push(("original_settings".to_owned(), shown.into()));
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

    /// The port of `-p`; `-U` without it sets both. `Some(0)` is no TCP at all.
    fn given_port(&self) -> Option<i32> {
        // COMPAT(memcached): -U without -p sets both ports (memcached.c, main).
        self.port.or(self.udp_port.filter(|port| *port != 0))
    }

    fn interfaces(&self) -> impl Iterator<Item = &str> {
        let lists = self.common.listen.iter().chain(&self.interfaces);
        lists
            .flat_map(|list| list.split([',', ';']))
            .filter(|interface| !interface.is_empty())
    }

    /// The addresses of `-l` and `-p` in the family's notation, by key. What cannot be read is left for the loader to refuse.
    fn addresses(&self) -> Vec<(&'static str, Vec<String>)> {
        if let Some(path) = &self.unix_socket {
            return vec![("listen", vec![format!("unix:{}", path.display())])];
        }
        let given = self.given_port();
        if given == Some(0) {
            return vec![("listen", Vec::new())];
        }
        let port = given.map_or(11211, any_port);
        let mut by_key =
            ["listen", "listen_plain", "listen_mtls", "listen_as"].map(|key| (key, Vec::new()));
        for interface in self.interfaces() {
            let (key, text) = match Item::parse(interface) {
                Ok(Item { way, host }) => placed(way, &address(host, port)),
                Err(_) => (OTHERS, interface.to_owned()),
            };
            by_key[key].1.push(text);
        }
        let [(_, usual), others @ ..] = &mut by_key;
        let has_others = others.iter().any(|(_, list)| !list.is_empty());
        if usual.is_empty() && !has_others && given.is_some() {
            usual.push(format!(":{port}"));
        }
        // With addresses of other kinds only, the default one is not meant.
        let sets_usual = has_others || !usual.is_empty();
        let is_set =
            |key: &str, list: &[String]| !list.is_empty() || (key == "listen" && sets_usual);
        let by_key = by_key.into_iter();
        by_key.filter(|(key, list)| is_set(key, list)).collect()
    }

    /// The addresses for datagrams.
    fn datagram_addresses(&self) -> Vec<String> {
        let port = match self.udp_port {
            None | Some(0) => return Vec::new(),
            Some(_) if self.unix_socket.is_some() => return Vec::new(),
            Some(port) => any_port(port),
        };
        let hosts = self
            .interfaces()
            .map(|interface| Item::parse(interface).map_or(interface, |item| item.host))
            .filter(|host| !is_family_form(host));
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

/// Index of the key for what the other keys of addresses cannot say.
const OTHERS: usize = 3;

/// Which of the keys of addresses an address belongs to, and its text there.
fn placed(way: Way, address: &str) -> (usize, String) {
    let key = match (way.mode, way.speaks) {
        (Mode::Usual, Speaks::Usual) => 0,
        (Mode::Plain, Speaks::Usual) => 1,
        (Mode::Mutual, Speaks::Usual) => 2,
        _ => return (OTHERS, format!("{way}{address}")),
    };
    (key, address.to_owned())
}

/// Addresses that only the family's notation has.
fn is_family_form(host: &str) -> bool {
    host.starts_with("unix:") || host.starts_with("fd:")
}

/// A word of `-o` with a value, as key and value of the configuration. An unknown key is refused by the loader, with a suggestion.
fn valued(word: &str, given: Option<&str>) -> (String, toml::Value) {
    let value = given.unwrap_or_default();
    let (key, value): (&str, toml::Value) = match word {
        "watcher_logbuf_size" | "worker_logbuf_size" => (word, format!("{value}K").into()),
        "ns" => ("ns_delimiter", given.unwrap_or("none given").into()),
        "ssl_chain_cert" => ("tls_cert", value.into()),
        "ssl_key" => ("tls_key", value.into()),
        "ssl_keyformat" => ("tls_key_format", integer(value)),
        "ssl_ca_cert" => ("tls_ca", value.into()),
        "ssl_verify_mode" => ("tls_verify", integer(value)),
        "ssl_ciphers" => ("tls_ciphers", given.unwrap_or("none given").into()),
        "ssl_session_cache" => ("tls_session_cache", true.into()),
        "ssl_wbuf_size" => ("tls_write_buffer", format!("{value}K").into()),
        // DIFFERS(memcached): TLS 1.0 and 1.1 are not spoken; who asks for them gets 1.2.
        "ssl_min_version" => {
            let version = match value {
                "0" | "1" | "2" => "1.2",
                "3" => "1.3",
                other => other,
            };
            ("tls_min_version", version.into())
        }
        "read_buf_mem_limit" => (word, format!("{value}M").into()),
        "idle_timeout" => (word, format!("{value}s").into()),
        "hashpower" => ("hash_power", integer(value)),
        "metrics" => ("admin.listen", value.into()),
        unknown => (unknown, given.unwrap_or("true").into()),
    };
    (key.to_owned(), value)
}

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
    if is_family_form(interface) {
        return interface.to_owned();
    }
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
        let list = |addresses: Vec<String>| {
            let addresses: Vec<toml::Value> = addresses.into_iter().map(Into::into).collect();
            toml::Value::from(addresses)
        };
        for (key, addresses) in self.addresses() {
            set(key, Some(list(addresses)));
        }
        set("tls", on(self.enable_ssl));
        set("lock_memory", on(self.lock_memory));
        set("core_files", on(self.enable_coredumps));
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
        // COMPAT(memcached): a login of packets and clients that may choose do not go together, if both are asked for.
        let protocol = self.protocol.as_deref().map(|protocol| match protocol {
            "auto" if self.enable_sasl => "auto (not with -S)",
            other => other,
        });
        set("protocol", protocol.map(Into::into));
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
            (self.enable_largepages, "-L"),
            (self.napi_ids.is_some(), "-N"),
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

    fn arguments(given: Vec<OsString>) -> Result<Vec<OsString>, String> {
        crate::conf_file::expand(given)
    }

    fn answer(&self) -> Option<String> {
        // COMPAT(memcached): scripts read the second word of the first line.
        let version = || {
            format!(
                "memcached {PROTOCOL_VERSION}\n{} {}\n",
                ABOUT.name,
                ABOUT.version_line()
            )
        };
        let version = self.protocol_version.then(version);
        version.or_else(|| self.license.then(|| LICENCE.to_owned()))
    }

    fn detach(&self) -> Detach {
        Detach {
            background: self.daemon,
            pid_file: self.pidfile.clone(),
            user: self.user.clone(),
        }
    }
}
