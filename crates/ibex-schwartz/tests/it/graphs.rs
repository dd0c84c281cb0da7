//! Batches and jobs that depend on others: on both engines, called by the suite.

use crate::limits::{args, die, done, fail, put, sweep};
use crate::own::{perl_finds, until};
use crate::suite::{grab, one};
use ibex_schwartz::{
    Batch, Client, Concurrency, Error, Finish, Handle, Job, OnDeath, Parent, State,
};
use ibex_sql::params;

pub(crate) async fn suite(client: &Client) {
    batches(client).await;
    nested(client).await;
    workflows(client).await;
    deaths(client).await;
    brought_back(client).await;
}

pub(crate) fn callbacks(name: &str) -> Batch {
    Batch {
        parent: None,
        on_success: Some(Job::new(format!("{name}Success"), "s")),
        on_death: Some(Job::new(format!("{name}Death"), "")),
        on_complete: Some(Job::new(format!("{name}Complete"), "")),
    }
}

/// How many of the callbacks are ready: success, death, complete.
pub(crate) async fn called(client: &Client, name: &str) -> [i64; 3] {
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

/// Nothing of all this stays in our tables once the jobs are over and the times kept for them have passed.
pub(crate) async fn leftovers(client: &Client) {
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
