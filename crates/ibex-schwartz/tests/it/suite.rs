//! The classic semantics, on both engines.

use ibex_schwartz::{
    Client, Error, Finish, Finished, Grab, GrabbedJob, Inserted, Job, Only, Query, RetryPolicy,
    State, When,
};
use ibex_sql::params;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    suite(&client).await;
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_with_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::builder()
        .db(crate::file_url(&dir, "p.db"))
        .prefix("sch_")
        .build()
        .await
        .unwrap();
    suite(&client).await;
    let db = client.databases()[0].db().await.unwrap();
    assert!(
        db.query("SELECT COUNT(*) FROM sch_job", params![])
            .await
            .is_ok()
    );
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let refused = Client::open([database.url()]).await.unwrap_err();
    assert!(
        matches!(refused, Error::Config(_)),
        "tables of a server are not made unasked: {refused:?}"
    );
    let client = crate::init_client(&database.url()).await;
    suite(&client).await;
    client.close().await.unwrap();
}

async fn suite(client: &Client) {
    inserts(client).await;
    unique_keys(client).await;
    atomic(client).await;
    fresh_functions(client).await;
    grabs(client).await;
    priorities(client).await;
    coalescing(client).await;
    finishes(client).await;
    retries(client).await;
    replaces(client).await;
    fences(client).await;
    times(client).await;
    lists(client).await;
    crate::own::suite(client).await;
    crate::limits::suite(client).await;
    crate::windows::suite(client).await;
    crate::graphs::suite(client).await;
    crate::settings::suite(client).await;
    crate::carried::suite(client).await;
    crate::policies::suite(client).await;
    crate::once::suite(client).await;
    crate::graphs::leftovers(client).await;
}

pub(crate) fn new(inserted: Inserted) -> ibex_schwartz::Handle {
    match inserted {
        Inserted::New(handle) => handle,
        Inserted::Duplicate(_) => panic!("a duplicate"),
    }
}

pub(crate) async fn grab(client: &Client, func: &str, max: usize) -> Vec<GrabbedJob> {
    client
        .grab(&Grab {
            max,
            shuffle: false,
            ..Grab::new(vec![func.to_owned()])
        })
        .await
        .unwrap()
}

pub(crate) async fn one(client: &Client, func: &str) -> GrabbedJob {
    grab(client, func, 1).await.pop().expect("a job")
}

async fn inserts(client: &Client) {
    let bytes: Vec<u8> = (0..=255).collect();
    let handle = new(client
        .insert(Job::new("Insert", bytes.clone()).coalesce("c").priority(7))
        .await
        .unwrap());
    assert!(client.is_pending(&handle).await.unwrap());
    let job = client.lookup(&handle).await.unwrap().unwrap();
    assert_eq!(
        (job.funcname.as_str(), job.arg.as_ref()),
        ("Insert", bytes.as_slice())
    );
    assert_eq!(
        (job.coalesce.as_deref(), job.priority, job.uniqkey),
        (Some("c"), Some(7), None)
    );
    assert_eq!(
        (job.grabbed_until, job.insert_time),
        (0, Some(job.run_after))
    );
    assert_eq!(
        handle.to_string().parse::<ibex_schwartz::Handle>().unwrap(),
        handle
    );
    let taken = one(client, "Insert").await;
    assert_eq!((taken.handle.clone(), taken.attempt), (handle.clone(), 1));
    assert_eq!(
        taken
            .finish(Finish::Complete { status: 0, keep: 0 })
            .await
            .unwrap(),
        Finished::Over
    );
    assert!(!client.is_pending(&handle).await.unwrap());
    assert!(client.insert(Job::new("", "")).await.is_err());
}

