//! Encrypted arguments: what lies in the rows, who reads it, and everything else that looks at arguments. On both engines.

use crate::suite::{grab, new, one};
use ibex_schwartz::{
    Batch, Change, Client, Finish, Handler, Job, JobCtx, Keys, Merge, Outcome, Query, RetryPolicy,
    Unique, UniqueBy, Worker,
};
use ibex_sql::params;
use serde_json::json;

const OLD: &str = "2025 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
const NEW: &str = "2026 HxwdHhsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=\n";

fn keys(text: &str) -> Keys {
    Keys::parse(text).unwrap()
}

async fn open(url: &str, keys: Option<Keys>) -> Client {
    let builder = Client::builder().db(url).auto_init(true);
    let builder = match keys {
        Some(keys) => builder.keys(keys),
        None => builder,
    };
    builder.build().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_are_sealed_in_the_rows_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    suite(&crate::file_url(&dir, "sealed.db")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_are_sealed_in_the_rows_of_mariadb() {
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    suite(&database.url()).await;
}

async fn suite(url: &str) {
    let ours = open(url, Some(keys(OLD))).await;
    let blind = open(url, None).await;
    rows(&ours, &blind).await;
    handlers(&ours, &blind).await;
    everything_that_looks(&ours).await;
    rotation(url, &ours).await;
    nothing_plain_is_left(&ours).await;
    ours.close().await.unwrap();
    blind.close().await.unwrap();
}

fn done() -> Finish {
    Finish::Complete { status: 0, keep: 0 }
}

/// Those with the key see the argument, those without see that there is one.
async fn rows(ours: &Client, blind: &Client) {
    let handle = new(ours.insert(Job::new("Sealed", "secret 1")).await.unwrap());
    new(blind.insert(Job::new("Sealed", "open 2")).await.unwrap());
    new(ours.insert(Job::new("Sealed", "")).await.unwrap());
    let seen = blind.lookup(&handle).await.unwrap().unwrap();
    assert!(seen.is_encrypted && seen.arg.is_empty() && seen.arg_bytes > 8);
    let hands = grab(ours, "Sealed", 9).await;
    let args: Vec<&[u8]> = hands.iter().map(|job| job.job.arg.as_ref()).collect();
    assert_eq!(args, [&b"secret 1"[..], b"open 2", b""]);
    assert!(hands.iter().all(|job| !job.job.is_encrypted));
    for job in &hands {
        job.finish(done()).await.unwrap();
    }
    // A page that reads the beginnings only.
    new(ours
        .insert(Job::new("Sealed", "secret ".repeat(100)))
        .await
        .unwrap());
    let page = Query {
        funcs: vec!["Sealed".to_owned()],
        arg_bytes: Some(50),
        ..Query::default()
    };
    let (_, job, _) = ours.list(&page).await.unwrap().pop().unwrap();
    assert!(job.is_encrypted && job.arg.is_empty());
    one(ours, "Sealed").await.finish(done()).await.unwrap();
}

#[derive(Default)]
struct Reads;

impl Handler for Reads {
    const FUNC: &'static str = "Reads";
    type Arg = String;

    fn max_retries(&self) -> u32 {
        1
    }

    async fn work(&self, job: &mut JobCtx<String>) -> Outcome {
        Outcome::permanent(format!("read {}", job.arg()))
    }
}

async fn handlers(ours: &Client, blind: &Client) {
    let handle = new(ours.insert(Job::new("Reads", "secret")).await.unwrap());
    for client in [blind, ours] {
        let worker = Worker::new(client).register::<Reads>();
        assert!(worker.work_once().await.unwrap());
    }
    let log = ours.failure_log(&handle).await.unwrap();
    assert!(log[0].contains("encrypted"), "{log:?}");
    assert_eq!(log[1], "read secret");
}

/// Keys, windows, merging, changes, replacing, callbacks, retries: all as if nothing were sealed.
async fn everything_that_looks(ours: &Client) {
    let job = |arg: &'static str| Job::new("Looks", arg);
    let window = || job("secret w").unique(Unique::until_done(UniqueBy::Arg));
    let first = new(ours.insert(window()).await.unwrap());
    let second = ours.insert(window()).await.unwrap();
    assert_eq!(second.handle(), Some(&first), "equal arguments are equal");
    ours.change(
        &first,
        &Change {
            arg: Some("secret c".into()),
            ..Change::default()
        },
    )
    .await
    .unwrap();
    let merged = |arg: &'static str| job(arg).coalesce("m").merge(Merge::Append);
    ours.insert(merged("[\"secret a\"]")).await.unwrap();
    ours.insert(merged("[\"secret b\"]")).await.unwrap();
    let hands = grab(ours, "Looks", 9).await;
    assert_eq!(hands[0].job.arg.as_ref(), b"secret c");
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&hands[1].job.arg).unwrap(),
        json!(["secret a", "secret b"])
    );
    let batch = Batch {
        on_success: Some(job("secret callback")),
        ..Batch::default()
    };
    let batch = ours.batch(batch).await.unwrap();
    let replace = Finish::Replace {
        jobs: vec![job("secret r").batch(&batch)],
        keep: 0,
    };
    hands[0].finish(replace).await.unwrap();
    ours.close_batch(&batch).await.unwrap();
    hands[1].finish(done()).await.unwrap();
    let replaced = one(ours, "Looks").await;
    assert_eq!(replaced.job.arg.as_ref(), b"secret r");
    replaced.finish(done()).await.unwrap();
    let called = one(ours, "Looks").await;
    assert_eq!(called.job.arg.as_ref(), b"secret callback");
    let over = Finish::Fail {
        message: "over".to_owned(),
        status: 1,
        retry: RetryPolicy::never(),
        keep: 0,
    };
    called.finish(over).await.unwrap();
    ours.retry(&called.handle).await.unwrap();
    let again = one(ours, "Looks").await;
    assert_eq!(again.job.arg.as_ref(), b"secret callback");
    // Stays in `sz_done`, sealed.
    let over = Finish::Fail {
        message: "over".to_owned(),
        status: 1,
        retry: RetryPolicy::never(),
        keep: 0,
    };
    again.finish(over).await.unwrap();
}

