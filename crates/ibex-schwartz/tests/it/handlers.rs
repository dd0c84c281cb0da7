//! Handlers as types, what they get, and jobs ended inside a transaction of their own: on both engines.

use ibex_schwartz::{
    Client, Error, Handler, Job, JobContext, JobCtx, Outcome, Query, Schwartz, When, Worker,
};
use ibex_sql::{Config, Db, params};
use serde::Deserialize;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Deserialize)]
struct Mail {
    to: String,
    #[serde(default)]
    how: String,
}

/// Ends as its argument says.
#[derive(Default)]
struct SendMail;

impl Handler for SendMail {
    const FUNC: &'static str = "SendMail";
    type Arg = Mail;

    fn grab_for(&self) -> u64 {
        60
    }

    fn max_retries(&self) -> u32 {
        2
    }

    fn retry_delay(&self, failures: u32) -> u64 {
        1000 * u64::from(failures)
    }

    fn keep_exit_status_for(&self) -> u64 {
        500
    }

    async fn work(&self, job: &mut JobCtx<Mail>) -> Outcome {
        assert!(job.arg().to.contains('@'), "no address");
        job.arg_mut().to.push('!');
        match job.arg().how.as_str() {
            "fail" => Outcome::fail("no route"),
            "permanent" => Outcome::permanent("no such user"),
            "decline" => Outcome::Decline(Some(When::In(5000))),
            "replace" => Outcome::Replace(vec![Job::new("Other", "")]),
            "with" => Outcome::CompleteWith(job.arg().to.clone().into()),
            _ => Outcome::Complete,
        }
    }
}

struct Words(Arc<Mutex<Vec<String>>>);

impl Handler for Words {
    const FUNC: &'static str = "Words";
    type Arg = Option<String>;

    async fn work(&self, job: &mut JobCtx<Option<String>>) -> Outcome {
        let word = job.arg().clone().unwrap_or_else(|| "nothing".to_owned());
        self.0.lock().unwrap().push(word);
        Outcome::Complete
    }
}