async fn unique_keys(client: &Client) {
    let first = new(client
        .insert(Job::new("Unique", "1").uniqkey("k"))
        .await
        .unwrap());
    let second = client
        .insert(Job::new("Unique", "2").uniqkey("k"))
        .await
        .unwrap();
    assert_eq!(second, Inserted::Duplicate(Some(first)));
    new(client
        .insert(Job::new("Unique", "3").uniqkey(""))
        .await
        .unwrap());
    assert!(
        client
            .insert(Job::new("Unique", "4").uniqkey(""))
            .await
            .unwrap()
            .is_duplicate(),
        "an empty string is a key"
    );
    new(client.insert(Job::new("Unique", "5")).await.unwrap());
    new(client.insert(Job::new("Unique", "6")).await.unwrap());
    new(client
        .insert(Job::new("Other", "7").uniqkey("k"))
        .await
        .unwrap());
    let each = client
        .insert_each(vec![
            Job::new("Unique", "8").uniqkey("k"),
            Job::new("Unique", "9").uniqkey("n"),
            Job::new("Unique", "10"),
            Job::new("Unique", "11").uniqkey("n"),
        ])
        .await
        .unwrap();
    assert_eq!(
        each.iter().map(Inserted::is_duplicate).collect::<Vec<_>>(),
        [true, false, false, true]
    );
    assert!(each.iter().all(|inserted| inserted.handle().is_some()));
    for job in grab(client, "Unique", 20).await {
        job.finish(Finish::Complete { status: 0, keep: 0 })
            .await
            .unwrap();
    }
    new(client
        .insert(Job::new("Unique", "12").uniqkey("k"))
        .await
        .unwrap());
    one(client, "Unique")
        .await
        .finish(Finish::Complete { status: 0, keep: 0 })
        .await
        .unwrap();
    one(client, "Other")
        .await
        .finish(Finish::Complete { status: 0, keep: 0 })
        .await
        .unwrap();
}

async fn atomic(client: &Client) {
    let jobs = (0..20)
        .map(|n| Job::new("Atomic", format!("{n}")))
        .collect();
    assert_eq!(client.insert_all(jobs).await.unwrap().len(), 20);
    let jobs = vec![
        Job::new("Atomic", "a").uniqkey("x"),
        Job::new("Atomic", "b").uniqkey("x"),
    ];
    assert!(matches!(
        client.insert_all(jobs).await,
        Err(Error::Duplicate)
    ));
    let all = grab(client, "Atomic", 50).await;
    assert_eq!(all.len(), 20, "all or none");
    let fences: Vec<(u64, u64)> = all.iter().map(|job| (job.job.jobid, job.lease)).collect();
    let mut late = fences.clone();
    late.push((fences[0].0, fences[0].1));
    let done = all[0].database.complete_many(&late, 100).await.unwrap();
    assert_eq!(done.iter().filter(|done| **done).count(), 20);
    assert!(!done[20], "the second finish of one job is refused");
    assert_eq!(
        client.status(&all[3].handle).await.unwrap().exit_status,
        Some(0)
    );
}

/// Many that meet a new function at once: each finds it, whoever makes it.
async fn fresh_functions(client: &Client) {
    for round in 0..10 {
        let mut callers = Vec::new();
        for _ in 0..8 {
            let client = client.clone();
            callers.push(tokio::spawn(async move {
                client.insert(Job::new(format!("Fresh{round}"), "")).await
            }));
        }
        for caller in callers {
            new(caller.await.unwrap().unwrap());
        }
    }
}

