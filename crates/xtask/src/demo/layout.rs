//! Which processes the demo has, what each is told, and where its files lie: the one place that knows the configuration of every daemon.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ibex_testkit::skip;

use super::clients::Lines;
use super::ports::Ports;
use super::process::Spec;
use crate::sh;

/// What the site stands on, in groups by kind.
pub(crate) const GROUND: &[&[&str]] = &[
    &["memcached1", "memcached2"],
    &["gearmand1", "gearmand2"],
    &["mogstored1", "mogstored2", "mogstored3"],
    &["mogilefsd1"],
    &["schwartzd1"],
    &["smtp"],
];
/// The site's workers; they run while it is filled, since they scale the pictures.
pub(crate) const WORKERS: &[&[&str]] = &[&["worker1", "worker2"]];
/// The site.
pub(crate) const SITE: &[&[&str]] = &[&["journal1", "journal2"]];
/// What the world sees.
pub(crate) const FRONT: &[&[&str]] = &[&["perlbal1"]];
/// Names that need a port beside their data port.
const EXTRA_PORTS: &[&str] = &["mogstored-side", "perlbal1-manage"];
/// Storage nodes, each a host with one device of the same number, on an address of its own: a tracker knows a host by its address, and asks all of them at
/// one side port.
const NODES: &[(&str, &str)] = &[
    ("mogstored1", "1"),
    ("mogstored2", "2"),
    ("mogstored3", "3"),
];
/// The journal's domain and its classes with the number of copies.
pub(crate) const DOMAIN: &str = "journal";
const CLASSES: &[(&str, &str)] = &[("userpic", "2"), ("photo", "2")];
/// Databases the site and the daemons use, apart from each other.
const DATABASES: &[&str] = &["global", "c1", "c2", "mogilefs", "schwartz"];

/// The demo's plan.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    pub(crate) ports: Ports,
    bin_dir: PathBuf,
    db: Option<Db>,
}

/// A MySQL server that holds the databases instead of SQLite files.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    /// `user:password@host:port`.
    authority: String,
    /// Prefix of the databases' names.
    prefix: String,
}

