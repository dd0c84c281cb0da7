//! Limits, windows, batches, parents, merging, times to live: on both engines, called by the suite.

use crate::suite::{grab, new, one, perl_finds, until};
use ibex_schwartz::{
    Batch, Client, Concurrency, Error, Finish, Finished, Grab, GrabbedJob, Handle, Inserted, Job,
    Merge, OnDeath, OnFail, Parent, Rate, RetryPolicy, State, Unique, UniqueBy, When,
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
    windows(client).await;
    merging(client).await;
    batches(client).await;
    nested(client).await;
    workflows(client).await;
    deaths(client).await;
    own_runs(client).await;
    brought_back(client).await;
    expiry(client).await;
    leftovers(client).await;
}

fn done() -> Finish {
    Finish::Complete { status: 0, keep: 0 }
}

fn fail(delay: u64) -> Finish {
    Finish::Fail {
        message: "no".to_owned(),
        status: 1,
        retry: RetryPolicy::fixed(9, delay),
        keep: 0,
    }
}

fn die() -> Finish {
    Finish::Fail {
        message: "dead".to_owned(),
        status: 1,
        retry: RetryPolicy::permanent(),
        keep: 100,
    }
}

async fn put(client: &Client, job: Job) -> Handle {
    new(client.insert(job).await.unwrap())
}

fn args(jobs: &[GrabbedJob]) -> Vec<String> {
    jobs.iter()
        .map(|job| String::from_utf8(job.job.arg.to_vec()).unwrap())
        .collect()
}

async fn sweep(client: &Client) -> u64 {
    client.databases()[0].keep_wide().await.unwrap()
}

