//! Starting, stopping and watching fsck and rebalance. The work itself is the jobs'.

use super::{Outcome, Refusal, text};
use crate::store::queues::{Queue, QueueType};
use crate::tracker::Tracker;
use ibex_mogilefs_core::fsck::Event;
use ibex_mogilefs_core::rebalance::{Plan, Progress};
use ibex_mogilefs_proto::console::JobKind;
use ibex_mogilefs_proto::{ErrorCode, Pairs};

/// Findings per answer.
const LOG_ROWS_MAX: u64 = 100;

async fn number(tracker: &Tracker, field: &str) -> Result<u64, Refusal> {
    Ok(tracker
        .store
        .setting(field)
        .await?
        .and_then(|text| text.parse().ok())
        .unwrap_or(0))
}

async fn is_fsck_running(tracker: &Tracker) -> Result<bool, Refusal> {
    Ok(tracker
        .store
        .setting("fsck_host")
        .await?
        .is_some_and(|host| !host.is_empty()))
}

async fn is_rebalance_running(tracker: &Tracker) -> Result<bool, Refusal> {
    Ok(tracker
        .store
        .setting("rebal_host")
        .await?
        .is_some_and(|host| !host.is_empty()))
}

pub(super) async fn fsck_start(tracker: &Tracker) -> Outcome {
    if is_fsck_running(tracker).await? {
        return Err(Refusal::with(
            ErrorCode::FsckRunning,
            "fsck is already running",
        ));
    }
    if is_rebalance_running(tracker).await? {
        return Err(Refusal::with(
            ErrorCode::RebalRunning,
            "rebalance running; cannot run fsck at same time",
        ));
    }
    let store = &tracker.store;
    let position = number(tracker, "fsck_highest_fid_checked").await?;
    let end = number(tracker, "fsck_fid_at_end").await?;
    if end == 0 || position >= end {
        reset(tracker, 0).await?;
    }
    let now = store.now().await?.to_string();
    store.set_setting("fsck_start_time", Some(&now)).await?;
    store.set_setting("fsck_stop_time", None).await?;
    store
        .set_setting("fsck_host", Some(tracker.kit.node()))
        .await?;
    tracker.reload().await?;
    tracker.wake(JobKind::Fsck);
    Ok(Pairs::new())
}

pub(super) async fn fsck_stop(tracker: &Tracker) -> Outcome {
    let now = tracker.store.now().await?.to_string();
    tracker.store.set_setting("fsck_host", None).await?;
    tracker
        .store
        .set_setting("fsck_stop_time", Some(&now))
        .await?;
    tracker.reload().await?;
    Ok(Pairs::new())
}

async fn reset(tracker: &Tracker, start: u64) -> Result<(), Refusal> {
    let store = &tracker.store;
    store.clear_queue(QueueType::Fsck).await?;
    let highest = store.highest_file().await?.to_string();
    store.set_setting("fsck_fid_at_end", Some(&highest)).await?;
    store
        .set_setting("fsck_highest_fid_checked", Some(&start.to_string()))
        .await?;
    let log = store.fsck_log_max().await?.to_string();
    store.set_setting("fsck_start_maxlogid", Some(&log)).await?;
    store.set_setting("fsck_start_time", None).await?;
    store.set_setting("fsck_stop_time", None).await?;
    for event in Event::ALL {
        store
            .set_setting(&format!("fsck_sum_evcount_{}", event.code()), None)
            .await?;
    }
    Ok(())
}

pub(super) async fn fsck_reset(tracker: &Tracker, args: &Pairs) -> Outcome {
    if is_fsck_running(tracker).await? {
        return Err(Refusal::with(
            ErrorCode::FsckRunning,
            "fsck is running; stop it first",
        ));
    }
    let policy_only = if args.is_set("policy_only") { "1" } else { "0" };
    tracker
        .store
        .set_setting("fsck_opt_policy_only", Some(policy_only))
        .await?;
    reset(tracker, args.number("startpos").unwrap_or(0)).await?;
    tracker.reload().await?;
    Ok(Pairs::new())
}

pub(super) async fn fsck_clear_log(tracker: &Tracker) -> Outcome {
    tracker.store.clear_fsck_log().await?;
    Ok(Pairs::new())
}

pub(super) async fn fsck_get_log(tracker: &Tracker, args: &Pairs) -> Outcome {
    let rows = tracker
        .store
        .fsck_log(args.number("after_logid").unwrap_or(0), LOG_ROWS_MAX)
        .await?;
    let mut reply = Pairs::new().with_number("row_count", rows.len() as u64);
    for (index, row) in (1..).zip(rows) {
        let mut field =
            |name: &str, value: String| reply.push(format!("row_{index}_{name}"), value);
        field("logid", row.id.to_string());
        field("utime", row.time.to_string());
        field(
            "fid",
            row.fid.map(|fid| fid.to_string()).unwrap_or_default(),
        );
        field("evcode", row.code);
        field(
            "devid",
            row.device
                .map(|device| device.to_string())
                .unwrap_or_default(),
        );
    }
    Ok(reply)
}

