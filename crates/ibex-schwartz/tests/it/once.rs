//! Inserts that may be repeated, workers that daemons have seen, questions to one database: on both engines, called by the suite; and over two
//! databases.

use crate::suite::{grab, one};
use ibex_schwartz::{
    Client, Finish, FuncCount, Inserted, Job, Keys, Once, RetryPolicy, SeenWorker,
};

pub(crate) async fn suite(client: &Client) {
    repetitions(client).await;
    races(client).await;
    workers(client).await;
    apart(client).await;
}

/// The answer says how many are new.
fn words(outcomes: &[Inserted]) -> String {
    let new = outcomes.iter().filter(|one| !one.is_duplicate()).count();
    format!("{new} of {} é", outcomes.len())
}

async fn once(client: &Client, key: &str, body: &str, jobs: Vec<Job>, is_atomic: bool) -> Once {
    client
        .insert_once(key, body, jobs, is_atomic, words)
        .await
        .unwrap()
}

async fn repetitions(client: &Client) {
    let jobs = || {
        vec![
            Job::new("Repeated", "1").uniqkey("k"),
            Job::new("Repeated", "2").uniqkey("k"),
            Job::new("Repeated", "3"),
        ]
    };
    let Once::First(answer, outcomes) = once(client, "é key", "b", jobs(), false).await else {
        panic!("nothing was there");
    };
    assert_eq!(answer, "2 of 3 é");
    assert_eq!(outcomes[1].handle(), outcomes[0].handle());
    assert_eq!(
        once(client, "é key", "b", jobs(), false).await,
        Once::Again(answer)
    );
    assert_eq!(
        once(client, "é key", "other", jobs(), false).await,
        Once::Other
    );
    assert!(
        matches!(
            once(client, "É KEY", "b", Vec::new(), false).await,
            Once::First(..)
        ),
        "keys are told apart by case"
    );
    // All or none, and then nothing is kept.
    let refused = client.insert_once("all", "b", jobs(), true, words).await;
    assert!(matches!(refused, Err(ibex_schwartz::Error::Duplicate)));
    let taken = grab(client, "Repeated", 10).await;
    assert_eq!(taken.len(), 2);
    for job in &taken {
        let done = Finish::Complete { status: 0, keep: 0 };
        job.finish(done).await.unwrap();
    }
    let two = || vec![Job::new("Repeated", "1"), Job::new("Repeated", "2")];
    assert!(matches!(
        once(client, "all", "b", two(), true).await,
        Once::First(..)
    ));
    assert!(matches!(
        once(client, "all", "b", two(), true).await,
        Once::Again(_)
    ));
    assert_eq!(grab(client, "Repeated", 10).await.len(), 2);
    for key in ["", "a\nb", &"k".repeat(256)] {
        let wrong = client.insert_once(key, "b", two(), true, words).await;
        assert!(
            matches!(wrong, Err(ibex_schwartz::Error::Invalid(_))),
            "{key}"
        );
    }
}

async fn races(client: &Client) {
    for round in 0..3 {
        let mut racing = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let client = client.clone();
            racing.spawn(async move {
                let jobs = vec![Job::new("Raced", "x")];
                once(&client, &format!("race {round}"), "b", jobs, true).await
            });
        }
        let all = racing.join_all().await;
        let first = all.iter().filter(|one| matches!(one, Once::First(..)));
        assert_eq!(first.count(), 1, "{all:?}");
        assert_eq!(grab(client, "Raced", 10).await.len(), 1);
    }
}

async fn workers(client: &Client) {
    let seen = |id: &str, age: u64| SeenWorker {
        id: id.to_owned(),
        funcs: vec!["A".to_owned(), "B c".to_owned()],
        running: 2,
        age,
    };
    client
        .note_workers("one:1", &[seen("w", 0), seen("W", 100), seen("é", 5)])
        .await
        .unwrap();
    client.want_of_worker("w", "stop").await.unwrap();
    client.want_of_worker("new", "quiet").await.unwrap();
    client.note_workers("two:2", &[seen("w", 0)]).await.unwrap();
    let all = client.known_workers(100).await.unwrap();
    let find = |id: &str| all.iter().find(|one| one.id == id).unwrap();
    assert_eq!(all.len(), 4);
    assert_eq!(
        (find("w").daemon.as_str(), find("w").wanted.as_str()),
        ("two:2", "stop")
    );
    assert_eq!(find("w").funcs, ["A", "B c"]);
    assert!(find("W").is_dead() && !find("é").is_dead());
    let orders = client.worker_orders().await.unwrap();
    assert_eq!(orders.get("w").map(String::as_str), Some("stop"));
    assert_eq!(orders.len(), 2);
    client.want_of_worker("w", "").await.unwrap();
    assert_eq!(client.worker_orders().await.unwrap().len(), 1);
}

