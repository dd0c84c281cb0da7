//! `ibex cache warm`: copies what other servers hold into the pool, so that a new server, or a pool of another size, does not begin with misses.
//!
//! The keys come from the source's dump, their values by `mg` in batches; each goes to the server the pool's distribution names, with the flags it had and the
//! life it has left. By default with `add`: what the pool already has is younger. Values under a lease and outdated ones stay behind.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use ibex_memcached_client::{Client, Error, Expiry, Key, MetaCode, MetaRequest, Verb};
use ibex_memcached_proto::encode::{Meta, check_key};
use ibex_memcached_proto::reply::{Code, Reply};
use tokio::time::Instant;

use super::keys::{Keys, Pattern, Refused};
use super::wire::{Connection, Last};
use crate::output::{Format, Table};

/// Keys asked for and stored together: a round trip for many.
const BATCH: usize = 100;
/// Bytes of items asked for together, as the dump told them; at least one item. Bounds what the tool holds at once.
const BATCH_BYTES: u64 = 16 << 20;

/// Arguments of `ibex cache warm`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Server to copy from, memcached 1.6 or later; may be repeated. The pool given by --server is copied into.
    #[arg(long, value_name = "SERVER", required = true)]
    from: Vec<String>,
    /// Only keys like this: `*` any text, `?` one byte.
    #[arg(long = "match", value_name = "PATTERN")]
    pattern: Option<Pattern>,
    /// Replace what the pool already has.
    #[arg(long)]
    overwrite: bool,
    /// At most so many items a second from each source; 0 = as fast as possible.
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

/// What became of the items.
#[derive(Debug, Default)]
struct Counts {
    copied: u64,
    present: u64,
    gone: u64,
    leased: u64,
    refused: u64,
}

/// An item on its way.
#[derive(Debug)]
struct Copied {
    key: Vec<u8>,
    value: Bytes,
    flags: u32,
    expiry: Expiry,
}

