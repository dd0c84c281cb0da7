//! Unique windows, merging, runs of a job's own, times to live: on both engines, called by the suite.

use crate::graphs::{callbacks, called};
use crate::limits::{by_hand, die, done, fail, put, sweep};
use crate::own::perl_finds;
use crate::suite::{grab, new, one};
use ibex_schwartz::{Client, Error, Finished, Handle, Inserted, Job, Merge, Unique, UniqueBy};

pub(crate) async fn suite(client: &Client) {
    windows(client).await;
    merging(client).await;
    own_runs(client).await;
    expiry(client).await;
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

async fn expiry(client: &Client) {
    let mortal = || Job::new("Expiring", "").expires_in(100_000);
    let late = async |handle: &Handle| {
        by_hand(
            client,
            "UPDATE {p}sz_jobx SET expires_at = 1 WHERE jobid = ?",
            handle.jobid(),
        )
        .await;
    };
    let handles = client
        .insert_all(vec![mortal(), mortal(), mortal()])
        .await
        .unwrap();
    let started = client
        .grab_handle(&handles[0], 3600)
        .await
        .unwrap()
        .unwrap();
    let batch = client.batch(callbacks("Exp")).await.unwrap();
    let member = put(client, mortal().batch(&batch)).await;
    client.close_batch(&batch).await.unwrap();
    sweep(client).await;
    assert!(client.is_pending(&member).await.unwrap(), "in its time");
    for handle in handles.iter().chain([&member]) {
        late(handle).await;
    }
    sweep(client).await;
    for handle in [&handles[1], &handles[2], &member] {
        let ended = client.status(handle).await.unwrap().ended.unwrap();
        assert_eq!(ended.state, "expired");
    }
    assert!(client.is_pending(&handles[0]).await.unwrap(), "at work");
    assert_eq!(called(client, "Exp").await, [0, 1, 1]);
    assert!(grab(client, "Expiring", 9).await.is_empty());
    started.finish(fail(0)).await.unwrap();
    let again = one(client, "Expiring").await;
    assert_eq!(again.handle, handles[0], "it was started in time");
    again.finish(done()).await.unwrap();
    // A grab removes one that the leader has not come to.
    let handle = put(client, mortal()).await;
    late(&handle).await;
    assert!(grab(client, "Expiring", 9).await.is_empty());
    assert_eq!(perl_finds(client, "Expiring").await, 0);
}
