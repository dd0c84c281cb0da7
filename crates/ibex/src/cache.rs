//! `ibex cache`: read, write and look into cache servers, and tell which server a key lives on.
//!
//! Operations on keys go through the client library and its pool. What is about one server (dumps, watches, the load generator) has connections of its own.

mod bench;
mod dump;
mod keys;
mod top;
mod warm;
mod watch;
mod wire;

use std::io::{BufRead as _, Read as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use ibex_memcached_client::{
    Client, Codec, Config, Convention, Distribution, Error, Expiry, Hash, Item, Verb,
};

use crate::output::{Format, Table, print_bytes, print_text};

/// Arguments of `ibex cache`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Cache server `host[:port][:weight]` or `/path/to/socket`; may be repeated. Default $MEMCACHED_SERVERS (comma list), then 127.0.0.1:11211.
    #[arg(long = "server", short = 's', global = true)]
    servers: Vec<String>,
    /// How keys are spread over several servers.
    #[arg(long, value_enum, default_value_t = Spread::Ketama, global = true)]
    distribution: Spread,
    /// The hash of keys, where the distribution leaves a choice; without it the one its original uses.
    #[arg(long, value_enum, global = true)]
    hash: Option<HashName>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a value. Exit code 1 if there is none.
    Get {
        /// The key.
        key: String,
        /// Decompress it as this language's clients do.
        #[arg(long, value_enum)]
        decode: Option<Language>,
    },
    /// Store a value.
    Set(Store),
    /// Store a value if the key has none. Exit code 1 if it has.
    Add(Store),
    /// Store a value if the key has one. Exit code 1 if it has none.
    Replace(Store),
    /// Put a text behind a value. Exit code 1 if the key has none.
    Append(Piece),
    /// Put a text before a value. Exit code 1 if the key has none.
    Prepend(Piece),
    /// Remove keys. Exit code 1 if one was not there.
    Delete {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Add to a decimal value and print the sum. Exit code 1 if the key has no value.
    Incr {
        /// The key.
        key: String,
        /// How much.
        #[arg(default_value_t = 1)]
        by: u64,
    },
    /// Subtract from a decimal value, down to 0, and print the rest.
    Decr {
        /// The key.
        key: String,
        /// How much.
        #[arg(default_value_t = 1)]
        by: u64,
    },
    /// Give a key a new lifetime. Exit code 1 if it has no value.
    Touch {
        /// The key.
        key: String,
        /// Lifetime in seconds; 0 = for ever.
        seconds: u64,
    },
    /// Print a value and give it a new lifetime. Exit code 1 if there is none.
    Gat {
        /// The key.
        key: String,
        /// Lifetime in seconds; 0 = for ever.
        seconds: u64,
    },
    /// Make a value outdated: one reader is told to compute it anew, the others may use it meanwhile, and what was computed before cannot be stored.
    Invalidate {
        /// The key.
        key: String,
        /// How long the outdated value may be used, in seconds.
        #[arg(long, default_value_t = 30)]
        stale_for: u64,
    },
    /// Statistics of every server.
    Stats {
        /// `settings`, `items`, `slabs`, `conns` …; general ones when absent. `reset` begins to count anew.
        #[arg(default_value = "")]
        section: String,
    },
    /// Version of every server.
    Version,
    /// Make every item of every server invisible.
    Flush {
        /// Do it without the question.
        #[arg(long)]
        yes: bool,
    },
    /// How busy every server is, every two seconds: rates, hits, memory, processor. Exit code 1 if none answered the last look.
    Top(top::Args),
    /// What every server does, line by line as it happens: reads, stores, evictions, connections. Costs it time while it is watched.
    Watch(watch::Args),
    /// The keys of every server with size, lifetime and age. Exit code 1 if a server refuses.
    Dump(dump::Args),
    /// Copy what other servers hold into this pool, with flags and remaining lifetimes. Exit code 1 if something was refused.
    Warm(warm::Args),
    /// Load one server and say how long its answers take.
    Bench(Box<bench::Args>),
    /// Keys on standard input, `key<TAB>server` on standard output: where a client with this configuration looks.
    Map,
}

#[derive(Debug, clap::Args)]
struct Store {
    /// The key.
    key: String,
    /// The value; standard input when absent.
    value: Option<String>,
    /// Lifetime in seconds; 0 = for ever.
    #[arg(long, short, default_value_t = 0)]
    expire: u64,
    /// Client flags, a number stored beside the value.
    #[arg(long, short, default_value_t = 0)]
    flags: u32,
}

#[derive(Debug, clap::Args)]
struct Piece {
    /// The key.
    key: String,
    /// The text; standard input when absent.
    value: Option<String>,
}

/// Names of the distributions.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Spread {
    Modula,
    Ketama,
    KetamaWeighted,
    Perl,
    Rendezvous,
    Jump,
}

