//! What only a server has: deadlocks, lock time-outs, connections that break, restarts, wrong credentials.

use ibex_sql::{Config, Db, Error, ErrorKind, params};
use ibex_testkit::mariadb::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Barrier;

async fn two_rows(db: &Db) {
    db.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, n INT NOT NULL) ENGINE=InnoDB",
        params![],
    )
    .await
    .unwrap();
    db.execute("INSERT INTO t VALUES (1, 0), (2, 0)", params![])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_is_retried_and_both_transactions_happen() {
    let Some(server) = Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let db = Db::open(&Config::new(&database.url()).unwrap())
        .await
        .unwrap();
    two_rows(&db).await;
    let barrier = Arc::new(Barrier::new(2));
    let runs = Arc::new(AtomicU32::new(0));
    let task = |first: i32, second: i32| {
        let (db, barrier, runs) = (db.clone(), Arc::clone(&barrier), Arc::clone(&runs));
        tokio::spawn(async move {
            let meet = Arc::new(AtomicU32::new(0));
            db.write(move |tx| {
                let (barrier, runs, meet) =
                    (Arc::clone(&barrier), Arc::clone(&runs), Arc::clone(&meet));
                Box::pin(async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    tx.execute("UPDATE t SET n = n + 1 WHERE id = ?", params![first])
                        .await?;
                    // Only in the first run: each holds its row before either wants the other's.
                    if meet.fetch_add(1, Ordering::SeqCst) == 0 {
                        barrier.wait().await;
                    }
                    tx.execute("UPDATE t SET n = n + 1 WHERE id = ?", params![second])
                        .await?;
                    Ok::<_, Error>(())
                })
            })
            .await
        })
    };
    let (one, two) = (task(1, 2), task(2, 1));
    one.await.unwrap().unwrap();
    two.await.unwrap().unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 3, "one victim, once");
    assert_eq!(db.stats().retries, 1);
    let rows = db
        .query("SELECT n FROM t ORDER BY id", params![])
        .await
        .unwrap();
    assert_eq!(
        rows.iter()
            .map(|row| row.get::<i32>(0).unwrap())
            .collect::<Vec<_>>(),
        [2, 2]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_server_killed_and_restarted_is_waited_for() {
    let Some(mut server) = Server::start_own().unwrap() else {
        return;
    };
    let url = server.database().map(|database| {
        let url = database.url();
        // The database must outlive the restart; the whole server goes with the test.
        std::mem::forget(database);
        url
    });
    let db = Db::open(&Config::new(&format!("{}?timeout=20s", url.unwrap())).unwrap())
        .await
        .unwrap();
    two_rows(&db).await;
    db.execute("UPDATE t SET n = 5 WHERE id = 1", params![])
        .await
        .unwrap();
    server.kill().unwrap();
    let brief = Db::open(&db.config().clone().with_timeout(Duration::from_millis(300)))
        .await
        .unwrap_err();
    assert!(brief.is_connection_lost(), "{brief:?}");
    let waiting = {
        let db = db.clone();
        tokio::spawn(async move {
            db.write(|tx| {
                Box::pin(async move {
                    tx.execute("UPDATE t SET n = n + 1 WHERE id = 1", params![])
                        .await?;
                    tx.query_one("SELECT n FROM t WHERE id = 1", params![])
                        .await?
                        .unwrap()
                        .get::<i32>(0)
                })
            })
            .await
        })
    };
    let reading = {
        let db = db.clone();
        tokio::spawn(async move { db.query("SELECT id FROM t", params![]).await })
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while db.stats().retries == 0 {
        assert!(Instant::now() < deadline, "the calls never noticed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::task::spawn_blocking(move || {
        server.restart().unwrap();
        server
    })
    .await
    .map(|server| async move {
        assert_eq!(waiting.await.unwrap().unwrap(), 6);
        assert_eq!(reading.await.unwrap().unwrap().len(), 2);
        drop(server);
    })
    .unwrap()
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_killed_during_a_transaction_repeats_it_whole() {
    let Some(server) = Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let db = Db::open(&Config::new(&database.url()).unwrap())
        .await
        .unwrap();
    two_rows(&db).await;
    let runs = Arc::new(AtomicU32::new(0));
    let other = db.clone();
    let counted = Arc::clone(&runs);
    db.write(move |tx| {
        let (runs, other) = (Arc::clone(&counted), other.clone());
        Box::pin(async move {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            tx.execute("UPDATE t SET n = n + 1 WHERE id = 1", params![])
                .await?;
            if run == 0 {
                let id: u64 = tx
                    .query_one("SELECT CONNECTION_ID()", params![])
                    .await?
                    .unwrap()
                    .get(0)?;
                other.execute(format!("KILL {id}"), params![]).await?;
            }
            tx.execute("UPDATE t SET n = n + 1 WHERE id = 2", params![])
                .await?;
            Ok::<_, Error>(())
        })
    })
    .await
    .unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    let rows = db
        .query("SELECT n FROM t ORDER BY id", params![])
        .await
        .unwrap();
    assert_eq!(
        rows.iter()
            .map(|row| row.get::<i32>(0).unwrap())
            .collect::<Vec<_>>(),
        [1, 1],
        "nothing happened twice"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_says_so_and_is_not_repeated() {
    let Some(server) = Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let proxy = ibex_testkit::proxy::Proxy::start(server.addr()).unwrap();
    let direct = Db::open(&Config::new(&database.url()).unwrap())
        .await
        .unwrap();
    two_rows(&direct).await;
    let through = database
        .url()
        .replace(&server.addr().to_string(), &proxy.addr().to_string());
    let db = Db::open(&Config::new(&through).unwrap()).await.unwrap();
    let runs = Arc::new(AtomicU32::new(0));
    let (counted, proxy) = (Arc::clone(&runs), Arc::new(proxy));
    let cut = Arc::clone(&proxy);
    let error = db
        .write(move |tx| {
            let (runs, cut) = (Arc::clone(&counted), Arc::clone(&cut));
            Box::pin(async move {
                runs.fetch_add(1, Ordering::SeqCst);
                tx.execute("UPDATE t SET n = n + 1 WHERE id = 1", params![])
                    .await?;
                cut.cut_all();
                Ok::<_, Error>(())
            })
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error:?}");
    assert!(!error.is_retryable() && error.is_connection_lost());
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn refused_credentials_and_missing_databases_are_configuration() {
    let Some(server) = Server::start().unwrap() else {
        return;
    };
    for url in [
        format!("mysql://nobody:wrong@{}/mysql", server.addr()),
        format!("{}/no_such_database", server.url()),
    ] {
        let error = Db::open(&Config::new(&url).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(!error.to_string().contains("wrong@"), "{error}");
    }
}

#[tokio::test]
async fn the_second_host_serves_when_the_first_is_down() {
    let Some(server) = Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let closed = ibex_testkit::ports::free();
    let url = database.url().replace(
        &server.addr().to_string(),
        &format!("{closed},{}", server.addr()),
    );
    let db = Db::open(&Config::new(&url).unwrap()).await.unwrap();
    assert_eq!(db.query("SELECT 1", params![]).await.unwrap().len(), 1);
}
