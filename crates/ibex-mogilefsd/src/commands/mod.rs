//! Commands of the line protocol: from a line to exactly one reply.
//!
//! This file owns dispatch, counting and the mapping of failures to codes; the folder's other files own the commands by what they are about. Each
//! command is a function from the
//! tracker and its arguments to pairs or a refusal.

mod checks;
mod closing;
mod describe;
mod domains;
mod files;
mod hosts;
mod paths;
mod settings;

use crate::metrics::{CommandLabels, RequestLabels};
use crate::snapshot::Domain;
use crate::store::StoreError;
use crate::tracker::Tracker;
use bytes::BytesMut;
use ibex_mogilefs_proto::{Command, ErrorCode, Pairs, Reply};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    /// Absent on a unix socket.
    pub(crate) ip: Option<IpAddr>,
}

/// A refusal on its way to the client.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: ErrorCode,
    text: Option<String>,
}

impl Refusal {
    fn with(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: Some(text.into()),
        }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, text: None }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        if let StoreError::Sql(sql) = &error
            && !sql.is_unique_violation()
        {
            tracing::warn!(error = %sql, "database call failed");
        }
        error.code().into()
    }
}

pub(crate) type Outcome = Result<Pairs, Refusal>;

/// Answers one command line by appending one reply to `out`.
pub(crate) async fn answer(
    tracker: &Arc<Tracker>,
    client: &Client,
    name: &[u8],
    args: &[u8],
    out: &mut BytesMut,
) {
    let started = Instant::now();
    let pairs = Pairs::decode(args);
    let callid = pairs.value("callid").map(<[u8]>::to_vec);
    let Some(command) = Command::parse(name) else {
        tracker.metrics.queries.inc();
        Reply::refused(ErrorCode::UnknownCommand).encode(callid.as_deref(), out);
        return;
    };
    let id = tracker.console.begin(client, name, args);
    let outcome = Box::pin(dispatch(tracker, client, command, &pairs)).await;
    let took = started.elapsed();
    tracker.console.end(id, took);
    tracker.metrics.queries.inc();
    let result = outcome
        .as_ref()
        .map_or_else(|refusal| refusal.code.code(), |_| "ok");
    let command = command.name();
    tracker
        .metrics
        .requests
        .get_or_create(&RequestLabels { command, result })
        .inc();
    tracker
        .metrics
        .request_seconds
        .get_or_create(&CommandLabels { command })
        .observe(took.as_secs_f64());
    let reply = match outcome {
        Ok(pairs) => Reply::Ok(pairs),
        Err(Refusal {
            code,
            text: Some(text),
        }) => Reply::refused_with(code, text),
        Err(Refusal { code, text: None }) => Reply::refused(code),
    };
    reply.encode(callid.as_deref(), out);
}

async fn dispatch(
    tracker: &Arc<Tracker>,
    client: &Client,
    command: Command,
    args: &Pairs,
) -> Outcome {
    match command {
        Command::CreateOpen => files::create_open(tracker, client, args).await,
        Command::CreateClose => closing::create_close(tracker, args).await,
        Command::GetPaths => paths::get_paths(tracker, client, args).await,
        Command::Delete => files::delete(tracker, args).await,
        Command::Rename => files::rename(tracker, args).await,
        Command::UpdateClass => files::update_class(tracker, args).await,
        Command::FileInfo => describe::file_info(tracker, args).await,
        Command::FileDebug => describe::file_debug(tracker, args).await,
        Command::EditFile => Err(ErrorCode::Unsupported.into()),
        Command::ListKeys => describe::list_keys(tracker, args).await,
        Command::ListFids => describe::list_fids(tracker, args).await,
        Command::ReplicateNow => files::replicate_now(tracker).await,
        Command::Sleep => settings::sleep(tracker, args).await,
        Command::Noop => Ok(Pairs::new()),
        Command::Test => settings::test(args),
        Command::ClearCache | Command::DoMonitorRound => settings::monitor_round(tracker).await,
        Command::HttpCopy => files::http_copy(tracker, args).await,
        Command::CreateDomain => domains::create_domain(tracker, args).await,
        Command::DeleteDomain => domains::delete_domain(tracker, args).await,
        Command::CreateClass => domains::create_class(tracker, args, false).await,
        Command::UpdateClassDef => domains::create_class(tracker, args, true).await,
        Command::DeleteClass => domains::delete_class(tracker, args).await,
        Command::GetDomains => Ok(domains::get_domains(tracker)),
        Command::CreateHost => hosts::create_host(tracker, args).await,
        Command::UpdateHost => hosts::update_host(tracker, args).await,
        Command::DeleteHost => hosts::delete_host(tracker, args).await,
        Command::GetHosts => Ok(hosts::get_hosts(tracker, args)),
        Command::CreateDevice => hosts::create_device(tracker, args).await,
        Command::GetDevices => Ok(hosts::get_devices(tracker, args)),
        Command::SetState => hosts::set_state(tracker, args).await,
        Command::SetWeight => hosts::set_weight(tracker, args).await,
        Command::ServerSetting => settings::server_setting(tracker, args).await,
        Command::ServerSettings => settings::server_settings(tracker).await,
        Command::SetServerSetting => settings::set_server_setting(tracker, args).await,
        Command::FsckStart => checks::fsck_start(tracker).await,
        Command::FsckStop => checks::fsck_stop(tracker).await,
        Command::FsckReset => checks::fsck_reset(tracker, args).await,
        Command::FsckClearLog => checks::fsck_clear_log(tracker).await,
        Command::FsckGetLog => checks::fsck_get_log(tracker, args).await,
        Command::FsckStatus => checks::fsck_status(tracker).await,
        Command::RebalanceSetPolicy => checks::rebalance_set_policy(tracker, args).await,
        Command::RebalanceTest => checks::rebalance_test(tracker).await,
        Command::RebalanceStart => checks::rebalance_start(tracker).await,
        Command::RebalanceStop => checks::rebalance_stop(tracker).await,
        Command::RebalanceStatus => checks::rebalance_status(tracker).await,
        Command::RebalanceReset => checks::rebalance_reset(tracker).await,
    }
}

/// The domain a file command names.
async fn file_domain(tracker: &Tracker, args: &Pairs) -> Result<Domain, Refusal> {
    domain(tracker, args, ErrorCode::UnregDomain).await
}

/// The domain an argument names, looked for in the database too before it is called unknown.
async fn domain(tracker: &Tracker, args: &Pairs, unknown: ErrorCode) -> Result<Domain, Refusal> {
    let name = args.filled("domain").ok_or(ErrorCode::NoDomain)?;
    if let Some(domain) = tracker.snapshot().domain_named(name) {
        return Ok(domain.clone());
    }
    tracker.reload_after_miss().await?;
    tracker
        .snapshot()
        .domain_named(name)
        .cloned()
        .ok_or_else(|| unknown.into())
}

/// An argument as text for columns that hold ASCII.
fn text<'a>(args: &'a Pairs, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    args.filled(name).map(String::from_utf8_lossy)
}