async fn grabs(client: &Client) {
    assert!(grab(client, "NeverHeardOf", 1).await.is_empty());
    new(client.insert(Job::new("Grab", "1")).await.unwrap());
    let taken = one(client, "Grab").await;
    assert!(grab(client, "Grab", 1).await.is_empty(), "under a lease");
    assert!(
        client
            .grab_handle(&taken.handle, 60)
            .await
            .unwrap()
            .is_none()
    );
    let state = client
        .status(&taken.handle)
        .await
        .unwrap()
        .pending
        .unwrap()
        .1;
    assert_eq!(state, State::Grabbed);
    assert!(matches!(
        client.cancel(&taken.handle).await,
        Err(Error::Grabbed(_))
    ));
    assert_eq!(
        taken
            .finish(Finish::Decline(Some(When::Now)))
            .await
            .unwrap(),
        Finished::Declined
    );
    let again = client
        .grab_handle(&taken.handle, 60)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again.attempt, 1, "declining is no failure");
    again
        .finish(Finish::Decline(Some(When::In(1000))))
        .await
        .unwrap();
    assert_eq!(
        client
            .status(&taken.handle)
            .await
            .unwrap()
            .pending
            .unwrap()
            .1,
        State::Scheduled
    );
    assert!(grab(client, "Grab", 1).await.is_empty());
    client.cancel(&taken.handle).await.unwrap();
    assert!(matches!(
        client.cancel(&taken.handle).await,
        Err(Error::NotFound(_))
    ));
    // Many at once over several functions; each job goes to one caller.
    for n in 0..60 {
        new(client
            .insert(Job::new(format!("Many{}", n % 3), format!("{n}")))
            .await
            .unwrap());
    }
    let mut callers = Vec::new();
    for _ in 0..6 {
        let client = client.clone();
        callers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let want = Grab {
                    max: 3,
                    ..Grab::new((0..3).map(|n| format!("Many{n}")).collect())
                };
                let jobs = client.grab(&want).await.unwrap();
                if jobs.is_empty() {
                    return mine;
                }
                for job in jobs {
                    mine.push(job.job.jobid);
                    job.finish(Finish::Complete { status: 0, keep: 0 })
                        .await
                        .unwrap();
                }
            }
        }));
    }
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await.unwrap());
    }
    all.sort_unstable();
    let count = all.len();
    all.dedup();
    assert_eq!((count, all.len()), (60, 60));
}

async fn priorities(client: &Client) {
    for (arg, priority) in [
        ("low", Some(1)),
        ("none", None),
        ("high", Some(9)),
        ("middle", Some(5)),
    ] {
        let mut job = Job::new("Prio", arg);
        if let Some(priority) = priority {
            job = job.priority(priority);
        }
        new(client.insert(job).await.unwrap());
    }
    let want = Grab {
        max: 10,
        prioritize: true,
        floor: Some(5),
        ..Grab::new(vec!["Prio".to_owned()])
    };
    let jobs = client.grab(&want).await.unwrap();
    assert_eq!(
        jobs.iter()
            .map(|job| job.job.arg.as_ref())
            .collect::<Vec<_>>(),
        [b"high".as_slice(), b"middle"]
    );
    let want = Grab {
        floor: None,
        ..want
    };
    let jobs = client.grab(&want).await.unwrap();
    assert_eq!(
        jobs.iter()
            .map(|job| job.job.arg.as_ref())
            .collect::<Vec<_>>(),
        [b"low".as_slice(), b"none"],
        "no priority comes last"
    );
}

async fn coalescing(client: &Client) {
    for (arg, value) in [
        ("1", "host_a:x"),
        ("2", "host_a:y"),
        ("3", "hostXa:z"),
        ("4", "host_b"),
    ] {
        new(client
            .insert(Job::new("Coal", arg).coalesce(value))
            .await
            .unwrap());
    }
    let want = |only| Grab {
        max: 10,
        only,
        shuffle: false,
        ..Grab::new(vec!["Coal".to_owned()])
    };
    let exact = client
        .grab(&want(Only::Coalesce("host_b".to_owned())))
        .await
        .unwrap();
    assert_eq!(exact.len(), 1);
    let prefix = client
        .grab(&want(Only::CoalescePrefix("host_a".to_owned())))
        .await
        .unwrap();
    assert_eq!(
        prefix
            .iter()
            .map(|job| job.job.arg.as_ref())
            .collect::<Vec<_>>(),
        [b"1", b"2"],
        "an underscore is an underscore"
    );
}

