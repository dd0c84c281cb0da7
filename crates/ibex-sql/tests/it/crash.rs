//! `kill -9` in the middle of writing: what was acknowledged is there afterwards.

use ibex_sql::{Config, Db, Error, params};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// The database's path, given to the child.
const CHILD: &str = "IBEX_SQL_CRASH_CHILD";

/// The child's part: prints each number after its acknowledgement, until it is killed. Without the variable it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let db = Db::open(&Config::new(&format!("sqlite:{path}")).unwrap())
        .await
        .unwrap();
    db.execute(
        "CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, pair INTEGER NOT NULL)",
        params![],
    )
    .await
    .unwrap();
    let mut tasks = Vec::new();
    for task in 0..8_i64 {
        let db = db.clone();
        tasks.push(tokio::spawn(async move {
            for turn in 0..i64::from(u32::MAX) {
                let n = (turn * 8 + task) * 2;
                db.write(move |tx| {
                    Box::pin(async move {
                        tx.execute("INSERT INTO t (n, pair) VALUES (?, ?)", params![n, n + 1])
                            .await?;
                        tx.execute("INSERT INTO t (n, pair) VALUES (?, ?)", params![n + 1, n])
                            .await?;
                        Ok::<_, Error>(())
                    })
                })
                .await
                .unwrap();
                let mut out = std::io::stderr().lock();
                writeln!(out, "acknowledged {n}").unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn acknowledged_rows_survive_kill_nine_and_transactions_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crash.db");
    let mut acknowledged = Vec::new();
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::child_that_writes_until_it_is_killed",
                "--nocapture",
            ])
            .env(CHILD, dir.path().join(format!("crash{round}.db")))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        acknowledged.clear();
        for line in lines.by_ref() {
            let line = line.unwrap();
            if let Some(n) = line.strip_prefix("acknowledged ") {
                acknowledged.push(n.parse::<i64>().unwrap());
            }
            if acknowledged.len() == 37 * round {
                child.kill().unwrap();
                break;
            }
        }
        child.wait().unwrap();
        // Lines that were on their way count, too; the last may be cut.
        for line in lines.map_while(Result::ok) {
            if let Some(Ok(n)) = line.strip_prefix("acknowledged ").map(str::parse::<i64>) {
                acknowledged.push(n);
            }
        }
        assert!(acknowledged.len() >= 37 * round);
        std::fs::rename(dir.path().join(format!("crash{round}.db")), &path).unwrap();
        std::fs::rename(
            dir.path().join(format!("crash{round}.db-wal")),
            path.with_extension("db-wal"),
        )
        .unwrap();
        let db = Db::open(&Config::new(&format!("sqlite:{}", path.display())).unwrap())
            .await
            .unwrap();
        for n in &acknowledged {
            let found = db
                .query("SELECT pair FROM t WHERE n IN (?, ?)", params![*n, n + 1])
                .await
                .unwrap();
            assert_eq!(
                found.len(),
                2,
                "round {round}: acknowledged {n} is lost or half there"
            );
        }
        let halves = db
            .query(
                "SELECT n FROM t a WHERE NOT EXISTS (SELECT 1 FROM t b WHERE b.n = a.pair)",
                params![],
            )
            .await
            .unwrap();
        assert!(halves.is_empty(), "round {round}: {halves:?}");
        db.close().await.unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