impl Db {
    /// Reads `mysql://user[:password]@host[:port][/prefix]`.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let rest = url
            .strip_prefix("mysql://")
            .with_context(|| format!("{url}: want mysql://user[:password]@host[:port][/prefix]"))?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        ensure!(authority.contains('@'), "{url}: no user");
        let prefix = if prefix.is_empty() {
            "ibex_demo"
        } else {
            prefix
        };
        ensure!(
            prefix
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
            "{url}: the prefix of the databases wants letters, digits and _"
        );
        Ok(Self {
            authority: authority.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    fn url(&self, name: &str) -> String {
        format!("mysql://{}/{}_{name}", self.authority, self.prefix)
    }

    /// Makes the databases that are not there, through the server's own client.
    fn create(&self) -> Result<()> {
        let statements: String = DATABASES
            .iter()
            .map(|name| {
                format!(
                    "CREATE DATABASE IF NOT EXISTS {}_{name} CHARACTER SET utf8mb4;",
                    self.prefix
                )
            })
            .collect();
        let client = skip::find_program("mariadb").or_else(|| skip::find_program("mysql"));
        let client = client.with_context(|| format!("no mariadb client here; run these statements by hand, then start again with it installed: {statements}"))?;
        let (user, place) = self
            .authority
            .rsplit_once('@')
            .context("checked when read")?;
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let (host, port) = place.rsplit_once(':').unwrap_or((place, "3306"));
        let mut command = Command::new(client);
        command
            .args(["--no-defaults", "--protocol=tcp", "--batch"])
            .arg(format!("--host={host}"))
            .arg(format!("--port={port}"));
        command
            .arg(format!("--user={user}"))
            .arg(format!("--execute={statements}"))
            .env("MYSQL_PWD", password);
        sh::output(&mut command)
            .map(drop)
            .context("make the demo's databases")
    }
}

impl Layout {
    /// Plans a demo in `dir` with the binaries of `bin_dir`.
    pub(crate) fn new(dir: &Path, bin_dir: PathBuf, db: Option<Db>) -> Result<Self> {
        for sub in ["etc", "log", "run", "state", "mail"] {
            fs::create_dir_all(dir.join(sub))
                .with_context(|| format!("make {}", dir.join(sub).display()))?;
        }
        let instances = [
            GROUND.concat(),
            WORKERS.concat(),
            SITE.concat(),
            FRONT.concat(),
        ]
        .concat();
        let mut names: Vec<String> = instances
            .iter()
            .map(|name| format!("{name}-admin"))
            .collect();
        names.extend(
            instances
                .iter()
                .chain(EXTRA_PORTS)
                .map(|name| (*name).to_owned()),
        );
        let ports = Ports::choose(&dir.join("ports.toml"), &names)?;
        if let Some(db) = &db {
            db.create()?;
        }
        let layout = Self {
            dir: dir.to_owned(),
            ports,
            bin_dir,
            db,
        };
        layout.write_configs()?;
        Ok(layout)
    }

    /// Address of the site as a visitor types it.
    pub(crate) fn site_url(&self) -> Result<String> {
        Ok(format!("http://{}", self.ports.addr("perlbal1")?))
    }

    /// Where the instance `name` serves.
    pub(crate) fn addr(&self, name: &str) -> Result<SocketAddr> {
        let mut addr = self.ports.addr(name)?;
        if let Some((_, device)) = NODES.iter().find(|(node, _)| *node == name) {
            addr.set_ip(
                format!("127.0.0.{device}")
                    .parse()
                    .context("a loopback address")?,
            );
        }
        Ok(addr)
    }

    fn database(&self, name: &str) -> String {
        match &self.db {
            Some(db) => db.url(name),
            None => format!(
                "sqlite:{}",
                self.dir.join("state").join(format!("{name}.db")).display()
            ),
        }
    }

    /// Command line of `ibex-journal <command>` with the site's configuration.
    pub(crate) fn journal(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin_dir.join("ibex-journal"));
        command
            .args(args)
            .arg("--config")
            .arg(self.config("journal"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.dir)
            .current_dir(&self.dir);
        command
    }

    /// The operator's tool.
    pub(crate) fn tool(&self) -> PathBuf {
        self.bin_dir.join(sh::TOOL)
    }

    fn config(&self, name: &str) -> PathBuf {
        self.dir.join("etc").join(format!("{name}.toml"))
    }

    /// What to start for the instance `name`.
    pub(crate) fn spec(&self, name: &str) -> Result<Spec> {
        let addr = self.addr(name).ok().filter(|_| !name.starts_with("worker"));
        let kind = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let config = |of: &str| vec!["--config".to_owned(), self.config(of).display().to_string()];
        let admin_addr = self.ports.addr(&format!("{name}-admin"))?;
        let admin = || vec!["--set".to_owned(), format!("admin.listen={admin_addr}")];
        let (binary, args) = match kind {
            "smtp" => {
                let mail = self.dir.join("mail").display().to_string();
                let addr = self.ports.addr(name)?.to_string();
                (
                    "ibex-journal",
                    vec![
                        "smtp-sink".to_owned(),
                        "--listen".to_owned(),
                        addr,
                        "--dir".to_owned(),
                        mail,
                    ],
                )
            }
            "journal" => {
                let listen = format!("listen={}", self.ports.addr(name)?);
                let state = format!("state_dir={}", self.state(name).display());
                let own = vec!["--set".to_owned(), listen, "--set".to_owned(), state];
                (
                    "ibex-journal",
                    [vec!["serve".to_owned()], config("journal"), admin(), own].concat(),
                )
            }
            "worker" => {
                let own = vec![
                    "--set".to_owned(),
                    format!("state_dir={}", self.state(name).display()),
                ];
                (
                    "ibex-journal",
                    [vec!["worker".to_owned()], config("journal"), admin(), own].concat(),
                )
            }
            "memcached" => ("ibex-memcached", config(name)),
            "gearmand" => ("ibex-gearmand", config(name)),
            "mogstored" => ("ibex-mogstored", config(name)),
            "mogilefsd" => ("ibex-mogilefsd", config(name)),
            "schwartzd" => ("ibex-schwartzd", config(name)),
            "perlbal" => ("ibex-perlbal", config(name)),
            other => anyhow::bail!("nobody knows how to start {other}"),
        };
        Ok(Spec {
            name: name.to_owned(),
            program: self.bin_dir.join(binary),
            args,
            addr,
        })
    }

    fn state(&self, name: &str) -> PathBuf {
        self.dir.join("state").join(name)
    }

    /// What every daemon's file begins with.
    fn head(&self, name: &str) -> Result<String> {
        let (addr, state) = (self.addr(name)?, self.state(name));
        Ok(format!(
            "listen = [\"{addr}\"]\nnode_name = \"{name}\"\nstate_dir = \"{}\"\n",
            state.display()
        ))
    }

    fn write(&self, name: &str, own: &str, tables: &str) -> Result<()> {
        let admin = self.ports.addr(&format!("{name}-admin"))?;
        let text = format!(
            "# Written by `cargo xtask demo`; overwritten at each start.\n{}{own}\n[admin]\nlisten = \"{admin}\"\n{tables}",
            self.head(name)?
        );
        fs::create_dir_all(self.state(name))?;
        fs::write(self.config(name), text)
            .with_context(|| format!("write {}", self.config(name).display()))
    }

    fn write_configs(&self) -> Result<()> {
        for name in ["memcached1", "memcached2", "gearmand1", "gearmand2"] {
            self.write(name, "", "")?;
        }
        for (name, device) in NODES {
            let docroot = self.state(name).join("data");
            fs::create_dir_all(docroot.join(format!("dev{device}")))?;
            let side = SocketAddr::new(
                self.addr(name)?.ip(),
                self.ports.addr("mogstored-side")?.port(),
            );
            self.write(
                name,
                &format!(
                    "docroot = \"{}\"\nside_listen = [\"{side}\"]\n",
                    docroot.display()
                ),
                "",
            )?;
        }
        let store = |name: &str| format!("[store]\nurl = \"{}\"\n", self.database(name));
        let side = self.ports.addr("mogstored-side")?.port();
        self.write(
            "mogilefsd1",
            &format!("mogstored_stream_port = {side}\n"),
            &store("mogilefs"),
        )?;
        self.write("schwartzd1", "", &store("schwartz"))?;
        self.write_journal()?;
        self.write_perlbal()
    }

    fn list(&self, names: &[&str]) -> Result<String> {
        let addrs = names
            .iter()
            .map(|name| Ok(format!("\"{}\"", self.ports.addr(name)?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(addrs.join(", "))
    }

    fn write_journal(&self) -> Result<()> {
        let text = format!(
            "# Written by `cargo xtask demo`; overwritten at each start.\n\
             [site]\nname = \"Ibex Journal\"\nurl = \"{url}\"\n\
             [db.global]\nmaster = \"{global}\"\n\
             [[cluster]]\nid = 1\na = \"{c1}\"\nweight = 100\n\
             [[cluster]]\nid = 2\na = \"{c2}\"\nweight = 100\n\
             [cache]\nservers = [{cache}]\n\
             [files]\ntrackers = [{trackers}]\ndomain = \"{DOMAIN}\"\ndir = \"{files}\"\n\
             [gearman]\nservers = [{gearman}]\n\
             [schwartz]\ndsn = \"{schwartz}\"\n\
             [mail]\nsmtp = \"{smtp}\"\n",
            url = self.site_url()?,
            global = self.database("global"),
            c1 = self.database("c1"),
            c2 = self.database("c2"),
            cache = self.list(&["memcached1", "memcached2"])?,
            trackers = self.list(&["mogilefsd1"])?,
            files = self.state("files").display(),
            gearman = self.list(&["gearmand1", "gearmand2"])?,
            schwartz = self.database("schwartz"),
            smtp = self.ports.addr("smtp")?,
        );
        fs::write(self.config("journal"), text).context("write the journal's configuration")
    }

    fn write_perlbal(&self) -> Result<()> {
        let classic = format!(
            "# Written by `cargo xtask demo`; overwritten at each start. The original's language.\n\
             CREATE POOL web\n  POOL web ADD {}\n  POOL web ADD {}\n\n\
             CREATE SERVICE site\n  SET role            = reverse_proxy\n  SET listen          = {}\n  SET pool            = web\n\
             \x20 SET persist_client  = on\n  SET persist_backend = on\n  SET verify_backend  = on\n  SET enable_reproxy  = on\n  SET buffer_uploads  = on\nENABLE site\n\n\
             CREATE SERVICE manage\n  SET role   = management\n  SET listen = {}\nENABLE manage\n",
            self.ports.addr("journal1")?,
            self.ports.addr("journal2")?,
            self.ports.addr("perlbal1")?,
            self.ports.addr("perlbal1-manage")?,
        );
        let file = self.dir.join("etc/perlbal.conf");
        fs::write(&file, classic).context("write the balancer's configuration")?;
        let state = self.state("perlbal1");
        fs::create_dir_all(&state)?;
        let text = format!(
            "perlbal_conf = \"{}\"\nnode_name = \"perlbal1\"\nstate_dir = \"{}\"\n[admin]\nlisten = \"{}\"\n",
            file.display(),
            state.display(),
            self.ports.addr("perlbal1-admin")?
        );
        fs::write(self.config("perlbal1"), text).context("write the balancer's configuration")
    }

    /// Tells the tracker about the domain, its classes, the hosts and their devices; what is there stays, with today's ports.
    pub(crate) fn prepare_files(&self) -> Result<()> {
        let mut tracker = Lines::connect(self.ports.addr("mogilefsd1")?)?;
        let mut make = |command: &str, args: &[(&str, &str)], known: &[&str]| match tracker
            .tracker(command, args)
        {
            Err(error) if known.iter().any(|code| format!("{error:#}").contains(code)) => Ok(false),
            Err(error) => Err(error),
            Ok(_) => Ok(true),
        };
        make("create_domain", &[("domain", DOMAIN)], &["domain_exists"])?;
        for (class, copies) in CLASSES {
            make(
                "create_class",
                &[
                    ("domain", DOMAIN),
                    ("class", class),
                    ("mindevcount", copies),
                ],
                &["class_exists"],
            )?;
        }
        for (host, device) in NODES {
            let addr = self.addr(host)?;
            let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
            let args = [
                ("host", *host),
                ("ip", ip.as_str()),
                ("port", port.as_str()),
                ("status", "alive"),
            ];
            if !make("create_host", &args, &["host_exists"])? {
                make("update_host", &args, &[])?;
            }
            make(
                "create_device",
                &[("hostname", *host), ("devid", *device), ("state", "alive")],
                &["existing_devid"],
            )?;
        }
        Ok(())
    }
}
