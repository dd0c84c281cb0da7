//! A seeded, hostile run of several programs on two databases: clients of ours whose clocks differ and some of which cannot reach one database or
//! either, and a classic worker and producer that know only the classic tables and no fence. Invariants after every step, a drain to zero at the end.
//! `IBEX_SIM_SEED=n` replays one, `IBEX_SIM_SEEDS=n` widens.
//!
//! Apart from `sim.rs`, which has one database that always answers. A database that is away is one that cannot be opened, not one that is slow: nothing
//! here depends on how fast the machine is.

use ibex_base::rng::Rng;
use ibex_schwartz::{
    Client, Error, Finish, Finished, Grab, GrabbedJob, Handle, Inserted, Job, Query, RetryPolicy,
    When,
};
use ibex_sql::{Config, Db, params};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

const STEPS: usize = 200;
/// Seeds of the ordinary run.
const SEEDS: u64 = 12;
const FUNCS: [&str; 2] = ["A", "B"];
const START: u64 = 1_700_000_000;

/// What must be true of every job that was acknowledged, whoever put it in.
#[derive(Default)]
struct Model {
    pending: BTreeSet<Handle>,
    /// Values of `grabbed_until` that are not 0.
    grabbed: BTreeMap<Handle, u64>,
    keys: BTreeMap<(String, String), BTreeSet<Handle>>,
    failures: BTreeMap<Handle, u32>,
}

impl Model {
    fn add(&mut self, handle: Handle, key: Option<(String, String)>) {
        if let Some(key) = key {
            self.keys.entry(key).or_default().insert(handle.clone());
        }
        assert!(self.pending.insert(handle), "a handle was given twice");
    }

    fn end(&mut self, handle: &Handle) {
        assert!(self.pending.remove(handle), "a job ended twice");
        self.grabbed.remove(handle);
        for handles in self.keys.values_mut() {
            handles.remove(handle);
        }
    }

    fn has_key(&self, key: &(String, String)) -> bool {
        self.keys
            .get(key)
            .is_some_and(|handles| !handles.is_empty())
    }
}

/// One database as programs without our library see it.
struct Store {
    hash: String,
    db: Db,
}

/// One program of ours.
struct Program {
    client: Client,
    /// Which databases it reaches.
    reaches: [bool; 2],
    clock: u64,
}

impl Program {
    async fn new(dir: &tempfile::TempDir, seed: u64, reaches: [bool; 2], skew: u64) -> Self {
        let mut builder = Client::builder().retry_after(Duration::ZERO).seed(seed);
        for (index, reached) in reaches.into_iter().enumerate() {
            let name = if reached {
                format!("{index}.db")
            } else {
                format!("no folder/{index}.db")
            };
            let url = crate::file_url(dir, &name);
            // The same names in every run: handles and the choice of a database for a key come from them.
            builder = builder.db(format!("{url}?synchronous=normal&readers=1&dbi=sim{index}"));
        }
        let client = builder.build_lazy().await.unwrap();
        client.hold_clock(START + skew);
        Self {
            client,
            reaches,
            clock: START + skew,
        }
    }

    fn reaches_none(&self) -> bool {
        self.reaches == [false, false]
    }
}

struct World {
    _dir: tempfile::TempDir,
    stores: Vec<Store>,
    programs: Vec<Program>,
    /// The classic program's clock.
    clock: u64,
    rng: Rng,
    model: Model,
    /// Every job that a worker of ours believes to hold, live lease or not.
    hands: Vec<GrabbedJob>,
    /// The same of the classic worker.
    classic: Vec<(usize, u64)>,
    trace: String,
}

