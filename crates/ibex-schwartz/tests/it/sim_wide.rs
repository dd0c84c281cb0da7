//! A seeded, hostile run of jobs with limits, parents, batches and windows: late workers, dying workers, ends by others' hands, clock jumps.
//! Invariants after every step, a drain to zero at the end. `IBEX_SIM_SEED=n` replays one, `IBEX_SIM_SEEDS=n` widens.

use ibex_base::rng::Rng;
use ibex_schwartz::{
    Batch, Client, Concurrency, Error, Finish, Finished, Grab, GrabbedJob, Handle, Job, OnDeath,
    OnFail, Parent, Rate, RetryPolicy, Unique, UniqueBy, When,
};
use ibex_sql::params;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

const STEPS: usize = 200;
/// Jobs of a key at once; the key is its place.
const LIMITS: [usize; 3] = [1, 2, 3];
/// Runs of the rate's key in its seconds.
const RATE: (usize, u64) = (4, 20);

/// What is known of a job from what was acknowledged.
#[derive(Debug, Clone, Default)]
struct Known {
    key: Option<usize>,
    is_rated: bool,
    parents: Vec<Handle>,
    batch: Option<Handle>,
}

#[derive(Default)]
struct Model {
    known: BTreeMap<Handle, Known>,
    /// Live leases by our clock.
    leases: BTreeMap<Handle, u64>,
    over: BTreeSet<Handle>,
    /// When runs of the rate's key were handed out.
    runs: Vec<u64>,
    batches: BTreeMap<Handle, bool>,
}

struct Sim {
    client: Client,
    rng: Rng,
    model: Model,
    hands: Vec<GrabbedJob>,
    trace: String,
    callbacks: BTreeSet<u64>,
}

impl Sim {
    async fn step(&mut self) {
        match self.rng.below(100) {
            0..30 => self.insert().await,
            30..52 => self.grab().await,
            52..78 => self.finish().await,
            78..82 => self.cancel().await,
            82..86 => self.by_hand().await,
            86..89 => self.batch().await,
            89..94 => self
                .client
                .advance_clock(Duration::from_secs(self.rng.below(15))),
            94..97 => self.sweep().await,
            _ => drop(
                (!self.hands.is_empty())
                    .then(|| self.hands.remove(self.rng.index(self.hands.len()))),
            ),
        }
    }

    fn note(&mut self, what: &str, outcome: &dyn std::fmt::Debug) {
        writeln!(self.trace, "{what} {outcome:?}").unwrap();
    }

    fn pending(&self) -> Vec<Handle> {
        self.model
            .known
            .keys()
            .filter(|handle| !self.model.over.contains(*handle))
            .cloned()
            .collect()
    }

