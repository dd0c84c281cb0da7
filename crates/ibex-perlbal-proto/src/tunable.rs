//! The table of tunables: every `SET` a service knows, with its role, type and default.
//!
//! Owns names, types, defaults and the checking of values (spec part A5 and B6). Apart from the command parser because
//! the table is what documentation, `dumpconfig` and the running services read. Values that name files are checked by
//! the daemon, which has a file system.

use std::fmt;

/// Role of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Passes requests on to a pool.
    ReverseProxy,
    /// Serves files.
    WebServer,
    /// Hands requests to other services.
    Selector,
    /// The command port.
    Management,
    /// Listens for upload status datagrams.
    UploadTracker,
    /// Echoes lines (plugin EchoService).
    Echo,
}

impl Role {
    /// Every role, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::ReverseProxy,
        Self::WebServer,
        Self::Selector,
        Self::Management,
        Self::UploadTracker,
        Self::Echo,
    ];

    /// Name of the role in the language.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReverseProxy => "reverse_proxy",
            Self::WebServer => "web_server",
            Self::Selector => "selector",
            Self::Management => "management",
            Self::UploadTracker => "upload_tracker",
            Self::Echo => "echo",
        }
    }

    /// The role of that name, any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|r| r.name().eq_ignore_ascii_case(text))
    }
}

/// Which services know a tunable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All roles.
    Any,
    /// One role.
    Only(Role),
}

/// Type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `on`, `off` and their synonyms.
    Bool,
    /// `\d+`.
    Int,
    /// 0 to 100.
    Percent,
    /// Bytes, with suffix.
    Size,
    /// Seconds, fractions and suffixes `ms s m h` allowed.
    Duration,
    /// Any text.
    Text,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A role.
    Role,
    /// An existing pool.
    Pool,
    /// Addresses to listen on.
    Listen,
    /// A directory that exists.
    Directory,
    /// A list of networks.
    Netmasks,
    /// A list of `ip:port` for datagrams.
    Endpoints,
    /// A list of seconds.
    Schedule,
    /// A list of directories.
    Directories,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunable {
    /// Name in the language, lower case.
    pub name: &'static str,
    /// Who knows it.
    pub scope: Scope,
    /// Type of its value.
    pub kind: Kind,
    /// Default in the language; empty for none.
    pub default: &'static str,
    /// What it does, for documentation.
    pub help: &'static str,
}

const PROXY: Scope = Scope::Only(Role::ReverseProxy);
const WEB: Scope = Scope::Only(Role::WebServer);
const SELECTOR: Scope = Scope::Only(Role::Selector);

