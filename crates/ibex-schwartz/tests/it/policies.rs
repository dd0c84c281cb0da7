//! What a job says of its own runs: delays, how long one may take, how long its exit status is kept, tags, progress. On both engines, called by
//! the suite.

use crate::own::until;
use crate::suite::{grab, new, one};
use ibex_schwartz::{
    Backoff, Client, Error, Finish, Finished, FuncSettings, Handle, Job, Query, RetryPolicy, Said,
};

pub(crate) async fn suite(client: &Client) {
    order_of_policies(client).await;
    order_of_keeping(client).await;
    timeouts(client).await;
    function_timeouts(client).await;
    tags(client).await;
    progress(client).await;
    stops(client).await;
    tenants(client).await;
}

fn done() -> Finish {
    Finish::Complete { status: 0, keep: 0 }
}

/// A worker that would retry 9 times, 4000 seconds apart.
fn fail() -> Finish {
    Finish::Fail {
        message: "no luck".to_owned(),
        status: 1,
        retry: RetryPolicy::fixed(9, 4000),
        keep: 40,
    }
}

async fn set(client: &Client, func: &str, settings: FuncSettings) {
    client.databases()[0]
        .set_func(func, &settings)
        .await
        .unwrap();
}

/// The finish call goes before the job, that before its function, that before the worker.
async fn order_of_policies(client: &Client) {
    let retries = |seconds: u32| FuncSettings {
        backoff: Some(Backoff::fixed(seconds)),
        ..FuncSettings::default()
    };
    let delay = async |job: Job, said: Said| {
        client.insert(job).await.unwrap();
        let taken = one(client, "Ordered").await;
        let now = client.time().await.unwrap();
        let finished = taken.finish_said(fail(), &said).await.unwrap();
        client.cancel(&taken.handle).await.unwrap();
        let Finished::Retried { run_after } = finished else {
            panic!("{finished:?}");
        };
        // By the thousand: seconds that pass meanwhile do not count.
        (run_after - now) / 1000
    };
    let plain = || Job::new("Ordered", "x");
    let own = || plain().backoff(Backoff::Steps(vec![2000, 9000]));
    let said = Said {
        retry_in: Some(1000),
        ..Said::default()
    };
    assert_eq!(delay(plain(), Said::default()).await, 4, "the worker's");
    set(client, "Ordered", retries(3000)).await;
    assert_eq!(delay(plain(), Said::default()).await, 3, "the function's");
    assert_eq!(delay(own(), Said::default()).await, 2, "the job's");
    assert_eq!(delay(own(), said.clone()).await, 1, "the call's");
    assert_eq!(delay(plain(), said).await, 1, "the call's");
    // Later runs have later delays; a final end asks nobody.
    client
        .insert(own().max_attempts(5).tag("order"))
        .await
        .unwrap();
    let first = one(client, "Ordered").await;
    let at_once = Said {
        retry_in: Some(0),
        ..Said::default()
    };
    first.finish_said(fail(), &at_once).await.unwrap();
    let second = one(client, "Ordered").await;
    assert_eq!((second.attempt, second.max_attempts), (2, Some(5)));
    let now = client.time().await.unwrap();
    let Finished::Retried { run_after } = second.finish(fail()).await.unwrap() else {
        panic!("retried");
    };
    assert_eq!((run_after - now) / 1000, 9);
    client.cancel(&second.handle).await.unwrap();
    client.insert(own()).await.unwrap();
    let last = one(client, "Ordered").await;
    let over = Finish::Fail {
        message: "never".to_owned(),
        status: 1,
        retry: RetryPolicy::permanent(),
        keep: 0,
    };
    assert_eq!(last.finish(over).await.unwrap(), Finished::Over);
    assert!(
        client
            .insert(plain().backoff(Backoff::Steps(Vec::new())))
            .await
            .is_err()
    );
    set(client, "Ordered", FuncSettings::default()).await;
}

async fn exit_status(client: &Client, handle: &Handle) -> Option<u16> {
    client.status(handle).await.unwrap().exit_status
}