    /// One job, or a small graph in one list.
    async fn insert(&mut self) {
        let count = 1 + self.rng.index(3);
        let pending = self.pending();
        let mut jobs = Vec::new();
        let mut all = Vec::new();
        let mut inside: Vec<Option<usize>> = Vec::new();
        for index in 0..count {
            let (mut job, mut known) = (Job::new("W", "x"), Known::default());
            if self.rng.chance(1, 2) {
                let key = self.rng.index(LIMITS.len());
                job = job.concurrency(Concurrency {
                    key: format!("k{key}"),
                    limit: u32::try_from(LIMITS[key]).unwrap(),
                    on_fail: if self.rng.chance(1, 2) {
                        OnFail::Block
                    } else {
                        OnFail::Skip
                    },
                });
                known.key = Some(key);
            } else if self.rng.chance(1, 4) {
                job = job.rate(Rate {
                    key: "r".to_owned(),
                    jobs: u32::try_from(RATE.0).unwrap(),
                    per: RATE.1,
                });
                known.is_rated = true;
            }
            let on_death = if self.rng.chance(1, 2) {
                OnDeath::Run
            } else {
                OnDeath::Cancel
            };
            let mut inner = None;
            if index > 0 && self.rng.chance(1, 2) {
                inner = Some(self.rng.index(index));
                job = job.depends_on(Parent::InList(inner.unwrap_or_default()), on_death);
            } else if let Some(parent) = self.rng.pick(&pending).cloned()
                && self.rng.chance(1, 4)
            {
                job = job.depends_on(Parent::Job(parent.clone()), on_death);
                known.parents.push(parent);
            }
            let open: Vec<Handle> = self
                .model
                .batches
                .iter()
                .filter(|(_, is_open)| **is_open)
                .map(|(batch, _)| batch.clone())
                .collect();
            if let Some(batch) = self.rng.pick(&open).cloned()
                && self.rng.chance(1, 3)
            {
                job = job.batch(&batch);
                known.batch = Some(batch);
            }
            if self.rng.chance(1, 4) {
                job = job.delay(self.rng.below(20));
            }
            if count == 1 && self.rng.chance(1, 8) {
                let key = format!("u{}", self.rng.below(3));
                job = job.unique(Unique::until_done(UniqueBy::Key(key)));
            }
            jobs.push(job);
            all.push(known);
            inside.push(inner);
        }
        let handles = match self.client.insert_all(jobs).await {
            Ok(handles) => handles,
            Err(error @ (Error::Duplicate | Error::Invalid(_))) => {
                return self.note("refused", &matches!(error, Error::Duplicate));
            }
            Err(error) => panic!("{error:?}"),
        };
        self.note("insert", &handles.len());
        for ((handle, mut known), inner) in handles.iter().zip(all).zip(inside) {
            known
                .parents
                .extend(inner.map(|inner| handles[inner].clone()));
            assert!(self.model.known.insert(handle.clone(), known).is_none());
        }
    }

    async fn batch(&mut self) {
        let open: Vec<Handle> = self
            .model
            .batches
            .iter()
            .filter(|(_, is_open)| **is_open)
            .map(|(batch, _)| batch.clone())
            .collect();
        if let Some(batch) = self.rng.pick(&open).cloned()
            && self.rng.chance(1, 2)
        {
            self.client.close_batch(&batch).await.unwrap();
            self.model.batches.insert(batch, false);
            return self.note("closed", &());
        }
        let callback = |what: &str| Some(Job::new("Callback", what.to_owned()));
        let batch = self
            .client
            .batch(Batch {
                parent: None,
                on_success: callback("success"),
                on_death: callback("death"),
                on_complete: callback("complete"),
            })
            .await
            .unwrap();
        self.model.batches.insert(batch, true);
        self.note("batch", &());
    }

    async fn grab(&mut self) {
        let want = Grab {
            max: 1 + self.rng.index(4),
            grab_for: 1 + self.rng.below(40),
            shuffle: false,
            ..Grab::new(vec!["W".to_owned()])
        };
        let now = self.client.time().await.unwrap();
        let jobs = self.client.grab(&want).await.unwrap();
        self.note("grab", &jobs.len());
        for job in jobs {
            let known = self.model.known[&job.handle].clone();
            assert!(!self.model.over.contains(&job.handle), "over");
            for parent in &known.parents {
                assert!(
                    self.model.over.contains(parent),
                    "handed out before its parent was over"
                );
            }
            self.model.leases.insert(job.handle.clone(), job.lease);
            if known.is_rated && job.attempt == 1 {
                self.model.runs.push(now);
            }
            self.hands.push(job);
        }
        self.check_limits(now);
    }

    /// Never more live leases of a key than its limit.
    fn check_limits(&self, now: u64) {
        let mut live = [0; LIMITS.len()];
        for (handle, until) in &self.model.leases {
            if let Some(key) = self.model.known[handle].key
                && *until > now
            {
                live[key] += 1;
            }
        }
        for (live, limit) in live.iter().zip(LIMITS) {
            assert!(*live <= limit, "{live} of a key with a limit of {limit}");
        }
    }