/// Exit code 1 if an item or a dump was refused.
pub(super) async fn run(args: Args, client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let mut table = Table::new(&["from", "copied", "present", "gone", "leased", "refused"]);
    let mut refusals = 0;
    for source in &args.from {
        let counts = match copy(&args, source, client).await {
            Ok(counts) => counts,
            Err(error) if error.is::<Refused>() => {
                eprintln!("ibex: {error}");
                refusals += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        refusals += counts.refused;
        let numbers = [
            counts.copied,
            counts.present,
            counts.gone,
            counts.leased,
            counts.refused,
        ];
        let cells = numbers.iter().map(u64::to_string);
        table.push([source.clone()].into_iter().chain(cells).collect());
    }
    table.print(format);
    Ok(ExitCode::from(u8::from(refusals > 0)))
}

async fn copy(args: &Args, source: &str, client: &Client) -> anyhow::Result<Counts> {
    let mut keys = Keys::of(source, args.pattern.clone()).await?;
    let mut values = Connection::open(source).await?;
    let mut counts = Counts::default();
    let begun = Instant::now();
    let mut asked = 0_u64;
    loop {
        let (mut batch, mut bytes) = (Vec::with_capacity(BATCH), 0);
        while batch.len() < BATCH
            && bytes < BATCH_BYTES
            && let Some(entry) = keys.next().await?
        {
            bytes += entry.size;
            batch.push(entry.key);
        }
        if batch.is_empty() {
            return Ok(counts);
        }
        asked += batch.len() as u64;
        let items = fetch(&mut values, batch, &mut counts).await?;
        store(args, client, items, &mut counts).await?;
        if args.rate > 0 {
            let due = Duration::from_secs_f64(asked as f64 / f64::from(args.rate));
            tokio::time::sleep_until(begun + due).await;
        }
    }
}

/// Reads the values of `keys` off the source.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "any other reply is an error, whichever it is"
)]
async fn fetch(
    source: &mut Connection,
    mut keys: Vec<Vec<u8>>,
    counts: &mut Counts,
) -> anyhow::Result<Vec<Copied>> {
    let mut request = BytesMut::new();
    for (opaque, key) in keys.iter().enumerate() {
        let meta = match check_key(key) {
            true => Meta::new(&mut request, b"mg", key),
            false => Meta::new(&mut request, b"mg", STANDARD.encode(key).as_bytes()).flags(b"b"),
        };
        meta.flags(b"vftq").number(b'O', opaque as u64).end();
    }
    request.extend_from_slice(b"mn\r\n");
    source.send(&request).await?;
    let server = source.server().to_owned();
    let (mut items, mut leased) = (Vec::new(), 0);
    let asked = keys.len() as u64;
    let read = |reply: Reply<'_>| match reply {
        Reply::Meta {
            code: Code::Va,
            flags,
            data,
        } => {
            let key = flags
                .number(b'O')
                .and_then(|opaque| keys.get_mut(usize::try_from(opaque).ok()?));
            let left = match flags.token(b't') {
                Some(b"-1") => Some(Expiry::Never),
                // Nothing is left of its last second.
                Some(_) => flags
                    .number(b't')
                    .filter(|left| *left > 0)
                    .map(|left| Expiry::After(Duration::from_secs(left))),
                None => None,
            };
            if flags.has(b'X') || (flags.has(b'Z') && data.is_empty()) {
                leased += 1;
            } else if let (Some(key), Some(expiry)) = (key, left) {
                items.push(Copied {
                    key: std::mem::take(key),
                    value: Bytes::copy_from_slice(data),
                    flags: flags
                        .number(b'f')
                        .and_then(|flags| u32::try_from(flags).ok())
                        .unwrap_or(0),
                    expiry,
                });
            }
            Ok(Last::No)
        }
        Reply::Meta { code: Code::Mn, .. } => Ok(Last::Yes),
        Reply::ClientError(text) | Reply::ServerError(text) => bail!(
            "{server} cannot be copied from, it must be memcached 1.6 or later: {}",
            String::from_utf8_lossy(text)
        ),
        other => bail!("{server}: unexpected reply {other:?}"),
    };
    source.replies(read).await?;
    counts.leased += leased;
    counts.gone += asked.saturating_sub(leased + items.len() as u64);
    Ok(items)
}

/// Stores items in the pool, all at the same time.
async fn store(
    args: &Args,
    client: &Client,
    items: Vec<Copied>,
    counts: &mut Counts,
) -> anyhow::Result<()> {
    let verb = if args.overwrite { Verb::Set } else { Verb::Add };
    let stores = items.iter().map(|item| store_one(client, verb, item));
    for (item, stored) in items.iter().zip(join_all(stores).await) {
        match stored {
            Ok(true) => counts.copied += 1,
            Ok(false) => counts.present += 1,
            Err(error @ Error::Refused { .. }) => {
                eprintln!("ibex: {}: {error}", super::keys::shown(&item.key));
                counts.refused += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn store_one(client: &Client, verb: Verb, item: &Copied) -> Result<bool, Error> {
    if check_key(&item.key) {
        let key = item.key.as_slice();
        return client
            .store(verb, key, &item.value, item.flags, item.expiry)
            .await;
    }
    // A key that only base64 can carry, on the server its own bytes choose.
    let request = MetaRequest::set(item.value.clone())
        .flag(b'b')
        .number(b'F', i64::from(item.flags))
        .token(b'M', if verb == Verb::Set { "S" } else { "E" });
    let request = match item.expiry {
        Expiry::After(left) => {
            request.number(b'T', i64::try_from(left.as_secs()).unwrap_or(i64::MAX))
        }
        Expiry::Never | Expiry::At(_) => request,
    };
    let text = STANDARD.encode(&item.key);
    let key = Key::by(&item.key, text.as_bytes());
    let reply = client.meta(key, &request).await?;
    Ok(reply.code == MetaCode::Done)
}