async fn order_of_keeping(client: &Client) {
    let kept = async |job: Job, said: Option<u64>, keep: u64| {
        let handle = new(client.insert(job).await.unwrap());
        let taken = one(client, "Kept").await;
        let said = Said {
            keep: said,
            ..Said::default()
        };
        let complete = Finish::Complete { status: 0, keep };
        taken.finish_said(complete, &said).await.unwrap();
        exit_status(client, &handle).await.is_some()
    };
    let many = async |jobs: Vec<Job>, keep: u64, is_said: bool| {
        let handles = client.insert_all(jobs).await.unwrap();
        let taken = grab(client, "Kept", 9).await;
        let leases: Vec<(u64, u64)> = taken.iter().map(|job| (job.job.jobid, job.lease)).collect();
        let database = &client.databases()[0];
        let outcome = if is_said {
            database.complete_many_keeping(&leases, keep).await
        } else {
            database.complete_many(&leases, keep).await
        };
        assert!(outcome.unwrap().iter().all(|done| *done));
        let mut kept = Vec::new();
        for handle in &handles {
            kept.push(exit_status(client, handle).await.is_some());
        }
        kept
    };
    let plain = || Job::new("Kept", "x");
    let own = |seconds| plain().keep_exit_status_for(seconds);
    assert!(!kept(plain(), None, 0).await && kept(plain(), None, 100).await);
    assert!(kept(own(100), None, 0).await, "the job's");
    assert!(!kept(own(0), None, 100).await, "the job wants none");
    assert!(!kept(own(100), Some(0), 100).await, "the call's");
    let jobs = || vec![plain(), own(100), own(0)];
    assert_eq!(many(jobs(), 0, false).await, [false, true, false]);
    assert_eq!(many(jobs(), 100, false).await, [true, true, false]);
    assert_eq!(many(jobs(), 100, true).await, [true, true, true]);
    assert_eq!(many(jobs(), 0, true).await, [false; 3]);
    let settings = FuncSettings {
        keep_exit_status_for: Some(100),
        ..FuncSettings::default()
    };
    set(client, "Kept", settings).await;
    assert!(kept(plain(), None, 0).await, "the function's");
    assert!(!kept(own(0), None, 0).await && !kept(plain(), Some(0), 0).await);
    assert_eq!(many(jobs(), 0, false).await, [true, true, false]);
    set(client, "Kept", FuncSettings::default()).await;
}

/// A run that takes too long is found under whatever lease it has, and nobody else's is.
async fn timeouts(client: &Client) {
    let database = &client.databases()[0];
    let overdue = async || -> Vec<(u64, u64)> {
        let late = database.overdue().await.unwrap();
        late.into_iter().map(|run| (run.jobid, run.value)).collect()
    };
    client
        .insert(Job::new("Timed", "x").timeout(1))
        .await
        .unwrap();
    let mut first = one(client, "Timed").await;
    assert_eq!(first.timeout_s, Some(1));
    let Finished::Extended(until) = first.finish(Finish::Extend(9000)).await.unwrap() else {
        panic!("extended");
    };
    first.lease = until;
    until_late(client).await;
    assert_eq!(
        overdue().await,
        [(first.job.jobid, until)],
        "heartbeats do not help"
    );
    let timeout = Finish::Fail {
        message: "timeout".to_owned(),
        status: 1,
        retry: RetryPolicy::fixed(1, 0),
        keep: 0,
    };
    database
        .finish_job(first.job.jobid, until, timeout)
        .await
        .unwrap();
    assert!(matches!(
        first.finish(done()).await,
        Err(Error::LeaseLost(_))
    ));
    assert!(overdue().await.is_empty());
    assert_eq!(
        client.failure_log(&first.handle).await.unwrap(),
        ["timeout"]
    );
    // A lease that was given back is nobody's any more.
    let second = one(client, "Timed").await;
    database
        .release_job(second.job.jobid, second.lease)
        .await
        .unwrap();
    until_late(client).await;
    assert!(overdue().await.is_empty());
    let third = one(client, "Timed").await;
    assert_eq!(third.attempt, 2);
    third.finish(done()).await.unwrap();
    assert!(
        client
            .insert(Job::new("Timed", "").timeout(0))
            .await
            .is_err()
    );
}

