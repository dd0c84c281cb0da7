//! The whole configuration of the journal, for the web process, the worker and the one-shot commands alike.
//!
//! Apart because operators read it; docs/journal/operating.md shows it whole. Values only.

use ibex_cluster::{ClusterId, GlobalConfig, Side};
use ibex_kit::{Duration, ListenAddr, Problem, Secret, Validate};

/// Default port of the site; the balancer stands in front of it.
const PORT: u16 = 8080;

ibex_kit::config! {
    /// Whole configuration of ibex-journal.
    pub struct Config {
        /// Addresses of the web site.
        live listen: Vec<ListenAddr> = vec![ListenAddr::Tcp { host: Some("127.0.0.1".to_owned()), port: PORT }],
        /// The site as readers see it.
        table site: SiteConfig,
        /// Directory of databases and files that are not given a place. Default: $STATE_DIRECTORY, else /var/lib/ibex/journal for root, else
        /// $XDG_STATE_HOME/ibex/journal.
        restart state_dir: String,
        /// Databases that are not user clusters.
        table db: DbConfig,
        /// User clusters, each with id, a (its database), and optionally b, active, weight, readonly, password_file.
        restart cluster: Vec<ClusterEntry> = vec![ClusterEntry::default()],
        /// The memcached servers.
        table cache: CacheConfig,
        /// Where pictures are kept.
        table files: FilesConfig,
        /// The job servers for work that is waited for.
        table gearman: GearmanConfig,
        /// The job queue for work that must happen.
        table schwartz: SchwartzConfig,
        /// Outgoing mail.
        table mail: MailConfig,
        /// The friends page.
        table read: ReadConfig,
        /// What `ibex-journal worker` does.
        table worker: WorkerConfig,
    }
}

ibex_kit::config! {
    /// `[site]`
    pub struct SiteConfig {
        /// Its name, on every page.
        restart name: String = "Ibex Journal".to_owned(),
        /// Its address as readers see it, without a slash at the end: for links in mails and feeds.
        restart url: String = "http://127.0.0.1:8080".to_owned(),
        /// Send cookies over https only, and HSTS.
        restart secure_cookies: bool = false,
        /// Peers whose X-Forwarded-For and X-Proxy-Capabilities count: the balancer's addresses.
        restart trusted_proxies: Vec<String> = vec!["127.0.0.1".to_owned(), "::1".to_owned()],
        /// Key of form tokens. Empty: one is made and kept in the global database.
        restart secret: Secret,
        /// Work of argon2id in KiB (8 to 1048576). Less than the default is for tests only.
        restart argon2_kib: u32 = 19_456,
    }
}

ibex_kit::config! {
    /// `[db]`
    pub struct DbConfig {
        /// Bring schemas up to date when a database is opened.
        restart migrate: bool = true,
        /// Deadline of one call to a database with its retries (1s to 10m). The commands that end have at least five minutes.
        restart call_timeout: Duration = Duration::from_secs(5),
        /// The global database.
        table global: GlobalDbConfig,
    }
}

ibex_kit::config! {
    /// `[db.global]`
    pub struct GlobalDbConfig {
        /// Its master: sqlite:PATH or mysql://user@host/database. Default: global.db in the state directory.
        restart master: String,
        /// Password of a mysql:// that has none in it.
        restart password: Secret,
    }
}

ibex_kit::config! {
    /// `[cache]`
    pub struct CacheConfig {
        /// Memcached servers; none: every read goes to the databases.
        restart servers: Vec<String>,
        /// Prefix of every key, for sites that share servers.
        restart namespace: String,
    }
}

ibex_kit::config! {
    /// `[files]`
    pub struct FilesConfig {
        /// MogileFS trackers; none: files live under `dir`.
        restart trackers: Vec<String>,
        /// MogileFS domain, with the classes userpic and photo.
        restart domain: String = "journal".to_owned(),
        /// Directory of files without MogileFS. Default: files in the state directory.
        restart dir: String,
    }
}

ibex_kit::config! {
    /// `[gearman]`
    pub struct GearmanConfig {
        /// Job servers; none: the work is done in the process that needs it.
        restart servers: Vec<String>,
        /// How long a page waits for a worker before it does the work itself.
        restart patience: Duration = Duration::from_secs(8),
    }
}

ibex_kit::config! {
    /// `[schwartz]`
    pub struct SchwartzConfig {
        /// Database of the job queue. Empty: its tables are in the global database.
        restart dsn: String,
        /// Password of a mysql:// that has none in it.
        restart password: Secret,
    }
}

ibex_kit::config! {
    /// `[mail]`
    pub struct MailConfig {
        /// SMTP server, host:port. Empty: mails are not sent; their jobs complete with a log line.
        restart smtp: String,
        /// Sender.
        restart from: String = "Ibex Journal <journal@localhost>".to_owned(),
    }
}

ibex_kit::config! {
    /// `[read]`
    pub struct ReadConfig {
        /// How far back a friends page looks.
        restart max_age: Duration = Duration::from_secs(14 * 24 * 3600),
        /// How long it waits for the slowest cluster.
        restart gather_deadline: Duration = Duration::from_millis(300),
    }
}

ibex_kit::config! {
    /// `[worker]`
    pub struct WorkerConfig {
        /// Do the worker's jobs in the web process too, for a site of one process.
        restart in_serve: bool = false,
        /// How often the job queue is looked at without a wake-up.
        restart poll: Duration = Duration::from_secs(5),
        /// Pictures scaled at one time.
        restart resizers: u32 = 2,
        /// How long the rows of a user who moved stay at his old home.
        restart reap_after: Duration = Duration::from_secs(7 * 24 * 3600),
    }
}

