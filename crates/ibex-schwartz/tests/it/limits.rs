//! Limits of keys: places and rates, on both engines, called by the suite; and what the tests of wider jobs have in common.

use crate::own::{perl_finds, until};
use crate::suite::{grab, new, one};
use ibex_schwartz::{
    Client, Concurrency, Error, Finish, Grab, GrabbedJob, Handle, Job, OnFail, Rate, RetryPolicy,
    State, When,
};
use ibex_sql::params;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) async fn suite(client: &Client) {
    concurrency(client).await;
    order(client).await;
    ends_elsewhere(client).await;
    racing(client).await;
    rates(client).await;
}

pub(crate) fn done() -> Finish {
    Finish::Complete { status: 0, keep: 0 }
}

pub(crate) fn fail(delay: u64) -> Finish {
    Finish::Fail {
        message: "no".to_owned(),
        status: 1,
        retry: RetryPolicy::fixed(9, delay),
        keep: 0,
    }
}

pub(crate) fn die() -> Finish {
    Finish::Fail {
        message: "dead".to_owned(),
        status: 1,
        retry: RetryPolicy::permanent(),
        keep: 100,
    }
}

pub(crate) async fn put(client: &Client, job: Job) -> Handle {
    new(client.insert(job).await.unwrap())
}

pub(crate) fn args(jobs: &[GrabbedJob]) -> Vec<String> {
    jobs.iter()
        .map(|job| String::from_utf8(job.job.arg.to_vec()).unwrap())
        .collect()
}

pub(crate) async fn sweep(client: &Client) -> u64 {
    client.databases()[0].keep_wide().await.unwrap()
}

/// A statement on a table of the jobs, as another program would send it.
pub(crate) async fn by_hand(client: &Client, sql: &str, id: u64) {
    let database = &client.databases()[0];
    let prefix = if database.address().ends_with("p.db") {
        "sch_"
    } else {
        ""
    };
    let db = database.db().await.unwrap();
    let done = db
        .execute(sql.replace("{p}", prefix), params![id])
        .await
        .unwrap();
    assert_eq!(done.rows_affected, 1);
}

