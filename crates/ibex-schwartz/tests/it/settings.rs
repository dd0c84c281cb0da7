//! Settings of functions: limits, shares, runs, the dead, and how long jobs are kept; on both engines, called by the suite.

use crate::suite::{grab, new, one};
use ibex_schwartz::{
    Client, EVERY_FUNCTION, Error, Finish, Finished, FuncSettings, Grab, Job, RetryPolicy, When,
};

pub(crate) async fn suite(client: &Client) {
    limits(client).await;
    racing(client).await;
    shares(client).await;
    dead_letters(client).await;
    retention(client).await;
    whole_database(client).await;
}

fn done() -> Finish {
    Finish::Complete { status: 0, keep: 0 }
}

fn fail(retry: RetryPolicy) -> Finish {
    Finish::Fail {
        message: "no such user".to_owned(),
        status: 1,
        retry,
        keep: 0,
    }
}

async fn set(client: &Client, func: &str, settings: &FuncSettings) {
    let database = &client.databases()[0];
    database.set_func(func, settings).await.unwrap();
    assert_eq!(&database.func_settings(func).await.unwrap(), settings);
}

async fn put(client: &Client, func: &str, count: usize) {
    let jobs = (0..count).map(|n| Job::new(func, n.to_string())).collect();
    client.insert_all(jobs).await.unwrap();
}

async fn limits(client: &Client) {
    put(client, "Bounded", 5).await;
    put(client, "Free", 1).await;
    let two = FuncSettings {
        max_running: Some(2),
        ..FuncSettings::default()
    };
    set(client, "Bounded", &two).await;
    let hands = grab(client, "Bounded", 9).await;
    assert_eq!(hands.len(), 2);
    // One that may not go does not stand in front of others.
    let both = Grab {
        max: 1,
        batch_size: 1,
        ..Grab::new(vec!["Bounded".to_owned(), "Free".to_owned()])
    };
    let free = client.grab(&both).await.unwrap();
    assert_eq!(free[0].job.funcname, "Free");
    hands[0].finish(done()).await.unwrap();
    assert_eq!(grab(client, "Bounded", 9).await.len(), 1);
    hands[1]
        .finish(Finish::Decline(Some(When::In(5000))))
        .await
        .unwrap();
    assert_eq!(grab(client, "Bounded", 9).await.len(), 1);
    set(client, "Bounded", &FuncSettings::default()).await;
    assert_eq!(grab(client, "Bounded", 9).await.len(), 1);

    put(client, "Paced", 5).await;
    let paced = FuncSettings {
        rate: Some((3, 100_000)),
        ..FuncSettings::default()
    };
    set(client, "Paced", &paced).await;
    assert_eq!(grab(client, "Paced", 1).await.len(), 1);
    assert_eq!(grab(client, "Paced", 9).await.len(), 2);
    assert!(grab(client, "Paced", 9).await.is_empty());
    let refused = client.databases()[0]
        .set_func(
            "Paced",
            &FuncSettings {
                rate: Some((1, 0)),
                ..FuncSettings::default()
            },
        )
        .await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

/// Several programs take jobs of a limited function at once.
async fn racing(client: &Client) {
    let three = FuncSettings {
        max_running: Some(3),
        ..FuncSettings::default()
    };
    set(client, "Herd", &three).await;
    put(client, "Herd", 30).await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let client = client.clone();
        tasks.push(tokio::spawn(
            async move { grab(&client, "Herd", 2).await.len() },
        ));
    }
    let mut sum = 0;
    for task in tasks {
        sum += task.await.unwrap();
    }
    assert!((1..=3).contains(&sum), "{sum} of three");
}

async fn shares(client: &Client) {
    put(client, "Old", 30).await;
    put(client, "New", 30).await;
    let next = async || {
        let want = Grab::new(vec!["Old".to_owned(), "New".to_owned()]);
        let mut counts = (0, 0);
        for _ in 0..16 {
            for job in client.grab(&want).await.unwrap() {
                if job.job.funcname == "Old" {
                    counts.0 += 1;
                } else {
                    counts.1 += 1;
                }
                job.finish(done()).await.unwrap();
            }
        }
        counts
    };
    let share = FuncSettings {
        weight: Some(3),
        ..FuncSettings::default()
    };
    set(client, "New", &share).await;
    assert_eq!(next().await, (4, 12));
    set(client, "New", &FuncSettings::default()).await;
    // Without weights each has its turn, however many older jobs the other has; one grab of several as several of one.
    put(client, "Newest", 3).await;
    let want = Grab {
        max: 6,
        shuffle: false,
        ..Grab::new(vec!["Old".to_owned(), "Newest".to_owned()])
    };
    let taken = client.grab(&want).await.unwrap();
    let newest = taken.iter().filter(|job| job.job.funcname == "Newest");
    assert_eq!((taken.len(), newest.count()), (6, 3));
    for job in &taken {
        job.finish(done()).await.unwrap();
    }
}

