//! Outboxes, what jobs carry, the past of jobs brought back: on both engines, called by the suite; hooks and the helpers for tests, in memory.

use crate::suite::{grab, new, one};
use ibex_schwartz::{
    Client, Concurrency, Error, Finish, Hooks, Job, JobContext, Outbox, Outcome, Rate, Relayed,
    RetryPolicy, Worker, testing,
};
use ibex_sql::params;
use std::sync::{Arc, Mutex};

pub(crate) async fn suite(client: &Client) {
    relays(client).await;
    notes(client).await;
    bygones(client).await;
}

fn done() -> Finish {
    Finish::Complete { status: 0, keep: 0 }
}

/// Rows of an application's table become jobs, each once, however often and by however many they are moved.
async fn relays(client: &Client) {
    // Another database of an application; here it shares the connection, which changes nothing of the order of commits.
    let db = client.databases()[0].db().await.unwrap().clone();
    let outbox = Outbox::new(db.clone(), "app_outbox", "app").unwrap();
    outbox.create().await.unwrap();
    outbox.create().await.unwrap();
    let put = async |func: &str, key: Option<&str>| {
        db.execute(
            "INSERT INTO app_outbox (func, arg, uniqkey, priority) VALUES (?, ?, ?, ?)",
            params![func, "a", key, 7],
        )
        .await
        .unwrap()
        .last_insert_id
    };
    for _ in 0..700 {
        put("Relayed", None).await;
    }
    put("Relayed", Some("k")).await;
    put("Relayed", Some("k")).await;
    put("", None).await;
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let (client, outbox) = (client.clone(), outbox.clone());
        tasks.push(tokio::spawn(
            async move { client.relay(&outbox).await.unwrap() },
        ));
    }
    let mut jobs = 0;
    for task in tasks {
        jobs += task.await.unwrap().jobs;
    }
    assert_eq!(jobs, 701);
    let taken = grab(client, "Relayed", 1000).await;
    assert_eq!((taken.len(), taken[0].job.priority), (701, Some(7)));
    // A relay that died before it deleted the rows: they come again, and are no jobs again.
    let id = put("Relayed", None).await;
    assert_eq!(client.relay(&outbox).await.unwrap().jobs, 1);
    db.execute(
        "INSERT INTO app_outbox (id, func, arg) VALUES (?, 'Relayed', 'again')",
        params![id],
    )
    .await
    .unwrap();
    let again = client.relay(&outbox).await.unwrap();
    let expected = Relayed {
        jobs: 0,
        duplicates: 1,
        refused: 1,
    };
    assert_eq!(again, expected);
    assert_eq!(grab(client, "Relayed", 9).await.len(), 1);
    let left = db
        .query("SELECT id FROM app_outbox", params![])
        .await
        .unwrap();
    assert_eq!(left.len(), 1, "what is no job stays");
    assert!(Outbox::new(db.clone(), "a;b", "app").is_err());
    assert!(Outbox::new(db.clone(), "a", "").is_err());
}