impl From<Spread> for Distribution {
    fn from(spread: Spread) -> Self {
        match spread {
            Spread::Modula => Self::Modula,
            Spread::Ketama => Self::Ketama,
            Spread::KetamaWeighted => Self::KetamaWeighted,
            Spread::Perl => Self::Perl,
            Spread::Rendezvous => Self::Rendezvous,
            Spread::Jump => Self::Jump,
        }
    }
}

/// Names of the hashes, as libmemcached's tools spell them.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum HashName {
    Default,
    Md5,
    Crc,
    #[value(name = "fnv1_32")]
    Fnv1_32,
    #[value(name = "fnv1a_32")]
    Fnv1a32,
    #[value(name = "fnv1_64")]
    Fnv1_64,
    #[value(name = "fnv1a_64")]
    Fnv1a64,
}

impl From<HashName> for Hash {
    fn from(name: HashName) -> Self {
        match name {
            HashName::Default => Self::OneAtATime,
            HashName::Md5 => Self::Md5,
            HashName::Crc => Self::Crc,
            HashName::Fnv1_32 => Self::Fnv1_32,
            HashName::Fnv1a32 => Self::Fnv1a32,
            HashName::Fnv1_64 => Self::Fnv1_64,
            HashName::Fnv1a64 => Self::Fnv1a64,
        }
    }
}

/// Whose clients compressed a value.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Language {
    Python,
    Php,
    Perl,
}

impl From<Language> for Convention {
    fn from(language: Language) -> Self {
        match language {
            Language::Python => Self::Python,
            Language::Php => Self::Php,
            Language::Perl => Self::Perl,
        }
    }
}

/// "Yes, it was so" and "no, it was not" as exit codes.
fn answer(is_so: bool) -> ExitCode {
    ExitCode::from(u8::from(!is_so))
}

/// Performs the command. What a server refuses is a "no" (1), a key that cannot be one is a wrong use (64).
///
/// # Errors
/// When a server cannot be reached, or standard input or output fails.
pub async fn run(args: Args, format: Format) -> anyhow::Result<ExitCode> {
    let error = match perform(args, format).await {
        Ok(code) => return Ok(code),
        Err(error) => error,
    };
    let code = match error.downcast_ref::<Error>() {
        Some(Error::Refused { .. } | Error::Unsupported { .. } | Error::Codec(_)) => 1,
        Some(Error::Key | Error::Config(_) | Error::Request(_)) => 64,
        Some(
            Error::Dead { .. }
            | Error::Connect { .. }
            | Error::Lost { .. }
            | Error::OutcomeUnknown { .. },
        )
        | None => return Err(error),
    };
    eprintln!("ibex: {error:#}");
    Ok(ExitCode::from(code))
}

