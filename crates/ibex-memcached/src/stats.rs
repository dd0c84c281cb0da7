//! The answers of `stats`: names and order are the original's, because exporters and graphs read them.
//!
//! Numbers come from the same counters as `/metrics`. Names that stand for slabs, LRU threads or libevent exist with the value that fits
//! (mostly 0), see docs/memcached/compatibility.md.

use crate::PROTOCOL_VERSION;
use crate::config::Config;
use crate::counters::Totals;
use crate::exec::{Cx, Sizes};
use crate::register::PrefixCounts;
use crate::stats_ours;
use ibex_cache_core::Band;
use ibex_memcached_proto::line::Words;
use ibex_memcached_proto::texts;
use std::fmt::Display;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// The original's page, in which `total_pages` is counted.
const PAGE_BYTES: u64 = 1 << 20;
/// Highest class id in commands.
const CLASS_ID_MAX: u64 = 63;
/// Bytes of one entry of the original's hash table.
const HASH_ENTRY_BYTES: u64 = 8;
/// What stands before the address of a datagram socket.
pub(crate) const UDP_PREFIX: &str = "udp:";
/// Descriptors that are not clients'.
const RESERVED_FDS: u32 = 20;

/// A reply under construction.
pub(crate) struct List<'o> {
    pub(crate) out: &'o mut Vec<u8>,
}

impl List<'_> {
    pub(crate) fn add(&mut self, name: &str, value: impl Display) {
        // Writing to a Vec cannot fail.
        let _written = write!(self.out, "STAT {name} {value}\r\n").is_ok();
    }

    pub(crate) fn end(self) {
        self.out.extend_from_slice(texts::END);
    }
}

/// `stats …`
pub(crate) fn answer(cx: &Cx<'_>, words: &[u8], out: &mut Vec<u8>) {
    let mut words = Words::new(words);
    match words.next() {
        None => general(cx, out),
        Some(b"reset") => {
            cx.shared.reset_stats();
            out.extend_from_slice(texts::RESET);
        }
        Some(b"settings") => settings(cx, out),
        Some(b"items") => items(cx, out),
        Some(b"slabs") => slabs(cx, out),
        // A packet's statistics are answered at once; lines come here only while sizes are not told.
        Some(b"sizes") if cx.shared.config.track_sizes => {
            let mut sizes = Sizes::default();
            while !sizes.step(cx, out) {}
        }
        Some(b"sizes") => {
            let mut list = List { out };
            list.add("sizes_status", "disabled");
            list.end();
        }
        Some(b"detail") => detail(cx, words.next(), out),
        Some(b"cachedump") => cachedump(cx, words, out),
        Some(b"conns") => conns(cx, out),
        Some(b"segments") => stats_ours::segments(cx, out),
        Some(b"latency") => stats_ours::latency(cx, out),
        Some(b"hotkeys") => stats_ours::hotkeys(cx, out),
        Some(b"threads") => stats_ours::threads(cx, out),
        Some(_) => out.extend_from_slice(texts::ERROR),
    }
}

/// User and system time of the process in seconds.
fn cpu_seconds() -> (f64, f64) {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name may hold blanks; fields are counted behind its closing bracket.
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .map_or(text.as_str(), |(_, rest)| rest)
        .split_ascii_whitespace()
        .collect();
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second())
        .unwrap_or(100)
        .max(1);
    let seconds = |at: usize| {
        fields
            .get(at)
            .and_then(|ticks| ticks.parse::<u32>().ok())
            .map_or(0.0, |ticks| f64::from(ticks) / f64::from(per_second))
    };
    (seconds(11), seconds(12))
}