    async fn finish(&mut self) {
        if self.hands.is_empty() {
            return;
        }
        let index = self.rng.index(self.hands.len());
        let mut job = if self.rng.chance(1, 5) {
            self.hands[index].clone()
        } else {
            self.hands.remove(index)
        };
        let (finish, name) = match self.rng.below(8) {
            0..3 => (
                Finish::Complete {
                    status: 0,
                    keep: self.rng.below(2) * 100,
                },
                "complete",
            ),
            3 | 4 => (
                Finish::Fail {
                    message: "no".to_owned(),
                    status: 1,
                    retry: RetryPolicy::fixed(3, self.rng.below(10)),
                    keep: 0,
                },
                "fail",
            ),
            5 => (
                Finish::Fail {
                    message: "dead".to_owned(),
                    status: 1,
                    retry: RetryPolicy::permanent(),
                    keep: 0,
                },
                "die",
            ),
            6 => (
                Finish::Decline(Some(When::In(self.rng.below(10)))),
                "decline",
            ),
            _ => (Finish::Extend(1 + self.rng.below(60)), "extend"),
        };
        let is_ours = self.model.leases.get(&job.handle) == Some(&job.lease)
            && !self.model.over.contains(&job.handle);
        let outcome = job.finish(finish).await;
        self.note(name, &outcome.is_ok());
        match outcome {
            Err(Error::LeaseLost(_)) => assert!(!is_ours, "{name} refused under our own lease"),
            Err(error) => panic!("{name}: {error:?}"),
            Ok(finished) => {
                assert!(is_ours, "{name} accepted without the lease");
                match finished {
                    Finished::Over => {
                        self.model.leases.remove(&job.handle);
                        self.learn().await;
                        assert!(self.model.over.contains(&job.handle));
                    }
                    Finished::Retried { .. } | Finished::Declined => {
                        self.model.leases.remove(&job.handle);
                    }
                    Finished::Extended(until) => {
                        self.model.leases.insert(job.handle.clone(), until);
                        job.lease = until;
                        self.hands.push(job);
                    }
                    Finished::Replaced(_) => panic!("nothing was to be replaced"),
                }
            }
        }
    }

    /// Which rows are gone: a death takes children with it.
    async fn learn(&mut self) {
        let query = ibex_schwartz::Query {
            limit: 100_000,
            ..ibex_schwartz::Query::default()
        };
        let rows = self.client.list(&query).await.unwrap();
        let rows: BTreeSet<Handle> = rows.into_iter().map(|(handle, ..)| handle).collect();
        for handle in self.pending() {
            if !rows.contains(&handle) {
                self.model.over.insert(handle.clone());
                self.model.leases.remove(&handle);
            }
        }
    }