const fn t(
    name: &'static str,
    scope: Scope,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Tunable {
    Tunable {
        name,
        scope,
        kind,
        default,
        help,
    }
}

/// All tunables, the original's first, then today's.
pub const TABLE: &[Tunable] = &[
    t(
        "role",
        Scope::Any,
        Kind::Role,
        "",
        "role of the service; set it first",
    ),
    t(
        "listen",
        Scope::Any,
        Kind::Listen,
        "",
        "ip:port, port, [v6]:port or unix:/path; several separated by commas",
    ),
    t(
        "pool",
        PROXY,
        Kind::Pool,
        "",
        "pool whose nodes get the requests",
    ),
    t("docroot", WEB, Kind::Directory, "", "directory served"),
    t(
        "persist_client",
        Scope::Any,
        Kind::Bool,
        "off",
        "keep client connections open between requests",
    ),
    t(
        "persist_client_idle_timeout",
        Scope::Any,
        Kind::Int,
        "30",
        "seconds a client may be idle between requests",
    ),
    t(
        "idle_timeout",
        Scope::Any,
        Kind::Int,
        "30",
        "seconds without progress in any other state",
    ),
    t(
        "persist_client_timeout",
        Scope::Any,
        Kind::Int,
        "",
        "old name that sets both timeouts",
    ),
    t(
        "persist_backend",
        PROXY,
        Kind::Bool,
        "off",
        "keep backend connections open between requests",
    ),
    t(
        "backend_persist_cache",
        PROXY,
        Kind::Int,
        "2",
        "idle backend connections kept",
    ),
    t(
        "connect_ahead",
        PROXY,
        Kind::Int,
        "0",
        "spare backend connections kept ready",
    ),
    t(
        "max_backend_uses",
        PROXY,
        Kind::Int,
        "0",
        "requests per backend connection, 0 = no limit",
    ),
    t(
        "verify_backend",
        PROXY,
        Kind::Bool,
        "off",
        "prove with OPTIONS that a process has accepted a new connection",
    ),
    t(
        "verify_backend_path",
        PROXY,
        Kind::Text,
        "*",
        "target of the OPTIONS request",
    ),
    t(
        "buffer_size",
        PROXY,
        Kind::Size,
        "256k",
        "response bytes held for a slow client",
    ),
    t(
        "buffer_size_reproxy_url",
        PROXY,
        Kind::Size,
        "50k",
        "the same for reproxied URLs",
    ),
    t(
        "buffer_backend_connect",
        PROXY,
        Kind::Size,
        "100k",
        "request body bytes read before a backend is asked for",
    ),
    t(
        "buffer_uploads",
        PROXY,
        Kind::Bool,
        "off",
        "spool large or slow uploads to disk",
    ),
    t(
        "buffer_uploads_path",
        PROXY,
        Kind::Directory,
        "",
        "directory of the spool files",
    ),
    t(
        "buffer_upload_threshold_size",
        PROXY,
        Kind::Size,
        "250k",
        "spool bodies at least this large, 0 = not checked",
    ),
    t(
        "buffer_upload_threshold_rate",
        PROXY,
        Kind::Int,
        "0",
        "spool bodies slower than this many bytes a second, 0 = not checked",
    ),
    t(
        "buffer_upload_threshold_time",
        PROXY,
        Kind::Int,
        "5",
        "spool bodies that will take longer than this many seconds, 0 = not checked",
    ),
    t(
        "max_chunked_request_size",
        Scope::Any,
        Kind::Size,
        "209715200",
        "largest chunked request body, 0 = no limit",
    ),
    t(
        "upload_status_listeners",
        PROXY,
        Kind::Endpoints,
        "",
        "ip:port list that gets upload progress datagrams",
    ),
    t(
        "high_priority_cookie",
        PROXY,
        Kind::Text,
        "",
        "name of the cookie that makes a request high priority",
    ),
    t(
        "high_priority_cookie_contents",
        PROXY,
        Kind::Text,
        "",
        "text the cookie has to contain",
    ),
    t(
        "queue_relief_size",
        PROXY,
        Kind::Int,
        "0",
        "normal requests waiting before relief starts, 0 = no relief",
    ),
    t(
        "queue_relief_chance",
        PROXY,
        Kind::Percent,
        "0",
        "chance in percent that relief serves the normal queue first",
    ),
    t(
        "enable_error_retries",
        PROXY,
        Kind::Bool,
        "off",
        "ask again after a 500 to a GET or HEAD",
    ),
    t(
        "error_retry_schedule",
        PROXY,
        Kind::Schedule,
        "0,.25,.50,1,1,1,1,1",
        "delays in seconds before each new try",
    ),
    t(
        "enable_reproxy",
        PROXY,
        Kind::Bool,
        "off",
        "obey X-REPROXY fields of backends",
    ),
    t(
        "reproxy_cache_maxsize",
        PROXY,
        Kind::Int,
        "0",
        "remembered X-REPROXY-CACHE-FOR entries, 0 = off",
    ),
    t(
        "trusted_upstream_proxies",
        Scope::Any,
        Kind::Netmasks,
        "",
        "networks whose forwarding fields are believed",
    ),
    t(
        "always_trusted",
        Scope::Any,
        Kind::Bool,
        "off",
        "believe every peer's forwarding fields",
    ),
    t(
        "blind_proxy",
        PROXY,
        Kind::Bool,
        "off",
        "leave the forwarding fields of trusted peers alone",
    ),
    t(
        "server_process",
        PROXY,
        Kind::Text,
        "",
        "accepted only when empty: processes per connection are not supported",
    ),
    t(
        "client_sndbuf_size",
        Scope::Any,
        Kind::Size,
        "0",
        "SO_SNDBUF of client sockets, 0 = system default",
    ),
    t(
        "server_tokens",
        Scope::Any,
        Kind::Bool,
        "on",
        "send Server on own responses",
    ),
    t("dirindexing", WEB, Kind::Bool, "off", "list directories"),
    t(
        "index_files",
        WEB,
        Kind::Text,
        "index.html",
        "names tried for a directory, separated by blanks or commas",
    ),
    t("enable_put", WEB, Kind::Bool, "off", "accept PUT"),
    t("enable_delete", WEB, Kind::Bool, "off", "accept DELETE"),
    t(
        "enable_md5",
        WEB,
        Kind::Bool,
        "on",
        "check Content-MD5 of PUT",
    ),
    t(
        "max_put_size",
        WEB,
        Kind::Size,
        "0",
        "largest PUT body, 0 = no limit",
    ),
    t(
        "min_put_directory",
        WEB,
        Kind::Int,
        "0",
        "leading directories of a PUT that must exist",
    ),
    t(
        "enable_concatenate_get",
        WEB,
        Kind::Bool,
        "off",
        "serve several files for one ?? request",
    ),
    t(
        "default_service",
        SELECTOR,
        Kind::Text,
        "",
        "service for requests no plugin takes",
    ),
    t(
        "latency",
        SELECTOR,
        Kind::Int,
        "0",
        "milliseconds of delay before selecting, for tests",
    ),
    t(
        "enable_ssl",
        Scope::Any,
        Kind::Bool,
        "off",
        "accepted only as off: TLS is not built in yet",
    ),
    t(
        "ssl_key_file",
        Scope::Any,
        Kind::Text,
        "certs/server-key.pem",
        "without effect while enable_ssl is off",
    ),
    t(
        "ssl_cert_file",
        Scope::Any,
        Kind::Text,
        "certs/server-cert.pem",
        "without effect while enable_ssl is off",
    ),
    t(
        "ssl_cipher_list",
        Scope::Any,
        Kind::Text,
        "ALL:!LOW:!EXP",
        "without effect while enable_ssl is off",
    ),
    t(
        "ssl_ca_path",
        Scope::Any,
        Kind::Text,
        "",
        "without effect while enable_ssl is off",
    ),
    t(
        "ssl_verify_mode",
        Scope::Any,
        Kind::Int,
        "0",
        "without effect while enable_ssl is off",
    ),
    t(
        "ssl_honor_cipher_order",
        Scope::Any,
        Kind::Int,
        "0",
        "without effect while enable_ssl is off",
    ),
    // Today's.
    t(
        "header_timeout",
        Scope::Any,
        Kind::Duration,
        "20",
        "total time for a request head; then 408",
    ),
    t(
        "max_header_size",
        Scope::Any,
        Kind::Size,
        "100k",
        "largest request head; then 431",
    ),
    t(
        "max_headers",
        Scope::Any,
        Kind::Int,
        "200",
        "most header fields; then 431",
    ),
    t(
        "max_uri_size",
        Scope::Any,
        Kind::Size,
        "32k",
        "longest request target; then 414",
    ),
    t(
        "max_response_header",
        PROXY,
        Kind::Size,
        "64k",
        "largest response head of a backend; then 502",
    ),
    t(
        "body_min_rate",
        Scope::Any,
        Kind::Int,
        "200",
        "bytes a second a body must average after 5 s, 0 = no limit; then 408",
    ),
    t(
        "send_min_rate",
        Scope::Any,
        Kind::Int,
        "100",
        "bytes a second a client must take, averaged over 30 s, 0 = no limit; then cut",
    ),
    t(
        "max_body_size",
        Scope::Any,
        Kind::Size,
        "0",
        "largest request body, 0 = no limit; then 413",
    ),
    t(
        "queue_timeout",
        PROXY,
        Kind::Duration,
        "30",
        "longest wait for a backend; then 503",
    ),
    t(
        "max_queue",
        PROXY,
        Kind::Int,
        "10000",
        "most waiting requests, 0 = no limit; then 503 at once",
    ),
    t(
        "backend_timeout",
        PROXY,
        Kind::Duration,
        "30",
        "longest time a backend may make no progress; then 504",
    ),
    t(
        "max_connections",
        Scope::Any,
        Kind::Int,
        "0",
        "most client connections, 0 = no limit; then accepting stops",
    ),
    t(
        "max_connections_per_ip",
        Scope::Any,
        Kind::Int,
        "0",
        "most client connections of one address, 0 = no limit; then 429",
    ),
    t(
        "max_requests_per_client",
        Scope::Any,
        Kind::Int,
        "0",
        "requests per client connection, 0 = no limit",
    ),
    t(
        "max_pending_per_node",
        PROXY,
        Kind::Int,
        "2",
        "connections being made to one node at a time",
    ),
    t(
        "hedge_after",
        PROXY,
        Kind::Duration,
        "50ms",
        "wait for an unverified connection before another node is tried, 0 = off",
    ),
    t(
        "client_abort",
        PROXY,
        Kind::OneOf(&["close", "finish"]),
        "close",
        "what to do when a client closes or half-closes before its response",
    ),
    t(
        "backend_http",
        PROXY,
        Kind::OneOf(&["1.1", "1.0"]),
        "1.1",
        "version spoken to backends",
    ),
    t(
        "verify_backend_version",
        PROXY,
        Kind::OneOf(&["1.0", "1.1"]),
        "1.0",
        "version of the OPTIONS request",
    ),
    t(
        "upgrades",
        PROXY,
        Kind::Text,
        "websocket",
        "protocols a client may switch to, separated by commas; none = no upgrades",
    ),
    t(
        "tunnel_timeout",
        PROXY,
        Kind::Duration,
        "3600",
        "longest silence of an upgraded connection",
    ),
    t(
        "underscore_headers",
        PROXY,
        Kind::Bool,
        "off",
        "pass on field names with an underscore",
    ),
    t(
        "x_request_id",
        PROXY,
        Kind::Bool,
        "off",
        "add X-Request-Id to requests that have none",
    ),
    t(
        "max_retries",
        PROXY,
        Kind::Int,
        "2",
        "new tries after a reused connection broke before its response",
    ),
    t(
        "reproxy_file_root",
        PROXY,
        Kind::Directories,
        "",
        "directories X-REPROXY-FILE may name, separated by commas; none = any",
    ),
    t(
        "reproxy_host",
        PROXY,
        Kind::OneOf(&["client", "url"]),
        "client",
        "Host sent to reproxied URLs",
    ),
    t(
        "max_ranges",
        Scope::Any,
        Kind::Int,
        "16",
        "most ranges answered in parts",
    ),
    t(
        "strict_status",
        WEB,
        Kind::Bool,
        "off",
        "405 instead of the original's 400 for known methods",
    ),
    t(
        "put_atomic",
        WEB,
        Kind::Bool,
        "off",
        "PUT to a temporary file, fsync, rename",
    ),
    t(
        "symlinks",
        WEB,
        Kind::OneOf(&["any", "inside"]),
        "any",
        "symbolic links that are followed",
    ),
    t(
        "charset",
        WEB,
        Kind::Text,
        "",
        "charset added to text types",
    ),
    t(
        "management_hosts",
        Scope::Only(Role::Management),
        Kind::Text,
        "",
        "further Host names accepted by the management pages",
    ),
    // Plugins' tunables; SET works once the plugin is loaded or not, as in dumps.
    t(
        "max_content_length",
        PROXY,
        Kind::Int,
        "0",
        "plugin MaxContentLength: larger bodies get 413",
    ),
    t(
        "send_backend_port",
        PROXY,
        Kind::Bool,
        "off",
        "plugin XFFExtras: add X-Forwarded-Port",
    ),
    t(
        "send_backend_proto",
        PROXY,
        Kind::Bool,
        "off",
        "plugin XFFExtras: add X-Forwarded-Proto",
    ),
    t(
        "fallback_service",
        WEB,
        Kind::Text,
        "",
        "plugin LazyCDN: service asked for missing files",
    ),
    t(
        "echo_delay",
        Scope::Only(Role::Echo),
        Kind::Int,
        "0",
        "plugin EchoService: seconds before a line is echoed",
    ),
];

/// The tunable of that name, any case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Tunable> {
    TABLE.iter().find(|t| t.name.eq_ignore_ascii_case(name))
}

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of kind `Bool`.
    Bool(bool),
    /// Of kinds `Int`, `Percent` and `Size`.
    Number(u64),
    /// Of kind `Duration`, in milliseconds.
    Millis(u64),
    /// Of all other kinds, normalised.
    Text(String),
}