async fn notes(client: &Client) {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let job = Job::new("Carries", "x")
        .meta(r#"{"tenant":7}"#)
        .trace(trace);
    new(client.insert(job.clone()).await.unwrap());
    new(client.insert(Job::new("Carries", "plain")).await.unwrap());
    let hands = grab(client, "Carries", 9).await;
    assert_eq!(
        hands[0].meta.as_deref(),
        Some(br#"{"tenant":7}"#.as_slice())
    );
    assert_eq!(hands[0].trace.as_deref(), Some(trace));
    assert_eq!((&hands[1].meta, &hands[1].trace), (&None, &None));
    for job in &hands {
        job.finish(done()).await.unwrap();
    }
    assert!(client.insert(job.meta(vec![0; 65_537])).await.is_err());
}

/// A job that is brought back has its failures behind it: they are shown, and do not count.
async fn bygones(client: &Client) {
    let handle = new(client.insert(Job::new("Bygone", "x")).await.unwrap());
    let fail = |message: &str| Finish::Fail {
        message: message.to_owned(),
        status: 1,
        retry: RetryPolicy::fixed(1, 0),
        keep: 0,
    };
    let long = "long ".repeat(100);
    for round in 0..2 {
        for (attempt, message) in [(1, "first"), (2, long.as_str())] {
            let job = one(client, "Bygone").await;
            assert_eq!(job.attempt, attempt, "round {round}");
            job.finish(fail(message)).await.unwrap();
        }
        client.retry(&handle).await.unwrap();
    }
    let status = client.status(&handle).await.unwrap();
    assert!(status.failures.is_empty());
    let past: Vec<&str> = status.past.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(past, ["first", &long, "first", &long]);
    assert!(status.past[0].0 > 1_600_000_000);
    one(client, "Bygone").await.finish(done()).await.unwrap();
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

impl Hooks for Seen {
    fn before_insert(&self, job: &mut Job) -> Result<(), Error> {
        if job.funcname() == "Forbidden" {
            return Err(Error::Invalid("not by us".to_owned()));
        }
        self.note(format!("insert {}", job.funcname()));
        *job = job.clone().trace("00-1-2-01");
        Ok(())
    }

    fn before_work(&self, job: &JobContext) {
        self.note(format!("work {} {:?}", job.attempt(), job.trace()));
    }

    fn after_work(&self, job: &JobContext, outcome: &Outcome) {
        let is_done = matches!(outcome, Outcome::Complete);
        self.note(format!("worked {} {is_done}", job.attempt()));
    }

    fn on_dead(&self, _: &JobContext, message: &str) {
        self.note(format!("dead {message}"));
    }
}

#[tokio::test]
async fn hooks_see_and_change_what_passes() {
    let seen = Seen::default();
    let client = Client::builder()
        .db("sqlite::memory:")
        .hook(seen.clone())
        .build()
        .await
        .unwrap();
    let refused = client
        .insert_each(vec![Job::new("Hooked", ""), Job::new("Forbidden", "")])
        .await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    client.insert(Job::new("Hooked", "")).await.unwrap();
    let worker = Worker::new(&client).function("Hooked", |_| async { Err::<(), _>("bad luck") });
    assert_eq!(worker.work_until_done().await.unwrap(), 1);
    assert_eq!(
        *seen.0.lock().unwrap(),
        [
            "insert Hooked",
            "insert Hooked",
            "work 1 Some(\"00-1-2-01\")",
            "worked 1 false",
            "dead bad luck"
        ]
    );
}

#[tokio::test]
async fn a_drain_works_everything_however_late_it_is_due() {
    let client = testing::client().await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let worker = Worker::new(&client)
        .function("Step", move |job: JobContext| {
            let seen = Arc::clone(&seen);
            async move {
                let name = String::from_utf8(job.arg().to_vec()).unwrap();
                seen.lock().unwrap().push(name);
                Outcome::Complete
            }
        })
        .function("Paced", |_| async { Outcome::Complete });
    let job = |arg: &'static str| Job::new("Step", arg).concurrency(Concurrency::new("one", 1));
    client.insert(job("late").delay(86_400)).await.unwrap();
    client.insert(job("now")).await.unwrap();
    client.insert(job("soon").delay(60)).await.unwrap();
    for _ in 0..4 {
        let paced = Job::new("Paced", "").rate(Rate {
            key: "slow".to_owned(),
            jobs: 1,
            per: 100,
        });
        client.insert(paced).await.unwrap();
    }
    client.insert(Job::new("Nobody", "")).await.unwrap();
    testing::assert_enqueued(&client, "Step", |job| &job.arg[..] == b"soon")
        .await
        .unwrap();
    assert_eq!(testing::drain(&client, &worker).await.unwrap(), 7);
    assert_eq!(*order.lock().unwrap(), ["now", "soon", "late"]);
    assert!(client.time().await.unwrap() >= testing::START + 86_400);
    assert_eq!(testing::enqueued(&client, "Nobody").await.unwrap().len(), 1);
    let status = testing::inline(&client, &worker, Job::new("Paced", "x"))
        .await
        .unwrap();
    assert!(status.pending.is_none());
}

#[tokio::test]
#[should_panic(expected = "no such job of Mail")]
async fn what_is_not_enqueued_is_missed() {
    let client = testing::client().await.unwrap();
    client.insert(Job::new("Mail", "to=fred")).await.unwrap();
    let found = testing::assert_enqueued(&client, "Mail", |job| job.arg.is_empty()).await;
    drop(found);
}

/// A window counts in all databases, as a key does.
#[tokio::test]
async fn a_window_counts_in_all_databases() {
    use ibex_schwartz::{Inserted, Unique, UniqueBy};
    let dir = tempfile::tempdir().unwrap();
    let client = Client::open([
        crate::file_url(&dir, "a.db"),
        crate::file_url(&dir, "b.db"),
        crate::file_url(&dir, "c.db"),
    ])
    .await
    .unwrap();
    let mut used = std::collections::BTreeSet::new();
    for n in 0..20 {
        let job = || Job::new("Window", n.to_string()).unique(Unique::window(UniqueBy::Arg, 1000));
        let Inserted::New(handle) = client.insert(job()).await.unwrap() else {
            panic!("new")
        };
        used.insert(handle.database().to_owned());
        let all = client.insert_each(vec![job(), job()]).await.unwrap();
        assert_eq!(
            all,
            [
                Inserted::Duplicate(Some(handle.clone())),
                Inserted::Duplicate(Some(handle.clone()))
            ]
        );
        client.cancel(&handle).await.unwrap();
        assert!(!client.insert(job()).await.unwrap().is_duplicate());
    }
    assert_eq!(used.len(), 3, "they are spread");
}
