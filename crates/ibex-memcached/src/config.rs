//! The whole configuration as one documented struct.

use crate::shown;
use crate::ways::{DoorAddr, Mode, Speaks};
use ibex_kit::{AdminConfig, ByteSize, Duration, LimitsConfig, ListenAddr, Problem, Validate};

/// Memory for items by default, as the original's `-m 64`.
const MEMORY: ByteSize = ByteSize::from_bytes(64 << 20);
/// Largest item by default, as the original's `-I 1m`.
const ITEM_SIZE_MAX: ByteSize = ByteSize::from_bytes(1 << 20);
/// The original's `-t 4`.
const THREADS: u32 = 4;
/// The original's `-R 20`: requests of one connection before another has its turn.
const REQUESTS_PER_TURN: u32 = 20;
/// The original's `-c 1024`.
const CONNECTIONS: u32 = 1024;
/// Unsent replies of one connection before its requests wait: one largest item.
const OUTPUT_MAX: ByteSize = ByteSize::from_bytes(1 << 20);
/// Smallest and largest item size limit, the original's.
const ITEM_SIZE_RANGE: std::ops::RangeInclusive<u64> = 1024..=1 << 30;
/// A reply in 48 datagrams. Policy: larger values are for TCP.
const UDP_REPLY_MAX: ByteSize = ByteSize::from_bytes(64 << 10);
/// Smallest memory in which the segments of one shard fit.
const MEMORY_MIN: u64 = 1 << 20;