async fn finishes(client: &Client) {
    let handle = new(client.insert(Job::new("Finish", "1")).await.unwrap());
    let job = one(client, "Finish").await;
    job.finish(Finish::Complete {
        status: 0,
        keep: 1000,
    })
    .await
    .unwrap();
    let status = client.status(&handle).await.unwrap();
    assert_eq!((status.pending, status.exit_status), (None, Some(0)));
    let handle = new(client.insert(Job::new("Finish", "2")).await.unwrap());
    let job = one(client, "Finish").await;
    let fail = Finish::Fail {
        message: "no such user".to_owned(),
        status: 42,
        retry: RetryPolicy::never(),
        keep: 1000,
    };
    assert_eq!(job.finish(fail).await.unwrap(), Finished::Over);
    let status = client.status(&handle).await.unwrap();
    assert_eq!((status.pending, status.exit_status), (None, Some(42)));
    assert_eq!(client.failure_log(&handle).await.unwrap(), ["no such user"]);
    let errors = client.errors(Some("Finish"), 0, 10).await.unwrap();
    assert_eq!(
        (errors[0].0.clone(), errors[0].1.message.as_str()),
        (handle, "no such user")
    );
}

async fn retries(client: &Client) {
    let handle = new(client.insert(Job::new("Retry", "1")).await.unwrap());
    let fail = || Finish::Fail {
        message: "again".to_owned(),
        status: 0,
        retry: RetryPolicy::fixed(2, 0),
        keep: 1000,
    };
    for attempt in 1..=3 {
        let job = one(client, "Retry").await;
        assert_eq!(job.attempt, attempt);
        let finished = job.finish(fail()).await.unwrap();
        if attempt < 3 {
            assert!(matches!(finished, Finished::Retried { .. }));
        } else {
            assert_eq!(finished, Finished::Over, "two retries are three runs");
        }
    }
    assert_eq!(
        client.status(&handle).await.unwrap().exit_status,
        Some(1),
        "a failure without a status is 1"
    );
    let handle = new(client.insert(Job::new("Retry", "2")).await.unwrap());
    let job = one(client, "Retry").await;
    let fail = Finish::Fail {
        message: "later".to_owned(),
        status: 1,
        retry: RetryPolicy::fixed(5, 500),
        keep: 0,
    };
    let Finished::Retried { run_after } = job.finish(fail).await.unwrap() else {
        panic!("retried")
    };
    assert!(run_after >= client.time().await.unwrap() + 499);
    assert_eq!(
        client.status(&handle).await.unwrap().pending.unwrap().1,
        State::Scheduled
    );
    client.cancel(&handle).await.unwrap();
}

async fn replaces(client: &Client) {
    let handle = new(client
        .insert(Job::new("Replace", "old").uniqkey("r"))
        .await
        .unwrap());
    let job = one(client, "Replace").await;
    let jobs = vec![
        Job::new("Replace", "new1").uniqkey("r"),
        Job::new("Replace", "new2"),
    ];
    let Finished::Replaced(handles) = job
        .finish(Finish::Replace { jobs, keep: 1000 })
        .await
        .unwrap()
    else {
        panic!("replaced")
    };
    assert_eq!(handles.len(), 2);
    assert_eq!(client.status(&handle).await.unwrap().exit_status, Some(0));
    let jobs = grab(client, "Replace", 10).await;
    assert_eq!(jobs.len(), 2);
    for job in jobs {
        assert_eq!(
            job.finish(Finish::Replace {
                jobs: Vec::new(),
                keep: 0
            })
            .await
            .unwrap(),
            Finished::Replaced(Vec::new())
        );
    }
}