pub(super) async fn fsck_status(tracker: &Tracker) -> Outcome {
    let store = &tracker.store;
    let setting = async |field: &str| store.setting(field).await.map(Option::unwrap_or_default);
    let host = setting("fsck_host").await?;
    let mut reply = Pairs::new()
        .with("running", if host.is_empty() { "0" } else { "1" })
        .with("host", host)
        .with(
            "max_fid_checked",
            setting("fsck_highest_fid_checked").await?,
        )
        .with("policy_only", setting("fsck_opt_policy_only").await?)
        .with("end_fid", setting("fsck_fid_at_end").await?)
        .with("start_time", setting("fsck_start_time").await?)
        .with("stop_time", setting("fsck_stop_time").await?)
        .with_number("current_time", store.now().await?)
        .with_number("max_logid", store.fsck_log_max().await?);
    for event in Event::ALL {
        let sum = setting(&format!("fsck_sum_evcount_{}", event.code())).await?;
        if !sum.is_empty() {
            reply.push(format!("num_{}", event.code()), sum);
        }
    }
    Ok(reply)
}

pub(super) async fn rebalance_set_policy(tracker: &Tracker, args: &Pairs) -> Outcome {
    if is_rebalance_running(tracker).await? {
        return Err(Refusal::with(
            ErrorCode::NoSetRebal,
            "Cannot change rebalance policy while rebalance is running",
        ));
    }
    let policy = text(args, "policy").unwrap_or_default();
    Plan::parse(&policy)
        .map_err(|error| Refusal::with(ErrorCode::BadRebalPol, error.to_string()))?;
    tracker
        .store
        .set_setting("rebal_policy", Some(&policy))
        .await?;
    tracker.store.set_setting("rebal_state", None).await?;
    tracker.reload().await?;
    Ok(Pairs::new())
}

async fn plan(tracker: &Tracker) -> Result<Plan, Refusal> {
    let policy = tracker
        .store
        .setting("rebal_policy")
        .await?
        .ok_or(ErrorCode::NoRebalPolicy)?;
    Plan::parse(&policy).map_err(|_| ErrorCode::NoRebalPolicy.into())
}

pub(super) async fn rebalance_test(tracker: &Tracker) -> Outcome {
    let plan = plan(tracker).await?;
    let snapshot = tracker.snapshot();
    let list = |devices: Vec<ibex_mogilefs_proto::DevId>| crate::store::join_devids(&devices);
    Ok(Pairs::new()
        .with("sdevs", list(plan.sources(&snapshot.cluster)))
        .with("ddevs", list(plan.destinations(&snapshot.cluster))))
}

pub(super) async fn rebalance_start(tracker: &Tracker) -> Outcome {
    if is_rebalance_running(tracker).await? {
        return Err(Refusal::with(
            ErrorCode::RebalRunning,
            "rebalance is already running",
        ));
    }
    if is_fsck_running(tracker).await? {
        return Err(Refusal::with(
            ErrorCode::FsckRunning,
            "fsck running; cannot run rebalance at same time",
        ));
    }
    let plan = plan(tracker).await?;
    let store = &tracker.store;
    let state = match store.setting("rebal_state").await? {
        Some(state) if !state.is_empty() => state,
        _ => {
            let mut progress = Progress::default();
            progress.set_devices("source_devs", &plan.sources(&tracker.snapshot().cluster));
            progress.set_number("time_started", store.now().await?);
            progress.encode()
        }
    };
    store.set_setting("rebal_state", Some(&state)).await?;
    store.set_setting("rebal_signal", None).await?;
    store
        .set_setting("rebal_host", Some(tracker.kit.node()))
        .await?;
    tracker.reload().await?;
    tracker.wake(JobKind::JobMaster);
    Ok(Pairs::new().with("state", state))
}

pub(super) async fn rebalance_stop(tracker: &Tracker) -> Outcome {
    if !is_rebalance_running(tracker).await? {
        return Err(ErrorCode::RebalNotStarted.into());
    }
    tracker
        .store
        .set_setting("rebal_signal", Some("stop"))
        .await?;
    tracker.reload().await?;
    tracker.wake(JobKind::JobMaster);
    Ok(Pairs::new())
}

pub(super) async fn rebalance_status(tracker: &Tracker) -> Outcome {
    let state = tracker
        .store
        .setting("rebal_state")
        .await?
        .filter(|state| !state.is_empty())
        .ok_or(ErrorCode::NoRebalState)?;
    let (waiting, _) = tracker
        .store
        .queue_depth(Queue::Other(QueueType::Rebalance))
        .await?;
    Ok(Pairs::new().with("state", format!("{state} fids_waiting={waiting}")))
}

pub(super) async fn rebalance_reset(tracker: &Tracker) -> Outcome {
    if is_rebalance_running(tracker).await? {
        return Err(Refusal::with(
            ErrorCode::RebalRunning,
            "rebalance is running; stop it first",
        ));
    }
    tracker.store.set_setting("rebal_state", None).await?;
    tracker.store.clear_queue(QueueType::Rebalance).await?;
    tracker.reload().await?;
    Ok(Pairs::new())
}