impl fmt::Display for Value {
    /// As it is written in a config file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(true) => f.write_str("on"),
            Self::Bool(false) => f.write_str("off"),
            Self::Number(n) => write!(f, "{n}"),
            Self::Millis(n) if n % 1000 == 0 => write!(f, "{}", n / 1000),
            Self::Millis(n) => write!(f, "{n}ms"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Checks a value against its type.
///
/// # Errors
/// The error text of the language, without `ERROR: `.
pub fn check(tunable: &Tunable, text: &str) -> Result<Value, String> {
    let name = tunable.name;
    match tunable.kind {
        Kind::Bool => parse_bool(text).map(Value::Bool).ok_or_else(|| format!("Expecting boolean value for parameter '{name}'")),
        Kind::Int => parse_int(text).map(Value::Number).ok_or_else(|| format!("Expecting integer value for parameter '{name}'")),
        Kind::Percent => parse_int(text).filter(|n| *n <= 100).map(Value::Number).ok_or_else(|| "Expecting integer value between 0 and 100, inclusive.".to_owned()),
        Kind::Size => parse_size(text).map(Value::Number).ok_or_else(|| format!("Expecting size unit value for parameter '{name}' in bytes, or suffixed with 'K' or 'M'")),
        Kind::Duration => parse_duration(text).map(Value::Millis).ok_or_else(|| format!("Expecting duration value for parameter '{name}' in seconds, or suffixed with 'ms', 's', 'm' or 'h'")),
        Kind::OneOf(words) => {
            let word = words.iter().find(|w| w.eq_ignore_ascii_case(text));
            word.map(|w| Value::Text((*w).to_owned())).ok_or_else(|| format!("Value of '{name}' must be one of: {}", words.join(", ")))
        }
        Kind::Listen => check_listen(text).map(Value::Text),
        Kind::Netmasks => match crate::netmask::Netmask::parse_list(text) {
            Ok(_) => Ok(Value::Text(text.to_owned())),
            Err(element) => Err(format!("Error defining trusted upstream proxies: could not parse {element}")),
        },
        Kind::Endpoints => {
            let bad = text.split([',', ' ']).filter(|e| !e.is_empty()).find(|e| e.parse::<std::net::SocketAddr>().is_err());
            bad.map_or_else(|| Ok(Value::Text(text.to_owned())), |e| Err(format!("Invalid UDP endpoint: \"{e}\".  Must be of form a.b.c.d:port")))
        }
        Kind::Schedule => parse_schedule(text).map(|_| Value::Text(text.to_owned())).ok_or_else(|| format!("Value of '{name}' must be a list of seconds")),
        Kind::Directory => Ok(Value::Text(directory(text))),
        Kind::Role | Kind::Pool | Kind::Text | Kind::Directories => Ok(Value::Text(text.to_owned())),
    }
}

/// A directory name without slashes at its end; `/` alone stays.
fn directory(text: &str) -> String {
    let cut = text.trim_end_matches('/');
    if cut.is_empty() && !text.is_empty() {
        "/".to_owned()
    } else {
        cut.to_owned()
    }
}

/// `1 true yes on` and `0 false no off`, any case.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// `\d+` in 63 bits.
#[must_use]
pub fn parse_int(text: &str) -> Option<u64> {
    ibex_base::ascii::parse_u64(text.as_bytes()).filter(|n| i64::try_from(*n).is_ok())
}

/// Bytes: `\d+` with an optional suffix `b`, `k`, `m` or `g`.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().next_back()? {
        (at, 'b' | 'B') => (&text[..at], 1),
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    parse_int(digits)?
        .checked_mul(unit)
        .filter(|n| i64::try_from(*n).is_ok())
}

/// Milliseconds of a duration in seconds, with fraction and suffix allowed.
#[must_use]
pub fn parse_duration(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let (number, unit) = [("ms", 1_u64), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]
        .iter()
        .find_map(|(s, u)| text.strip_suffix(s).map(|n| (n, *u)))
        .unwrap_or((&text, 1000));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = if whole.is_empty() && !fraction.is_empty() {
        0
    } else {
        parse_int(whole)?
    };
    let mut millis = whole.checked_mul(unit)?;
    if !fraction.is_empty() {
        let digits = fraction.get(..fraction.len().min(6))?;
        parse_int(fraction)?;
        let scale = 10_u64.checked_pow(u32::try_from(digits.len()).ok()?)?;
        millis = millis.checked_add(parse_int(digits)?.checked_mul(unit)? / scale)?;
    }
    Some(millis)
}

/// Milliseconds of each entry of a retry schedule.
#[must_use]
pub fn parse_schedule(text: &str) -> Option<Vec<u64>> {
    text.split(',')
        .map(str::trim)
        .filter(|e| !e.is_empty())
        .map(parse_duration)
        .collect()
}

const BAD_LISTEN: &str = "Listen argument must be ip:port or port. e.g. 192.168.0.1:80 or 81";

/// Checks a list of listen addresses and gives it back without blanks.
fn check_listen(text: &str) -> Result<String, String> {
    let elements: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|e| !e.is_empty())
        .collect();
    let fine = |e: &&str| is_listen_address(e);
    if elements.is_empty() || !elements.iter().all(fine) {
        Err(BAD_LISTEN.to_owned())
    } else {
        Ok(elements.join(","))
    }
}