ibex_kit::config! {
    /// Whole configuration of ibex-memcached.
    pub struct Config {
        /// Data addresses, TCP and unix sockets.
        live listen: Vec<ListenAddr> = vec![ListenAddr::Tcp { host: None, port: 11211 }],
        /// TLS on all TCP addresses of `listen`. The original's -Z.
        restart tls: bool = false,
        /// Addresses without TLS although `tls` is on. The original's -l notls:…
        live listen_plain: Vec<ListenAddr>,
        /// Addresses with TLS that require a client certificate signed by `tls_ca`. The original's -l mtls:…
        live listen_mtls: Vec<ListenAddr>,
        /// Further addresses, each with a way of its own: [notls:|btls:|mtls:][proto[ascii|binary|negotiating]:]ADDRESS. btls: is TLS that asks for no client
        /// certificate. The original's -l proto[…]:… and btls:…
        live listen_as: Vec<DoorAddr>,
        /// Certificate chain, PEM. Read again on SIGHUP and `refresh_certs`. The original's -o ssl_chain_cert.
        restart tls_cert: String,
        /// Private key. The original's -o ssl_key.
        restart tls_key: String,
        /// Form of the private key's file: 1 is PEM, 2 is DER. The original's -o ssl_keyformat.
        restart tls_key_format: u32 = 1,
        /// Cipher suites that are spoken, OpenSSL's names with colons between; empty = all there are. The original's -o ssl_ciphers.
        restart tls_ciphers: String,
        /// Client certificates: 0 none, 1 checked if one is given, 2 and 3 required. The original's -o ssl_verify_mode.
        restart tls_verify: u32 = 0,
        /// Certificates that sign those of clients, PEM. The original's -o ssl_ca_cert.
        restart tls_ca: String,
        /// Oldest version of TLS that is spoken, 1.2 or 1.3. The original's -o ssl_min_version.
        restart tls_min_version: String = "1.2".to_owned(),
        /// Whether sessions can be resumed. The original's -o ssl_session_cache.
        restart tls_session_cache: bool = false,
        /// Plain bytes of a connection that are encrypted ahead of the socket, 1K to 1M. The original's -o ssl_wbuf_size.
        restart tls_write_buffer: ByteSize = ByteSize::from_bytes(16 << 10),
        /// Datagram (UDP) addresses; empty = off. The original's -U. Anybody who can send to them can use the cache, and forge the sender.
        restart udp: Vec<ListenAddr>,
        /// Longest reply to a datagram; a longer one is replaced by an error. Bounds what a forged sender can have sent to somebody else.
        restart udp_reply_max: ByteSize = UDP_REPLY_MAX,
        /// Memory for items, index and connection buffers (at least 1M). The original's -m.
        live memory: ByteSize = MEMORY,
        /// File in which a graceful stop (SIGUSR1, `shutdown graceful`) leaves the items for the next start; empty = they are lost. Best on a file system in
        /// memory. The original's -e.
        restart memory_file: String,
        /// Answer "out of memory" rather than evict. The original's -M.
        restart no_evictions: bool = false,
        /// Largest item, 1K to 1G and at most half of the memory. The original's -I.
        restart item_size_max: ByteSize = ITEM_SIZE_MAX,
        /// Worker threads, 1 to 512. The original's -t.
        restart threads: u32 = THREADS,
        /// Which protocol clients may speak: auto, ascii or binary. The original's -B.
        restart protocol: String = "auto".to_owned(),
        /// Users who may log in, lines of user:password; empty = no login is asked for. The original's -Y.
        restart auth_file: String,
        /// Ask for a SASL login (binary protocol only) rather than a text one. The original's -S.
        restart sasl: bool = false,
        /// Requests of one connection in a row before others have their turn, at least 1. The original's -R.
        restart requests_per_turn: u32 = REQUESTS_PER_TURN,
        /// Unsent reply bytes of a connection at which its requests wait.
        restart output_max: ByteSize = OUTPUT_MAX,
        /// Bytes of buffers of all connections together; a connection over it is closed with an error. 0 = a quarter of the memory, or two of the largest items
        /// if that is more. The original's -o read_buf_mem_limit.
        restart read_buf_mem_limit: ByteSize = ByteSize::from_bytes(0),
        /// Refuse a connection over the limit with an error line, rather than leave it waiting. The original's -o maxconns_fast.
        restart maxconns_fast: bool = true,
        /// Close connections without a command for this long; 0 = never. The original's -o idle_timeout.
        restart idle_timeout: Duration = Duration::ZERO,
        /// No cas numbers: gets shows 0. The original's -C.
        restart no_cas: bool = false,
        /// Tell sizes of items in `stats sizes`; they are counted when asked for. The original's -o track_sizes.
        restart track_sizes: bool = false,
        /// What ends the prefixes that `ns_invalidate` takes, one byte; empty = there are no namespaces. Needs cas numbers. The word -o ns.
        restart ns_delimiter: String,
        /// Refuse flush_all. The original's -F.
        restart no_flush_all: bool = false,
        /// Refuse dumps of keys. The original's -X.
        restart no_dumping: bool = false,
        /// Refuse watch. The original's -W.
        restart no_watch: bool = false,
        /// Lines a watcher has not taken yet, in bytes, 1K to 64M; further ones are dropped and counted. The original's -o watcher_logbuf_size.
        restart watcher_logbuf_size: ByteSize = ByteSize::from_bytes(256 << 10),
        /// Lines of a worker on their way to watchers, in bytes, 1K to 64M. The original's -o worker_logbuf_size.
        restart worker_logbuf_size: ByteSize = ByteSize::from_bytes(64 << 10),
        /// Accept the shutdown command. The original's -A.
        restart shutdown_command: bool = false,
        /// Verbosity as `stats settings` shows it, 0 to 2. The original's -v.
        restart verbosity: u32 = 0,
        /// Delimiter of prefixes in `stats detail`. The original's -D.
        restart prefix_delimiter: String = ":".to_owned(),
        /// Growth factor of the size classes shown by `stats slabs`. The original's -f; no memory is arranged by it.
        restart growth_factor: f64 = 1.25,
        /// Smallest value of the size classes shown by `stats slabs`, in bytes. The original's -n.
        restart chunk_size: u32 = 48,
        /// Shown as hash_power_level until more items are held. The original's -o hashpower.
        restart hash_power: u32 = 16,
        /// Length of the queue of connections not yet accepted, of each address. The original's -b.
        restart backlog: u32 = 1024,
        /// Mode of unix sockets' files: who may connect. The original's -a, which is octal.
        restart unix_mask: u32 = 0o700,
        /// Lock all memory, so that nothing of it is ever swapped out. The original's -k.
        restart lock_memory: bool = false,
        /// Let a crash write a core file of any size. The original's -r.
        restart core_files: bool = false,
        /// Settings of the original that mean nothing here and are shown by `stats settings`, each NAME=VALUE. The original's -o words of slabs and LRU.
        restart original_settings: Vec<String>,
        /// Commands that only tests need (debugtime).
        restart test_hooks: bool = false,
        /// Free expired items without waiting for somebody to meet them. The original's -o lru_crawler, changed by the lru_crawler command.
        restart lru_crawler: bool = true,
        /// Shown by the statistics: whether -o lru_maintainer was left on.
        restart lru_maintainer: bool = true,
        /// Limits of the process; connections as the original's -c.
        table limits: LimitsConfig = LimitsConfig { connections: CONNECTIONS, ..LimitsConfig::default() },
        /// Admin HTTP: health, metrics, status page.
        table admin: AdminConfig = AdminConfig::for_port(crate::ABOUT.admin_port),
    }
}

impl Config {
    fn check_namespaces(&self, require: &mut impl FnMut(bool, &str, &str)) {
        let is_one_byte = self.ns_delimiter.len() <= 1 && !self.ns_delimiter.contains(' ');
        require(is_one_byte, "ns_delimiter", "must be one byte, or empty");
        require(
            self.ns_delimiter.is_empty() || !self.no_cas,
            "ns_delimiter",
            "must be empty with no_cas: namespaces compare cas numbers",
        );
    }

    fn check_protocols(&self, require: &mut impl FnMut(bool, &str, &str)) {
        let speaks = |protocol| {
            self.listen_as
                .iter()
                .any(|door| door.way.speaks == protocol)
        };
        let has_users = !self.auth_file.is_empty();
        require(
            !(has_users && !self.sasl && speaks(Speaks::Binary)),
            "listen_as",
            "must not have proto[binary] with auth_file without sasl",
        );
        require(
            !(self.sasl && (speaks(Speaks::Ascii) || speaks(Speaks::Negotiating))),
            "listen_as",
            "must have no other protocol than binary with sasl",
        );
    }