fn general(cx: &Cx<'_>, out: &mut Vec<u8>) {
    let shared = cx.shared;
    let totals = shared.totals();
    let items = shared.store.stats();
    let globals = &shared.globals;
    let mut list = List { out };
    let (user, system) = cpu_seconds();
    let connections = shared.connections();
    let hash_power = globals.hash_power.load(Ordering::Relaxed);
    list.add("pid", std::process::id());
    list.add("uptime", shared.clock.uptime());
    list.add("time", shared.clock.unix(cx.now));
    list.add("version", PROTOCOL_VERSION);
    list.add("libevent", "mio-1.x");
    list.add("pointer_size", usize::BITS);
    list.add("rusage_user", format_args!("{user:.6}"));
    list.add("rusage_system", format_args!("{system:.6}"));
    list.add("max_connections", shared.kit.common().limits.connections);
    list.add("curr_connections", connections);
    list.add(
        "total_connections",
        globals.total_connections.load(Ordering::Relaxed),
    );
    list.add(
        "rejected_connections",
        globals.rejected_connections.load(Ordering::Relaxed),
    );
    list.add("connection_structures", connections);
    buffer_numbers(cx, &totals, connections, &mut list);
    list.add("reserved_fds", RESERVED_FDS);
    for (name, value) in [
        ("cmd_get", totals.cmd_get),
        ("cmd_set", totals.cmd_set),
        ("cmd_flush", totals.cmd_flush),
        ("cmd_touch", totals.cmd_touch),
        ("cmd_meta", totals.cmd_meta),
        ("get_hits", totals.get_hits),
        ("get_misses", totals.get_misses),
        ("get_expired", totals.get_expired),
        ("get_flushed", totals.get_flushed),
        ("delete_misses", totals.delete_misses),
        ("delete_hits", totals.delete_hits),
        ("incr_misses", totals.incr_misses),
        ("incr_hits", totals.incr_hits),
        ("decr_misses", totals.decr_misses),
        ("decr_hits", totals.decr_hits),
        ("cas_misses", totals.cas_misses),
        ("cas_hits", totals.cas_hits),
        ("cas_badval", totals.cas_badval),
        ("touch_hits", totals.touch_hits),
        ("touch_misses", totals.touch_misses),
        ("store_too_large", totals.store_too_large),
        ("store_no_memory", totals.store_no_memory),
        ("auth_cmds", totals.auth_cmds),
        ("auth_errors", totals.auth_errors),
    ] {
        list.add(name, value);
    }
    if !shared.config.idle_timeout.is_zero() {
        list.add("idle_kicks", totals.idle_kicks);
    }
    list.add("bytes_read", totals.bytes_read);
    list.add("bytes_written", totals.bytes_written);
    list.add("limit_maxbytes", shared.store.limit_bytes());
    list.add(
        "accepting_conns",
        u8::from(globals.accepting.load(Ordering::Relaxed)),
    );
    list.add(
        "listen_disabled_num",
        globals.listen_disabled.load(Ordering::Relaxed),
    );
    list.add(
        "time_in_listen_disabled_us",
        globals.disabled_us.load(Ordering::Relaxed),
    );
    list.add("threads", shared.config.threads);
    list.add("conn_yields", totals.conn_yields);
    list.add("hash_power_level", hash_power);
    list.add("hash_bytes", HASH_ENTRY_BYTES << hash_power);
    list.add("hash_is_expanding", 0);
    store_numbers(cx, &items, &mut list);
    list.end();
}

/// Buffers of connections.
fn buffer_numbers(cx: &Cx<'_>, totals: &Totals, connections: u64, list: &mut List<'_>) {
    let shared = cx.shared;
    list.add("response_obj_oom", totals.response_obj_oom);
    list.add("response_obj_count", connections);
    list.add(
        "response_obj_bytes",
        shared
            .workers
            .iter()
            .map(|worker| worker.gauges.write_bytes())
            .sum::<u64>(),
    );
    list.add("read_buf_count", shared.workers.len());
    list.add(
        "read_buf_bytes",
        shared
            .workers
            .iter()
            .map(|worker| worker.gauges.read_bytes())
            .sum::<u64>(),
    );
    list.add("read_buf_bytes_free", 0);
    list.add("read_buf_oom", totals.read_buf_oom);
}

