//! `ibex mog`: files in and out of MogileFS, and the description of its cluster.

mod bootstrap;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use ibex_mogilefs_client::{Client, Config, DevId, PathsOptions};

use crate::output::{Format, Table, print_text};

/// Keys asked for at once while listing; the tracker's own limit.
const LIST_BATCH: u32 = 1000;

/// Largest file that `put` reads into memory, in bytes. Larger ones belong to a streaming upload through the client library.
const PUT_BYTES_MAX: u64 = 1 << 30;

/// Arguments of `ibex mog`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tracker `host:port`; may be repeated. Default $MOG_TRACKERS (comma list), then 127.0.0.1:7001.
    #[arg(long = "tracker", global = true)]
    trackers: Vec<String>,
    /// Domain of the keys; default $MOG_DOMAIN.
    #[arg(long, global = true)]
    domain: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Store a file.
    Put {
        /// The key.
        key: String,
        /// The file; `-` is standard input.
        file: PathBuf,
        /// Storage class.
        #[arg(long, default_value = "")]
        class: String,
    },
    /// Fetch a file; tries every replica and checks the digest.
    Get {
        /// The key.
        key: String,
        /// Where to; standard output when absent.
        file: Option<PathBuf>,
    },
    /// Remove a key. Exit code 1 if it was not there.
    Delete {
        /// The key.
        key: String,
    },
    /// Give a file another key.
    Rename {
        /// The present key.
        from: String,
        /// The new key.
        to: String,
    },
    /// List keys in order.
    Keys {
        /// Only keys that start like this.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// URLs of the replicas.
    Paths {
        /// The key.
        key: String,
    },
    /// Class, length, replicas and digest of a file.
    Info {
        /// The key.
        key: String,
    },
    /// Storage nodes.
    Hosts,
    /// Disks, with their states and free space.
    Devices,
    /// Classes of the domain.
    Classes,
    /// Set the state of a device or, without one, of a host: alive, readonly, drain, down, dead.
    Mark {
        /// Name of the host.
        host: String,
        /// The new state.
        state: String,
        /// Number of the device: `5` or `dev5`.
        #[arg(long, value_parser = bootstrap::parse_device)]
        device: Option<DevId>,
    },
    /// Create what is missing of a domain, its classes, hosts and devices; safe to repeat.
    Bootstrap(bootstrap::Args),
}