fn is_listen_address(text: &str) -> bool {
    if let Some(path) = text.strip_prefix("unix:") {
        return path.starts_with('/');
    }
    text.parse::<u16>().is_ok() || text.parse::<std::net::SocketAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_valid_value() {
        for tunable in TABLE.iter().filter(|t| !t.default.is_empty()) {
            assert!(check(tunable, tunable.default).is_ok(), "{}", tunable.name);
        }
        let mut names: Vec<&str> = TABLE.iter().map(|t| t.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn types() {
        assert_eq!(
            (parse_bool("Yes"), parse_bool("OFF"), parse_bool("maybe")),
            (Some(true), Some(false), None)
        );
        assert_eq!(
            (
                parse_size("10"),
                parse_size("2K"),
                parse_size("3m"),
                parse_size("1g"),
                parse_size("4b")
            ),
            (Some(10), Some(2048), Some(3 << 20), Some(1 << 30), Some(4))
        );
        assert_eq!(
            (
                parse_size("k"),
                parse_size("1.5k"),
                parse_size("-1"),
                parse_size("")
            ),
            (None, None, None, None)
        );
        assert_eq!(
            (
                parse_duration("30"),
                parse_duration(".25"),
                parse_duration("1.5s"),
                parse_duration("50ms"),
                parse_duration("2m")
            ),
            (Some(30_000), Some(250), Some(1500), Some(50), Some(120_000))
        );
        assert_eq!(
            (
                parse_duration("x"),
                parse_duration("1.x"),
                parse_duration(""),
                parse_duration(".")
            ),
            (None, None, None, None)
        );
        assert_eq!(parse_schedule("0,.25,.50,1"), Some(vec![0, 250, 500, 1000]));
    }

    #[test]
    fn error_texts() {
        let text = |name: &str, value: &str| check(find(name).unwrap(), value).unwrap_err();
        assert_eq!(
            text("persist_client", "perhaps"),
            "Expecting boolean value for parameter 'persist_client'"
        );
        assert_eq!(
            text("connect_ahead", "-1"),
            "Expecting integer value for parameter 'connect_ahead'"
        );
        assert_eq!(
            text("buffer_size", "x"),
            "Expecting size unit value for parameter 'buffer_size' in bytes, or suffixed with 'K' or 'M'"
        );
        assert_eq!(
            text("queue_relief_chance", "101"),
            "Expecting integer value between 0 and 100, inclusive."
        );
        assert_eq!(text("listen", "host:80"), BAD_LISTEN);
        assert_eq!(
            text("client_abort", "x"),
            "Value of 'client_abort' must be one of: close, finish"
        );
        assert!(
            text("upload_status_listeners", "1.2.3.4")
                .starts_with("Invalid UDP endpoint: \"1.2.3.4\"")
        );
    }

    #[test]
    fn listen_addresses() {
        let listen = find("listen").unwrap();
        for good in ["80", "127.0.0.1:80", "[::1]:80", "unix:/run/x", "80, 81"] {
            assert!(check(listen, good).is_ok(), "{good}");
        }
        for bad in ["", "70000", "1.2.3.4", "unix:x", "80,x"] {
            assert!(check(listen, bad).is_err(), "{bad}");
        }
    }
}