/// The new key first, the old one as long as there are jobs of it.
async fn rotation(url: &str, old: &Client) {
    new(old.insert(Job::new("Turns", "secret old")).await.unwrap());
    let both = open(url, Some(keys(&format!("{NEW}{OLD}")))).await;
    new(both.insert(Job::new("Turns", "secret new")).await.unwrap());
    let newest = open(url, Some(keys(NEW))).await;
    let query = Query {
        funcs: vec!["Turns".to_owned()],
        ..Query::default()
    };
    for (client, seals) in [(old, [false, true]), (&newest, [true, false])] {
        let jobs = client.list(&query).await.unwrap();
        assert_eq!([jobs[0].1.is_encrypted, jobs[1].1.is_encrypted], seals);
    }
    let hands = grab(&both, "Turns", 2).await;
    assert_eq!(hands[1].job.arg.as_ref(), b"secret new");
    both.close().await.unwrap();
    newest.close().await.unwrap();
}

/// Not in pending rows, kept ones or templates.
async fn nothing_plain_is_left(client: &Client) {
    let db = client.databases()[0].db().await.unwrap();
    for table in ["job", "sz_done", "sz_batch"] {
        let rows = db
            .query(format!("SELECT * FROM {table}"), params![])
            .await
            .unwrap();
        assert!(!rows.is_empty(), "{table}");
        let text = format!("{rows:?}");
        assert!(!text.contains("secret"), "{text}");
        // Templates are base64.
        assert!(!text.contains("c2VjcmV0"), "{text}");
        // Bytes are printed as numbers.
        assert!(!text.contains("115, 101, 99, 114, 101, 116"), "{text}");
    }
}
