//! What only SQLite has: shared commits, stalls of its one writer, locks of other processes.

use ibex_sql::{Config, Db, Error, ErrorKind, params};
use std::time::{Duration, Instant};

async fn table(db: &Db) {
    db.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER UNIQUE)",
        params![],
    )
    .await
    .unwrap();
}

async fn count(db: &Db) -> u64 {
    db.query_one("SELECT COUNT(*) FROM t", params![])
        .await
        .unwrap()
        .unwrap()
        .get(0)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_wait_together_share_one_commit() {
    const WRITERS: u64 = 500;
    let dir = tempfile::tempdir().unwrap();
    let db = crate::file_db(&dir).await;
    table(&db).await;
    let before = db.stats();
    // One closure holds the writer until all others are queued behind it.
    let (queued, all_queued) = tokio::sync::watch::channel(0_u64);
    let gate = {
        let (db, all_queued) = (db.clone(), all_queued.clone());
        tokio::spawn(async move {
            db.write(move |tx| {
                let mut all_queued = all_queued.clone();
                Box::pin(async move {
                    tx.execute("INSERT INTO t (n) VALUES (?)", params![-1])
                        .await?;
                    all_queued
                        .wait_for(|count| *count == WRITERS)
                        .await
                        .unwrap();
                    Ok::<_, Error>(())
                })
            })
            .await
        })
    };
    let mut writers = Vec::new();
    for n in 0..WRITERS {
        let (db, queued) = (db.clone(), queued.clone());
        writers.push(tokio::spawn(async move {
            let mut insert =
                std::pin::pin!(db.execute("INSERT INTO t (n) VALUES (?)", params![n / 2]));
            // The first poll puts the statement into the queue.
            let first = futures_poll(insert.as_mut()).await;
            queued.send_modify(|count| *count += 1);
            match first {
                Some(outcome) => outcome,
                None => insert.await,
            }
        }));
    }
    gate.await.unwrap().unwrap();
    let mut refused = 0;
    for writer in writers {
        if let Err(error) = writer.await.unwrap() {
            assert!(error.is_unique_violation(), "{error:?}");
            refused += 1;
        }
    }
    let after = db.stats();
    assert_eq!(refused, WRITERS / 2, "each fails or succeeds alone");
    assert_eq!(count(&db).await, WRITERS / 2 + 1);
    let commits = after.commits - before.commits;
    assert!(commits <= 20, "{commits} commits for {WRITERS} writers");
    assert!(after.group_max >= 100, "{after:?}");
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(
        |context| match std::pin::Pin::new(&mut future).poll(context) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_closure_is_rolled_back_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = crate::file_config(&dir).with_stall_timeout(Duration::from_millis(100));
    let db = Db::open(&config).await.unwrap();
    table(&db).await;
    let stalled = {
        let db = db.clone();
        tokio::spawn(async move {
            db.write(|tx| {
                Box::pin(async move {
                    tx.execute("INSERT INTO t (n) VALUES (?)", params![1])
                        .await?;
                    tokio::time::sleep(Duration::from_millis(600)).await;
                    tx.execute("INSERT INTO t (n) VALUES (?)", params![2])
                        .await?;
                    Ok::<_, Error>(())
                })
            })
            .await
        })
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while db.stats().writes < 2 {
        assert!(Instant::now() < deadline);
        db.execute("INSERT INTO t (n) VALUES (?)", params![None::<i64>])
            .await
            .unwrap();
    }
    let error = stalled.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    let kept = db
        .query("SELECT n FROM t WHERE n IS NOT NULL", params![])
        .await
        .unwrap();
    assert!(kept.is_empty(), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_another_process_is_waited_for_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.db");
    let config = Config::new(&format!(
        "sqlite:{}?busy_timeout=50ms&timeout=300ms",
        path.display()
    ))
    .unwrap();
    let db = Db::open(&config).await.unwrap();
    table(&db).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let started = Instant::now();
    let error = db
        .execute("INSERT INTO t (n) VALUES (1)", params![])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    let waiting = {
        let db = db.clone();
        tokio::spawn(async move {
            db.write(|tx| {
                Box::pin(async move { tx.execute("INSERT INTO t (n) VALUES (2)", params![]).await })
            })
            .await
        })
    };
    tokio::task::yield_now().await;
    other.execute_batch("COMMIT").unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(count(&db).await, 1);
}

#[tokio::test]
async fn readers_cannot_write_and_read_only_files_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let db = crate::file_db(&dir).await;
    table(&db).await;
    let error = db
        .query("INSERT INTO t (n) VALUES (1) RETURNING id", params![])
        .await
        .unwrap_err();
    assert!(error.is_read_only(), "{error:?}");
    let path = dir.path().join("test.db");
    let frozen = Db::open(&Config::new(&format!("sqlite:{}?mode=ro", path.display())).unwrap())
        .await
        .unwrap();
    assert_eq!(count(&frozen).await, 0);
    assert!(
        frozen
            .execute("INSERT INTO t (n) VALUES (1)", params![])
            .await
            .unwrap_err()
            .is_read_only()
    );
    let error = Db::open(&Config::new("sqlite:/nonexistent/dir/x.db").unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
}

#[tokio::test]
async fn a_damaged_file_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("test.db"), vec![b'x'; 8192]).unwrap();
    let error = Db::open(&crate::file_config(&dir)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_read_ends_at_the_deadline_and_frees_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    let config = crate::file_config(&dir)
        .with_pool_max(1)
        .with_timeout(Duration::from_millis(200));
    let db = Db::open(&config).await.unwrap();
    table(&db).await;
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n";
    let error = db.query(endless, params![]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = db.query("SELECT 1", params![]).await {
        assert!(Instant::now() < deadline, "{error:?}");
    }
}