async fn concurrency(client: &Client) {
    let job =
        |arg: &str| Job::new("Limited", arg.to_owned()).concurrency(Concurrency::new("host", 2));
    let handles = client
        .insert_all(["1", "2", "3", "4", "5"].map(job).to_vec())
        .await
        .unwrap();
    assert_eq!(
        perl_finds(client, "Limited").await,
        2,
        "Perl workers are kept from the rest, too"
    );
    let (_, state) = client.status(&handles[2]).await.unwrap().pending.unwrap();
    assert_eq!(state, State::Blocked);
    let mut hands = grab(client, "Limited", 9).await;
    assert_eq!(args(&hands), ["1", "2"]);
    assert!(grab(client, "Limited", 9).await.is_empty());
    assert_eq!(sweep(client).await, 0, "nothing to do");

    // Each way of an end lets the next go, and so does a failure: its place is another's until its next run.
    hands.remove(0).finish(done()).await.unwrap();
    let third = one(client, "Limited").await;
    assert_eq!(args(std::slice::from_ref(&third)), ["3"]);
    third.finish(fail(5000)).await.unwrap();
    let status = client.status(&handles[2]).await.unwrap();
    let wide = status.wide.unwrap();
    assert!(wide.is_parked && wide.due > client.time().await.unwrap() + 4000);
    assert_eq!(wide.concurrency.as_deref(), Some("host"));
    let fourth = one(client, "Limited").await;
    fourth
        .finish(Finish::Decline(Some(When::In(5000))))
        .await
        .unwrap();
    let fifth = one(client, "Limited").await;
    assert_eq!(args(std::slice::from_ref(&fifth)), ["5"]);
    client.cancel(&handles[3]).await.unwrap();
    // Another time for one that waits: its row keeps the mark of it.
    let change = ibex_schwartz::Change {
        run_after: Some(When::Now),
        priority: Some(3),
        arg: None,
    };
    client.change(&handles[2], &change).await.unwrap();
    assert!(grab(client, "Limited", 9).await.is_empty(), "both at work");
    let many = fifth.database.clone();
    let fences = [
        (fifth.job.jobid, fifth.lease),
        (hands[0].job.jobid, hands[0].lease),
    ];
    assert_eq!(many.complete_many(&fences, 0).await.unwrap(), [true, true]);
    let third = one(client, "Limited").await;
    assert_eq!((third.attempt, third.job.priority), (2, Some(3)));
    third
        .finish(Finish::Replace {
            jobs: vec![job("6"), job("7"), job("8")],
            keep: 0,
        })
        .await
        .unwrap();
    assert_eq!(perl_finds(client, "Limited").await, 2);
    for _ in 0..3 {
        one(client, "Limited").await.finish(done()).await.unwrap();
    }
    // The newest limit is valid.
    for limit in [3, 1] {
        let job = Job::new("Limited", "x").concurrency(Concurrency::new("host", limit));
        put(client, job).await;
    }
    assert_eq!(grab(client, "Limited", 9).await.len(), 1);
    let refused = client
        .insert(Job::new("Limited", "").concurrency(Concurrency::new("", 1)))
        .await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

async fn order(client: &Client) {
    let job = |arg: &str, key: &str, on_fail| {
        Job::new("Order", arg.to_owned()).concurrency(Concurrency {
            key: key.to_owned(),
            limit: 1,
            on_fail,
        })
    };
    for arg in ["1", "2", "3"] {
        put(client, job(arg, "strict", OnFail::Block)).await;
    }
    let first = one(client, "Order").await;
    let handle = first.handle.clone();
    first.finish(fail(5000)).await.unwrap();
    assert!(grab(client, "Order", 9).await.is_empty(), "the head blocks");
    let change = ibex_schwartz::Change {
        run_after: Some(When::Now),
        ..ibex_schwartz::Change::default()
    };
    client.change(&handle, &change).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let jobs = grab(client, "Order", 9).await;
        assert_eq!(jobs.len(), 1);
        seen.extend(args(&jobs));
        for job in jobs {
            job.finish(done()).await.unwrap();
        }
    }
    assert_eq!(seen, ["1", "2", "3"]);

    for arg in ["4", "5"] {
        put(client, job(arg, "loose", OnFail::Skip)).await;
    }
    one(client, "Order").await.finish(fail(5000)).await.unwrap();
    let next = one(client, "Order").await;
    assert_eq!(args(std::slice::from_ref(&next)), ["5"], "others pass");
    next.finish(done()).await.unwrap();
    assert!(grab(client, "Order", 9).await.is_empty());

    // One whose time has not come takes no place.
    let later = put(client, job("6", "timed", OnFail::Block).delay(5000)).await;
    let now = put(client, job("7", "timed", OnFail::Block)).await;
    assert_eq!(one(client, "Order").await.handle, now);
    client.cancel(&later).await.unwrap();
}

/// What a Perl worker or a hand did is found by the leader.
async fn ends_elsewhere(client: &Client) {
    let job =
        |arg: &str| Job::new("Elsewhere", arg.to_owned()).concurrency(Concurrency::new("perl", 1));
    for arg in ["1", "2", "3"] {
        put(client, job(arg)).await;
    }
    let first = one(client, "Elsewhere").await;
    by_hand(
        client,
        "DELETE FROM {p}job WHERE jobid = ?",
        first.job.jobid,
    )
    .await;
    assert!(grab(client, "Elsewhere", 9).await.is_empty());
    until("the place to be found free", async || {
        sweep(client).await;
        !client
            .list(&query("Elsewhere", State::Ready))
            .await
            .unwrap()
            .is_empty()
    })
    .await;
    let second = one(client, "Elsewhere").await;
    assert_eq!(args(std::slice::from_ref(&second)), ["2"]);
    second.finish(done()).await.unwrap();
    one(client, "Elsewhere").await.finish(done()).await.unwrap();

    // A paused function and a parked job do not lose each other's times.
    put(client, job("4")).await;
    put(client, job("5")).await;
    client.pause("Elsewhere", None).await.unwrap();
    sweep(client).await;
    assert!(grab(client, "Elsewhere", 9).await.is_empty());
    assert!(client.resume("Elsewhere").await.unwrap());
    let jobs = grab(client, "Elsewhere", 9).await;
    assert_eq!(args(&jobs), ["4"], "the other waits for its turn");
}

