//! A seeded, hostile run of many clients on one set of tables: late workers, dying workers, clock jumps, duplicate finishes, foreign rows.
//! Invariants after every step, a drain to zero at the end. `IBEX_SIM_SEED=n` replays one, `IBEX_SIM_SEEDS=n` widens.

use ibex_base::rng::Rng;
use ibex_schwartz::{
    Client, Error, Finish, Finished, Grab, GrabbedJob, Handle, Inserted, Job, Query, RetryPolicy,
    When,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

const STEPS: usize = 250;
const FUNCS: [&str; 3] = ["A", "B", "C"];

/// What must be true of every job that was acknowledged.
#[derive(Default)]
struct Model {
    pending: BTreeSet<Handle>,
    /// Jobs with a live lease by our clock, and whose it is.
    leases: BTreeMap<Handle, u64>,
    over: BTreeSet<Handle>,
    keys: BTreeMap<(String, String), Handle>,
    failures: BTreeMap<Handle, u32>,
}

struct Sim {
    client: Client,
    rng: Rng,
    model: Model,
    /// Every job some worker believes to hold, live lease or not.
    hands: Vec<GrabbedJob>,
    trace: String,
}

fn func(rng: &mut Rng) -> String {
    (*rng.pick(&FUNCS).unwrap()).to_owned()
}

impl Sim {
    async fn step(&mut self) {
        match self.rng.below(100) {
            0..30 => self.insert().await,
            30..55 => self.grab().await,
            55..85 => self.finish().await,
            85..90 => self.cancel().await,
            90..96 => self.clock(),
            // A worker dies: its leases run out by themselves.
            _ => drop(
                (!self.hands.is_empty())
                    .then(|| self.hands.remove(self.rng.index(self.hands.len()))),
            ),
        }
    }

    fn note(&mut self, what: &str, outcome: &dyn std::fmt::Debug) {
        writeln!(self.trace, "{what} {outcome:?}").unwrap();
    }

    async fn insert(&mut self) {
        let mut job = Job::new(func(&mut self.rng), "x");
        if self.rng.chance(1, 3) {
            job = job.uniqkey(format!("k{}", self.rng.below(5)));
        }
        if self.rng.chance(1, 4) {
            job = job.delay(self.rng.below(50));
        }
        let key = self.key_of(&job);
        let inserted = self.client.insert(job).await.unwrap();
        self.note("insert", &inserted.is_duplicate());
        match inserted {
            Inserted::New(handle) => {
                if let Some(key) = key {
                    assert!(
                        self.model.keys.insert(key, handle.clone()).is_none(),
                        "a pending key was taken twice"
                    );
                }
                assert!(
                    self.model.pending.insert(handle),
                    "a handle was given twice"
                );
            }
            Inserted::Duplicate(handle) => {
                assert_eq!(
                    handle.as_ref(),
                    key.and_then(|key| self.model.keys.get(&key).cloned())
                        .as_ref(),
                    "refused for a key that is not pending"
                );
            }
        }
    }

    fn key_of(&self, job: &Job) -> Option<(String, String)> {
        let text = format!("{job:?}");
        let start = text.find("uniqkey: Some(\"")? + "uniqkey: Some(\"".len();
        let key = text.get(start..)?.split('"').next()?.to_owned();
        Some((job.funcname().to_owned(), key))
    }

    async fn grab(&mut self) {
        let want = Grab {
            max: 1 + self.rng.index(4),
            grab_for: 1 + self.rng.below(40),
            prioritize: self.rng.chance(1, 2),
            shuffle: false,
            ..Grab::new(vec![func(&mut self.rng), func(&mut self.rng)])
        };
        let now = self.client.time().await.unwrap();
        let jobs = self.client.grab(&want).await.unwrap();
        self.note("grab", &jobs.len());
        for job in jobs {
            assert!(
                self.model.pending.contains(&job.handle),
                "handed out a job that is over"
            );
            if let Some(until) = self.model.leases.get(&job.handle) {
                assert!(*until <= now, "handed out under a live lease");
            }
            assert!(job.job.run_after <= now, "handed out before its time");
            assert_eq!(
                job.attempt,
                self.model.failures.get(&job.handle).copied().unwrap_or(0) + 1
            );
            self.model.leases.insert(job.handle.clone(), job.lease);
            self.hands.push(job);
        }
    }

    async fn finish(&mut self) {
        if self.hands.is_empty() {
            return;
        }
        let index = self.rng.index(self.hands.len());
        // Sometimes the worker asks twice.
        let mut job = if self.rng.chance(1, 5) {
            self.hands[index].clone()
        } else {
            self.hands.remove(index)
        };
        let (finish, name) = match self.rng.below(6) {
            0 | 1 => (
                Finish::Complete {
                    status: 0,
                    keep: self.rng.below(2) * 100,
                },
                "complete",
            ),
            2 => (
                Finish::Fail {
                    message: "no".to_owned(),
                    status: 1,
                    retry: RetryPolicy::fixed(3, self.rng.below(10)),
                    keep: 5,
                },
                "fail",
            ),
            3 => (
                Finish::Decline(Some(When::In(self.rng.below(10)))),
                "decline",
            ),
            4 => (Finish::Extend(1 + self.rng.below(60)), "extend"),
            _ => (
                Finish::Replace {
                    jobs: vec![Job::new(func(&mut self.rng), "y")],
                    keep: 0,
                },
                "replace",
            ),
        };
        let is_ours = self.model.pending.contains(&job.handle)
            && self.model.leases.get(&job.handle) == Some(&job.lease);
        let outcome = job.finish(finish).await;
        self.note(
            name,
            &outcome
                .as_ref()
                .map(|finished| {
                    std::mem::discriminant(finished) == std::mem::discriminant(&Finished::Over)
                })
                .map_err(|_| ()),
        );
        match outcome {
            Err(Error::LeaseLost(_)) => assert!(!is_ours, "{name} refused under our own lease"),
            Err(error) => panic!("{name}: {error:?}"),
            Ok(finished) => {
                assert!(is_ours, "{name} accepted without the lease");
                if name == "fail" {
                    *self.model.failures.entry(job.handle.clone()).or_default() += 1;
                }
                match finished {
                    Finished::Over => self.end(&job.handle),
                    Finished::Retried { .. } | Finished::Declined => {
                        self.model.leases.remove(&job.handle);
                    }
                    Finished::Extended(until) => {
                        self.model.leases.insert(job.handle.clone(), until);
                        job.lease = until;
                        self.hands.push(job);
                    }
                    Finished::Replaced(new) => {
                        self.end(&job.handle);
                        self.model.pending.extend(new);
                    }
                }
            }
        }
    }

    fn end(&mut self, handle: &Handle) {
        assert!(self.model.pending.remove(handle));
        self.model.leases.remove(handle);
        self.model.keys.retain(|_, held| held != handle);
        assert!(self.model.over.insert(handle.clone()), "a job ended twice");
    }

    async fn cancel(&mut self) {
        let all: Vec<Handle> = self.model.pending.iter().cloned().collect();
        let Some(handle) = self.rng.pick(&all) else {
            return;
        };
        let now = self.client.time().await.unwrap();
        let is_held = self
            .model
            .leases
            .get(handle)
            .is_some_and(|until| *until > now);
        match self.client.cancel(handle).await {
            Ok(()) => {
                assert!(!is_held, "a job under a live lease was removed");
                self.end(handle);
            }
            Err(Error::Grabbed(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    fn clock(&mut self) {
        let jump = if self.rng.chance(1, 10) {
            3600
        } else {
            self.rng.below(30)
        };
        self.client.advance_clock(Duration::from_secs(jump));
    }

    async fn check(&self) {
        let rows = self
            .client
            .list(&Query {
                limit: 10_000,
                ..Query::default()
            })
            .await
            .unwrap();
        let pending: BTreeSet<Handle> = rows.into_iter().map(|(handle, ..)| handle).collect();
        assert_eq!(
            pending, self.model.pending,
            "rows and acknowledgements differ"
        );
    }

    /// Everything that is pending can be worked to its end.
    async fn drain(&mut self) {
        self.client.advance_clock(Duration::from_secs(10_000));
        for _ in 0..10_000 {
            let want = Grab {
                max: 50,
                ..Grab::new(FUNCS.map(str::to_owned).to_vec())
            };
            let jobs = self.client.grab(&want).await.unwrap();
            if jobs.is_empty() {
                break;
            }
            for job in jobs {
                job.finish(Finish::Complete { status: 0, keep: 0 })
                    .await
                    .unwrap();
                self.end(&job.handle);
            }
        }
        assert!(
            self.model.pending.is_empty(),
            "{} jobs never end",
            self.model.pending.len()
        );
        self.check().await;
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
    };
    for step in 0..STEPS {
        sim.step().await;
        if step % 10 == 0 {
            sim.check().await;
        }
    }
    sim.drain().await;
    sim.client.close().await.unwrap();
    sim.trace
}

#[tokio::test]
async fn hostile_schedules_keep_every_promise() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match number("IBEX_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("IBEX_SIM_SEEDS").unwrap_or(64),
    };
    for seed in seeds {
        eprintln!("seed {seed}");
        run(seed).await;
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(7).await, run(7).await);
}