    fn check_tls(&self, require: &mut impl FnMut(bool, &str, &str)) {
        let needs = |ok: bool| !self.tls || ok;
        require(
            needs(!self.tls_cert.is_empty()),
            "tls_cert",
            "is needed with tls",
        );
        require(
            needs(!self.tls_key.is_empty()),
            "tls_key",
            "is needed with tls",
        );
        require(
            needs(self.tls_verify == 0 || !self.tls_ca.is_empty()),
            "tls_ca",
            "is needed to check client certificates",
        );
        for (key, has_some) in [
            ("listen_plain", !self.listen_plain.is_empty()),
            ("listen_mtls", !self.listen_mtls.is_empty()),
            (
                "listen_as",
                self.listen_as
                    .iter()
                    .any(|door| door.way.mode != Mode::Usual),
            ),
        ] {
            require(self.tls || !has_some, key, "is for tls, which is off");
        }
        let is_format = matches!(self.tls_key_format, 1 | 2);
        require(is_format, "tls_key_format", "must be 1 (PEM) or 2 (DER)");
        if let Err(reason) = crate::tls::suites(&self.tls_ciphers) {
            require(false, "tls_ciphers", &reason);
        }
        require(self.tls_verify <= 3, "tls_verify", "must be from 0 to 3");
        let is_version = matches!(self.tls_min_version.as_str(), "1.2" | "1.3");
        require(is_version, "tls_min_version", "must be 1.2 or 1.3");
        let is_sane = (1 << 10..=1 << 20).contains(&self.tls_write_buffer.bytes());
        require(is_sane, "tls_write_buffer", "must be from 1K to 1M");
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut require = |ok: bool, key: &str, message: &str| {
            if !ok {
                problems.push(Problem::new(key, message));
            }
        };
        require(
            self.udp.is_empty() || self.auth_file.is_empty(),
            "udp",
            "must be empty with a login: datagrams have none",
        );
        require(
            self.memory.bytes() >= MEMORY_MIN,
            "memory",
            "must be at least 1M",
        );
        self.check_tls(&mut require);
        let item_size = self.item_size_max.bytes();
        require(
            ITEM_SIZE_RANGE.contains(&item_size),
            "item_size_max",
            "must be from 1K to 1G",
        );
        require(
            item_size <= self.memory.bytes() / 2,
            "item_size_max",
            "must be at most half of memory",
        );
        require(
            (1..=512).contains(&self.threads),
            "threads",
            "must be from 1 to 512",
        );
        require(
            self.requests_per_turn >= 1,
            "requests_per_turn",
            "must be at least 1",
        );
        require(
            self.output_max.bytes() >= 4096,
            "output_max",
            "must be at least 4K",
        );
        for (key, size) in [
            ("watcher_logbuf_size", self.watcher_logbuf_size),
            ("worker_logbuf_size", self.worker_logbuf_size),
        ] {
            let is_sane = (1 << 10..=64 << 20).contains(&size.bytes());
            require(is_sane, key, "must be from 1K to 64M");
        }
        require(
            self.growth_factor > 1.0,
            "growth_factor",
            "must be greater than 1",
        );
        require(self.chunk_size >= 1, "chunk_size", "must be at least 1");
        require(
            self.prefix_delimiter.len() == 1,
            "prefix_delimiter",
            "must be one byte",
        );
        self.check_namespaces(&mut require);
        require(
            (12..=32).contains(&self.hash_power),
            "hash_power",
            "must be from 12 to 32",
        );
        let is_protocol = matches!(self.protocol.as_str(), "auto" | "ascii" | "binary");
        require(is_protocol, "protocol", "must be auto, ascii or binary");
        require(
            !self.sasl || !self.auth_file.is_empty(),
            "auth_file",
            "is needed with sasl",
        );
        require(
            !self.sasl || self.protocol != "ascii",
            "protocol",
            "must not be ascii with sasl",
        );
        for problem in shown::check(&self.original_settings) {
            require(false, "original_settings", &problem);
        }
        require(
            self.unix_mask <= 0o777,
            "unix_mask",
            "must be at most 0o777 (511)",
        );
        self.check_protocols(&mut require);
        let is_text_login = !self.auth_file.is_empty() && !self.sasl;
        require(
            !is_text_login || self.protocol != "binary",
            "protocol",
            "must not be binary with auth_file without sasl",
        );
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let has_mutual = !self.listen_mtls.is_empty()
            || self
                .listen_as
                .iter()
                .any(|door| door.way.mode == Mode::Mutual);
        if has_mutual && self.tls_ca.is_empty() {
            warnings.push("tls_ca is empty: no client certificate is valid, so nobody can connect to an mtls address".to_owned());
        }
        let listens = [
            &self.listen,
            &self.listen_plain,
            &self.listen_mtls,
            &self.udp,
        ];
        if listens.iter().all(|list| list.is_empty()) && self.listen_as.is_empty() {
            warnings.push(
                "there is no address to listen on: nobody can connect until a reload adds one"
                    .to_owned(),
            );
        }
        warnings
    }
}