fn query(func: &str, state: State) -> ibex_schwartz::Query {
    ibex_schwartz::Query {
        funcs: vec![func.to_owned()],
        state: Some(state),
        limit: 100,
        ..ibex_schwartz::Query::default()
    }
}

/// Many programs insert, take and finish jobs of the same keys at once: never more at work than the limit, and all of them end.
async fn racing(client: &Client) {
    const KEYS: usize = 3;
    const JOBS: usize = 60;
    let at_work: Arc<[AtomicU32; KEYS]> = Arc::default();
    let left = Arc::new(AtomicU32::new(u32::try_from(JOBS).unwrap()));
    let mut tasks = Vec::new();
    for caller in 0..6 {
        let (client, at_work, left) = (client.clone(), Arc::clone(&at_work), Arc::clone(&left));
        tasks.push(tokio::spawn(async move {
            for n in 0..JOBS / 6 {
                let key = (caller + n) % KEYS;
                let job = Job::new("Racing", key.to_string())
                    .concurrency(Concurrency::new(format!("race{key}"), 2));
                client.insert(job).await.unwrap();
            }
            while left.load(Ordering::SeqCst) > 0 {
                let want = Grab {
                    max: 3,
                    ..Grab::new(vec!["Racing".to_owned()])
                };
                let jobs = client.grab(&want).await.unwrap();
                for job in &jobs {
                    let key: usize = args(std::slice::from_ref(job))[0].parse().unwrap();
                    let before = at_work[key].fetch_add(1, Ordering::SeqCst);
                    assert!(before < 2, "three of a key at work");
                }
                tokio::task::yield_now().await;
                for job in jobs {
                    let key: usize = args(std::slice::from_ref(&job))[0].parse().unwrap();
                    at_work[key].fetch_sub(1, Ordering::SeqCst);
                    job.finish(done()).await.unwrap();
                    left.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(sweep(client).await, 0, "no place was lost");
}

async fn rates(client: &Client) {
    let job = |n: u32| {
        Job::new("Rated", n.to_string()).rate(Rate {
            key: "api".to_owned(),
            jobs: 3,
            per: 100_000,
        })
    };
    client.insert_all((0..6).map(job).collect()).await.unwrap();
    assert_eq!(perl_finds(client, "Rated").await, 3);
    let mut jobs = grab(client, "Rated", 9).await;
    assert_eq!(args(&jobs), ["0", "1", "2"]);
    sweep(client).await;
    assert!(grab(client, "Rated", 9).await.is_empty(), "an empty bucket");
    // A second run is a run.
    jobs.remove(0).finish(fail(0)).await.unwrap();
    assert!(grab(client, "Rated", 9).await.is_empty());
    // A faster rate lets them go.
    let faster = Job::new("Rated", "6").rate(Rate {
        key: "api".to_owned(),
        jobs: 1_000_000,
        per: 1,
    });
    put(client, faster).await;
    until("the bucket to fill", async || {
        sweep(client).await;
        client
            .list(&query("Rated", State::Blocked))
            .await
            .unwrap()
            .is_empty()
    })
    .await;
    assert_eq!(grab(client, "Rated", 9).await.len(), 5);

    // Both at once: the head without a token keeps the order.
    let both = |arg: &str| {
        Job::new("Both", arg.to_owned())
            .concurrency(Concurrency::new("both", 2))
            .rate(Rate {
                key: "both".to_owned(),
                jobs: 1,
                per: 100_000,
            })
    };
    client.insert_all(vec![both("1"), both("2")]).await.unwrap();
    let jobs = grab(client, "Both", 9).await;
    assert_eq!(args(&jobs), ["1"]);
}