async fn apart(client: &Client) {
    client.insert(Job::new("Apart", "argument")).await.unwrap();
    let database = &client.databases()[0];
    let counts: Vec<FuncCount> = client.counts_of(database).await.unwrap();
    let count = counts.iter().find(|count| count.funcname == "Apart");
    assert_eq!(count.unwrap().ready, 1);
    let job = one(client, "Apart").await;
    assert_eq!(client.ended_arg(&job.handle).await.unwrap(), None);
    let func = client.func_of(&job.handle, job.job.funcid).await.unwrap();
    assert_eq!(func.as_deref(), Some("Apart"));
    let fail = Finish::Fail {
        message: "no".to_owned(),
        status: 1,
        retry: RetryPolicy::never(),
        keep: 0,
    };
    job.finish(fail).await.unwrap();
    assert_eq!(
        client.ended_arg(&job.handle).await.unwrap().as_deref(),
        Some(b"argument".as_slice())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_is_known_at_every_client_of_several_databases() {
    let dir = tempfile::tempdir().unwrap();
    let urls = ["a.db", "b.db", "c.db"].map(|name| crate::file_url(&dir, name));
    let one = Client::open(urls.clone()).await.unwrap();
    let mut other = urls.clone();
    other.reverse();
    let other = Client::open(other).await.unwrap();
    let job = || vec![Job::new("Spread", "x")];
    let mut homes = std::collections::BTreeSet::new();
    for n in 0..20 {
        let key = format!("key {n}");
        let Once::First(answer, outcomes) = once(&one, &key, "b", job(), false).await else {
            panic!("a key of nobody");
        };
        homes.insert(outcomes[0].handle().unwrap().database().to_owned());
        assert_eq!(
            once(&other, &key, "b", job(), false).await,
            Once::Again(answer)
        );
    }
    assert_eq!(homes.len(), 3, "keys are spread");
    // One that another database took while its own was away is found, too.
    let single = Client::open([urls[0].clone()]).await.unwrap();
    for n in 20..30 {
        let key = format!("key {n}");
        once(&single, &key, "b", job(), false).await;
        assert!(matches!(
            once(&one, &key, "b", job(), false).await,
            Once::Again(_)
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_kept_for_a_day_and_then_cleaned_away() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    client.hold_clock(1_800_000_000);
    let job = || vec![Job::new("Kept", "x")];
    let first = once(&client, "k", "b", job(), true).await;
    assert!(matches!(first, Once::First(..)));
    client.advance_clock(std::time::Duration::from_secs(86_400));
    assert!(matches!(
        once(&client, "k", "b", job(), true).await,
        Once::Again(_)
    ));
    client.advance_clock(std::time::Duration::from_secs(1));
    let later = once(&client, "k", "other", job(), true).await;
    assert!(matches!(later, Once::First(..)), "{later:?}");
    assert_eq!(grab(&client, "Kept", 10).await.len(), 2);
    client
        .note_workers(
            "d",
            &[SeenWorker {
                id: "w".to_owned(),
                funcs: Vec::new(),
                running: 0,
                age: 0,
            }],
        )
        .await
        .unwrap();
    client.advance_clock(std::time::Duration::from_secs(86_402));
    let database = &client.databases()[0];
    while client.clean(database).await.unwrap() > 0 {}
    let db = database.db().await.unwrap();
    for table in ["sz_once", "sz_worker"] {
        let rows = db
            .query_one(format!("SELECT COUNT(*) FROM {table}"), ibex_sql::params![])
            .await
            .unwrap()
            .unwrap();
        assert_eq!(rows.get::<u64>(0).unwrap(), 0, "{table}");
    }
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_encrypted_argument_of_a_job_that_is_over_is_read_with_its_key_only() {
    let dir = tempfile::tempdir().unwrap();
    let url = crate::file_url(&dir, "sealed.db");
    let keys = Keys::parse("k AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
    let knows = Client::builder().db(&url).keys(keys).build().await.unwrap();
    let ignorant = Client::open([url]).await.unwrap();
    let jobs = vec![Job::new("Sealed", "secret")];
    let first = once(&knows, "k", "b", jobs, true).await;
    let Once::First(_, outcomes) = first else {
        panic!("{first:?}");
    };
    let handle = outcomes[0].handle().unwrap();
    knows.cancel(handle).await.unwrap();
    assert_eq!(
        knows.ended_arg(handle).await.unwrap().as_deref(),
        Some(b"secret".as_slice())
    );
    assert_eq!(ignorant.ended_arg(handle).await.unwrap(), None);
}
