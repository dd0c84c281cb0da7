//! A service's values in the form the data path reads: typed, complete, without look-ups by name.
//!
//! Owns the compilation from [`ServiceModel`]. Every tunable the data path uses is a field here; the table of the proto
//! crate has the defaults.

use std::path::PathBuf;
use std::time::Duration;

use ibex_perlbal_core::dispatcher::Config as DispatcherConfig;
use ibex_perlbal_core::upload;
use ibex_perlbal_proto::forward::HeaderChange;
use ibex_perlbal_proto::head::Limits;
use ibex_perlbal_proto::netmask::Netmask;
use ibex_perlbal_proto::tunable::{self, Role, Value};

use super::{Model, Plugin, PoolModel, ServiceModel};

/// Version spoken to backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendVersion {
    V10,
    V11,
}

/// Compiled settings of one service.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) model: ServiceModel,
    pub(crate) role: Option<Role>,
    pub(crate) limits: Limits,
    pub(crate) response_limits: Limits,
    pub(crate) persist_client: bool,
    pub(crate) client_idle: Duration,
    pub(crate) idle: Duration,
    pub(crate) header_timeout: Duration,
    pub(crate) body_min_rate: u64,
    pub(crate) send_min_rate: u64,
    pub(crate) body_max: u64,
    pub(crate) chunked_max: u64,
    pub(crate) connections_max: u64,
    pub(crate) connections_per_ip_max: u64,
    pub(crate) requests_per_client_max: u64,
    pub(crate) sndbuf: usize,
    pub(crate) server_tokens: bool,
    pub(crate) trusted: Vec<Netmask>,
    pub(crate) always_trusted: bool,
    pub(crate) max_ranges: usize,
    pub(crate) changes: Vec<HeaderChange>,
    pub(crate) proxy: Proxy,
    pub(crate) web: Web,
    pub(crate) default_service: Option<String>,
    pub(crate) latency: Duration,
    pub(crate) management_hosts: Vec<String>,
    pub(crate) echo_delay: Duration,
    pub(crate) highpri_uri: Option<regex::bytes::Regex>,
    pub(crate) highpri_host: Option<regex::bytes::Regex>,
    pub(crate) notmodified_host: Option<regex::bytes::Regex>,
}

/// Settings of a reverse proxy.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    pub(crate) pool: Option<String>,
    pub(crate) persist: bool,
    pub(crate) verify_path: String,
    pub(crate) verify_version: BackendVersion,
    pub(crate) version: BackendVersion,
    pub(crate) buffer: usize,
    pub(crate) reproxy_buffer: usize,
    pub(crate) upload: upload::Policy,
    pub(crate) upload_path: Option<PathBuf>,
    pub(crate) priority_cookie: Option<(String, String)>,
    pub(crate) retry_schedule: Option<Vec<Duration>>,
    pub(crate) reproxy: bool,
    pub(crate) reproxy_cache: usize,
    pub(crate) reproxy_roots: Vec<PathBuf>,
    pub(crate) reproxy_host_of_url: bool,
    pub(crate) blind: bool,
    pub(crate) backend_timeout: Duration,
    pub(crate) finishes_for_gone_clients: bool,
    pub(crate) underscores: bool,
    pub(crate) upgrades: Vec<String>,
    pub(crate) tunnel_timeout: Duration,
    pub(crate) request_ids: bool,
    pub(crate) retries_max: u32,
    pub(crate) content_length_max: u64,
    pub(crate) sends_port: bool,
    pub(crate) sends_proto: bool,
    pub(crate) status_listeners: Vec<std::net::SocketAddr>,
    pub(crate) dispatcher: DispatcherConfig,
}

/// Settings of a web server.
#[derive(Debug, Clone)]
pub(crate) struct Web {
    pub(crate) docroot: Option<PathBuf>,
    pub(crate) dirindexing: bool,
    pub(crate) index_files: Vec<String>,
    pub(crate) put: bool,
    pub(crate) delete: bool,
    pub(crate) md5: bool,
    pub(crate) put_max: u64,
    pub(crate) put_directories: usize,
    pub(crate) put_atomic: bool,
    pub(crate) concatenate: bool,
    pub(crate) strict_status: bool,
    pub(crate) links_inside_only: bool,
    pub(crate) charset: Option<String>,
    pub(crate) fallback: Option<String>,
}

/// Reads values with their defaults.
struct Reader<'a>(&'a ServiceModel);