    async fn cancel(&mut self) {
        let all = self.pending();
        let Some(handle) = self.rng.pick(&all).cloned() else {
            return;
        };
        match self.client.cancel(&handle).await {
            Ok(()) => self.learn().await,
            Err(Error::Grabbed(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
        self.note("cancel", &());
    }

    /// A Perl worker completes a job it took, or someone deletes a row.
    async fn by_hand(&mut self) {
        let now = self.client.time().await.unwrap();
        let free: Vec<Handle> = self
            .pending()
            .into_iter()
            .filter(|handle| {
                self.model
                    .leases
                    .get(handle)
                    .is_none_or(|until| *until <= now)
            })
            .collect();
        let Some(handle) = self.rng.pick(&free).cloned() else {
            return;
        };
        let db = self.client.databases()[0].db().await.unwrap();
        db.execute("DELETE FROM job WHERE jobid = ?", params![handle.jobid()])
            .await
            .unwrap();
        self.learn().await;
        self.note("by hand", &());
    }

    async fn sweep(&mut self) {
        let count = self.client.databases()[0].keep_wide().await.unwrap();
        self.learn().await;
        self.note("sweep", &count);
    }

    /// Everything comes to its end, in order, within its limits; then nothing of it is left.
    async fn drain(&mut self) {
        for batch in self.model.batches.clone().into_keys() {
            self.client.close_batch(&batch).await.unwrap();
        }
        for _ in 0..20_000 {
            self.client.advance_clock(Duration::from_secs(7));
            self.sweep().await;
            let now = self.client.time().await.unwrap();
            let want = Grab {
                max: 50,
                ..Grab::new(vec!["W".to_owned()])
            };
            let jobs = self.client.grab(&want).await.unwrap();
            for job in &jobs {
                for parent in &self.model.known[&job.handle].parents {
                    assert!(self.model.over.contains(parent), "before its parent");
                }
                self.model.leases.insert(job.handle.clone(), job.lease);
            }
            self.check_limits(now);
            for job in jobs {
                job.finish(Finish::Complete { status: 0, keep: 0 })
                    .await
                    .unwrap();
                self.model.leases.remove(&job.handle);
                self.model.over.insert(job.handle);
            }
            if self.pending().is_empty() {
                break;
            }
        }
        assert!(self.pending().is_empty(), "{:?} never end", self.pending());
        while self.client.databases()[0].keep_wide().await.unwrap() > 0 {}
        self.callbacks().await;
        let db = self.client.databases()[0].db().await.unwrap();
        for (sql, what) in [
            ("SELECT COUNT(*) FROM job", "rows"),
            ("SELECT COUNT(*) FROM sz_jobx WHERE parked < 2", "limits"),
            ("SELECT COUNT(*) FROM sz_edge", "edges"),
        ] {
            let left: i64 = db.query(sql, params![]).await.unwrap()[0].get(0).unwrap();
            assert_eq!(left, 0, "{what} are left");
        }
    }

    /// Each batch is finished with the right counts, and each callback came once.
    async fn callbacks(&mut self) {
        let mut members: BTreeMap<Handle, u64> = BTreeMap::new();
        for known in self.model.known.values() {
            if let Some(batch) = &known.batch {
                *members.entry(batch.clone()).or_default() += 1;
            }
        }
        let mut expected = 0;
        for batch in self.model.batches.keys() {
            let status = self.client.batch_status(batch).await.unwrap();
            assert!(status.finished_at.is_some(), "{status:?}");
            assert_eq!(status.jobs, members.get(batch).copied().unwrap_or(0));
            assert_eq!(status.done + status.failed, status.jobs);
            expected += 2;
        }
        let want = Grab {
            max: 1000,
            ..Grab::new(vec!["Callback".to_owned()])
        };
        for job in self.client.grab(&want).await.unwrap() {
            assert!(self.callbacks.insert(job.job.jobid));
            job.finish(Finish::Complete { status: 0, keep: 0 })
                .await
                .unwrap();
        }
        assert_eq!(
            self.callbacks.len(),
            expected,
            "success or death, and complete"
        );
    }
}

async fn run(seed: u64) -> String {
    let client = Client::open(["sqlite::memory:"]).await.unwrap();
    client.hold_clock(1_700_000_000);
    let mut sim = Sim {
        client,
        rng: Rng::new(seed),
        model: Model::default(),
        hands: Vec::new(),
        trace: String::new(),
        callbacks: BTreeSet::new(),
    };
    for _ in 0..STEPS {
        sim.step().await;
    }
    // The bucket never gives more than a full one and what flowed in since.
    for (index, start) in sim.model.runs.iter().enumerate() {
        let until = start + RATE.1;
        let inside = sim.model.runs[index..]
            .iter()
            .take_while(|at| **at <= until);
        assert!(inside.count() <= 3 * RATE.0, "too many runs of a rate");
    }
    sim.drain().await;
    sim.client.close().await.unwrap();
    sim.trace
}

#[tokio::test]
async fn limits_and_parents_hold_in_hostile_schedules() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match number("IBEX_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("IBEX_SIM_SEEDS").unwrap_or(16),
    };
    for seed in seeds {
        eprintln!("seed {seed}");
        run(seed).await;
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(3).await, run(3).await);
}
