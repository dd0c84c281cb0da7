//! What ours has beside the classic semantics and keeps in tables of its own: outbox, results, pauses, leaders, leases on record, cleaning, periodic
//! jobs. On both engines, called by the suite.

use crate::suite::{grab, new, one};
use ibex_schwartz::{Client, Error, Finish, Grab, Job, RetryPolicy, State};
use ibex_sql::params;

pub(crate) async fn suite(client: &Client) {
    outbox(client).await;
    periodic(client).await;
    results(client).await;
    pauses(client).await;
    leaders(client).await;
    recorded_leases(client).await;
    cleaning(client).await;
}

/// A job inside a program's own transaction appears with it or not at all.
async fn outbox(client: &Client) {
    let database = &client.databases()[0];
    let db = database.db().await.unwrap();
    db.execute("CREATE TABLE mine (id INTEGER PRIMARY KEY)", params![])
        .await
        .unwrap();
    let run = async |id: i64, fails: bool| {
        let client = client.clone();
        db.write(move |tx| {
            let client = client.clone();
            Box::pin(async move {
                tx.execute("INSERT INTO mine (id) VALUES (?)", params![id])
                    .await?;
                let job = Job::new("Outbox", format!("{id}")).uniqkey(format!("k{}", id % 2));
                let inserted = client.insert_tx(tx, &job).await?;
                if fails {
                    Err(Error::Invalid("changed my mind".to_owned()))
                } else {
                    Ok(inserted)
                }
            })
        })
        .await
    };
    run(1, true).await.unwrap_err();
    assert!(grab(client, "Outbox", 9).await.is_empty());
    new(run(2, false).await.unwrap());
    assert!(
        run(4, false).await.unwrap().is_duplicate(),
        "a pending key leaves the transaction usable"
    );
    assert_eq!(grab(client, "Outbox", 9).await.len(), 1);
    assert_eq!(
        db.query("SELECT id FROM mine ORDER BY id", params![])
            .await
            .unwrap()
            .len(),
        2
    );
}

/// Polls until it holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !condition().await {
        assert!(
            std::time::Instant::now() < deadline,
            "waited in vain for {what}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn results(client: &Client) {
    let handle = new(client.insert(Job::new("Answers", "x")).await.unwrap());
    let finish = |bytes: usize| Finish::CompleteWith {
        status: 0,
        keep: 1000,
        result: vec![b'r'; bytes].into(),
    };
    let job = one(client, "Answers").await;
    let large = job.clone().finish(finish(65_537)).await;
    assert!(matches!(large, Err(Error::TooLarge { .. })), "{large:?}");
    job.finish(finish(65_536)).await.unwrap();
    let status = client.status(&handle).await.unwrap();
    assert_eq!(status.exit_status, Some(0));
    assert_eq!(status.result.map(|result| result.len()), Some(65_536));
}

/// Whether the original's own search would find jobs of the function.
pub(crate) async fn perl_finds(client: &Client, func: &str) -> i64 {
    let database = &client.databases()[0];
    let prefix = if database
        .db()
        .await
        .unwrap()
        .query("SELECT jobid FROM sch_job LIMIT 1", params![])
        .await
        .is_ok()
    {
        "sch_"
    } else {
        ""
    };
    let now = client.time().await.unwrap();
    let rows = database
        .db()
        .await
        .unwrap()
        .query(
            format!("SELECT COUNT(*) FROM {prefix}job j JOIN {prefix}funcmap f ON f.funcid = j.funcid WHERE f.funcname = ? AND j.run_after <= ? AND j.grabbed_until <= ?"),
            params![func, now, now],
        )
        .await
        .unwrap();
    rows[0].get(0).unwrap()
}

async fn pauses(client: &Client) {
    let first = new(client.insert(Job::new("Paused", "1")).await.unwrap());
    let running = one(client, "Paused").await;
    let second = new(client.insert(Job::new("Paused", "2")).await.unwrap());
    let later = new(client
        .insert(Job::new("Paused", "3").delay(5000))
        .await
        .unwrap());
    let due = client.lookup(&later).await.unwrap().unwrap().run_after;
    client.pause("Paused", None).await.unwrap();
    assert!(grab(client, "Paused", 9).await.is_empty());
    assert_eq!(perl_finds(client, "Paused").await, 0);
    let counts = client.counts().await.unwrap();
    let count = counts
        .iter()
        .find(|count| count.funcname == "Paused")
        .unwrap();
    assert_eq!(
        (count.ready, count.grabbed, count.scheduled, count.blocked),
        (0, 1, 0, 2)
    );
    assert_eq!(count.paused_until, Some(ibex_schwartz::PARKED));
    let (_, state) = client.status(&second).await.unwrap().pending.unwrap();
    assert_eq!(state, State::Blocked);

    // What comes meanwhile is kept back: from ours at once, from others by the leader's next pass. A run that goes on ends as ever.
    let fourth = new(client.insert(Job::new("Paused", "4")).await.unwrap());
    assert!(grab(client, "Paused", 9).await.is_empty());
    let fail = Finish::Fail {
        message: "no".to_owned(),
        status: 1,
        retry: RetryPolicy::fixed(3, 0),
        keep: 0,
    };
    running.finish(fail).await.unwrap();
    assert_eq!(perl_finds(client, "Paused").await, 2);
    assert_eq!(client.databases()[0].keep_paused().await.unwrap(), 2);
    assert_eq!(client.databases()[0].keep_paused().await.unwrap(), 0);
    assert_eq!(perl_finds(client, "Paused").await, 0);
    client.cancel(&fourth).await.unwrap();

    assert!(client.resume("Paused").await.unwrap());
    assert!(!client.resume("Paused").await.unwrap() && !client.resume("Nobody").await.unwrap());
    assert_eq!(
        client.lookup(&later).await.unwrap().unwrap().run_after,
        due,
        "its own time again"
    );
    let back: Vec<_> = grab(client, "Paused", 9)
        .await
        .into_iter()
        .map(|job| job.handle)
        .collect();
    assert!(
        back.len() == 2 && back.contains(&first) && back.contains(&second),
        "{back:?}"
    );

    // One with an end is over by itself; the leader gives back what was parked.
    new(client.insert(Job::new("Short", "1")).await.unwrap());
    client.pause("Short", Some(1)).await.unwrap();
    until("the pause to end", async || {
        client.databases()[0].keep_paused().await.unwrap();
        !grab(client, "Short", 1).await.is_empty()
    })
    .await;
    assert!(client.pause("", None).await.is_err());
}