impl Reader<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        let tunable = tunable::find(name)?;
        let set = self.0.values.get(tunable.name).cloned();
        set.or_else(|| {
            if tunable.default.is_empty() {
                None
            } else {
                tunable::check(tunable, tunable.default).ok()
            }
        })
    }

    fn bool(&self, name: &str) -> bool {
        self.value(name) == Some(Value::Bool(true))
    }

    fn number(&self, name: &str) -> u64 {
        match self.value(name) {
            Some(Value::Number(n)) => n,
            _ => 0,
        }
    }

    fn size(&self, name: &str) -> usize {
        usize::try_from(self.number(name)).unwrap_or(usize::MAX)
    }

    fn duration(&self, name: &str) -> Duration {
        match self.value(name) {
            Some(Value::Millis(n)) => Duration::from_millis(n),
            Some(Value::Number(n)) => Duration::from_secs(n),
            _ => Duration::ZERO,
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn words(&self, name: &str) -> Vec<String> {
        self.text(name)
            .map(|t| {
                t.split([',', ' '])
                    .filter(|w| !w.is_empty())
                    .map(str::to_owned)
                    .collect()
            })
            .unwrap_or_default()
    }

    fn version(&self, name: &str) -> BackendVersion {
        if self.text(name).as_deref() == Some("1.0") {
            BackendVersion::V10
        } else {
            BackendVersion::V11
        }
    }

    fn pattern(&self, key: &str, default: Option<&str>) -> Option<regex::bytes::Regex> {
        let text = self
            .0
            .plugin_settings
            .get(key)
            .map(String::as_str)
            .or(default)?;
        if matches!(text, "undef" | "none" | "null") {
            None
        } else {
            regex::bytes::Regex::new(text).ok()
        }
    }
}

/// COMPAT(perlbal): the default of the Highpri plugin (Plugin/Highpri.pm): what LiveJournal wanted answered first.
const HIGHPRI_URI: &str = r"^(?:/interface/(?:xmlrpc|flat)|/login\.bml)$";

impl Settings {
    /// Compiles a service of a model.
    pub(crate) fn compile(model: &Model, service: &ServiceModel) -> Self {
        let r = Reader(service);
        let limits = Limits {
            head_bytes_max: r.size("max_header_size"),
            fields_max: r.size("max_headers"),
            target_bytes_max: r.size("max_uri_size"),
        };
        let highpri = service.has(Plugin::Highpri);
        Self {
            role: service.role,
            limits,
            response_limits: Limits {
                head_bytes_max: r.size("max_response_header"),
                ..limits
            },
            persist_client: r.bool("persist_client"),
            client_idle: r.duration("persist_client_idle_timeout"),
            idle: r.duration("idle_timeout"),
            header_timeout: r.duration("header_timeout"),
            body_min_rate: r.number("body_min_rate"),
            send_min_rate: r.number("send_min_rate"),
            body_max: r.number("max_body_size"),
            chunked_max: r.number("max_chunked_request_size"),
            connections_max: r.number("max_connections"),
            connections_per_ip_max: r.number("max_connections_per_ip"),
            requests_per_client_max: r.number("max_requests_per_client"),
            sndbuf: r.size("client_sndbuf_size"),
            server_tokens: r.bool("server_tokens"),
            trusted: r
                .text("trusted_upstream_proxies")
                .and_then(|t| Netmask::parse_list(&t).ok())
                .unwrap_or_default(),
            always_trusted: r.bool("always_trusted"),
            max_ranges: r.size("max_ranges"),
            changes: service.changes.clone(),
            proxy: Proxy::compile(&r, model),
            web: Web::compile(&r),
            default_service: r.text("default_service").map(|t| t.to_ascii_lowercase()),
            latency: Duration::from_millis(r.number("latency")),
            management_hosts: r.words("management_hosts"),
            echo_delay: r.duration("echo_delay"),
            highpri_uri: if highpri {
                r.pattern("highpri.uri_pattern", Some(HIGHPRI_URI))
            } else {
                None
            },
            highpri_host: if highpri {
                r.pattern("highpri.host_pattern", None)
            } else {
                None
            },
            notmodified_host: if service.has(Plugin::NotModified) {
                r.pattern("notmodified.host_pattern", None)
            } else {
                None
            },
            model: service.clone(),
        }
    }
}

impl Proxy {
    fn compile(r: &Reader<'_>, model: &Model) -> Self {
        let pool = r.text("pool");
        let schedule = r
            .text("error_retry_schedule")
            .and_then(|t| tunable::parse_schedule(&t))
            .unwrap_or_default();
        let schedule = schedule.into_iter().map(Duration::from_millis).collect();
        Self {
            persist: r.bool("persist_backend"),
            verify_path: r
                .text("verify_backend_path")
                .unwrap_or_else(|| "*".to_owned()),
            verify_version: r.version("verify_backend_version"),
            version: r.version("backend_http"),
            buffer: r.size("buffer_size").max(BUFFER_MIN),
            reproxy_buffer: r.size("buffer_size_reproxy_url").max(BUFFER_MIN),
            upload: upload::Policy {
                before_connect_bytes: r.number("buffer_backend_connect"),
                spools: r.bool("buffer_uploads") && r.text("buffer_uploads_path").is_some(),
                size_min: r.number("buffer_upload_threshold_size"),
                rate_min: r.number("buffer_upload_threshold_rate"),
                secs_max: r.number("buffer_upload_threshold_time"),
            },
            upload_path: r.text("buffer_uploads_path").map(PathBuf::from),
            priority_cookie: r
                .text("high_priority_cookie")
                .zip(r.text("high_priority_cookie_contents")),
            retry_schedule: r.bool("enable_error_retries").then_some(schedule),
            reproxy: r.bool("enable_reproxy"),
            reproxy_cache: r.size("reproxy_cache_maxsize"),
            reproxy_roots: r
                .words("reproxy_file_root")
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            reproxy_host_of_url: r.text("reproxy_host").as_deref() == Some("url"),
            blind: r.bool("blind_proxy"),
            backend_timeout: r.duration("backend_timeout"),
            finishes_for_gone_clients: r.text("client_abort").as_deref() == Some("finish"),
            underscores: r.bool("underscore_headers"),
            upgrades: r
                .words("upgrades")
                .into_iter()
                .filter(|w| w != "none")
                .map(|w| w.to_ascii_lowercase())
                .collect(),
            tunnel_timeout: r.duration("tunnel_timeout"),
            request_ids: r.bool("x_request_id"),
            retries_max: u32::try_from(r.number("max_retries")).unwrap_or(u32::MAX),
            content_length_max: if r.0.has(Plugin::MaxContentLength) {
                r.number("max_content_length")
            } else {
                0
            },
            sends_port: r.0.has(Plugin::XffExtras) && r.bool("send_backend_port"),
            sends_proto: r.0.has(Plugin::XffExtras) && r.bool("send_backend_proto"),
            status_listeners: r
                .words("upload_status_listeners")
                .iter()
                .filter_map(|e| e.parse().ok())
                .collect(),
            dispatcher: dispatcher_config(r, pool.as_ref().and_then(|p| model.pools.get(p))),
            pool,
        }
    }
}

/// A response buffer smaller than this would cost a system call per packet.
const BUFFER_MIN: usize = 4096;

fn dispatcher_config(r: &Reader<'_>, pool: Option<&PoolModel>) -> DispatcherConfig {
    DispatcherConfig {
        persist: r.bool("persist_backend"),
        persist_cache: r.size("backend_persist_cache"),
        connect_ahead: r.size("connect_ahead"),
        uses_max: r.number("max_backend_uses"),
        verify: r.bool("verify_backend"),
        relief_size: r.size("queue_relief_size"),
        relief_percent: r.number("queue_relief_chance"),
        queue_max: r.size("max_queue"),
        queue_timeout: r.duration("queue_timeout"),
        pending_per_node_max: r.size("max_pending_per_node").max(1),
        hedge_after: r.duration("hedge_after"),
        balance: pool.map(|p| p.balance).unwrap_or_default(),
        fail_fast: false,
        idle_max: Duration::ZERO,
    }
}

impl Web {
    fn compile(r: &Reader<'_>) -> Self {
        Self {
            docroot: r.text("docroot").map(PathBuf::from),
            dirindexing: r.bool("dirindexing"),
            index_files: r.words("index_files"),
            put: r.bool("enable_put"),
            delete: r.bool("enable_delete"),
            md5: r.bool("enable_md5"),
            put_max: r.number("max_put_size"),
            put_directories: r.size("min_put_directory"),
            put_atomic: r.bool("put_atomic"),
            concatenate: r.bool("enable_concatenate_get"),
            strict_status: r.bool("strict_status"),
            links_inside_only: r.text("symlinks").as_deref() == Some("inside"),
            charset: r.text("charset"),
            fallback: if r.0.has(Plugin::LazyCdn) {
                r.text("fallback_service").map(|t| t.to_ascii_lowercase())
            } else {
                None
            },
        }
    }
}