async fn dead_letters(client: &Client) {
    let settings = FuncSettings {
        dead_func: Some("Undertaker".to_owned()),
        max_attempts: Some(2),
        ..FuncSettings::default()
    };
    set(client, "Mortal", &settings).await;
    let handle = new(client
        .insert(Job::new("Mortal", "to=fred").uniqkey("k"))
        .await
        .unwrap());
    let again = one(client, "Mortal")
        .await
        .finish(fail(RetryPolicy::never()))
        .await
        .unwrap();
    assert!(
        matches!(again, Finished::Retried { .. }),
        "the function's runs go before the worker's"
    );
    assert!(grab(client, "Undertaker", 9).await.is_empty());
    let last = one(client, "Mortal").await;
    assert_eq!(
        last.finish(fail(RetryPolicy::fixed(9, 0))).await.unwrap(),
        Finished::Over
    );
    let letter = one(client, "Undertaker").await;
    let letter: serde_json::Value = serde_json::from_slice(&letter.job.arg).unwrap();
    assert_eq!(letter["error"], "no such user");
    let original = &letter["original"];
    assert_eq!(original["handle"], handle.to_string());
    assert_eq!(
        (&original["arg"], &original["uniqkey"]),
        (&"to=fred".into(), &"k".into())
    );
    // Its own dead go nowhere.
    let own = FuncSettings {
        dead_func: Some("Mortal".to_owned()),
        ..FuncSettings::default()
    };
    set(client, "Mortal", &own).await;
    new(client.insert(Job::new("Mortal", "x")).await.unwrap());
    one(client, "Mortal")
        .await
        .finish(fail(RetryPolicy::permanent()))
        .await
        .unwrap();
    assert!(grab(client, "Mortal", 9).await.is_empty());
}

async fn retention(client: &Client) {
    let settings = FuncSettings {
        retain_completed: Some(1000),
        retain_failed: Some(0),
        ..FuncSettings::default()
    };
    set(client, "Kept", &settings).await;
    let mut handles = Vec::new();
    for arg in ["plain", "many", "failed"] {
        handles.push(new(client.insert(Job::new("Kept", arg)).await.unwrap()));
    }
    let hands = grab(client, "Kept", 9).await;
    hands[0].finish(done()).await.unwrap();
    let fences = [(hands[1].job.jobid, hands[1].lease)];
    let database = &hands[1].database;
    let late = [(hands[1].job.jobid, hands[1].lease - 1)];
    assert_eq!(database.complete_many(&late, 0).await.unwrap(), [false]);
    assert!(client.status(&handles[1]).await.unwrap().ended.is_none());
    assert_eq!(database.complete_many(&fences, 0).await.unwrap(), [true]);
    hands[2]
        .finish(fail(RetryPolicy::permanent()))
        .await
        .unwrap();
    for handle in &handles[..2] {
        let ended = client.status(handle).await.unwrap().ended.unwrap();
        assert_eq!((ended.state.as_str(), ended.attempts), ("completed", 1));
    }
    let listed = client.ended("completed", Some("Kept"), 9).await.unwrap();
    assert_eq!(listed.len(), 2);
    crate::own::until("the failed one to be cleaned away", async || {
        client.clean(database).await.unwrap();
        client.status(&handles[2]).await.unwrap().ended.is_none()
    })
    .await;
    assert!(client.status(&handles[0]).await.unwrap().ended.is_some());
    // Done once more, by hand.
    client.retry(&handles[0]).await.unwrap();
    assert_eq!(one(client, "Kept").await.handle, handles[0]);
}

/// A rate of all functions together; and what it says holds for functions that say nothing.
async fn whole_database(client: &Client) {
    let settings = FuncSettings {
        rate: Some((2, 100_000)),
        max_attempts: Some(1),
        ..FuncSettings::default()
    };
    set(client, EVERY_FUNCTION, &settings).await;
    put(client, "East", 3).await;
    put(client, "West", 3).await;
    let east = grab(client, "East", 1).await;
    assert_eq!(east.len(), 1);
    assert_eq!(grab(client, "West", 9).await.len(), 1);
    assert!(grab(client, "East", 9).await.is_empty());
    let over = east[0]
        .finish(fail(RetryPolicy::fixed(9, 0)))
        .await
        .unwrap();
    assert_eq!(over, Finished::Over);
    let refused = client.databases()[0]
        .set_func(
            EVERY_FUNCTION,
            &FuncSettings {
                max_running: Some(5),
                ..FuncSettings::default()
            },
        )
        .await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    set(client, EVERY_FUNCTION, &FuncSettings::default()).await;
    assert_eq!(grab(client, "East", 9).await.len(), 2);
}