async fn fences(client: &Client) {
    let handle = new(client.insert(Job::new("Fence", "1")).await.unwrap());
    let first = one(client, "Fence").await;
    // As if the lease had ended and another had taken the job.
    let db = first.database.db().await.unwrap();
    let prefix = if first.database.address().ends_with("p.db") {
        "sch_"
    } else {
        ""
    };
    db.execute(
        format!("UPDATE {prefix}job SET grabbed_until = grabbed_until + 5 WHERE jobid = ?"),
        params![first.job.jobid],
    )
    .await
    .unwrap();
    let ends = [
        Finish::Complete { status: 0, keep: 0 },
        Finish::Complete {
            status: 0,
            keep: 10,
        },
        Finish::Fail {
            message: "late".to_owned(),
            status: 1,
            retry: RetryPolicy::fixed(9, 0),
            keep: 10,
        },
        Finish::Fail {
            message: "late".to_owned(),
            status: 1,
            retry: RetryPolicy::never(),
            keep: 10,
        },
        Finish::Decline(None),
        Finish::Decline(Some(When::Now)),
        Finish::Extend(100),
        Finish::Replace {
            jobs: vec![Job::new("Fence", "2")],
            keep: 0,
        },
    ];
    for end in ends {
        let error = first.finish(end.clone()).await.unwrap_err();
        assert!(matches!(error, Error::LeaseLost(_)), "{end:?}: {error:?}");
    }
    let status = client.status(&handle).await.unwrap();
    assert!(
        status.pending.is_some() && status.failures.is_empty() && status.exit_status.is_none(),
        "a late worker changes nothing"
    );
    assert!(
        grab(client, "Fence", 9).await.is_empty(),
        "nor inserts anything"
    );
    let mut second = client.peek(&handle).await.unwrap().unwrap();
    let Finished::Extended(until) = second.finish(Finish::Extend(20_000)).await.unwrap() else {
        panic!("extended")
    };
    assert!(until > second.lease);
    assert!(
        matches!(
            second.finish(Finish::Complete { status: 0, keep: 0 }).await,
            Err(Error::LeaseLost(_))
        ),
        "the old value is no lease any more"
    );
    second.lease = until;
    second
        .finish(Finish::Complete { status: 0, keep: 0 })
        .await
        .unwrap();
}

async fn times(client: &Client) {
    let now = client.time().await.unwrap();
    new(client
        .insert(Job::new("Time", "later").run_after(now + 1000))
        .await
        .unwrap());
    new(client
        .insert(Job::new("Time", "later").delay(1000))
        .await
        .unwrap());
    assert!(grab(client, "Time", 5).await.is_empty());
    let past = new(client
        .insert(Job::new("Time", "past").run_after(now - 10))
        .await
        .unwrap());
    let job = one(client, "Time").await;
    assert_eq!(job.handle, past);
    job.finish(Finish::Complete { status: 0, keep: 0 })
        .await
        .unwrap();
    let scheduled = client
        .list(&Query {
            funcs: vec!["Time".to_owned()],
            state: Some(State::Scheduled),
            ..Query::default()
        })
        .await
        .unwrap();
    assert_eq!(scheduled.len(), 2);
    for (handle, ..) in scheduled {
        client.cancel(&handle).await.unwrap();
    }
}

async fn lists(client: &Client) {
    for n in 0..5 {
        new(client
            .insert(Job::new("List", format!("{n}")).coalesce(format!("g{}", n % 2)))
            .await
            .unwrap());
    }
    let query = Query {
        funcs: vec!["List".to_owned()],
        ..Query::default()
    };
    assert_eq!(client.list(&query).await.unwrap().len(), 5);
    let some = client
        .list(&Query {
            limit: 2,
            ..query.clone()
        })
        .await
        .unwrap();
    let rest = client
        .list(&Query {
            after: some[1].1.jobid,
            ..query.clone()
        })
        .await
        .unwrap();
    assert_eq!((some.len(), rest.len()), (2, 3));
    assert_eq!(
        client
            .list(&Query {
                coalesce: Some("g1".to_owned()),
                ..query.clone()
            })
            .await
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        client
            .list(&Query {
                coalesce_prefix: Some("g".to_owned()),
                ..query.clone()
            })
            .await
            .unwrap()
            .len(),
        5
    );
    one(client, "List").await;
    assert_eq!(
        client
            .list(&Query {
                state: Some(State::Ready),
                ..query.clone()
            })
            .await
            .unwrap()
            .len(),
        4
    );
    assert_eq!(
        client
            .list(&Query {
                state: Some(State::Grabbed),
                ..query
            })
            .await
            .unwrap()
            .len(),
        1
    );
    let counts = client.counts().await.unwrap();
    let count = counts
        .iter()
        .find(|count| count.funcname == "List")
        .unwrap();
    assert_eq!((count.ready, count.grabbed, count.scheduled), (4, 1, 0));
}