#[tokio::test]
async fn a_typed_handler_reads_its_argument_and_ends_in_every_way() {
    let client: Schwartz = Schwartz::builder()
        .db("sqlite::memory:")
        .build()
        .await
        .unwrap();
    let worker = Worker::new(&client).register::<SendMail>();
    let run = async |job: Job| {
        let handle = client.insert(job).await.unwrap().handle().cloned().unwrap();
        assert!(worker.grab_and_work_on(&handle).await.unwrap());
        client.status(&handle).await.unwrap()
    };
    let mail = |how: &str| {
        let arg = json!({ "to": "fred@example.org", "how": how });
        Job::new("SendMail", arg.to_string())
    };
    let frozen = Job::with_storable("SendMail", &json!({ "to": "perl@example.org" })).unwrap();
    assert_eq!(run(mail("")).await.exit_status, Some(0));
    assert_eq!(run(frozen).await.exit_status, Some(0));
    let with = run(mail("with")).await;
    assert_eq!(
        with.result.as_deref(),
        Some(b"fred@example.org!".as_slice())
    );
    assert_eq!(run(mail("replace")).await.exit_status, Some(0));
    let now = client.time().await.unwrap();
    let after = |status: &ibex_schwartz::Status| {
        let (job, _) = status.pending.as_ref().unwrap();
        (job.run_after - now) / 1000
    };
    let failed = run(mail("fail")).await;
    assert_eq!(
        (after(&failed), &*failed.failures[0].message),
        (1, "no route")
    );
    assert_eq!(after(&run(mail("decline")).await), 5);
    assert_eq!(run(mail("permanent")).await.exit_status, Some(1));
    // A panic is a failure, and is retried; an argument that is none is not.
    let panicked = run(Job::new("SendMail", r#"{"to":"nobody"}"#)).await;
    assert_eq!(
        (after(&panicked), &*panicked.failures[0].message),
        (1, "no address")
    );
    for arg in ["", "fred", "[1]", "{\"to\":1}", "\u{5}\u{b}\u{3}"] {
        let unread = run(Job::new("SendMail", arg.to_owned())).await;
        assert_eq!(unread.exit_status, Some(1), "{arg:?}");
        let message = &unread.failures[0].message;
        assert!(
            message.starts_with("argument cannot be read: "),
            "{message}"
        );
    }
}

#[tokio::test]
async fn plain_text_and_nothing_are_arguments_too() {
    let client = ibex_schwartz::testing::client().await.unwrap();
    let words = Arc::default();
    let worker = Worker::new(&client).register_with(Words(Arc::clone(&words)));
    for arg in ["plain text", "\"quoted\"", "", "null", "17"] {
        client.insert(Job::new("Words", arg)).await.unwrap();
    }
    assert_eq!(worker.work_until_done().await.unwrap(), 5);
    let mut words = words.lock().unwrap().clone();
    words.sort_unstable();
    assert_eq!(words, ["17", "nothing", "nothing", "plain text", "quoted"]);
}

/// A run says how far it is, hears that it shall stop, and is found so by others.
#[tokio::test]
async fn a_run_tells_how_far_it_is_and_hears_that_it_shall_stop() {
    let client = ibex_schwartz::testing::client().await.unwrap();
    let (started, go_on) = (CancellationToken::new(), CancellationToken::new());
    let gates = (started.clone(), go_on.clone());
    let worker = Worker::new(&client).register_fn("Long", move |job: JobContext| {
        let (started, go_on) = gates.clone();
        async move {
            job.progress(&json!({ "percent": 40 })).await.unwrap();
            assert!(!job.cancelled().is_cancelled());
            started.cancel();
            go_on.cancelled().await;
            job.heartbeat().await.unwrap();
            assert!(job.cancelled().is_cancelled() && !job.lost().is_cancelled());
            job.heartbeat().await.unwrap();
            Outcome::permanent("asked to stop")
        }
    });
    let inserted = client.insert(Job::new("Long", "")).await.unwrap();
    let handle = inserted.handle().cloned().unwrap();
    let working = tokio::spawn(async move { worker.work_once().await });
    started.cancelled().await;
    let notes = client.status(&handle).await.unwrap().notes;
    assert_eq!(
        notes.progress.as_deref(),
        Some(br#"{"percent":40}"#.as_slice())
    );
    assert!(client.stop_run(&handle).await.unwrap());
    go_on.cancel();
    assert!(working.await.unwrap().unwrap());
    assert_eq!(
        client.failure_log(&handle).await.unwrap(),
        ["asked to stop"]
    );
}

/// The job's own time bounds a run whose function has more.
#[tokio::test]
async fn a_job_says_how_long_a_run_may_take() {
    let client = ibex_schwartz::testing::client().await.unwrap();
    let worker = Worker::new(&client).register_fn("Endless", |_| async {
        std::future::pending::<()>().await;
        Outcome::Complete
    });
    let inserted = client.insert(Job::new("Endless", "").timeout(1)).await;
    let handle = inserted.unwrap().handle().cloned().unwrap();
    assert!(worker.work_once().await.unwrap());
    assert_eq!(client.failure_log(&handle).await.unwrap(), ["timeout"]);
}

/// What a job does in a database and its end are one: on both engines.
async fn exactly_once(client: &Client) {
    let database = &client.databases()[0];
    let db = database.db().await.unwrap();
    db.execute("CREATE TABLE effects (n INTEGER)", params![])
        .await
        .unwrap();
    let effects = async || {
        let rows = db
            .query("SELECT n FROM effects ORDER BY n", params![])
            .await;
        let rows = rows.unwrap();
        rows.iter()
            .map(|row| row.get(0).unwrap())
            .collect::<Vec<i64>>()
    };
    let worker = Worker::new(client).register_fn("Effect", effect);
    let run = async |how: &str| {
        let job = Job::new("Effect", how.to_owned()).keep_exit_status_for(500);
        let inserted = client.insert(job).await.unwrap();
        let handle = inserted.handle().cloned().unwrap();
        assert!(worker.work_once().await.unwrap(), "{how}");
        client.status(&handle).await.unwrap()
    };
    assert_eq!(run("1 commit").await.exit_status, Some(0));
    assert_eq!(effects().await, [1]);
    let rolled_back = run("2 roll back").await;
    assert_eq!(effects().await, [1]);
    assert_eq!(rolled_back.failures[0].message, "changed my mind");
    let forgotten = run("3 forget").await;
    assert_eq!(effects().await, [1]);
    assert_eq!(
        forgotten.failures[0].message,
        "completed in a transaction that was not committed"
    );
    let late = run("4 fail after").await;
    assert_eq!(effects().await, [1, 4], "what is committed is done");
    assert_eq!((late.exit_status, late.failures.len()), (Some(0), 0));
    let raw = run("5 raw").await;
    assert_eq!(effects().await, [1, 4, 5]);
    assert!(raw.pending.is_none() && raw.failures.is_empty());
    let left = client.list(&Query::default()).await.unwrap();
    assert!(left.is_empty(), "failures of this function are final");
    // Another worker has the job: the transaction is refused.
    client.insert(Job::new("Effect", "6 lost")).await.unwrap();
    assert!(worker.work_once().await.unwrap());
    assert_eq!(effects().await, [1, 4, 5]);
}

async fn effect(job: JobContext) -> Outcome {
    let text = String::from_utf8(job.arg().to_vec()).unwrap();
    let (number, how) = text.split_once(' ').unwrap();
    let number: i64 = number.parse().unwrap();
    let database = job.database().unwrap().clone();
    let db = database.db().await.unwrap();
    if how == "raw" {
        return raw(&job, db.config(), number).await;
    }
    if how == "lost" {
        database
            .release_job(job.handle().jobid(), lease(&job).await)
            .await
            .unwrap();
    }
    let fails = matches!(how, "roll back" | "forget");
    let ours = job.clone();
    let written = db
        .write(move |tx| {
            let job = ours.clone();
            Box::pin(async move {
                tx.execute("INSERT INTO effects (n) VALUES (?)", params![number])
                    .await?;
                job.complete_tx(tx).await?;
                if fails {
                    return Err(Error::Invalid("changed my mind".to_owned()));
                }
                Ok(())
            })
        })
        .await;
    match (written, how) {
        (_, "forget" | "commit") => Outcome::Complete,
        (Ok(()), _) => Outcome::fail("after the commit"),
        (Err(Error::LeaseLost(_)), "lost") => Outcome::Complete,
        (Err(error), _) => Outcome::fail(error.to_string()),
    }
}

async fn lease(job: &JobContext) -> u64 {
    let client = Client::builder()
        .shared(job.database().unwrap().db().await.unwrap().clone())
        .build()
        .await
        .unwrap();
    let found = client.lookup(job.handle()).await.unwrap().unwrap();
    found.grabbed_until
}

/// Through a connection of its own, as another driver would.
async fn raw(job: &JobContext, config: &Config, number: i64) -> Outcome {
    let db = Db::open(config).await.unwrap();
    let statements = job.complete_sql().unwrap();
    db.write(move |tx| {
        let statements = statements.clone();
        Box::pin(async move {
            tx.execute("INSERT INTO effects (n) VALUES (?)", params![number])
                .await?;
            let mut statements = statements.iter();
            let first = tx.execute(statements.next().unwrap(), params![]).await?;
            if first.rows_affected != 1 {
                return Err(Error::LeaseLost(0));
            }
            for statement in statements {
                tx.execute(statement, params![]).await?;
            }
            Ok(())
        })
    })
    .await
    .unwrap();
    Outcome::Complete
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_and_the_end_of_its_job_are_one_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    exactly_once(&client).await;
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_and_the_end_of_its_job_are_one_on_mariadb() {
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let client = crate::init_client(&database.url()).await;
    exactly_once(&client).await;
    client.close().await.unwrap();
}

/// A worker of a daemon that is not there goes on trying, and stops when it is told to.
#[tokio::test]
async fn a_daemon_that_is_away_is_an_error_and_no_end() {
    let remote = ibex_schwartz::Remote::new(&format!("http://{}", ibex_testkit::ports::free()));
    let remote = remote.unwrap();
    let worker = Worker::new(&remote)
        .poll(Duration::from_millis(10))
        .register::<SendMail>();
    let refused = worker.work_once().await.unwrap_err();
    assert!(
        matches!(&refused, Error::Daemon { code, .. } if code == "unanswered"),
        "{refused:?}"
    );
    assert!(refused.is_retryable() && remote.insert(&Job::new("", "")).await.is_err());
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let running = tokio::spawn(async move { worker.run(stop).await });
    shutdown.cancel();
    running.await.unwrap();
}