async fn leaders(client: &Client) {
    let database = &client.databases()[0];
    assert!(database.lead("a", 600).await.unwrap());
    assert!(
        database.lead("a", 600).await.unwrap(),
        "again within the second"
    );
    assert!(!database.lead("b", 600).await.unwrap());
    database.resign("b").await.unwrap();
    assert!(
        !database.lead("b", 600).await.unwrap(),
        "it was not his to give"
    );
    database.resign("a").await.unwrap();
    assert!(database.lead("b", 0).await.unwrap());
    assert!(database.lead("a", 600).await.unwrap(), "b's time is over");
}

async fn recorded_leases(client: &Client) {
    let database = &client.databases()[0];
    for arg in ["kept", "extended", "done", "given back"] {
        new(client.insert(Job::new("Recorded", arg)).await.unwrap());
    }
    let want = Grab {
        max: 9,
        grab_for: 1,
        record: true,
        ..Grab::new(vec!["Recorded".to_owned()])
    };
    let jobs = client.grab(&want).await.unwrap();
    let of = |arg: &str| {
        jobs.iter()
            .find(|job| &job.job.arg[..] == arg.as_bytes())
            .unwrap()
            .clone()
    };
    let (kept, extended, done, given) = (of("kept"), of("extended"), of("done"), of("given back"));
    database
        .finish_job(extended.job.jobid, extended.lease, Finish::Extend(2))
        .await
        .unwrap();
    done.finish(Finish::Complete { status: 0, keep: 0 })
        .await
        .unwrap();
    database
        .release_job(given.job.jobid, given.lease)
        .await
        .unwrap();
    let mut found = Vec::new();
    until("both to run out", async || {
        let lost = database.lost_leases(0).await.unwrap();
        database.forget_leases(&lost.records).await.unwrap();
        found.extend(
            lost.leases
                .into_iter()
                .map(|lease| (lease.jobid, lease.funcname)),
        );
        found.len() >= 2
    })
    .await;
    let name = "Recorded".to_owned();
    assert_eq!(
        found,
        [(kept.job.jobid, name.clone()), (extended.job.jobid, name)],
        "each once, and no other"
    );
    assert!(database.lost_leases(0).await.unwrap().records.is_empty());
}

async fn cleaning(client: &Client) {
    let database = &client.databases()[0];
    let db = database.db().await.unwrap();
    let prefix = if database.address().ends_with("p.db") {
        "sch_"
    } else {
        ""
    };
    db.execute(
        format!("INSERT INTO {prefix}error (error_time, jobid, message) VALUES (5, 999999, 'old')"),
        params![],
    )
    .await
    .unwrap();
    db.execute(
        format!(
            "INSERT INTO {prefix}exitstatus (jobid, status, delete_after) VALUES (999999, 0, 5)"
        ),
        params![],
    )
    .await
    .unwrap();
    assert_eq!(client.clean(database).await.unwrap(), 2);
    assert_eq!(client.clean(database).await.unwrap(), 0);
}

/// Several daemons see the same due entry, and one inserts its job.
async fn periodic(client: &Client) {
    let database = &client.databases()[0];
    let put = |spec: &'static str| {
        database.cron_put("nightly", spec, "", ibex_schwartz::CatchUp::One, "{}")
    };
    assert!(put("61 * * * *").await.is_err());
    let entry = put("@every 1s").await.unwrap();
    assert_eq!(database.cron_list().await.unwrap(), [entry]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let (due, now) = loop {
        if let Some(due) = database.cron_due().await.unwrap().pop() {
            break due;
        }
        assert!(std::time::Instant::now() < deadline, "never due");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let jobs = [Job::new("Periodic", "x")];
    let first = database.cron_fire(&due, now + 1000, &jobs).await.unwrap();
    assert_eq!(first.map(|handles| handles.len()), Some(1));
    assert_eq!(
        database.cron_fire(&due, now + 1000, &jobs).await.unwrap(),
        None,
        "another was faster"
    );
    assert_eq!(grab(client, "Periodic", 9).await.len(), 1);
    assert!(database.cron_due().await.unwrap().is_empty());
    assert!(database.cron_delete("nightly").await.unwrap());
    assert!(!database.cron_delete("nightly").await.unwrap());
}
