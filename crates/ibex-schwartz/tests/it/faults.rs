//! The faults of the original that this library must not have: one test for each row of the table in `docs/schwartz/compatibility.md`.

use ibex_schwartz::{Client, Error, Finish, Grab, Inserted, Job, RetryPolicy};
use ibex_sql::{Config, Db, params};
use std::time::{Duration, Instant};

fn want(func: &str) -> Grab {
    Grab::new(vec![func.to_owned()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_message_is_cut_between_characters_and_counted() {
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let client = crate::init_client(&database.url()).await;
    let handle = client
        .insert(Job::new("F", ""))
        .await
        .unwrap()
        .handle()
        .cloned()
        .unwrap();
    let job = client.grab(&want("F")).await.unwrap().pop().unwrap();
    let message = "☺".repeat(300);
    job.finish(Finish::Fail {
        message,
        status: 1,
        retry: RetryPolicy::fixed(3, 0),
        keep: 0,
    })
    .await
    .unwrap();
    let log = client.failure_log(&handle).await.unwrap();
    assert_eq!(log, ["☺".repeat(255)]);
    assert_eq!(
        client
            .grab(&want("F"))
            .await
            .unwrap()
            .pop()
            .unwrap()
            .attempt,
        2,
        "the failure counts"
    );
}

#[tokio::test]
async fn an_exit_status_left_by_a_crash_does_not_stop_a_complete() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    let handle = client
        .insert(Job::new("F", ""))
        .await
        .unwrap()
        .handle()
        .cloned()
        .unwrap();
    // What the original leaves behind when it dies between its two commits.
    let db = client.databases()[0].db().await.unwrap();
    db.execute("INSERT INTO exitstatus (jobid, funcid, status, completion_time, delete_after) VALUES (?, 1, 0, 1, 2)", params![handle.jobid()]).await.unwrap();
    let job = client.grab(&want("F")).await.unwrap().pop().unwrap();
    job.finish(Finish::Complete {
        status: 0,
        keep: 1000,
    })
    .await
    .unwrap();
    assert!(!client.is_pending(&handle).await.unwrap());
}

#[tokio::test]
async fn a_worker_whose_lease_ran_out_cannot_touch_the_job_another_runs() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    client.insert(Job::new("F", "")).await.unwrap();
    let first = client
        .grab(&Grab {
            grab_for: 10,
            ..want("F")
        })
        .await
        .unwrap()
        .pop()
        .unwrap();
    client.advance_clock(Duration::from_secs(11));
    let second = client
        .grab(&Grab {
            grab_for: 10,
            ..want("F")
        })
        .await
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!(first.handle, second.handle);
    assert!(matches!(
        first.finish(Finish::Complete { status: 0, keep: 0 }).await,
        Err(Error::LeaseLost(_))
    ));
    second
        .finish(Finish::Complete { status: 0, keep: 0 })
        .await
        .unwrap();
    // A lease that ran out and was taken by nobody is still good.
    client.insert(Job::new("F", "")).await.unwrap();
    let alone = client
        .grab(&Grab {
            grab_for: 10,
            ..want("F")
        })
        .await
        .unwrap()
        .pop()
        .unwrap();
    client.advance_clock(Duration::from_secs(11));
    alone
        .finish(Finish::Complete { status: 0, keep: 0 })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_database_never_shows_while_another_lives() {
    let dir = tempfile::tempdir().unwrap();
    let dead = ibex_testkit::ports::free();
    let client = Client::builder()
        .db(format!(
            "mysql://u@{dead}/q?timeout=50ms&connect_timeout=50ms"
        ))
        .db(crate::file_url(&dir, "live.db"))
        .build()
        .await
        .unwrap();
    assert!(client.databases()[0].is_down() && !client.databases()[1].is_down());
    for n in 0..20 {
        client.insert(Job::new("F", format!("{n}"))).await.unwrap();
        client
            .insert_all(vec![Job::new("F", "a"), Job::new("F", "b")])
            .await
            .unwrap();
    }
    let jobs = client
        .grab(&Grab {
            max: 100,
            ..want("F")
        })
        .await
        .unwrap();
    assert_eq!(jobs.len(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_databases_down_is_an_error_with_a_cause_each() {
    let dead = ibex_testkit::ports::free();
    let url =
        |name: &str| format!("mysql://u:secret@{dead}/{name}?timeout=50ms&connect_timeout=50ms");
    let client = Client::builder()
        .db(url("one"))
        .db(url("two"))
        .build_lazy()
        .await
        .unwrap();
    let error = client.insert(Job::new("F", "")).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, Error::NoDatabase(_)) && text.contains("/one") && text.contains("/two"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    assert!(matches!(
        client.grab(&want("F")).await,
        Err(Error::NoDatabase(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_argument_beyond_the_packet_size_says_nothing_about_the_database() {
    let Some(server) = ibex_testkit::mariadb::Server::start_own().unwrap() else {
        return;
    };
    server
        .sql("SET GLOBAL max_allowed_packet = 1048576")
        .unwrap();
    let database = server.database().unwrap();
    let client = crate::init_client(&database.url()).await;
    let error = client
        .insert(Job::new("F", vec![7; 1_100_000]))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    assert!(!client.databases()[0].is_down());
    let error = client
        .insert(Job::new("F", vec![7; 1_048_576 - 4095]))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    client
        .insert(Job::new("F", vec![7; 1_048_576 - 4096]))
        .await
        .unwrap();
    client.insert(Job::new("F", "small")).await.unwrap();
}

#[tokio::test]
async fn a_function_registered_later_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    assert!(client.grab(&want("Later")).await.unwrap().is_empty());
    let other = Db::open(&Config::new(&crate::file_url(&dir, "jobs.db")).unwrap())
        .await
        .unwrap();
    other
        .execute("INSERT INTO funcmap (funcname) VALUES ('Later')", params![])
        .await
        .unwrap();
    let done = other.execute("INSERT INTO job (funcid, arg, insert_time, run_after, grabbed_until) VALUES (1, 'x', 1, 1, 0)", params![]).await.unwrap();
    let handle = client.handle(&client.databases()[0], done.last_insert_id);
    assert_eq!(
        client.lookup(&handle).await.unwrap().unwrap().funcname,
        "Later"
    );
    assert_eq!(client.grab(&want("Later")).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_differs_by_case_goes_through_the_row_the_database_returns() {
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let client = crate::init_client(&database.url()).await;
    client.insert(Job::new("Foo", "1")).await.unwrap();
    let other = crate::init_client(&database.url()).await;
    other.insert(Job::new("FOO", "2")).await.unwrap();
    let jobs = other
        .grab(&Grab {
            max: 9,
            ..want("foo")
        })
        .await
        .unwrap();
    assert_eq!(
        jobs.iter()
            .map(|job| job.job.funcname.as_str())
            .collect::<Vec<_>>(),
        ["Foo", "Foo"]
    );
    let worked = ibex_schwartz::Worker::new(&other)
        .function("fOO", |_| async { ibex_schwartz::Outcome::Complete });
    client.insert(Job::new("Foo", "3")).await.unwrap();
    assert!(worked.work_once().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_deadlocks_are_retried() {
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let client = crate::init_client(&database.url()).await;
    let jobs = (0..200).map(|n| Job::new("F", format!("{n}"))).collect();
    client.insert_all(jobs).await.unwrap();
    // Eight grabbers with leases and failures on the same rows.
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            let mut count = 0;
            loop {
                let jobs = client
                    .grab(&Grab {
                        max: 7,
                        ..want("F")
                    })
                    .await
                    .unwrap();
                if jobs.is_empty() {
                    return count;
                }
                for job in jobs {
                    job.finish(Finish::Fail {
                        message: "x".to_owned(),
                        status: 1,
                        retry: RetryPolicy::fixed(1, 0),
                        keep: 10,
                    })
                    .await
                    .unwrap();
                    count += 1;
                }
            }
        }));
    }
    let mut runs = 0;
    for task in tasks {
        runs += task.await.unwrap();
    }
    assert_eq!(runs, 400, "each job twice, no run lost, none doubled");
}

#[tokio::test]
async fn grabbed_and_scheduled_rows_in_front_cost_nothing() {
    const ROWS: u64 = 30_000;
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    client
        .insert(Job::new("F", "last").run_after(50))
        .await
        .unwrap();
    let db = client.databases()[0].db().await.unwrap();
    let now = client.time().await.unwrap();
    db.write(move |tx| {
        Box::pin(async move {
            let rows = (0..ROWS).map(|n| if n % 2 == 0 { params![1, now + 1000] } else { params![now + 5000, 0] });
            let sql = "INSERT INTO job (funcid, arg, insert_time, run_after, grabbed_until) VALUES (1, 'x', 1, ?, ?)";
            tx.execute_each(sql, rows.collect()).await
        })
    })
    .await
    .unwrap();
    let started = Instant::now();
    let job = client.grab(&want("F")).await.unwrap().pop().unwrap();
    assert_eq!(job.job.arg.as_ref(), b"last");
    for clause in [
        "grabbed_until = 0 AND run_after <= 100 ORDER BY run_after, jobid",
        "grabbed_until > 0 AND grabbed_until <= 100 AND +run_after <= 100 ORDER BY grabbed_until",
    ] {
        let plan = db
            .query(format!("EXPLAIN QUERY PLAN SELECT jobid FROM job WHERE funcid = 1 AND {clause} LIMIT 50"), params![])
            .await
            .unwrap();
        let plan: Vec<String> = plan
            .iter()
            .map(|row| row.named("detail").unwrap())
            .collect();
        let is_indexed = plan.iter().any(|step| step.contains("job_sz_ready"));
        assert!(
            is_indexed && !plan.iter().any(|step| step.contains("TEMP")),
            "{plan:?}"
        );
    }
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn rows_that_are_no_jobs_do_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    let Inserted::New(good) = client.insert(Job::new("F", "good")).await.unwrap() else {
        panic!("new")
    };
    let db = client.databases()[0].db().await.unwrap();
    for values in [
        "1, 'x', -5, 1, 0",
        "1, NULL, NULL, 'soon', 0",
        "1, 'x', 1, 1, -3",
        "77, 'x', 1, 1, 0",
    ] {
        db.execute(format!("INSERT INTO job (funcid, arg, insert_time, run_after, grabbed_until) VALUES ({values})"), params![]).await.unwrap();
    }
    let jobs = client
        .grab(&Grab {
            max: 10,
            ..want("F")
        })
        .await
        .unwrap();
    assert!(jobs.iter().any(|job| job.handle == good), "{jobs:?}");
    assert!(
        !client
            .list(&ibex_schwartz::Query::default())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_counts_in_all_databases() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || {
        (0..3).fold(Client::builder(), |builder, n| {
            builder.db(crate::file_url(&dir, &format!("db{n}.db")))
        })
    };
    let client = builder().build().await.unwrap();
    let other = builder().build().await.unwrap();
    let mut used = std::collections::BTreeSet::new();
    for key in 0..20 {
        let job = || Job::new("F", "").uniqkey(format!("{key}"));
        let Inserted::New(first) = client.insert(job()).await.unwrap() else {
            panic!("new")
        };
        used.insert(first.database().to_owned());
        for _ in 0..5 {
            assert_eq!(
                other.insert(job()).await.unwrap(),
                Inserted::Duplicate(Some(first.clone()))
            );
        }
    }
    assert!(used.len() > 1, "keys are spread over the databases");
    // The original's way is there for those who want it.
    let classic = builder()
        .unique_scope(ibex_schwartz::UniqueScope::Database)
        .build()
        .await
        .unwrap();
    let mut accepted = 0;
    for _ in 0..60 {
        if !classic
            .insert(Job::new("F", "").uniqkey("classic"))
            .await
            .unwrap()
            .is_duplicate()
        {
            accepted += 1;
        }
    }
    assert_eq!(accepted, 3, "once per database");
}

#[tokio::test]
async fn runs_are_counted_when_the_errors_are_cleaned_away() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    let handle = client
        .insert(Job::new("F", ""))
        .await
        .unwrap()
        .handle()
        .cloned()
        .unwrap();
    for attempt in 1..=3 {
        let job = client.grab(&want("F")).await.unwrap().pop().unwrap();
        assert_eq!(job.attempt, attempt);
        let fail = Finish::Fail {
            message: "x".to_owned(),
            status: 1,
            retry: RetryPolicy::fixed(2, 8 * 86_400),
            keep: 0,
        };
        job.finish(fail).await.unwrap();
        client.advance_clock(Duration::from_secs(9 * 86_400));
        while client.clean(&client.databases()[0]).await.unwrap() > 0 {}
        let status = client.status(&handle).await.unwrap();
        let runs: Vec<u32> = status.attempts.iter().map(|run| run.number).collect();
        assert_eq!(runs, (1..=attempt).collect::<Vec<_>>());
        assert!(status.failures.is_empty(), "cleaned after a week");
    }
    assert!(
        !client.is_pending(&handle).await.unwrap(),
        "three runs, however long between them"
    );
}

#[tokio::test]
async fn failed_and_cancelled_jobs_are_kept_with_their_full_texts_and_can_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    let long = "☺".repeat(1000);
    let handle = client
        .insert(Job::new("F", "arg").uniqkey("k"))
        .await
        .unwrap()
        .handle()
        .cloned()
        .unwrap();
    let job = client.grab(&want("F")).await.unwrap().pop().unwrap();
    job.finish(Finish::Fail {
        message: long.clone(),
        status: 5,
        retry: RetryPolicy::never(),
        keep: 1000,
    })
    .await
    .unwrap();
    let status = client.status(&handle).await.unwrap();
    assert_eq!(status.failures[0].message, long);
    let ended = status.ended.unwrap();
    assert_eq!(
        (
            ended.state.as_str(),
            ended.attempts,
            ended.funcname.as_str()
        ),
        ("failed", 1, "F")
    );
    assert_eq!(
        client.ended("failed", Some("F"), 10).await.unwrap().len(),
        1
    );
    client.retry(&handle).await.unwrap();
    assert!(matches!(
        client.retry(&handle).await,
        Err(Error::NotFound(_))
    ));
    let status = client.status(&handle).await.unwrap();
    assert!(status.ended.is_none() && status.failures.is_empty() && status.exit_status.is_none());
    client.cancel(&handle).await.unwrap();
    assert_eq!(
        client.status(&handle).await.unwrap().ended.unwrap().state,
        "cancelled"
    );
    client
        .insert(Job::new("F", "other").uniqkey("k"))
        .await
        .unwrap();
    assert!(
        matches!(client.retry(&handle).await, Err(Error::Duplicate)),
        "its key is pending again"
    );
    let other = client.grab(&want("F")).await.unwrap().pop().unwrap();
    other
        .finish(Finish::Complete { status: 0, keep: 0 })
        .await
        .unwrap();
    client.retry(&handle).await.unwrap();
    let job = client.grab(&want("F")).await.unwrap().pop().unwrap();
    assert_eq!(
        (job.handle, job.attempt, job.job.arg.as_ref()),
        (handle, 1, b"arg".as_slice())
    );
}
