//! Jobs as a stream of lines: a worker opens it, keeps a number of jobs in hand, and ends it to give the rest back.
//!
//! Apart because the stream's end is a finish, too. Finishes themselves go through the ordinary calls.

use super::App;
use crate::http::{Refusal, Reply, query_pairs, stream};
use ::http::Request;
use bytes::Bytes;
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A blank line this often tells both sides that the other is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Jobs one stream may have in hand.
const PREFETCH_MAX: usize = 1000;
/// How soon a worker that was told to be quiet and may go on does so, and a database that was away is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl App {
    pub(super) fn take(self: &Arc<Self>, request: &Request<Incoming>) -> Result<Reply, Refusal> {
        let pairs = query_pairs(request.uri().query());
        let funcs: Vec<String> = pairs
            .get("funcs")
            .map(|funcs| funcs.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        let number = |name: &str, default: u64| match pairs.get(name) {
            Some(text) => text
                .parse::<u64>()
                .map_err(|_| Refusal::bad_request(format!("{name} is a number"))),
            None => Ok(default),
        };
        let prefetch = usize::try_from(number("prefetch", 1)?).unwrap_or(usize::MAX);
        if !(1..=PREFETCH_MAX).contains(&prefetch) {
            return Err(Refusal::bad_request(format!(
                "prefetch is 1 to {PREFETCH_MAX}"
            )));
        }
        let grab_for = pairs
            .contains_key("grab_for")
            .then(|| number("grab_for", 60))
            .transpose()?;
        let want = self.want(funcs, prefetch, grab_for)?;
        let worker = pairs.get("worker").cloned().unwrap_or_default();
        self.roster.saw(&worker, &want.funcs, HEARTBEAT)?;
        let (lines, receiver) = mpsc::channel(16);
        let (app, id) = (Arc::clone(self), self.leases.new_stream());
        self.kit.spawn("take", async move {
            app.feed(id, &want, &worker, &lines).await;
            app.give_back(app.leases.take_stream(id)).await;
        });
        Ok(stream("application/x-ndjson", receiver))
    }

    /// Sends jobs until the client goes away or the daemon closes.
    async fn feed(
        self: &Arc<Self>,
        id: u64,
        want: &ibex_schwartz::Grab,
        worker: &str,
        lines: &mpsc::Sender<Bytes>,
    ) {
        let hand = self.leases.hand(id);
        let mut last = Instant::now();
        let mut seen = last;
        while !self.hub.closing.is_cancelled() {
            let room = want.max.saturating_sub(hand.jobs());
            // One that was told to be quiet finishes what it has and gets nothing more.
            if room > 0 && self.orders.of(worker).is_none() {
                let want = ibex_schwartz::Grab {
                    max: room,
                    ..want.clone()
                };
                let jobs = tokio::select! {
                    jobs = self.hub.fetch(&want, last + HEARTBEAT) => match jobs {
                        Ok(jobs) => jobs,
                        Err(error) => {
                            tracing::debug!(error = %error, "a stream waits for its database");
                            tokio::time::sleep(ASK_AGAIN).await;
                            Vec::new()
                        }
                    },
                    _ = self.orders.given(worker) => continue,
                    () = lines.closed() => return,
                };
                let mut jobs = jobs.into_iter();
                while let Some(job) = jobs.next() {
                    let mut line = self
                        .hand_out(&job, worker, want.grab_for, Some(id))
                        .to_string();
                    line.push('\n');
                    if lines.send(Bytes::from(line)).await.is_err() {
                        // Those that are out already are given back by the stream's end.
                        self.hub.give_back(jobs.collect()).await;
                        return;
                    }
                    last = Instant::now();
                }
            } else {
                tokio::select! {
                    () = hand.freed() => {}
                    () = tokio::time::sleep(ASK_AGAIN) => {}
                    () = lines.closed() => return,
                }
            }
            // Whatever the name was, it was right when the stream began.
            if seen.elapsed() >= HEARTBEAT
                && self.roster.saw(worker, &want.funcs, HEARTBEAT).is_ok()
            {
                seen = Instant::now();
            }
            if last.elapsed() >= HEARTBEAT {
                if lines.send(Bytes::from_static(b"\n")).await.is_err() {
                    return;
                }
                last = Instant::now();
            }
        }
    }

    /// Makes jobs ready again that were handed out and will not be finished; no failure is counted.
    pub(crate) async fn give_back(&self, held: Vec<crate::held::Held>) {
        // Together, so that they share a commit.
        let mut giving = tokio::task::JoinSet::new();
        for one in held {
            giving.spawn(async move {
                if let Err(error) = one.database.release_job(one.jobid, one.value).await {
                    tracing::debug!(job = one.jobid, error = %error, "job comes back when its lease ends");
                }
                one.func
            });
        }
        while let Some(given) = giving.join_next().await {
            if let Ok(func) = given {
                self.hub.wake(&func, 1);
            }
        }
    }
}