/// Waits until two seconds of the database's clock have passed.
async fn until_late(client: &Client) {
    let start = client.time().await.unwrap();
    until("the database's clock", async || {
        client.time().await.unwrap() >= start + 2
    })
    .await;
}

/// A plain job has no row beside its own until its function says how long it may run.
async fn function_timeouts(client: &Client) {
    let database = &client.databases()[0];
    let settings = FuncSettings {
        timeout_s: Some(1),
        ..FuncSettings::default()
    };
    set(client, "TimedFunc", settings).await;
    let own = Job::new("TimedFunc", "2").timeout(5000);
    client.insert(Job::new("TimedFunc", "1")).await.unwrap();
    client.insert(own).await.unwrap();
    let taken = grab(client, "TimedFunc", 2).await;
    assert_eq!(
        (taken[0].timeout_s, taken[1].timeout_s),
        (Some(1), Some(5000))
    );
    until_late(client).await;
    let late = database.overdue().await.unwrap();
    assert_eq!(late.len(), 1);
    assert_eq!(
        (late[0].jobid, late[0].funcname.as_str()),
        (taken[0].job.jobid, "TimedFunc")
    );
    for job in &taken {
        job.finish(done()).await.unwrap();
    }
    assert!(database.overdue().await.unwrap().is_empty());
    set(client, "TimedFunc", FuncSettings::default()).await;
}

async fn tags(client: &Client) {
    let tagged = async |tag: &str| -> Vec<Handle> {
        let query = Query {
            tag: Some(tag.to_owned()),
            ..Query::default()
        };
        let jobs = client.list(&query).await.unwrap();
        jobs.into_iter().map(|(handle, ..)| handle).collect()
    };
    let both = Job::new("Tagged", "1")
        .tag("tenant:7")
        .tag("☺")
        .tag("tenant:7");
    let both = new(client.insert(both).await.unwrap());
    let single = Job::new("Tagged", "2").tag("tenant:7");
    let single = new(client.insert(single).await.unwrap());
    client.insert(Job::new("Tagged", "3")).await.unwrap();
    assert_eq!(tagged("tenant:7").await, [both.clone(), single.clone()]);
    assert_eq!(tagged("☺").await, std::slice::from_ref(&both));
    assert!(tagged("TENANT:7").await.is_empty() && tagged("").await.is_empty());
    let wide = client.status(&both).await.unwrap().wide.unwrap();
    assert_eq!(wide.tags, ["tenant:7", "☺"]);
    for job in grab(client, "Tagged", 9).await {
        job.finish(done()).await.unwrap();
    }
    assert!(tagged("tenant:7").await.is_empty());
    // A job that failed keeps its tags for a retry.
    let again = new(client
        .insert(Job::new("Tagged", "4").tag("again"))
        .await
        .unwrap());
    let over = Finish::Fail {
        message: "over".to_owned(),
        status: 1,
        retry: RetryPolicy::never(),
        keep: 0,
    };
    one(client, "Tagged").await.finish(over).await.unwrap();
    assert!(tagged("again").await.is_empty());
    client.retry(&again).await.unwrap();
    assert_eq!(tagged("again").await, [again]);
    one(client, "Tagged").await.finish(done()).await.unwrap();
}

async fn progress(client: &Client) {
    let carries = Job::new("Progress", "x").meta("m").trace("t");
    for job in [Job::new("Progress", "plain"), carries.clone()] {
        let is_plain = job != carries;
        let handle = new(client.insert(job).await.unwrap());
        let mut taken = one(client, "Progress").await;
        for percent in ["10", "90"] {
            let said = Said {
                progress: Some(percent.into()),
                ..Said::default()
            };
            let extended = taken
                .finish_said(Finish::Extend(5000), &said)
                .await
                .unwrap();
            if let Finished::Extended(until) = extended {
                taken.lease = until;
            }
            let notes = client.status(&handle).await.unwrap().notes;
            assert_eq!(notes.progress.as_deref(), Some(percent.as_bytes()));
            assert_eq!(notes.meta.is_none(), is_plain);
            assert_eq!(notes.trace.as_deref(), (!is_plain).then_some("t"));
        }
        let said = Said {
            progress: Some(vec![b'1'; 65_537].into()),
            ..Said::default()
        };
        let refused = taken.finish_said(Finish::Extend(9), &said).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
        // As a network face ends it, which looks for the row beside it.
        taken
            .database
            .finish_job(taken.job.jobid, taken.lease, done())
            .await
            .unwrap();
        assert_eq!(client.status(&handle).await.unwrap().notes.progress, None);
    }
}