/// The second half: the store's numbers.
fn store_numbers(cx: &Cx<'_>, items: &ibex_cache_core::Stats, list: &mut List<'_>) {
    for name in [
        "slab_reassign_rescues",
        "slab_reassign_chunk_rescues",
        "slab_reassign_inline_reclaim",
        "slab_reassign_busy_items",
        "slab_reassign_busy_deletes",
        "slab_reassign_busy_nomem",
    ] {
        list.add(name, 0);
    }
    list.add("slab_reassign_last_busy_status", "none");
    list.add("slab_reassign_running", 0);
    list.add("slabs_moved", 0);
    if cx.shared.live.crawler_enabled.load(Ordering::Relaxed) {
        list.add(
            "lru_crawler_running",
            u8::from(cx.shared.live.crawl.is_running()),
        );
        list.add(
            "lru_crawler_starts",
            cx.shared.globals.crawler_starts.load(Ordering::Relaxed),
        );
    }
    let shows_lru = cx.shared.config.lru_maintainer;
    if shows_lru {
        list.add(
            "lru_maintainer_juggles",
            items.moved_survivors + items.moved_compacted,
        );
    }
    let watch = &cx.shared.watch;
    let counted = |number: &AtomicU64| number.load(Ordering::Relaxed);
    for (name, value) in [
        ("malloc_fails", 0),
        ("log_worker_dropped", counted(&watch.numbers.dropped)),
        ("log_worker_written", counted(&watch.numbers.written)),
        ("log_watcher_skipped", counted(&watch.numbers.skipped)),
        ("log_watcher_sent", counted(&watch.numbers.sent)),
        ("log_watchers", watch.count() as u64),
    ] {
        list.add(name, value);
    }
    if let Some(tls) = &cx.shared.tls {
        let totals = cx.shared.totals();
        list.add("ssl_handshake_errors", totals.tls_handshake_errors);
        list.add("ssl_proto_errors", totals.tls_errors);
        let since = cx.now.saturating_sub(tls.refreshed_at());
        list.add("time_since_server_cert_refresh", since);
    }
    list.add("unexpected_napi_ids", 0);
    list.add("round_robin_fallback", 0);
    for (name, value) in [
        ("bytes", items.bytes),
        ("curr_items", items.curr_items),
        ("total_items", items.total_items),
        (
            "slab_global_page_pool",
            items.segments_free * (items.segment_bytes / items.segments.max(1)) / PAGE_BYTES,
        ),
        ("expired_unfetched", items.expired_unfetched),
        ("evicted_unfetched", items.evicted_unfetched),
        ("evictions", items.evictions),
        ("reclaimed", items.reclaimed + items.sweep_reclaimed),
        ("crawler_reclaimed", items.sweep_reclaimed),
        ("crawler_items_checked", items.sweep_checked),
        ("lrutail_reflocked", 0),
    ] {
        list.add(name, value);
        if shows_lru && name == "evicted_unfetched" {
            list.add("evicted_active", items.evicted_active);
        }
    }
    if !shows_lru {
        return;
    }
    for (name, value) in [
        ("moves_to_cold", items.moved_compacted),
        ("moves_to_warm", items.moved_survivors),
        ("moves_within_lru", 0),
        ("direct_reclaims", items.direct_reclaims),
        ("lru_bumps_dropped", 0),
    ] {
        list.add(name, value);
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// The settings the original shows before those of its LRU.
fn first_settings(cx: &Cx<'_>, list: &mut List<'_>) {
    let (shared, config) = (cx.shared, &cx.shared.config);
    let port_of = |address: &str| address.rsplit_once(':')?.1.parse::<u16>().ok();
    let is_udp = |address: &str| address.starts_with(UDP_PREFIX);
    let listeners = shared.listeners();
    let port_where = |wants_udp: bool| {
        let mut addresses = listeners.iter().map(|(_, address)| address.as_str());
        addresses
            .find_map(|address| port_of(address).filter(|_| is_udp(address) == wants_udp))
            .unwrap_or(0)
    };
    let (port, udp_port) = (port_where(false), port_where(true));
    let inter = listeners
        .iter()
        .filter(|(_, address)| !is_udp(address))
        .find_map(|(_, address)| address.rsplit_once(':').map(|(host, _)| host.to_owned()));
    let socket = listeners
        .iter()
        .find_map(|(_, address)| address.strip_prefix("unix:").map(str::to_owned));
    let is_any = inter
        .as_deref()
        .is_none_or(|host| matches!(host, "0.0.0.0" | "[::]"));
    list.add("maxbytes", shared.store.limit_bytes());
    list.add("maxconns", shared.kit.common().limits.connections);
    list.add("tcpport", if socket.is_some() { 0 } else { port });
    list.add("udpport", udp_port);
    list.add(
        "inter",
        inter
            .filter(|_| !is_any && socket.is_none())
            .unwrap_or_else(|| "NULL".to_owned()),
    );
    list.add("verbosity", shared.live.verbosity.load(Ordering::Relaxed));
    list.add("oldest", 0);
    list.add("evictions", if config.no_evictions { "off" } else { "on" });
    list.add("domain_socket", socket.unwrap_or_else(|| "NULL".to_owned()));
    list.add("umask", format_args!("{:o}", config.unix_mask));
    list.add("shutdown_command", yes_no(config.shutdown_command));
    list.add("growth_factor", format_args!("{:.2}", config.growth_factor));
    list.add("chunk_size", config.chunk_size);
    list.add("num_threads", config.threads);
    list.add(
        "num_threads_per_udp",
        if config.udp.is_empty() {
            config.threads
        } else {
            1
        },
    );
    list.add("stat_key_prefix", &config.prefix_delimiter);
    list.add("detail_enabled", yes_no(shared.details.is_enabled()));
    list.add("reqs_per_event", config.requests_per_turn);
    list.add("cas_enabled", yes_no(!config.no_cas));
    list.add("tcp_backlog", config.backlog);
    list.add(
        "binding_protocol",
        match config.protocol.as_str() {
            _ if config.sasl => "binary",
            "auto" => "auto-negotiate",
            other => other,
        },
    );
    list.add("auth_enabled_sasl", yes_no(config.sasl));
    let has_text_login = !config.sasl && !config.auth_file.is_empty();
    list.add(
        "auth_enabled_ascii",
        if has_text_login {
            &config.auth_file
        } else {
            "no"
        },
    );
    list.add("item_size_max", config.item_size_max.bytes());
    list.add("maxconns_fast", yes_no(config.maxconns_fast));
    list.add("hashpower_init", config.hash_power);
}

fn settings(cx: &Cx<'_>, out: &mut Vec<u8>) {
    let (live, config) = (&cx.shared.live, &cx.shared.config);
    let mut list = List { out };
    first_settings(cx, &mut list);
    let shown = |name| live.shown.get(name);
    for name in [
        "slab_reassign",
        "slab_automove",
        "slab_automove_ratio",
        "slab_automove_window",
        "slab_chunk_max",
    ] {
        list.add(name, shown(name));
    }
    list.add(
        "lru_crawler",
        yes_no(live.crawler_enabled.load(Ordering::Relaxed)),
    );
    for name in [
        "lru_crawler_sleep",
        "lru_crawler_tocrawl",
        "tail_repair_time",
    ] {
        list.add(name, shown(name));
    }
    list.add("flush_enabled", yes_no(!config.no_flush_all));
    list.add("dump_enabled", yes_no(!config.no_dumping));
    list.add("hash_algorithm", shown("hash_algorithm"));
    list.add("lru_maintainer_thread", yes_no(config.lru_maintainer));
    list.add(
        "lru_segmented",
        yes_no(live.lru_segmented.load(Ordering::Relaxed)),
    );
    for name in [
        "hot_lru_pct",
        "warm_lru_pct",
        "hot_max_factor",
        "warm_max_factor",
    ] {
        list.add(name, shown(name));
    }
    list.add("temp_lru", yes_no(live.temp_lru.load(Ordering::Relaxed)));
    list.add("temporary_ttl", shown("temporary_ttl"));
    list.add("idle_timeout", config.idle_timeout.std().as_secs());
    list.add("watcher_logbuf_size", cx.shared.watch.buffer_max());
    list.add("worker_logbuf_size", cx.shared.watch.ring_max());
    list.add("read_buf_mem_limit", config.read_buf_mem_limit.bytes());
    list.add("track_sizes", yes_no(config.track_sizes));
    list.add("inline_ascii_response", "no");
    tls_settings(config, &mut list);
    list.add("num_napi_ids", "NULL");
    let file = config.memory_file.as_str();
    list.add("memory_file", if file.is_empty() { "NULL" } else { file });
    list.add("client_flags_size", 4);
    list.end();
}

fn tls_settings(config: &Config, list: &mut List<'_>) {
    if !config.tls {
        return;
    }
    let or_null = |text: &str| {
        if text.is_empty() {
            "NULL".to_owned()
        } else {
            text.to_owned()
        }
    };
    list.add("ssl_enabled", "yes");
    list.add("ssl_chain_cert", &config.tls_cert);
    list.add("ssl_key", &config.tls_key);
    list.add("ssl_verify_mode", config.tls_verify);
    list.add("ssl_keyformat", config.tls_key_format);
    list.add("ssl_ciphers", or_null(&config.tls_ciphers));
    list.add("ssl_ca_cert", or_null(&config.tls_ca));
    list.add("ssl_wbuf_size", config.tls_write_buffer.bytes());
    list.add("ssl_session_cache", yes_no(config.tls_session_cache));
    list.add("ssl_kernel_tls", "no");
    list.add(
        "ssl_min_version",
        format_args!("tlsv{}", config.tls_min_version),
    );
}

fn live_bands(cx: &Cx<'_>) -> Vec<(usize, Band)> {
    cx.shared
        .store
        .band_stats()
        .into_iter()
        .enumerate()
        .filter(|(_, band)| band.items > 0)
        .collect()
}

fn items(cx: &Cx<'_>, out: &mut Vec<u8>) {
    let mut list = List { out };
    for (band, numbers) in live_bands(cx) {
        let class = band + 1;
        let mut add = |name: &str, value: u64| list.add(&format!("items:{class}:{name}"), value);
        add("number", numbers.items);
        add("number_hot", 0);
        add("number_warm", 0);
        add("number_cold", numbers.items);
        for name in ["age_hot", "age_warm", "age"] {
            add(name, 0);
        }
        add("mem_requested", numbers.bytes);
        add("evicted", numbers.evicted);
        add("evicted_nonzero", numbers.evicted_nonzero);
        add("evicted_time", numbers.evicted_idle);
        add("outofmemory", 0);
        add("tailrepairs", 0);
        // By readers and by the sweep, as the original counts its LRU threads' work; crawler_reclaimed is the sweep's part.
        add("reclaimed", numbers.reclaimed + numbers.sweep_reclaimed);
        add("expired_unfetched", numbers.expired_unfetched);
        add("evicted_unfetched", numbers.evicted_unfetched);
        add("evicted_active", numbers.evicted_active);
        add("crawler_reclaimed", numbers.sweep_reclaimed);
        for name in [
            "crawler_items_checked",
            "lrutail_reflocked",
            "moves_to_cold",
            "moves_to_warm",
            "moves_within_lru",
            "direct_reclaims",
            "hits_to_hot",
            "hits_to_warm",
            "hits_to_cold",
            "hits_to_temp",
        ] {
            add(name, 0);
        }
    }
    list.end();
}

fn slabs(cx: &Cx<'_>, out: &mut Vec<u8>) {
    let bands = &cx.shared.store.bands;
    // A class that was used is shown as the original shows its pages, which stay with it.
    let used = |(_, band): &(usize, Band)| *band != Band::default();
    let bands_by_number = cx.shared.store.band_stats().into_iter().enumerate();
    let live: Vec<(usize, Band)> = bands_by_number.filter(used).collect();
    let mut list = List { out };
    for (band, numbers) in &live {
        let class = band + 1;
        let mut add = |name: &str, value: u64| list.add(&format!("{class}:{name}"), value);
        let pages = numbers.bytes.div_ceil(PAGE_BYTES).max(1);
        let per_page = bands.chunks_per_page(*band) as u64;
        let total = (pages * per_page).max(numbers.items);
        add("chunk_size", bands.chunk_bytes(*band) as u64);
        add("chunks_per_page", per_page);
        add("total_pages", pages);
        add("total_chunks", total);
        add("used_chunks", numbers.items);
        add("free_chunks", total - numbers.items);
        for name in [
            "free_chunks_end",
            "get_hits",
            "cmd_set",
            "delete_hits",
            "incr_hits",
            "decr_hits",
            "cas_hits",
            "cas_badval",
            "touch_hits",
        ] {
            add(name, 0);
        }
    }
    list.add("active_slabs", live.len());
    list.add("total_malloced", cx.shared.store.stats().segment_bytes);
    list.end();
}

fn detail(cx: &Cx<'_>, word: Option<&[u8]>, out: &mut Vec<u8>) {
    let details = &cx.shared.details;
    let text = match word {
        _ if cx.shared.config.no_dumping => texts::STATS_DETAIL_DISABLED,
        Some(b"on") => {
            details.set_enabled(true);
            texts::OK
        }
        Some(b"off") => {
            details.set_enabled(false);
            texts::OK
        }
        Some(b"dump") => {
            for (prefix, counts) in details.all() {
                out.extend_from_slice(b"PREFIX ");
                out.extend_from_slice(&prefix);
                let PrefixCounts {
                    gets,
                    hits,
                    sets,
                    deletes,
                } = counts;
                let _written =
                    write!(out, " get {gets} hit {hits} set {sets} del {deletes}\r\n").is_ok();
            }
            texts::END
        }
        Some(_) | None => texts::STATS_DETAIL_USAGE,
    };
    out.extend_from_slice(text);
}

/// `stats cachedump <class> <limit>`: items of one class.
fn cachedump(cx: &Cx<'_>, mut words: Words<'_>, out: &mut Vec<u8>) {
    use ibex_base::ascii::parse_u64;
    let refusal = match (words.next(), words.next()) {
        _ if cx.shared.config.no_dumping => texts::CACHEDUMP_DISABLED,
        (Some(class), Some(limit)) => match (parse_u64(class), parse_u64(limit)) {
            (Some(class), Some(_)) if class > CLASS_ID_MAX => texts::CACHEDUMP_CLASS,
            (Some(class), Some(limit)) => return cachedump_class(cx, class, limit, out),
            _ => texts::BAD_FORMAT,
        },
        _ => texts::CACHEDUMP_USAGE,
    };
    out.extend_from_slice(refusal);
}

/// The original fills at most a page of two megabytes; policy: the list ends there.
const CACHEDUMP_BYTES_MAX: usize = 2 << 20;
/// Index buckets looked at under one hold of a lock.
const CACHEDUMP_BUCKETS: u32 = 64;

fn cachedump_class(cx: &Cx<'_>, class: u64, limit: u64, out: &mut Vec<u8>) {
    let start = out.len();
    let mut left = if limit == 0 { u64::MAX } else { limit };
    for number in 0..cx.shared.store.count() {
        let mut cursor = Some(0);
        while let (Some(at), Some(shard)) = (cursor, cx.shared.store.by_number(number)) {
            if left == 0 || out.len() - start > CACHEDUMP_BYTES_MAX {
                break;
            }
            cursor = shard.scan(at, CACHEDUMP_BUCKETS, |item| {
                let is_over = item.expiry() != 0 && item.expiry() <= cx.now;
                if left == 0
                    || is_over
                    || cx.shared.namespaces.is_gone(item.key(), item.cas())
                    || cx.shared.store.bands.of(item.classic_size()) as u64 + 1 != class
                {
                    return;
                }
                left -= 1;
                out.extend_from_slice(b"ITEM ");
                out.extend_from_slice(item.key());
                let expiry = if item.expiry() == 0 {
                    0
                } else {
                    cx.shared.clock.unix(item.expiry())
                };
                let _written = write!(out, " [{} b; {expiry} s]\r\n", item.value_len()).is_ok();
            });
        }
    }
    out.extend_from_slice(texts::END);
}

/// Listeners first, then clients, each under its descriptor.
fn conns(cx: &Cx<'_>, out: &mut Vec<u8>) {
    let mut list = List { out };
    for (fd, address) in &cx.shared.listeners() {
        list.add(&format!("{fd}:addr"), transport(address));
        let is_udp = address.starts_with(UDP_PREFIX);
        list.add(
            &format!("{fd}:state"),
            if is_udp {
                "conn_read"
            } else {
                "conn_listening"
            },
        );
    }
    for entry in cx.shared.register.all() {
        let fd = entry.fd;
        list.add(&format!("{fd}:addr"), &entry.peer);
        list.add(&format!("{fd}:listen_addr"), transport(&entry.listener));
        list.add(&format!("{fd}:state"), entry.state_name());
        list.add(
            &format!("{fd}:secs_since_last_cmd"),
            cx.now.saturating_sub(entry.last_command()),
        );
    }
    list.end();
}

/// An address with its transport in front.
fn transport(address: &str) -> String {
    if address.starts_with("unix:") || address.starts_with(UDP_PREFIX) {
        address.to_owned()
    } else {
        format!("tcp:{address}")
    }
}
