//! Odd rows and values, locks and clocks of others: one test for each row of the library in `docs/schwartz/failure-modes.md`.

use crate::suite::{grab, new, one};
use ibex_schwartz::{
    Client, Error, Finish, Grab, Handle, Inserted, Job, Query, RetryPolicy, State, When, limits,
};
use ibex_sql::{Config, Db, params};
use std::time::{Duration, Instant};

fn done() -> Finish {
    Finish::Complete { status: 0, keep: 0 }
}

async fn raw(client: &Client, sql: &str) {
    let db = client.databases()[0].db().await.unwrap();
    db.execute(sql, params![]).await.unwrap();
}

/// The largest names, numbers and statuses are stored and come back as they were; one more is refused before a statement is sent.
async fn largest(client: &Client) {
    let name = |text: &str, count| text.repeat(count);
    let func = name("é", 255);
    let job = Job::new(func.clone(), vec![0; 1000])
        .uniqkey(name("k", 255))
        .coalesce(name("c", 255))
        .priority(u16::MAX)
        .run_after(limits::RUN_AFTER_MAX);
    let handle = new(client.insert(job).await.unwrap());
    let stored = client.lookup(&handle).await.unwrap().unwrap();
    assert_eq!(
        (stored.funcname.as_str(), stored.priority),
        (func.as_str(), Some(u16::MAX))
    );
    assert_eq!(stored.uniqkey.as_deref(), Some(name("k", 255).as_str()));
    assert_eq!(stored.coalesce.as_deref(), Some(name("c", 255).as_str()));
    assert_eq!(stored.run_after, limits::RUN_AFTER_MAX);
    let (_, _, state) = client.list(&Query::default()).await.unwrap().remove(0);
    assert_eq!(
        state,
        State::Scheduled,
        "not the mark of those that wait for their turn"
    );
    client.cancel(&handle).await.unwrap();
    let plain = || Job::new("Largest", "");
    for refused in [
        Job::new(name("é", 256), ""),
        Job::new("", ""),
        Job::new("a\0b", ""),
        plain().uniqkey(name("k", 256)),
        plain().coalesce(name("c", 256)),
        plain().run_after(limits::RUN_AFTER_MAX + 1),
        plain().run_after(u64::MAX),
        plain().delay(u64::MAX),
    ] {
        let answer = client.insert(refused).await;
        assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
    }
    let handle = new(client.insert(plain()).await.unwrap());
    let over = Finish::Fail {
        message: name("☺", 70_000),
        status: u16::MAX,
        retry: RetryPolicy::never(),
        keep: 1000,
    };
    one(client, "Largest").await.finish(over).await.unwrap();
    let status = client.status(&handle).await.unwrap();
    assert_eq!(status.exit_status, Some(u16::MAX));
    assert_eq!(status.failures[0].message.chars().count(), 65_536);
}