/// A statement on a table of the jobs, as another program would send it.
async fn by_hand(client: &Client, sql: &str, id: u64) {
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

async fn windows(client: &Client) {
    let insert = async |arg: &str, unique: Unique| {
        client
            .insert(Job::new("Window", arg.to_owned()).unique(unique))
            .await
            .unwrap()
    };
    let done_by = || Unique::until_done(UniqueBy::Arg);
    let first = new(insert("a", done_by()).await);
    assert_eq!(
        insert("a", done_by()).await,
        Inserted::Duplicate(Some(first.clone()))
    );
    new(insert("b", done_by()).await);
    let mut hands = grab(client, "Window", 9).await;
    assert!(insert("a", done_by()).await.is_duplicate(), "at work");
    let second = new(insert("a", Unique::until_start(UniqueBy::Key("x".to_owned()))).await);
    hands.remove(0).finish(done()).await.unwrap();
    let again = new(insert("a", done_by()).await);
    assert_ne!(again, first);
    let start = || Unique::until_start(UniqueBy::Key("x".to_owned()));
    assert!(insert("z", start()).await.is_duplicate());
    let jobs = grab(client, "Window", 9).await;
    assert!(jobs.iter().any(|job| job.handle == second));
    new(insert("z", start()).await);

    // A window goes on after the job completed, and ends when it failed.
    let fields = || UniqueBy::Fields(vec!["id".to_owned()]);
    let long = || Unique::window(fields(), 100_000);
    let kept = new(insert(r#"{"id":1,"at":5}"#, long()).await);
    client.cancel(&kept).await.unwrap();
    let kept = new(insert(r#"{"id":1,"at":6}"#, long()).await);
    client
        .grab_handle(&kept, 60)
        .await
        .unwrap()
        .unwrap()
        .finish(done())
        .await
        .unwrap();
    assert!(insert(r#"{"at":7,"id":1}"#, long()).await.is_duplicate());
    let other = new(insert(r#"{"id":2}"#, long()).await);
    client
        .grab_handle(&other, 60)
        .await
        .unwrap()
        .unwrap()
        .finish(die())
        .await
        .unwrap();
    new(insert(r#"{"id":2}"#, long()).await);

    // In one list, and against a classic key.
    let job = |key: &str| {
        Job::new("Bulk", "")
            .unique(Unique::until_done(UniqueBy::Func))
            .uniqkey(key)
    };
    let all = client
        .insert_each(vec![
            job("1"),
            job("2"),
            Job::new("Bulk", "plain").uniqkey("1"),
        ])
        .await
        .unwrap();
    let duplicates: Vec<bool> = all.iter().map(Inserted::is_duplicate).collect();
    assert_eq!(duplicates, [false, true, true]);
    assert!(matches!(
        client.insert_all(vec![job("3")]).await,
        Err(Error::Duplicate)
    ));
}

async fn merging(client: &Client) {
    let job = |arg: &str, merge| Job::new("Merge", arg.to_owned()).coalesce("c").merge(merge);
    let first = put(client, job("[1]", Merge::Append)).await;
    for (arg, merge, expected) in [
        ("[2,3]", Merge::Append, "[1,2,3]"),
        ("text", Merge::Append, "[1,2,3]\ntext"),
        ("last", Merge::Last, "last"),
    ] {
        let inserted = client.insert(job(arg, merge)).await.unwrap();
        assert_eq!(inserted, Inserted::Duplicate(Some(first.clone())));
        let row = client.lookup(&first).await.unwrap().unwrap();
        assert_eq!(&row.arg[..], expected.as_bytes());
    }
    client
        .insert(job("late", Merge::MaxDelay).delay(5000))
        .await
        .unwrap();
    client
        .insert(job("later", Merge::MaxDelay).delay(10))
        .await
        .unwrap();
    let row = client.lookup(&first).await.unwrap().unwrap();
    assert_eq!(&row.arg[..], b"later");
    assert!(
        row.run_after > client.time().await.unwrap() + 4000,
        "the later time"
    );
    assert!(
        client
            .insert(Job::new("Merge", "").merge(Merge::Last))
            .await
            .is_err()
    );
    client.cancel(&first).await.unwrap();
    // Two that come at once, and none is lost.
    let mut tasks = Vec::new();
    for n in 0..6 {
        let (client, job) = (client.clone(), job(&format!("[{n}]"), Merge::Append));
        tasks.push(tokio::spawn(
            async move { client.insert(job).await.unwrap() },
        ));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let job = one(client, "Merge").await;
    let mut list: Vec<u32> = serde_json::from_slice(&job.job.arg).unwrap();
    list.sort_unstable();
    assert_eq!(list, [0, 1, 2, 3, 4, 5]);
}

fn callbacks(name: &str) -> Batch {
    Batch {
        parent: None,
        on_success: Some(Job::new(format!("{name}Success"), "s")),
        on_death: Some(Job::new(format!("{name}Death"), "")),
        on_complete: Some(Job::new(format!("{name}Complete"), "")),
    }
}

/// How many of the callbacks are ready: success, death, complete.
async fn called(client: &Client, name: &str) -> [i64; 3] {
    let mut counts = [0; 3];
    for (count, what) in counts.iter_mut().zip(["Success", "Death", "Complete"]) {
        *count = perl_finds(client, &format!("{name}{what}")).await;
    }
    counts
}

async fn batches(client: &Client) {
    let batch = client.batch(callbacks("Good")).await.unwrap();
    let job = |arg: &str, batch: &Handle| Job::new("Member", arg.to_owned()).batch(batch);
    put(client, job("1", &batch)).await;
    one(client, "Member").await.finish(done()).await.unwrap();
    assert_eq!(called(client, "Good").await, [0, 0, 0], "it is open");
    client
        .insert_all(vec![job("2", &batch), job("3", &batch)])
        .await
        .unwrap();
    client.close_batch(&batch).await.unwrap();
    // A job of it adds another while it runs.
    let second = one(client, "Member").await;
    put(client, job("4", &batch)).await;
    second.finish(done()).await.unwrap();
    let status = client.batch_status(&batch).await.unwrap();
    assert_eq!((status.jobs, status.done, status.failed), (4, 2, 0));
    assert!(!status.is_open && status.finished_at.is_none());
    let third = one(client, "Member").await;
    third.finish(fail(0)).await.unwrap();
    assert_eq!(called(client, "Good").await, [0, 0, 0], "it runs again");
    for job in grab(client, "Member", 9).await {
        assert_eq!(called(client, "Good").await, [0, 0, 0]);
        job.finish(done()).await.unwrap();
    }
    assert_eq!(called(client, "Good").await, [1, 0, 1]);
    let status = client.batch_status(&batch).await.unwrap();
    assert!(status.finished_at.is_some());
    assert!(client.insert(job("5", &batch)).await.is_err(), "finished");
    let told = one(client, "GoodComplete").await;
    let about: serde_json::Value = serde_json::from_slice(&told.job.arg).unwrap();
    assert_eq!(
        (about["jobs"].as_u64(), about["done"].as_u64()),
        (Some(4), Some(4))
    );
    assert_eq!(&one(client, "GoodSuccess").await.job.arg[..], b"s");

    let batch = client.batch(callbacks("Bad")).await.unwrap();
    let handles = client
        .insert_all(vec![job("1", &batch), job("2", &batch), job("3", &batch)])
        .await
        .unwrap();
    client.close_batch(&batch).await.unwrap();
    one(client, "Member").await.finish(die()).await.unwrap();
    assert_eq!(called(client, "Bad").await, [0, 1, 0], "at the first death");
    client.cancel(&handles[2]).await.unwrap();
    assert_eq!(called(client, "Bad").await, [0, 1, 0], "once");
    one(client, "Member").await.finish(done()).await.unwrap();
    assert_eq!(called(client, "Bad").await, [0, 1, 1]);
    // One of its dead that is brought back counts no more.
    client.retry(&handles[0]).await.unwrap();
    one(client, "Member").await.finish(done()).await.unwrap();
    let status = client.batch_status(&batch).await.unwrap();
    assert_eq!((status.jobs, status.done, status.failed), (3, 1, 2));

    let empty = client.batch(callbacks("Empty")).await.unwrap();
    client.close_batch(&empty).await.unwrap();
    client.close_batch(&empty).await.unwrap();
    assert_eq!(called(client, "Empty").await, [1, 0, 1]);
    assert!(client.batches(2).await.unwrap()[0].handle == empty);
    let wide = Batch {
        on_success: Some(Job::new("x", "").max_attempts(2)),
        ..Batch::default()
    };
    assert!(matches!(client.batch(wide).await, Err(Error::Invalid(_))));
}

async fn nested(client: &Client) {
    let outer = client.batch(callbacks("Outer")).await.unwrap();
    let inner = client
        .batch(Batch {
            parent: Some(outer.clone()),
            ..callbacks("Inner")
        })
        .await
        .unwrap();
    client.close_batch(&outer).await.unwrap();
    put(client, Job::new("Deep", "").batch(&inner)).await;
    assert_eq!(called(client, "Outer").await, [0, 0, 0]);
    client.close_batch(&inner).await.unwrap();
    one(client, "Deep").await.finish(die()).await.unwrap();
    assert_eq!(called(client, "Inner").await, [0, 1, 1]);
    assert_eq!(called(client, "Outer").await, [0, 1, 1]);
    let mut above = outer;
    let refused = async || {
        for _ in 0..20 {
            let batch = Batch {
                parent: Some(above.clone()),
                ..Batch::default()
            };
            match client.batch(batch).await {
                Ok(next) => above = next,
                Err(error) => return error,
            }
        }
        panic!("twenty deep")
    };
    let mut refused = refused;
    assert!(matches!(refused().await, Error::Invalid(_)));
}

async fn workflows(client: &Client) {
    let on = |index| (Parent::InList(index), OnDeath::Cancel);
    let step = |arg: &str, parents: Vec<(Parent, OnDeath)>| {
        parents.into_iter().fold(
            Job::new("Step", arg.to_owned()),
            |job, (parent, on_death)| job.depends_on(parent, on_death),
        )
    };
    // The list names later ones, too.
    let handles = client
        .insert_all(vec![
            step("join", vec![on(1), on(2)]),
            step("left", vec![on(3)]),
            step("right", vec![on(3)]),
            step("start", Vec::new()),
        ])
        .await
        .unwrap();
    let start = one(client, "Step").await;
    assert_eq!(args(std::slice::from_ref(&start)), ["start"]);
    assert!(grab(client, "Step", 9).await.is_empty());
    let (_, state) = client.status(&handles[0]).await.unwrap().pending.unwrap();
    assert_eq!(state, State::Blocked);
    start.finish(done()).await.unwrap();
    let both = grab(client, "Step", 9).await;
    assert_eq!(args(&both), ["left", "right"]);
    let mut both = both.into_iter();
    both.next()
        .unwrap()
        .finish(Finish::CompleteWith {
            status: 0,
            keep: 1,
            result: "42".into(),
        })
        .await
        .unwrap();
    assert!(grab(client, "Step", 9).await.is_empty());
    both.next().unwrap().finish(done()).await.unwrap();
    let join = one(client, "Step").await;
    let parents = client.parents(&join.handle).await.unwrap();
    let left = parents
        .iter()
        .find(|parent| parent.handle == handles[1])
        .unwrap();
    assert_eq!(
        (left.state.as_str(), left.result.as_deref()),
        ("completed", Some(b"42".as_slice()))
    );
    // Onto one that is pending, one that is over, and one of which nothing is kept.
    let child = put(
        client,
        step(
            "child",
            vec![(Parent::Job(join.handle.clone()), OnDeath::Cancel)],
        ),
    )
    .await;
    assert!(grab(client, "Step", 9).await.is_empty());
    join.finish(Finish::Complete {
        status: 0,
        keep: 1000,
    })
    .await
    .unwrap();
    // Its worker took it before it had a child: the leader sees that it is over.
    until("the child to be let go", async || {
        sweep(client).await;
        perl_finds(client, "Step").await == 1
    })
    .await;
    one(client, "Step").await.finish(done()).await.unwrap();
    put(
        client,
        step(
            "after",
            vec![(Parent::Job(handles[0].clone()), OnDeath::Cancel)],
        ),
    )
    .await;
    one(client, "Step").await.finish(done()).await.unwrap();
    for parents in [
        vec![(Parent::Job(child), OnDeath::Cancel)],
        vec![on(0)],
        vec![on(7)],
    ] {
        let refused = client.insert_all(vec![step("never", parents)]).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    let circle = vec![step("a", vec![on(1)]), step("b", vec![on(0)])];
    assert!(matches!(
        client.insert_all(circle).await,
        Err(Error::Invalid(_))
    ));
    assert!(grab(client, "Step", 9).await.is_empty(), "nothing was left");
}

async fn deaths(client: &Client) {
    let chain = |on_death| {
        vec![
            Job::new("Chain", "1"),
            Job::new("Chain", "2").depends_on(Parent::InList(0), on_death),
            Job::new("Chain", "3").depends_on(Parent::InList(1), OnDeath::Cancel),
            Job::new("Chain", "4").depends_on(Parent::InList(2), OnDeath::Run),
        ]
    };
    let handles = client.insert_all(chain(OnDeath::Cancel)).await.unwrap();
    one(client, "Chain").await.finish(die()).await.unwrap();
    for handle in &handles[1..3] {
        let ended = client.status(handle).await.unwrap().ended.unwrap();
        assert_eq!(ended.state, "cancelled");
    }
    let last = one(client, "Chain").await;
    assert_eq!(
        last.handle, handles[3],
        "it runs whatever became of the others"
    );
    let parents = client.parents(&last.handle).await.unwrap();
    assert_eq!(parents[0].state, "cancelled");
    last.finish(done()).await.unwrap();
    let refused = client
        .insert(Job::new("Chain", "").depends_on(Parent::Job(handles[0].clone()), OnDeath::Cancel))
        .await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    put(
        client,
        Job::new("Chain", "x").depends_on(Parent::Job(handles[0].clone()), OnDeath::Run),
    )
    .await;
    one(client, "Chain").await.finish(done()).await.unwrap();

    let handles = client.insert_all(chain(OnDeath::Run)).await.unwrap();
    client.cancel(&handles[0]).await.unwrap();
    let second = one(client, "Chain").await;
    assert_eq!(second.handle, handles[1]);
    second.finish(done()).await.unwrap();
    for handle in &handles[2..] {
        let job = one(client, "Chain").await;
        assert_eq!(&job.handle, handle);
        job.finish(done()).await.unwrap();
    }
}

async fn own_runs(client: &Client) {
    let handle = put(client, Job::new("Own", "").max_attempts(2)).await;
    let job = one(client, "Own").await;
    assert_eq!(job.max_attempts, Some(2));
    assert!(matches!(
        job.finish(fail(0)).await.unwrap(),
        Finished::Retried { .. }
    ));
    let job = one(client, "Own").await;
    assert_eq!(job.finish(fail(0)).await.unwrap(), Finished::Over);
    assert_eq!(
        client
            .status(&handle)
            .await
            .unwrap()
            .ended
            .unwrap()
            .attempts,
        2
    );
    put(client, Job::new("Own", "").max_attempts(5)).await;
    let job = one(client, "Own").await;
    assert_eq!(
        job.finish(die()).await.unwrap(),
        Finished::Over,
        "a verdict"
    );
}

/// A failed job with a limit that is brought back waits for its turn again.
async fn brought_back(client: &Client) {
    let job = |arg: &str| Job::new("Back", arg.to_owned()).concurrency(Concurrency::new("back", 1));
    let first = put(client, job("1")).await;
    one(client, "Back").await.finish(die()).await.unwrap();
    put(client, job("2")).await;
    let second = one(client, "Back").await;
    client.retry(&first).await.unwrap();
    assert!(grab(client, "Back", 9).await.is_empty());
    second.finish(done()).await.unwrap();
    let again = one(client, "Back").await;
    assert_eq!(again.handle, first);
    again.finish(done()).await.unwrap();
}

async fn expiry(client: &Client) {
    let short = || Job::new("Expiring", "").expires_in(1);
    let handles = client
        .insert_all(vec![short(), short(), short()])
        .await
        .unwrap();
    let started = client.grab_handle(&handles[0], 60).await.unwrap().unwrap();
    let batch = client.batch(callbacks("Exp")).await.unwrap();
    let member = put(client, short().batch(&batch)).await;
    client.close_batch(&batch).await.unwrap();
    until("their times to be over", async || {
        sweep(client).await;
        client.status(&member).await.unwrap().pending.is_none()
    })
    .await;
    let ended = client.status(&member).await.unwrap().ended.unwrap();
    assert_eq!(ended.state, "expired");
    assert_eq!(called(client, "Exp").await, [0, 1, 1]);
    assert!(grab(client, "Expiring", 9).await.is_empty());
    started.finish(fail(0)).await.unwrap();
    let again = one(client, "Expiring").await;
    assert_eq!(again.handle, handles[0], "it was started in time");
    again.finish(done()).await.unwrap();
    // A grab removes one that the leader has not come to.
    put(client, short()).await;
    until("the last one to be late", async || {
        let jobs = grab(client, "Expiring", 9).await;
        let is_late = jobs.is_empty();
        for job in jobs {
            job.finish(Finish::Decline(Some(When::Now))).await.unwrap();
        }
        is_late
    })
    .await;
    assert_eq!(perl_finds(client, "Expiring").await, 0);
}

/// Nothing of all this stays in our tables once the jobs are over and the times kept for them have passed.
async fn leftovers(client: &Client) {
    let database = &client.databases()[0];
    let prefix = if database.address().ends_with("p.db") {
        "sch_"
    } else {
        ""
    };
    let db = database.db().await.unwrap();
    let far = "UPDATE {p}sz_done SET delete_after = 1";
    db.execute(far.replace("{p}", prefix), params![])
        .await
        .unwrap();
    let far = "UPDATE {p}sz_batch SET finished_at = 1 WHERE finished_at IS NOT NULL";
    db.execute(far.replace("{p}", prefix), params![])
        .await
        .unwrap();
    let far = "UPDATE {p}sz_limit SET tat = 0";
    db.execute(far.replace("{p}", prefix), params![])
        .await
        .unwrap();
    while client.clean(database).await.unwrap() > 0 {}
    let count = async |sql: &str| {
        let rows = db
            .query(sql.replace("{p}", prefix), params![])
            .await
            .unwrap();
        rows[0].get::<i64>(0).unwrap()
    };
    let orphans = "SELECT COUNT(*) FROM {p}sz_jobx x WHERE NOT EXISTS (SELECT 1 FROM {p}job j WHERE j.jobid = x.jobid)";
    until("jobs that ended elsewhere to be found", async || {
        sweep(client).await;
        count(orphans).await == 0
    })
    .await;
    assert_eq!(
        count("SELECT COUNT(*) FROM {p}sz_edge").await,
        0,
        "edges of children that are over"
    );
    assert_eq!(
        count("SELECT COUNT(*) FROM {p}sz_batch WHERE finished_at IS NOT NULL").await,
        0
    );
    assert_eq!(
        count("SELECT COUNT(*) FROM {p}sz_limit WHERE k LIKE 'm:%' OR k = 'c:back'").await,
        0
    );
}
