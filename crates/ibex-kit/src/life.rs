//! From the start of the runtime to its end: the main task, the drain, the deadline.
//!
//! Owns the order of a stop (spec/ops.md 5.3): wait until idle, cut at the deadline, name what is left. What asks for the
//! stop (signals, the admin port, the daemon itself) only cancels tokens.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::failure::Failure;
use crate::kit::Kit;
use crate::phase::Phase;

/// After the deadline of a drain, tasks get this long to notice that they are cut.
const CUT_TIME: Duration = Duration::from_secs(1);

/// From the start of the runtime to its end.
pub(crate) fn live<C, F>(config: C, kit: &Kit, run: F) -> Result<(), Failure>
where
    F: AsyncFnOnce(C, Kit) -> Result<(), Failure>,
{
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = usize::try_from(kit.common().limits.threads).unwrap_or(0);
    let threads = if threads == 0 { processors } else { threads };
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    let runtime = builder
        .enable_all()
        .thread_name(kit.about().short)
        .build()
        .map_err(|error| Failure::io(format!("runtime: {error}")))?;
    let whole = async {
        let beat = kit.heartbeat("runtime");
        kit.spawn_background("heartbeat", async move {
            let mut interval = tokio::time::interval(Duration::from_secs(1));
            loop {
                interval.tick().await;
                beat.beat();
            }
        });
        let result = tokio::select! {
            result = run(config, kit.clone()) => result,
            name = kit.inner.tasks.fatal() => Err(Failure::bug(format!("task {name:?} panicked"))),
            () = overdue(kit) => Ok(()),
        };
        match result {
            Ok(()) => drain(kit).await,
            Err(failure) => {
                error!(error = %failure, "stopping");
                kit.inner.draining.cancel();
                kit.inner.cut.cancel();
                Err(failure)
            }
        }
    };
    // A panic of the main task is a bug with its exit code; release builds abort before they come here.
    let unwound =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(whole)));
    let result =
        unwound.unwrap_or_else(|_| Err(Failure::bug("the main task panicked (see the log above)")));
    // Blocking work that does not end would hold the process for ever.
    runtime.shutdown_timeout(CUT_TIME);
    result
}

/// Resolves when `run` itself did not return although everything was cut.
async fn overdue(kit: &Kit) {
    kit.inner.draining.cancelled().await;
    let mut deadline = match *kit.inner.phase.borrow() {
        Phase::Draining { deadline } => deadline,
        Phase::Starting | Phase::Running | Phase::Stopping => {
            Instant::now() + kit.common().shutdown.grace.std()
        }
    };
    // A start that is stopped has no client to wait for; it may be trying a database that is away.
    if !kit.inner.was_ready.load(Ordering::SeqCst) {
        deadline = deadline.min(Instant::now() + CUT_TIME);
    }
    tokio::select! {
        () = tokio::time::sleep_until(deadline.into()) => {
            warn!("drain deadline reached, cutting what is left");
            kit.inner.cut.cancel();
        }
        () = kit.inner.cut.cancelled() => {}
    }
    tokio::time::sleep(CUT_TIME).await;
    warn!("the main task is still alive at the drain deadline");
}

/// `run` has returned: wait for the rest, cut it at the deadline, say what was left.
async fn drain(kit: &Kit) -> Result<(), Failure> {
    let began = Instant::now();
    kit.begin_drain("the daemon ended by itself");
    kit.inner.draining.cancel();
    let deadline = match *kit.inner.phase.borrow() {
        Phase::Draining { deadline } => deadline,
        Phase::Starting | Phase::Running | Phase::Stopping => began,
    };
    let in_time = tokio::select! {
        () = kit.inner.tasks.idle() => true,
        () = tokio::time::sleep_until(deadline.into()) => false,
        () = kit.inner.cut.cancelled() => false,
        name = kit.inner.tasks.fatal() => return Err(Failure::bug(format!("task {name:?} panicked"))),
    };
    kit.inner.cut.cancel();
    let mut left = 0;
    if !in_time
        && tokio::time::timeout(CUT_TIME, kit.inner.tasks.idle())
            .await
            .is_err()
    {
        for (name, count) in kit.inner.tasks.names() {
            left += count;
            warn!(task = %name, count, "task still alive at the drain deadline");
        }
    }
    kit.inner.phase.send_replace(Phase::Stopping);
    info!(
        cut = !in_time,
        left,
        elapsed = began.elapsed().as_secs_f64(),
        "drained"
    );
    Ok(())
}
