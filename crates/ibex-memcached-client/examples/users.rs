//! Everything of one user on one server, read in one round trip; values as JSON, large ones compressed the way Python does it; and the counters that
//! tell what the pool did.
//!
//! `cargo run -p ibex-memcached-client --example users --features serde,zlib` with a memcached on 127.0.0.1:11211 or those at $MEMCACHED_SERVERS.
#![allow(
    clippy::print_stdout,
    dead_code,
    reason = "a program to read; a test runs `run` without `main`"
)]

use std::time::Duration;

use ibex_memcached_client::{
    Client, Codec, Compression, Config, Convention, Expiry, Key, NearCache, ServerMetrics,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USERS: u64 = 20;
/// What is kept of each.
const PARTS: [&str; 3] = ["name", "friends", "settings"];

#[tokio::main]
async fn main() -> Outcome<()> {
    let servers = std::env::var("MEMCACHED_SERVERS").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let config = Config::new(servers.split(',').map(str::to_owned));
    for server in run(config).await? {
        println!(
            "{}: {} operations on {} connections, {} bytes there, {} back",
            server.server,
            server.operations,
            server.connects,
            server.sent_bytes,
            server.received_bytes
        );
    }
    Ok(())
}

/// What was done at each server.
pub(crate) async fn run(config: Config) -> Outcome<Vec<ServerMetrics>> {
    let codec = Codec::new(Convention::Python).with_compression(Compression::Zlib);
    let cache = Client::connect(
        config
            .with_namespace("users:")
            .with_codec(codec)
            .with_near_cache(NearCache::new(16 << 20)),
    )
    .await?;
    let hour = Expiry::After(Duration::from_secs(3600));
    for user in 0..USERS {
        let friends: Vec<u64> = (0..500).map(|n| n * user).collect();
        let key = |part: &str| format!("{user}:{part}");
        let (name, list, settings) = (key("name"), key("friends"), key("settings"));
        let id = user.to_string();
        let home = cache.server_name(&id)?.to_owned();
        cache
            .set(
                Key::by(id.as_bytes(), name.as_bytes()),
                format!("user {user}"),
                hour,
            )
            .await?;
        cache
            .set_json(Key::by(id.as_bytes(), list.as_bytes()), &friends, hour)
            .await?;
        cache
            .set(Key::by(id.as_bytes(), settings.as_bytes()), "dark", hour)
            .await?;
        let read: Option<Vec<u64>> = cache
            .get_json(Key::by(id.as_bytes(), list.as_bytes()))
            .await?;
        if read.as_ref() != Some(&friends) {
            return Err(format!("user {user} has other friends").into());
        }
        for part in PARTS {
            let key = key(part);
            if cache.server_name(Key::by(id.as_bytes(), key.as_bytes()))? != home {
                return Err(format!("{part} of {user} lies elsewhere").into());
            }
        }
    }
    Ok(cache.metrics())
}