/// Who has a job can be asked to stop, and hears of it under whatever lease it has by then.
async fn stops(client: &Client) {
    let handle = new(client.insert(Job::new("Stopped", "x")).await.unwrap());
    assert!(!client.stop_run(&handle).await.unwrap(), "nobody has it");
    let taken = one(client, "Stopped").await;
    assert!(client.stop_run(&handle).await.unwrap());
    taken.finish(done()).await.unwrap();
    assert!(matches!(
        client.stop_run(&handle).await,
        Err(Error::NotFound(_))
    ));
}

/// A tenant with many jobs waiting keeps no other waiting; what a job costs makes its tenant's next turns the rarer.
async fn tenants(client: &Client) {
    let job = |tenant: &str, n: usize| Job::new("Shop", format!("{tenant}{n}")).tenant(tenant);
    let many = (0..40).map(|n| job("big", n)).collect();
    let first = client.insert_all(many).await.unwrap();
    let few = vec![job("one", 0), job("two", 0), job("two", 1)];
    client.insert_all(few).await.unwrap();
    client.insert(Job::new("Shop", "nobody0")).await.unwrap();
    let dear = |n: usize| Job::new("Shop", format!("dear{n}")).tenant_cost("dear", 3);
    client.insert_all((0..9).map(dear).collect()).await.unwrap();
    let wide = client.status(&first[0]).await.unwrap().wide.unwrap();
    assert_eq!(wide.tenant, Some(("big".to_owned(), 1)));
    // Who has tenants is known within a second: then the oldest job is not the next.
    until("the tenants to be known", async || {
        let hands = grab(client, "Shop", 2).await;
        for job in &hands {
            let (jobid, lease) = (job.job.jobid, job.lease);
            job.database.release_job(jobid, lease).await.unwrap();
        }
        let [first, second] = &hands[..] else {
            panic!("two");
        };
        first.job.arg.starts_with(b"big") != second.job.arg.starts_with(b"big")
    })
    .await;
    let mut counts = std::collections::BTreeMap::new();
    let mut hands = Vec::new();
    for _ in 0..4 {
        hands.extend(grab(client, "Shop", 4).await);
    }
    for job in &hands {
        let text = std::str::from_utf8(&job.job.arg).unwrap();
        let tenant = text.trim_end_matches(|c: char| c.is_ascii_digit());
        *counts.entry(tenant.to_owned()).or_insert(0) += 1;
    }
    assert_eq!(hands.len(), 16, "{counts:?}");
    assert_eq!((counts["one"], counts["two"], counts["nobody"]), (1, 2, 1));
    assert!((2..=5).contains(&counts["dear"]), "{counts:?}");
    // The others are out or too dear for now: the big one has what is left.
    let rest = grab(client, "Shop", 100).await;
    assert_eq!(rest.len() + hands.len(), 53);
    for job in hands.iter().chain(&rest) {
        job.finish(done()).await.unwrap();
    }
    // One that failed for good has its tenant again when it is brought back.
    let again = new(client.insert(job("late", 0)).await.unwrap());
    let over = Finish::Fail {
        message: "over".to_owned(),
        status: 1,
        retry: RetryPolicy::never(),
        keep: 0,
    };
    one(client, "Shop").await.finish(over).await.unwrap();
    client.retry(&again).await.unwrap();
    let wide = client.status(&again).await.unwrap().wide.unwrap();
    assert_eq!(wide.tenant, Some(("late".to_owned(), 1)));
    one(client, "Shop").await.finish(done()).await.unwrap();
    assert!(client.insert(job("", 0)).await.is_err());
}