#[tokio::test]
async fn the_largest_names_and_numbers_fit_a_file() {
    let dir = tempfile::tempdir().unwrap();
    largest(&crate::file_client(&dir).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_names_and_numbers_fit_mariadb() {
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let client = crate::init_client(&database.url()).await;
    largest(&client).await;
    client.close().await.unwrap();
}

#[tokio::test]
async fn handles_of_other_databases_and_of_no_job_are_told_apart() {
    let client = ibex_schwartz::testing::client().await.unwrap();
    let handle = new(client.insert(Job::new("F", "")).await.unwrap());
    let hash = handle.database();
    let foreign: Handle = format!("{}-1", "0".repeat(32)).parse().unwrap();
    for far in ["2", "9223372036854775807"] {
        let gone: Handle = format!("{hash}-{far}").parse().unwrap();
        let status = client.status(&gone).await.unwrap();
        assert!(status.pending.is_none() && status.exit_status.is_none());
        assert!(matches!(
            client.cancel(&gone).await,
            Err(Error::NotFound(_))
        ));
        assert!(client.grab_handle(&gone, 60).await.unwrap().is_none());
    }
    assert!(matches!(
        client.status(&foreign).await,
        Err(Error::ForeignHandle(_))
    ));
    assert!(matches!(
        client.retry(&foreign).await,
        Err(Error::ForeignHandle(_))
    ));
    for odd in [
        "01",
        "0",
        "-1",
        "+1",
        " 1",
        "1 ",
        "9223372036854775808",
        "18446744073709551616",
        "1e3",
        "",
    ] {
        assert!(
            format!("{hash}-{odd}").parse::<Handle>().is_err(),
            "{odd:?}"
        );
    }
}

#[tokio::test]
async fn jobs_of_functions_without_a_name_are_skipped_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    let nameless = new(client.insert(Job::new("Nameless", "x")).await.unwrap());
    new(client.insert(Job::new("Named", "x")).await.unwrap());
    raw(&client, "DELETE FROM funcmap WHERE funcname = 'Nameless'").await;
    // Another program: this one still knows the name.
    let other = Client::open([crate::file_url(&dir, "jobs.db")])
        .await
        .unwrap();
    assert_eq!(grab(&other, "Named", 9).await.len(), 1);
    assert!(grab(&other, "Nameless", 9).await.is_empty());
    let listed = other.list(&Query::default()).await.unwrap();
    assert_eq!(listed.len(), 1, "what has no name is no job to list");
    let suspects = other.suspects(30 * 86_400).await.unwrap();
    assert_eq!((suspects.len(), &suspects[0].handle), (1, &nameless));
    assert_eq!(suspects[0].funcname, None);
    assert_eq!(other.counts().await.unwrap().len(), 1);
    other.cancel(&nameless).await.unwrap();
}

#[tokio::test]
async fn an_argument_that_is_null_is_empty() {
    let client = ibex_schwartz::testing::client().await.unwrap();
    let handle = new(client
        .insert(Job::new("Null", "x").coalesce("c"))
        .await
        .unwrap());
    raw(
        &client,
        "UPDATE job SET arg = NULL, insert_time = NULL, priority = NULL",
    )
    .await;
    let listed = client.list(&Query::default()).await.unwrap();
    assert_eq!((listed[0].1.arg.len(), listed[0].1.arg_bytes), (0, 0));
    assert!(!listed[0].1.is_cut);
    let page = Query {
        arg_bytes: Some(10),
        ..Query::default()
    };
    assert!(client.list(&page).await.unwrap()[0].1.arg.is_empty());
    let taken = one(&client, "Null").await;
    assert!(taken.job.arg.is_empty() && taken.job.insert_time.is_none());
    // Such a job fails, is kept, and comes back.
    let over = Finish::Fail {
        message: "over".to_owned(),
        status: 1,
        retry: RetryPolicy::never(),
        keep: 0,
    };
    taken.finish(over).await.unwrap();
    client.retry(&handle).await.unwrap();
    one(&client, "Null").await.finish(done()).await.unwrap();
}

#[tokio::test]
async fn a_lease_far_in_the_future_is_respected_shown_and_can_be_given_back() {
    let client = ibex_schwartz::testing::client().await.unwrap();
    let handle = new(client.insert(Job::new("Far", "")).await.unwrap());
    let far = ibex_schwartz::PARKED - 1;
    raw(&client, &format!("UPDATE job SET grabbed_until = {far}")).await;
    assert!(grab(&client, "Far", 9).await.is_empty());
    assert!(matches!(
        client.cancel(&handle).await,
        Err(Error::Grabbed(_))
    ));
    let status = client.status(&handle).await.unwrap();
    assert_eq!(status.pending.map(|(_, state)| state), Some(State::Grabbed));
    let suspects = client.suspects(30 * 86_400).await.unwrap();
    assert_eq!(
        (&suspects[0].handle, suspects[0].grabbed_until),
        (&handle, far)
    );
    client.databases()[0]
        .release_job(handle.jobid(), far)
        .await
        .unwrap();
    one(&client, "Far").await.finish(done()).await.unwrap();
    // Ours are a year long at most, whatever is asked for.
    new(client.insert(Job::new("Far", "")).await.unwrap());
    let want = Grab {
        grab_for: u64::MAX,
        ..Grab::new(vec!["Far".to_owned()])
    };
    let taken = client.grab(&want).await.unwrap();
    let year = client.time().await.unwrap() + 365 * 86_400;
    assert_eq!(taken[0].lease, year);
}

/// SQLite keeps whatever is put into an integer column: such rows are nobody's, and in nobody's way.
#[tokio::test]
async fn texts_and_negative_numbers_in_integer_columns_stand_in_nobodys_way() {
    let client = ibex_schwartz::testing::client().await.unwrap();
    let good = new(client.insert(Job::new("Odd", "good")).await.unwrap());
    let later = new(client
        .insert(Job::new("Odd", "later").delay(50))
        .await
        .unwrap());
    let columns = ["insert_time", "run_after", "grabbed_until", "priority"];
    let mut odd = 0;
    for column in columns {
        for value in [
            "'soon'",
            "-5",
            "1.5",
            "x'ff'",
            "9223372036854775807",
            "''",
            "99999",
        ] {
            odd += 1;
            let others = columns
                .map(|other| if other == column { value } else { "0" })
                .join(", ");
            let insert = format!(
                "INSERT INTO job (funcid, arg, coalesce, insert_time, run_after, grabbed_until, priority) VALUES (1, 'odd', 'o{odd}', {others})"
            );
            raw(&client, &insert).await;
        }
    }
    raw(
        &client,
        "INSERT INTO job (funcid, arg, run_after, grabbed_until) VALUES ('one', 'x', 0, 0)",
    )
    .await;
    for prioritize in [false, true] {
        let want = Grab {
            max: 1000,
            prioritize,
            ..Grab::new(vec!["Odd".to_owned()])
        };
        let taken = client.grab(&want).await.unwrap();
        let ours = taken
            .iter()
            .find(|job| job.handle == good)
            .expect("the good one");
        assert_eq!(ours.job.arg.as_ref(), b"good");
        client.databases()[0]
            .release_job(good.jobid(), ours.lease)
            .await
            .unwrap();
    }
    let listed = client
        .list(&Query {
            limit: 1000,
            ..Query::default()
        })
        .await
        .unwrap();
    assert!(listed.iter().any(|(handle, ..)| *handle == later));
    let counts = client.counts().await.unwrap();
    assert!(
        counts[0].ready >= 1 && counts[0].scheduled >= 1,
        "{counts:?}"
    );
    // Times that are no numbers in our own and the classic side rows, too.
    raw(
        &client,
        "INSERT INTO error (error_time, jobid, message) VALUES ('then', 1, 'odd')",
    )
    .await;
    raw(&client, "INSERT INTO exitstatus (jobid, funcid, status, completion_time, delete_after) VALUES (77, 1, 'bad', 1, 'never')").await;
    let odd: Handle = format!("{}-77", good.database()).parse().unwrap();
    assert_eq!(client.status(&odd).await.unwrap().exit_status, None);
    assert!(client.errors(None, 0, 10).await.unwrap().is_empty());
    assert!(client.failure_log(&good).await.unwrap().is_empty());
    let (_, newer) = client.newer(&client.databases()[0], 0).await.unwrap();
    assert_eq!(newer[0].0, "Odd", "whoever watches for inserts goes on");
    client.advance_clock(Duration::from_secs(60));
    client.clean(&client.databases()[0]).await.unwrap();
    let taken = grab(&client, "Odd", 1000).await;
    assert!(taken.iter().any(|job| job.handle == later));
}

/// Another program that holds a file's write lock until it is told to let go.
struct Locked {
    let_go: tokio::sync::oneshot::Sender<()>,
    holding: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Locked {
    async fn new(url: &str) -> Self {
        let foreign = Config::new(&format!("{url}?stall=120s")).unwrap();
        let foreign = Db::open(&foreign).await.unwrap();
        let (let_go, told) = tokio::sync::oneshot::channel();
        let (begun, is_begun) = tokio::sync::oneshot::channel();
        let channels = std::sync::Mutex::new(Some((begun, told)));
        let holding = tokio::spawn(async move {
            foreign
                .write(move |tx| {
                    let channels = channels.lock().unwrap().take();
                    Box::pin(async move {
                        tx.execute("UPDATE funcmap SET funcname = funcname", params![])
                            .await?;
                        if let Some((begun, told)) = channels {
                            begun.send(()).unwrap();
                            told.await.unwrap();
                        }
                        Ok::<(), Error>(())
                    })
                })
                .await
        });
        is_begun.await.unwrap();
        Self { let_go, holding }
    }

    async fn let_go(self) {
        self.let_go.send(()).unwrap();
        self.holding.await.unwrap().unwrap();
    }
}

async fn count(client: &Client, arg: &str) -> usize {
    let listed = client.list(&Query::default()).await.unwrap();
    listed
        .iter()
        .filter(|(_, job, _)| job.arg.as_ref() == arg.as_bytes())
        .count()
}

/// Inserts and finishes wait for the lock; reads do not. By hand with `IBEX_LOCKED_SECONDS=20`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_locked_by_another_program_is_waited_for() {
    let held = match std::env::var("IBEX_LOCKED_SECONDS") {
        Ok(seconds) => Duration::from_secs(seconds.parse().unwrap()),
        Err(_) => Duration::from_millis(500),
    };
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    let before = new(client.insert(Job::new("Lock", "before")).await.unwrap());
    let mine = one(&client, "Lock").await;
    let locked = Locked::new(&crate::file_url(&dir, "jobs.db")).await;
    let writing = {
        let client = client.clone();
        tokio::spawn(async move {
            tokio::join!(
                client.insert(Job::new("Lock", "during")),
                mine.finish(done())
            )
        })
    };
    let started = Instant::now();
    while started.elapsed() < held {
        assert!(client.status(&before).await.unwrap().pending.is_some());
        assert!(!writing.is_finished());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    locked.let_go().await;
    let (inserted, finished) = writing.await.unwrap();
    new(inserted.unwrap());
    finished.unwrap();
    assert_eq!(
        (
            count(&client, "before").await,
            count(&client, "during").await
        ),
        (0, 1)
    );
}

/// One that stays locked is an error in time; what was refused is not there, what was acknowledged is, and other databases take what comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_stays_locked_is_an_error_in_time_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let patient = crate::file_client(&dir).await;
    let url = crate::file_url(&dir, "jobs.db");
    let hasty = format!("{url}?busy_timeout=100ms&timeout=300ms");
    let client = Client::open([hasty.clone()]).await.unwrap();
    let both = Client::open([hasty, crate::file_url(&dir, "free.db")])
        .await
        .unwrap();
    new(patient.insert(Job::new("Lock", "before")).await.unwrap());
    let mine = one(&patient, "Lock").await;
    let locked = Locked::new(&url).await;
    let inserted = client.insert(Job::new("Lock", "refused")).await;
    assert!(
        matches!(&inserted, Err(Error::NoDatabase(_))),
        "{inserted:?}"
    );
    assert!(inserted.is_err_and(|error| error.is_retryable()));
    for _ in 0..5 {
        new(both.insert(Job::new("Lock", "elsewhere")).await.unwrap());
    }
    locked.let_go().await;
    mine.finish(done()).await.unwrap();
    assert_eq!(
        count(&patient, "refused").await + count(&patient, "elsewhere").await,
        0
    );
    assert_eq!(count(&both, "elsewhere").await, 5);
    new(patient.insert(Job::new("Lock", "after")).await.unwrap());
}

/// A clock that jumps an hour ahead ends leases early: whoever has the job then has it, and the earlier worker changes nothing.
#[tokio::test]
async fn a_clock_that_jumps_ahead_gives_a_job_to_another_and_to_one_only() {
    let client = ibex_schwartz::testing::client().await.unwrap();
    new(client.insert(Job::new("Clock", "")).await.unwrap());
    let scheduled = client.insert(Job::new("Clock", "later").delay(1800)).await;
    let later = new(scheduled.unwrap());
    let want = Grab {
        grab_for: 600,
        ..Grab::new(vec!["Clock".to_owned()])
    };
    let first = client.grab(&want).await.unwrap().pop().unwrap();
    client.advance_clock(Duration::from_secs(3600));
    let second = grab(&client, "Clock", 9).await;
    assert_eq!(second.len(), 2, "what was due in between is due");
    assert!(second.iter().any(|job| job.handle == later));
    for late in [done(), Finish::Extend(60), Finish::Decline(Some(When::Now))] {
        assert!(matches!(first.finish(late).await, Err(Error::LeaseLost(_))));
    }
    for job in &second {
        job.finish(done()).await.unwrap();
    }
}

/// A clock that is set back an hour stands still for this process, so no lease is longer than it was and nothing is lost; a program that starts
/// then is behind until the hour is over, and takes nothing that is leased.
#[tokio::test]
async fn a_clock_that_is_set_back_prolongs_leases_and_breaks_none() {
    let dir = tempfile::tempdir().unwrap();
    let ahead = crate::file_client(&dir).await;
    let behind = Client::open([crate::file_url(&dir, "jobs.db")])
        .await
        .unwrap();
    let now = ibex_schwartz::testing::START;
    ahead.hold_clock(now + 3600);
    behind.hold_clock(now);
    new(ahead.insert(Job::new("Back", "1")).await.unwrap());
    new(ahead.insert(Job::new("Back", "2")).await.unwrap());
    let taken = one(&ahead, "Back").await;
    assert!(
        grab(&behind, "Back", 9).await.is_empty(),
        "not due there yet"
    );
    // A lease the slower clock gives for a minute has ended for the faster one: it may take the job, and the slower one notices.
    let Inserted::New(_) = behind.insert(Job::new("Slow", "")).await.unwrap() else {
        panic!("new")
    };
    let short = Grab {
        grab_for: 60,
        ..Grab::new(vec!["Slow".to_owned()])
    };
    let slow = behind.grab(&short).await.unwrap().pop().unwrap();
    let fast = one(&ahead, "Slow").await;
    assert!(matches!(
        slow.finish(done()).await,
        Err(Error::LeaseLost(_))
    ));
    fast.finish(done()).await.unwrap();
    behind.advance_clock(Duration::from_secs(3600));
    let second = one(&behind, "Back").await;
    assert_ne!(second.handle, taken.handle);
    second.finish(done()).await.unwrap();
    taken.finish(done()).await.unwrap();
}

/// A grab of many takes what fits into memory; the rest stays ready, and nobody's run was counted.
#[tokio::test]
async fn arguments_of_megabytes_are_taken_a_few_at_a_time() {
    let client = ibex_schwartz::testing::client().await.unwrap();
    let big = |n: u8| Job::new("Big", vec![n; 3 << 20]);
    client.insert_all((0..14).map(big).collect()).await.unwrap();
    let small = (0..300_u32)
        .map(|n| Job::new("Big", n.to_string()))
        .collect();
    client.insert_all(small).await.unwrap();
    let mut sizes = Vec::new();
    let mut order = Vec::new();
    loop {
        let taken = grab(&client, "Big", 1000).await;
        if taken.is_empty() {
            break;
        }
        let bytes: usize = taken.iter().map(|job| job.job.arg.len()).sum();
        assert!(bytes <= 20 << 20, "{bytes}");
        sizes.push(taken.len());
        for job in taken {
            assert_eq!(job.attempt, 1);
            order.push(job.job.jobid);
            job.finish(done()).await.unwrap();
        }
    }
    assert_eq!(order.len(), 314);
    assert!(order.is_sorted(), "none overtook another");
    assert!(sizes.len() >= 3 && sizes[0] <= 7, "{sizes:?}");
    // One that is larger than all together may be is taken alone.
    let huge = vec![0; limits::ARG_BYTES_MAX];
    new(client.insert(Job::new("Big", huge.clone())).await.unwrap());
    new(client.insert(Job::new("Big", "after")).await.unwrap());
    let taken = grab(&client, "Big", 1000).await;
    assert_eq!(taken[0].job.arg.len(), huge.len());
}

/// A database whose tables an earlier version made is given what they lack, with its jobs; two programs may come at once.
async fn widened(url: &str) {
    let old = crate::init_client(url).await;
    let limited = Job::new("Old", "1").concurrency(ibex_schwartz::Concurrency::new("k", 1));
    let handle = new(old.insert(limited).await.unwrap());
    let database = &old.databases()[0];
    let settings = ibex_schwartz::FuncSettings {
        max_attempts: Some(7),
        ..Default::default()
    };
    database.set_func("Old", &settings).await.unwrap();
    if database.is_file() {
        raw(&old, "DROP INDEX sz_jobx_deadline").await;
    }
    let columns = [
        "backoff",
        "timeout_s",
        "keep_exit",
        "deadline",
        "fence",
        "stop",
        "tenant",
        "cost",
    ];
    for column in columns {
        raw(&old, &format!("ALTER TABLE sz_jobx DROP COLUMN {column}")).await;
    }
    for column in &columns[..3] {
        raw(
            &old,
            &format!("ALTER TABLE sz_funcset DROP COLUMN {column}"),
        )
        .await;
    }
    raw(&old, "DROP TABLE sz_tag").await;
    raw(&old, "DROP TABLE sz_tenant").await;
    let (first, second) = tokio::join!(Client::open([url]), Client::open([url]));
    let (first, second) = (first.unwrap(), second.unwrap());
    let kept = first.databases()[0].func_settings("Old").await.unwrap();
    assert_eq!(kept, settings);
    let asks = Job::new("Asks", "x").timeout(9).tag("t").tenant("a");
    let asked = new(second.insert(asks).await.unwrap());
    let wide = first.status(&asked).await.unwrap().wide.unwrap();
    assert_eq!((wide.timeout_s, wide.tags), (Some(9), vec!["t".to_owned()]));
    let taken = one(&first, "Old").await;
    assert_eq!((&taken.handle, taken.max_attempts), (&handle, Some(7)));
    taken.finish(done()).await.unwrap();
    one(&second, "Asks").await.finish(done()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_an_earlier_version_are_widened_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    widened(&crate::file_url(&dir, "old.db")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_an_earlier_version_are_widened_on_mariadb() {
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    widened(&database.url()).await;
}