/// Performs the command.
///
/// # Errors
/// When no tracker can be reached, a request is refused, or a file cannot be read or written.
pub async fn run(args: Args, format: Format) -> anyhow::Result<ExitCode> {
    let client = connect(&args).await?;
    match args.command {
        Command::Put { key, file, class } => put(&client, &key, &file, &class).await,
        Command::Get { key, file } => get(&client, &key, file).await,
        Command::Delete { key } => Ok(ExitCode::from(u8::from(!client.delete(&key).await?))),
        Command::Rename { from, to } => {
            client.rename(&from, &to).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Keys { prefix } => keys(&client, &prefix).await,
        Command::Paths { key } => {
            for url in client.paths(&key, PathsOptions::default()).await? {
                print_text(&format!("{url}\n"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Info { key } => info(&client, &key, format).await,
        Command::Hosts => hosts(&client, format).await,
        Command::Devices => devices(&client, format).await,
        Command::Classes => classes(&client, format).await,
        Command::Mark {
            host,
            state,
            device,
        } => {
            match device {
                Some(devid) => client.admin().set_state(&host, devid, &state).await?,
                None => client.admin().set_host_state(&host, &state).await?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Bootstrap(args) => bootstrap::run(&client, &args).await,
    }
}

async fn connect(args: &Args) -> anyhow::Result<Client> {
    let mut trackers = args.trackers.clone();
    if trackers.is_empty() {
        let list = std::env::var("MOG_TRACKERS").unwrap_or_default();
        let entries = list
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty());
        trackers.extend(entries.map(str::to_owned));
    }
    if trackers.is_empty() {
        trackers.push("127.0.0.1:7001".to_owned());
    }
    let domain = args
        .domain
        .clone()
        .or_else(|| std::env::var("MOG_DOMAIN").ok());
    let domain = domain.unwrap_or_default();
    Client::connect(Config::new(trackers, domain))
        .await
        .context("reach a tracker")
}

async fn put(client: &Client, key: &str, file: &PathBuf, class: &str) -> anyhow::Result<ExitCode> {
    let mut bytes = Vec::new();
    let mut source: Box<dyn std::io::Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?)
    };
    let read = source
        .by_ref()
        .take(PUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes);
    read.with_context(|| format!("read {}", file.display()))?;
    anyhow::ensure!(
        bytes.len() as u64 <= PUT_BYTES_MAX,
        "file exceeds {PUT_BYTES_MAX} bytes"
    );
    let stored = client.store(key, class, bytes).await?;
    print_text(&format!(
        "fid {} {} bytes {}\n",
        stored.fid, stored.length, stored.checksum
    ));
    Ok(ExitCode::SUCCESS)
}

async fn get(client: &Client, key: &str, file: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let mut download = client.open(key).await?;
    let mut target: Box<dyn std::io::Write> = match &file {
        None => Box::new(std::io::stdout().lock()),
        Some(path) => Box::new(
            std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?,
        ),
    };
    while let Some(chunk) = download.chunk().await? {
        target.write_all(&chunk).context("write file")?;
    }
    target.flush().context("write file")?;
    Ok(ExitCode::SUCCESS)
}

async fn keys(client: &Client, prefix: &str) -> anyhow::Result<ExitCode> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let keys = client
            .list_keys(prefix, after.as_deref(), LIST_BATCH)
            .await?;
        let Some(last) = keys.last() else {
            return Ok(ExitCode::SUCCESS);
        };
        after = Some(last.to_vec());
        let lines: String = keys
            .iter()
            .map(|key| format!("{}\n", String::from_utf8_lossy(key)))
            .collect();
        print_text(&lines);
    }
}

async fn info(client: &Client, key: &str, format: Format) -> anyhow::Result<ExitCode> {
    let info = client.info(key).await?;
    let mut table = Table::new(&["fid", "class", "length", "replicas", "checksum"]);
    table.push(vec![
        info.fid.to_string(),
        info.class,
        info.length.to_string(),
        info.replicas.to_string(),
        info.checksum
            .map_or_else(String::new, |checksum| checksum.to_string()),
    ]);
    table.print(format);
    Ok(ExitCode::SUCCESS)
}

async fn hosts(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let mut table = Table::new(&["hostid", "host", "status", "address"]);
    for host in client.admin().hosts().await? {
        let address = format!("{}:{}", host.ip, host.port);
        table.push(vec![
            host.hostid.to_string(),
            host.name,
            host.status,
            address,
        ]);
    }
    table.print(format);
    Ok(ExitCode::SUCCESS)
}

async fn devices(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let admin = client.admin();
    let (hosts, devices) = (admin.hosts().await?, admin.devices().await?);
    let mut table = Table::new(&["device", "host", "status", "observed", "free MB", "size MB"]);
    let number = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
    for device in devices {
        let host = hosts.iter().find(|host| host.hostid == device.hostid);
        table.push(vec![
            format!("dev{}", device.devid),
            host.map_or_else(String::new, |host| host.name.clone()),
            device.status,
            device.observed_state,
            number(device.mb_free),
            number(device.mb_total),
        ]);
    }
    table.print(format);
    Ok(ExitCode::SUCCESS)
}

async fn classes(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let mut table = Table::new(&["class", "mindevcount", "policy", "hash"]);
    for class in client.admin().classes().await? {
        table.push(vec![
            class.name,
            class.mindevcount.to_string(),
            class.replpolicy.unwrap_or_default(),
            class.hashtype.unwrap_or_default(),
        ]);
    }
    table.print(format);
    Ok(ExitCode::SUCCESS)
}