/// One `[[cluster]]`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterEntry {
    /// Its number, 1 and up.
    pub id: u32,
    /// DSN of side a; empty for clusterID.db in the state directory.
    pub a: String,
    /// DSN of side b; empty for none.
    pub b: String,
    /// `a` or `b`.
    pub active: String,
    /// Share of new users; 0 takes none.
    pub weight: u32,
    /// Refuse every write.
    pub readonly: bool,
    /// File with the password of a mysql:// that has none in it.
    pub password_file: String,
}

impl Default for ClusterEntry {
    fn default() -> Self {
        Self {
            id: 1,
            a: String::new(),
            b: String::new(),
            active: "a".to_owned(),
            weight: 100,
            readonly: false,
            password_file: String::new(),
        }
    }
}

/// Least and most memory of argon2id.
const ARGON2_KIB: std::ops::RangeInclusive<u32> = 8..=1_048_576;

impl Validate for Config {
    fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut problem = |key: &str, message: String| {
            problems.push(Problem {
                key: key.to_owned(),
                message,
            })
        };
        if let Err(error) = self
            .cluster_config()
            .and_then(|config| config.validate().map_err(|error| error.to_string()))
        {
            problem("cluster", error);
        }
        if self.site.url.ends_with('/')
            || !(self.site.url.starts_with("http://") || self.site.url.starts_with("https://"))
        {
            problem(
                "site.url",
                "starts with http:// or https:// and has no slash at its end".to_owned(),
            );
        }
        if !ARGON2_KIB.contains(&self.site.argon2_kib) {
            problem("site.argon2_kib", "is from 8 to 1048576".to_owned());
        }
        for proxy in &self.site.trusted_proxies {
            if proxy.parse::<std::net::IpAddr>().is_err() {
                problem("site.trusted_proxies", format!("{proxy:?} is no address"));
            }
        }
        if self.mail.from.parse::<lettre::message::Mailbox>().is_err() {
            problem("mail.from", format!("{:?} is no mailbox", self.mail.from));
        }
        if !(1..=600).contains(&self.db.call_timeout.std().as_secs()) {
            problem("db.call_timeout", "is from 1s to 10m".to_owned());
        }
        if self.worker.resizers == 0 || self.worker.resizers > 64 {
            problem("worker.resizers", "is from 1 to 64".to_owned());
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}

impl Config {
    /// The databases, in the words of `ibex-cluster`.
    ///
    /// # Errors
    /// A text naming the part that makes no sense or cannot be read.
    pub fn cluster_config(&self) -> Result<ibex_cluster::Config, String> {
        let master = self.database(&self.db.global.master, "global");
        let mut config = ibex_cluster::Config::new(&master);
        config.global = GlobalConfig {
            master,
            password: some(self.db.global.password.reveal()),
        };
        config.migrate = self.db.migrate;
        config.call_timeout = self.db.call_timeout.std();
        config.gather_deadline = self.read.gather_deadline.std();
        for entry in &self.cluster {
            config.clusters.push(ibex_cluster::ClusterConfig {
                id: ClusterId(entry.id),
                a: self.database(&entry.a, &format!("cluster{}", entry.id)),
                b: some(&entry.b),
                password: password(&entry.password_file)?,
                active: match entry.active.as_str() {
                    "a" => Side::A,
                    "b" => Side::B,
                    other => {
                        return Err(format!(
                            "cluster {}: active is a or b, not {other:?}",
                            entry.id
                        ));
                    }
                },
                weight: entry.weight,
                readonly: entry.readonly,
            });
        }
        Ok(config)
    }
}

impl Config {
    /// The DSN as configured, or the SQLite file `name` in the state directory.
    fn database(&self, dsn: &str, name: &str) -> String {
        if dsn.is_empty() {
            let file = self.state_path().join(name).with_extension("db");
            format!("sqlite:{}", file.display())
        } else {
            dsn.to_owned()
        }
    }

    /// The state directory.
    #[must_use]
    pub fn state_path(&self) -> std::path::PathBuf {
        ibex_kit::state_path(&crate::ABOUT, &self.state_dir)
    }

    /// Where files live without MogileFS.
    #[must_use]
    pub fn files_dir(&self) -> std::path::PathBuf {
        if self.files.dir.is_empty() {
            self.state_path().join("files")
        } else {
            self.files.dir.clone().into()
        }
    }

    /// Whether something lies in the state directory because it was given no place.
    #[must_use]
    pub fn uses_state_dir(&self) -> bool {
        let files = self.files.trackers.is_empty() && self.files.dir.is_empty();
        files
            || self.db.global.master.is_empty()
            || self.cluster.iter().any(|entry| entry.a.is_empty())
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A password's file: a path, or a name in the service manager's credentials or a container's secrets.
fn password(file: &str) -> Result<Option<String>, String> {
    if file.is_empty() {
        return Ok(None);
    }
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(std::path::PathBuf::from);
    let places = [
        Some(std::path::PathBuf::from(file)),
        credentials.map(|dir| dir.join(file)),
        Some(std::path::Path::new("/run/secrets").join(file)),
    ];
    for place in places.iter().flatten() {
        if let Ok(text) = std::fs::read_to_string(place) {
            return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
        }
    }
    Err(format!("password_file {file}: cannot be read"))
}