async fn perform(args: Args, format: Format) -> anyhow::Result<ExitCode> {
    let servers = servers(&args);
    let (spread, hash) = (args.distribution, args.hash);
    let of = |servers| config(spread, hash, servers);
    let client = Client::connect(of(servers.clone()))
        .await
        .context("configure cache client")?;
    match args.command {
        Command::Get { key, decode } => {
            let item = client.get(&key).await?;
            let item = match (item, decode) {
                (Some(item), Some(language)) => Some(Codec::new(language.into()).decode(item)?),
                (item, _) => item,
            };
            value(item.as_ref())
        }
        Command::Gat { key, seconds } => {
            value(client.get_and_touch(&key, expiry(seconds)).await?.as_ref())
        }
        Command::Set(store) => put(&client, Verb::Set, store).await,
        Command::Add(store) => put(&client, Verb::Add, store).await,
        Command::Replace(store) => put(&client, Verb::Replace, store).await,
        Command::Append(piece) => put(&client, Verb::Append, piece.into()).await,
        Command::Prepend(piece) => put(&client, Verb::Prepend, piece.into()).await,
        Command::Delete { keys } => {
            let mut all_there = true;
            for key in keys {
                all_there &= client.delete(&key).await?;
            }
            Ok(answer(all_there))
        }
        Command::Incr { key, by } => Ok(number(client.incr(&key, by).await?)),
        Command::Decr { key, by } => Ok(number(client.decr(&key, by).await?)),
        Command::Touch { key, seconds } => Ok(answer(client.touch(&key, expiry(seconds)).await?)),
        Command::Invalidate { key, stale_for } => {
            let stale_for = Duration::from_secs(stale_for);
            client.invalidate(&key, stale_for).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Stats { section } => stats(&client, &section, format).await,
        Command::Version => version(&client, format).await,
        Command::Flush { yes } => flush(&client, yes).await,
        Command::Map => map(&client),
        Command::Top(top) => top::run(top, &servers, of, format).await,
        Command::Watch(watch) => watch::run(watch, &servers, format).await,
        Command::Dump(dump) => dump::run(dump, &servers, format).await,
        Command::Warm(warm) => warm::run(warm, &client, format).await,
        Command::Bench(bench) => {
            tokio::task::spawn_blocking(move || bench::run(&bench, &servers, format)).await?
        }
    }
}

fn servers(args: &Args) -> Vec<String> {
    let mut servers = args.servers.clone();
    if servers.is_empty() {
        let list = std::env::var("MEMCACHED_SERVERS").unwrap_or_default();
        let entries = list
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty());
        servers.extend(entries.map(str::to_owned));
    }
    if servers.is_empty() {
        servers.push("127.0.0.1:11211".to_owned());
    }
    servers
}

/// The pool of a tool: patient, because nobody waits behind it, and quick to try again.
fn config(spread: Spread, hash: Option<HashName>, servers: Vec<String>) -> Config {
    let config = Config::new(servers)
        .with_distribution(spread.into())
        .with_connect_timeout(wire::PATIENCE)
        .with_operation_timeout(wire::PATIENCE);
    match hash {
        Some(hash) => config.with_hash(hash.into()),
        None => config,
    }
}

fn expiry(seconds: u64) -> Expiry {
    match seconds {
        0 => Expiry::Never,
        seconds => Expiry::After(Duration::from_secs(seconds)),
    }
}

async fn put(client: &Client, verb: Verb, store: Store) -> anyhow::Result<ExitCode> {
    let value = match store.value {
        Some(text) => text.into_bytes(),
        None => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .context("read standard input")?;
            bytes
        }
    };
    let expiry = expiry(store.expire);
    Ok(answer(
        client
            .store(verb, &store.key, value, store.flags, expiry)
            .await?,
    ))
}

impl From<Piece> for Store {
    fn from(piece: Piece) -> Self {
        Self {
            key: piece.key,
            value: piece.value,
            expire: 0,
            flags: 0,
        }
    }
}

fn value(item: Option<&Item>) -> anyhow::Result<ExitCode> {
    if let Some(item) = item {
        print_bytes(&item.value)?;
    }
    Ok(answer(item.is_some()))
}

async fn version(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let mut table = Table::new(&["server", "version"]);
    for (server, version) in client.version().await? {
        table.push(vec![server, version]);
    }
    table.print(format);
    Ok(ExitCode::SUCCESS)
}

fn number(value: Option<u64>) -> ExitCode {
    if let Some(value) = value {
        print_text(&format!("{value}\n"));
    }
    answer(value.is_some())
}

async fn stats(client: &Client, section: &str, format: Format) -> anyhow::Result<ExitCode> {
    let mut table = Table::new(&["server", "name", "value"]);
    for (server, stats) in client.stats(section).await? {
        for (name, value) in stats {
            table.push(vec![server.clone(), name, value]);
        }
    }
    table.print(format);
    Ok(ExitCode::SUCCESS)
}

async fn flush(client: &Client, yes: bool) -> anyhow::Result<ExitCode> {
    if !yes {
        eprint!("Every item of every server becomes invisible. Type yes to go on: ");
        let mut line = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .context("read standard input")?;
        if line.trim() != "yes" {
            return Ok(answer(false));
        }
    }
    client.flush_all().await?;
    Ok(ExitCode::SUCCESS)
}

fn map(client: &Client) -> anyhow::Result<ExitCode> {
    for line in std::io::stdin().lock().lines() {
        let key = line.context("read standard input")?;
        print_text(&format!("{key}\t{}\n", client.server_name(&key)?));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_seconds_is_for_ever() {
        assert_eq!(expiry(0), Expiry::Never);
        assert_eq!(expiry(9), Expiry::After(Duration::from_secs(9)));
    }
}