impl World {
    async fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut programs = Vec::new();
        let kinds = [
            ([true, true], 0),
            ([true, true], 3),
            ([true, false], 1),
            ([false, true], 2),
            ([false, false], 0),
        ];
        for (n, (reaches, skew)) in (0..).zip(kinds) {
            programs.push(Program::new(&dir, seed + n, reaches, skew).await);
        }
        let mut stores = Vec::new();
        for (index, database) in programs[0].client.databases().iter().enumerate() {
            let url = crate::file_url(&dir, &format!("{index}.db"));
            let config = Config::new(&format!("{url}?synchronous=normal&readers=1")).unwrap();
            // Makes the tables.
            programs[0].client.newest(database).await.unwrap();
            stores.push(Store {
                hash: database.hash().to_owned(),
                db: Db::open(&config).await.unwrap(),
            });
        }
        let world = Self {
            _dir: dir,
            stores,
            programs,
            clock: START + 1,
            rng: Rng::new(seed),
            model: Model::default(),
            hands: Vec::new(),
            classic: Vec::new(),
            trace: String::new(),
        };
        // Classic producers register their functions once.
        for store in &world.stores {
            for func in FUNCS {
                store
                    .db
                    .execute("INSERT INTO funcmap (funcname) VALUES (?)", params![func])
                    .await
                    .unwrap();
            }
        }
        world.check().await;
        world
    }

    async fn step(&mut self) {
        match self.rng.below(100) {
            0..20 => self.insert().await,
            20..40 => self.grab().await,
            40..62 => self.finish().await,
            62..68 => self.classic_insert().await,
            68..76 => self.classic_grab().await,
            76..85 => self.classic_finish().await,
            85..93 => self.tick(),
            // A worker dies: its leases run out by themselves.
            _ if self.rng.chance(1, 2) && !self.hands.is_empty() => {
                let index = self.rng.index(self.hands.len());
                self.hands.swap_remove(index);
            }
            _ if !self.classic.is_empty() => {
                let index = self.rng.index(self.classic.len());
                self.classic.swap_remove(index);
            }
            _ => {}
        }
        self.check().await;
    }

    fn note(&mut self, what: &str, outcome: &dyn std::fmt::Debug) {
        writeln!(self.trace, "{what} {outcome:?}").unwrap();
    }

    fn func(&mut self) -> String {
        (*self.rng.pick(&FUNCS).unwrap()).to_owned()
    }

    /// One of the programs, the whole ones more often.
    fn program(&mut self) -> usize {
        if self.rng.chance(1, 2) {
            self.rng.index(2)
        } else {
            self.rng.index(self.programs.len())
        }
    }

    fn index_of(&self, handle: &Handle) -> usize {
        let hash = handle.database();
        let found = self.stores.iter().position(|store| store.hash == hash);
        found.unwrap()
    }

    /// Time goes on, for each program by its own clock.
    fn tick(&mut self) {
        let jump = if self.rng.chance(1, 10) {
            3600
        } else {
            self.rng.below(20)
        };
        for program in &mut self.programs {
            let seconds = jump + self.rng.below(2);
            program.client.advance_clock(Duration::from_secs(seconds));
            program.clock += seconds;
        }
        self.clock += jump + self.rng.below(2);
    }

    async fn insert(&mut self) {
        let func = self.func();
        let mut job = Job::new(&func, "x");
        let mut key = None;
        if self.rng.chance(1, 3) {
            let name = format!("k{}", self.rng.below(4));
            job = job.uniqkey(&name);
            key = Some((func, name));
        }
        if self.rng.chance(1, 4) {
            job = job.delay(self.rng.below(40));
        }
        let program = self.program();
        let outcome = self.programs[program].client.insert(job).await;
        let reaches = self.programs[program].reaches;
        match outcome {
            Ok(Inserted::New(handle)) => {
                assert!(reaches[self.index_of(&handle)], "it cannot write there");
                // A database that is away is not asked for the key.
                if let Some(key) = &key
                    && reaches == [true, true]
                {
                    assert!(!self.model.has_key(key), "a pending key was taken twice");
                }
                self.note("insert", &handle.jobid());
                self.model.add(handle, key);
            }
            Ok(Inserted::Duplicate(_)) => {
                let key = key.unwrap();
                assert!(
                    self.model.has_key(&key),
                    "refused for a key that is not pending"
                );
                self.note("insert", &"duplicate");
            }
            Err(Error::NoDatabase(causes)) => {
                assert!(self.programs[program].reaches_none(), "{causes:?}");
                self.note("insert", &"no database");
            }
            Err(error) => panic!("insert: {error:?}"),
        }
    }

    async fn grab(&mut self) {
        let want = Grab {
            max: 1 + self.rng.index(4),
            grab_for: 1 + self.rng.below(30),
            prioritize: self.rng.chance(1, 2),
            record: self.rng.chance(1, 2),
            shuffle: false,
            ..Grab::new(vec![self.func()])
        };
        let program = self.program();
        let now = self.programs[program].clock;
        let reaches = self.programs[program].reaches;
        let jobs = match self.programs[program].client.grab(&want).await {
            Ok(jobs) => jobs,
            Err(Error::NoDatabase(causes)) => {
                assert!(self.programs[program].reaches_none(), "{causes:?}");
                return self.note("grab", &"no database");
            }
            Err(error) => panic!("grab: {error:?}"),
        };
        self.note("grab", &jobs.len());
        for job in jobs {
            let handle = &job.handle;
            assert!(
                self.model.pending.contains(handle),
                "handed out a job that is over"
            );
            assert!(reaches[self.index_of(handle)], "it cannot write there");
            if let Some(until) = self.model.grabbed.get(handle) {
                assert!(*until <= now, "handed out under a live lease");
            }
            assert!(job.job.run_after <= now, "handed out before its time");
            let failures = self.model.failures.get(handle).copied().unwrap_or(0);
            assert_eq!(job.attempt, failures + 1);
            self.model.grabbed.insert(handle.clone(), job.lease);
            self.hands.push(job);
        }
    }

    fn end(&mut self) -> (&'static str, Finish) {
        let keep = self.rng.below(2) * 100;
        match self.rng.below(5) {
            0 | 1 => ("complete", Finish::Complete { status: 0, keep }),
            2 => {
                let retry = RetryPolicy::fixed(1000, self.rng.below(10));
                let message = "no".to_owned();
                let status = 1;
                (
                    "fail",
                    Finish::Fail {
                        message,
                        status,
                        retry,
                        keep,
                    },
                )
            }
            3 => {
                let when = When::In(self.rng.below(10));
                ("decline", Finish::Decline(Some(when)))
            }
            _ => ("extend", Finish::Extend(1 + self.rng.below(40))),
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
            self.hands.swap_remove(index)
        };
        let (name, finish) = self.end();
        let is_ours = self.model.grabbed.get(&job.handle) == Some(&job.lease);
        // Now and then by a program that may not reach the database, with what the worker knows.
        let store = self.index_of(&job.handle);
        let program = self.program();
        let (outcome, reaches) = if self.rng.chance(1, 3) {
            let program = &self.programs[program];
            let database = program.client.of(&job.handle).unwrap();
            let jobid = job.handle.jobid();
            let outcome = database.finish_job(jobid, job.lease, finish).await;
            (outcome, program.reaches[store])
        } else {
            (job.finish(finish).await, true)
        };
        match outcome {
            Err(Error::LeaseLost(_) | Error::NotFound(_)) => {
                assert!(!is_ours, "{name} refused under our own lease");
                self.note(name, &"lost");
            }
            Err(Error::Sql(error)) => {
                assert!(!reaches, "{name}: {error:?}");
                self.note(name, &"away");
                // It is tried again.
                self.hands.push(job);
            }
            Err(error) => panic!("{name}: {error:?}"),
            Ok(finished) => {
                assert!(reaches, "{name} reached what is away");
                assert!(is_ours, "{name} accepted without the lease");
                self.note(name, &"done");
                match finished {
                    Finished::Over => self.model.end(&job.handle),
                    Finished::Retried { .. } => {
                        *self.model.failures.entry(job.handle.clone()).or_default() += 1;
                        self.model.grabbed.remove(&job.handle);
                    }
                    Finished::Declined => drop(self.model.grabbed.remove(&job.handle)),
                    Finished::Extended(until) => {
                        self.model.grabbed.insert(job.handle.clone(), until);
                        job.lease = until;
                        self.hands.push(job);
                    }
                    Finished::Replaced(_) => unreachable!("nothing is replaced here"),
                }
            }
        }
    }

    fn handle(&self, index: usize, jobid: u64) -> Handle {
        format!("{}-{jobid}", self.stores[index].hash)
            .parse()
            .unwrap()
    }

    async fn funcid(&self, index: usize, func: &str) -> u64 {
        let query = "SELECT funcid FROM funcmap WHERE funcname = ?";
        let rows = self.stores[index].db.query(query, params![func]).await;
        rows.unwrap()[0].get(0).unwrap()
    }

    /// A statement of the classic program; `None` when a key is taken.
    async fn classic_write(
        &self,
        index: usize,
        sql: &str,
        params: Vec<ibex_sql::Value>,
    ) -> Option<u64> {
        match self.stores[index].db.execute(sql, params).await {
            Ok(done) => Some(done.rows_affected),
            Err(error) => {
                assert!(error.is_unique_violation(), "{error:?}");
                None
            }
        }
    }

    async fn classic_insert(&mut self) {
        let (index, func) = (self.rng.index(2), self.func());
        let funcid = self.funcid(index, &func).await;
        let name = self
            .rng
            .chance(1, 3)
            .then(|| format!("k{}", self.rng.below(4)));
        let run_after = self.clock + self.rng.below(10);
        let sql = "INSERT INTO job (funcid, arg, uniqkey, insert_time, run_after, grabbed_until) VALUES (?, 'x', ?, ?, ?, 0)";
        let values = params![funcid, name.clone(), self.clock, run_after];
        if self.classic_write(index, sql, values).await.is_none() {
            return self.note("classic insert", &"refused");
        }
        let newest = self.stores[index]
            .db
            .query("SELECT MAX(jobid) FROM job", params![])
            .await
            .unwrap();
        let handle = self.handle(index, newest[0].get(0).unwrap());
        self.note("classic insert", &handle.jobid());
        // A key of the other database does not hinder it: that is the original's way.
        self.model.add(handle, name.map(|name| (func, name)));
    }

    async fn classic_grab(&mut self) {
        let (index, func) = (self.rng.index(2), self.func());
        let funcid = self.funcid(index, &func).await;
        let query = "SELECT jobid, grabbed_until FROM job WHERE funcid = ? AND run_after <= ? AND grabbed_until <= ? ORDER BY jobid LIMIT 3";
        let rows = self.stores[index]
            .db
            .query(query, params![funcid, self.clock, self.clock])
            .await
            .unwrap();
        let Some(row) = self.rng.pick(&rows) else {
            return;
        };
        let (jobid, seen): (u64, u64) = (row.get(0).unwrap(), row.get(1).unwrap());
        let lease = self.clock + 1 + self.rng.below(30);
        let sql = "UPDATE job SET grabbed_until = ? WHERE jobid = ? AND grabbed_until = ? AND grabbed_until <= ?";
        let values = params![lease, jobid, seen, self.clock];
        let changed = self.classic_write(index, sql, values).await;
        assert_eq!(changed, Some(1));
        self.note("classic grab", &jobid);
        let handle = self.handle(index, jobid);
        self.model.grabbed.insert(handle, lease);
        self.classic.push((index, jobid));
    }

    /// As the original does it: without a fence, in single statements, with no exit status.
    async fn classic_finish(&mut self) {
        if self.classic.is_empty() {
            return;
        }
        let at = self.rng.index(self.classic.len());
        let (index, jobid) = self.classic[at];
        let handle = self.handle(index, jobid);
        let is_there = self.model.pending.contains(&handle);
        let act = self.rng.below(3);
        match act {
            0 => {
                let sql = "DELETE FROM job WHERE jobid = ?";
                self.classic_write(index, sql, params![jobid]).await;
                if is_there {
                    self.model.end(&handle);
                }
            }
            1 => {
                let sql = "UPDATE job SET grabbed_until = 0, run_after = ? WHERE jobid = ?";
                let values = params![self.clock + self.rng.below(5), jobid];
                self.classic_write(index, sql, values).await;
                self.model.grabbed.remove(&handle);
            }
            _ => self.classic_fail(index, jobid, &handle).await,
        }
        self.note("classic finish", &act);
        self.classic.swap_remove(at);
    }

    async fn classic_fail(&mut self, index: usize, jobid: u64, handle: &Handle) {
        let sql = "INSERT INTO error (error_time, jobid, message, funcid) SELECT ?, jobid, 'classic', funcid FROM job WHERE jobid = ?";
        let values = params![self.clock, jobid];
        if self.classic_write(index, sql, values).await == Some(1) {
            *self.model.failures.entry(handle.clone()).or_default() += 1;
        }
        let sql = "UPDATE job SET grabbed_until = 0 WHERE jobid = ?";
        self.classic_write(index, sql, params![jobid]).await;
        self.model.grabbed.remove(handle);
    }

    /// Rows and acknowledgements agree, down to who has what until when.
    async fn check(&self) {
        let query = Query {
            limit: 10_000,
            ..Query::default()
        };
        let rows = self.programs[0].client.list(&query).await.unwrap();
        let seen: BTreeMap<Handle, u64> = rows
            .into_iter()
            .map(|(handle, job, _)| (handle, job.grabbed_until))
            .collect();
        let known: BTreeMap<Handle, u64> = self
            .model
            .pending
            .iter()
            .map(|handle| {
                let until = self.model.grabbed.get(handle).copied().unwrap_or(0);
                (handle.clone(), until)
            })
            .collect();
        assert_eq!(seen, known, "rows and acknowledgements differ");
    }

    /// Everything that is pending can be worked to its end.
    async fn drain(&mut self) {
        let client = self.programs[0].client.clone();
        client.advance_clock(Duration::from_secs(10_000));
        let want = Grab {
            max: 50,
            ..Grab::new(FUNCS.map(str::to_owned).to_vec())
        };
        loop {
            let jobs = client.grab(&want).await.unwrap();
            if jobs.is_empty() {
                break;
            }
            for job in jobs {
                job.finish(Finish::Complete { status: 0, keep: 0 })
                    .await
                    .unwrap();
                self.model.end(&job.handle);
            }
        }
        assert!(self.model.pending.is_empty(), "jobs that never end");
        self.check().await;
    }
}

async fn run(seed: u64) -> String {
    let mut world = World::new(seed).await;
    for _ in 0..STEPS {
        world.step().await;
    }
    world.drain().await;
    for program in &world.programs {
        program.client.close().await.unwrap();
    }
    for store in &world.stores {
        store.db.close().await.unwrap();
    }
    world.trace
}

#[tokio::test]
async fn sim_of_programs_with_clocks_reach_and_classic_workers() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match number("IBEX_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("IBEX_SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        eprintln!("seed {seed}");
        run(seed).await;
    }
}

#[tokio::test]
async fn sim_of_programs_repeats_a_seed() {
    assert_eq!(run(3).await, run(3).await);
}
