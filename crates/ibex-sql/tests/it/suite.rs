//! What both engines promise, once.

use ibex_sql::{Config, Db, Error, ErrorKind, Migration, params};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const STEPS: &[Migration] = &[
    Migration {
        version: 1,
        name: "things",
        sqlite: &[
            "CREATE TABLE thing (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, size INTEGER, data BLOB, weight REAL)",
        ],
        mysql: &[
            "CREATE TABLE thing (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(100) NOT NULL UNIQUE, size BIGINT UNSIGNED, data MEDIUMBLOB, weight DOUBLE) ENGINE=InnoDB",
        ],
    },
    Migration {
        version: 2,
        name: "kinds",
        sqlite: &[
            "ALTER TABLE thing ADD COLUMN kind TEXT",
            "CREATE INDEX thing_kind ON thing (kind)",
        ],
        mysql: &[
            "ALTER TABLE thing ADD COLUMN kind VARCHAR(20)",
            "CREATE INDEX thing_kind ON thing (kind)",
        ],
    },
];

/// A caller's own error, which must come back as it was.
enum Abort {
    Sql(Error),
    Mine(&'static str),
}

impl From<Error> for Abort {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_file() {
    let dir = tempfile::tempdir().unwrap();
    let db = crate::file_db(&dir).await;
    suite(&db).await;
    second_migrator(crate::file_config(&dir)).await;
    db.close().await.unwrap();
    assert!(
        !dir.path().join("test.db-wal").exists(),
        "a clean close folds the log back into the file"
    );
    assert_eq!(
        db.execute("DELETE FROM thing", params![])
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Closed
    );
}

#[tokio::test]
async fn sqlite_memory() {
    let db = Db::open(&Config::new("sqlite::memory:").unwrap())
        .await
        .unwrap();
    suite(&db).await;
    db.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let config = Config::new(&database.url()).unwrap();
    let db = Db::open(&config).await.unwrap();
    suite(&db).await;
    second_migrator(config).await;
    db.close().await.unwrap();
    assert_eq!(
        db.execute("DELETE FROM thing", params![])
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Closed
    );
}

async fn suite(db: &Db) {
    migrations(db).await;
    values(db).await;
    statements(db).await;
    transactions(db).await;
    classes(db).await;
    concurrent(db).await;
}

async fn migrations(db: &Db) {
    db.migrate("suite", &STEPS[..1]).await.unwrap();
    db.migrate("suite", STEPS).await.unwrap();
    db.migrate("suite", STEPS).await.unwrap();
    let newer = db.migrate("suite", &STEPS[..1]).await.unwrap_err();
    assert_eq!(newer.kind(), ErrorKind::Migration);
    assert!(
        newer.to_string().contains("version 2 (kinds)") && newer.to_string().contains("up to 1"),
        "{newer}"
    );
    let edited = Migration {
        sqlite: &["SELECT 2"],
        mysql: &["SELECT 2"],
        ..STEPS[0]
    };
    let error = db.migrate("suite", &[edited, STEPS[1]]).await.unwrap_err();
    assert!(error.to_string().contains("version 1 (things)"), "{error}");
    let broken = Migration {
        version: 1,
        name: "broken",
        sqlite: &["CREATE TABEL x"],
        mysql: &["CREATE TABEL x"],
    };
    let error = db.migrate("other", &[broken]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Migration);
    assert!(error.to_string().contains("version 1 (broken)"), "{error}");
}

/// Two programs that start at once on an empty component both end with the tables there, made once.
async fn second_migrator(config: Config) {
    const STEP: &[Migration] = &[Migration {
        version: 1,
        name: "race",
        sqlite: &["CREATE TABLE race (id INTEGER PRIMARY KEY)"],
        mysql: &["CREATE TABLE race (id INT PRIMARY KEY) ENGINE=InnoDB"],
    }];
    let mut racers = Vec::new();
    for _ in 0..4 {
        let config = config.clone();
        racers.push(tokio::spawn(async move {
            let db = Db::open(&config).await.unwrap();
            db.migrate("race", STEP).await?;
            db.close().await
        }));
    }
    for racer in racers {
        racer.await.unwrap().unwrap();
    }
}

async fn values(db: &Db) {
    let all: Vec<u8> = (0..=255).collect();
    let done = db
        .execute(
            "INSERT INTO thing (name, size, data, weight) VALUES (?, ?, ?, ?)",
            params!["näme ☺", i64::MAX, all.clone(), 1.5],
        )
        .await
        .unwrap();
    assert_eq!(done.rows_affected, 1);
    let row = db
        .query_one(
            "SELECT id, name, size, data, weight, kind FROM thing WHERE id = ?",
            params![done.last_insert_id],
        )
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.get::<u64>(0).unwrap(), done.last_insert_id);
    assert_eq!(row.get::<String>(1).unwrap(), "näme ☺");
    assert_eq!(row.get::<i64>(2).unwrap(), i64::MAX);
    assert_eq!(row.named::<Vec<u8>>("data").unwrap(), all);
    assert!((row.get::<f64>(4).unwrap() - 1.5).abs() < f64::EPSILON);
    assert_eq!(row.get::<Option<String>>(5).unwrap(), None);
    assert_eq!(row.get::<u64>(1).unwrap_err().kind(), ErrorKind::Decode);
    let row = db
        .query_one(
            "SELECT COUNT(*), SUM(size), MAX(name) FROM thing WHERE id = ?",
            params![done.last_insert_id],
        )
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (row.get::<u64>(0).unwrap(), row.get::<i64>(1).unwrap()),
        (1, i64::MAX)
    );
}

async fn statements(db: &Db) {
    let done = db
        .execute("INSERT INTO thing (name) VALUES (?)", params!["one"])
        .await
        .unwrap();
    let same = db
        .execute(
            "UPDATE thing SET name = ? WHERE id = ?",
            params!["one", done.last_insert_id],
        )
        .await
        .unwrap();
    assert_eq!(same.rows_affected, 1, "matched rows count, changed or not");
    let none = db
        .execute(
            "UPDATE thing SET name = ? WHERE id = ?",
            params!["x", 999_999],
        )
        .await
        .unwrap();
    assert_eq!(none.rows_affected, 0);
    assert!(
        db.query("SELECT id FROM thing WHERE name = ?", params!["missing"])
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        db.execute("DELETE FROM thing", params![])
            .await
            .unwrap()
            .rows_affected,
        2
    );
}

async fn count(db: &Db) -> u64 {
    db.query_one("SELECT COUNT(*) FROM thing", params![])
        .await
        .unwrap()
        .unwrap()
        .get(0)
        .unwrap()
}

async fn transactions(db: &Db) {
    let ids: Vec<u64> = db
        .write(|tx| {
            Box::pin(async move {
                let sets = (0..10).map(|n| params![format!("t{n}")]).collect();
                let done = tx
                    .execute_each("INSERT INTO thing (name) VALUES (?)", sets)
                    .await?;
                let rows = tx
                    .query("SELECT id FROM thing ORDER BY id", params![])
                    .await?;
                assert_eq!(rows.len(), done.len(), "a transaction sees its own rows");
                rows.iter()
                    .map(|row| row.get(0))
                    .collect::<Result<_, Error>>()
            })
        })
        .await
        .unwrap();
    assert_eq!((ids.len(), count(db).await), (10, 10));
    let refused: Result<(), Abort> = db
        .write(|tx| {
            Box::pin(async move {
                tx.execute("DELETE FROM thing", params![]).await?;
                Err(Abort::Mine("changed my mind"))
            })
        })
        .await;
    match refused {
        Err(Abort::Mine(why)) => assert_eq!(why, "changed my mind"),
        Err(Abort::Sql(error)) => panic!("{error:?}"),
        Ok(()) => panic!("committed"),
    }
    assert_eq!(count(db).await, 10, "an error rolls back");
    // A refused row leaves the transaction usable.
    db.write(|tx| {
        Box::pin(async move {
            let error = tx
                .execute("INSERT INTO thing (name) VALUES (?)", params!["t1"])
                .await
                .unwrap_err();
            assert!(error.is_unique_violation(), "{error:?}");
            tx.execute("INSERT INTO thing (name) VALUES (?)", params!["t10"])
                .await?;
            Ok::<_, Error>(())
        })
    })
    .await
    .unwrap();
    assert_eq!(count(db).await, 11);
    let dropped = tokio::time::timeout(
        std::time::Duration::from_millis(50),
        db.write(|tx| {
            Box::pin(async move {
                tx.execute("DELETE FROM thing", params![]).await?;
                std::future::pending::<()>().await;
                Ok::<_, Error>(())
            })
        }),
    );
    assert!(dropped.await.is_err());
    assert_eq!(count(db).await, 11, "a dropped transaction rolls back");
    snapshot(db).await;
}

/// Every statement of a read transaction sees the same rows, whoever writes meanwhile.
async fn snapshot(db: &Db) {
    if db.config().to_string().contains(":memory:") {
        return;
    }
    let outside = db.clone();
    let (first, second): (u64, u64) = db
        .read(move |tx| {
            let outside = outside.clone();
            Box::pin(async move {
                let first = tx
                    .query_one("SELECT COUNT(*) FROM thing", params![])
                    .await?
                    .unwrap()
                    .get(0)?;
                outside
                    .execute("DELETE FROM thing WHERE name = ?", params!["t10"])
                    .await?;
                let second = tx
                    .query_one("SELECT COUNT(*) FROM thing", params![])
                    .await?
                    .unwrap()
                    .get(0)?;
                Ok::<_, Error>((first, second))
            })
        })
        .await
        .unwrap();
    assert_eq!((first, second, count(db).await), (11, 11, 10));
}

async fn classes(db: &Db) {
    let check = async |sql: &str, params, kind| {
        let error = db.execute(sql, params).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(!error.is_retryable());
    };
    check(
        "INSERT INTO thing (name) VALUES (?)",
        params!["t1"],
        ErrorKind::Unique,
    )
    .await;
    check(
        "INSERT INTO thing (name) VALUES (?)",
        params![None::<String>],
        ErrorKind::Constraint,
    )
    .await;
    check(
        "INSERT INTO nothing (name) VALUES (?)",
        params!["x"],
        ErrorKind::Syntax,
    )
    .await;
    check("INSRT", params![], ErrorKind::Syntax).await;
    check(
        "INSERT INTO thing (name) VALUES (?)",
        params!["x", "y"],
        ErrorKind::Syntax,
    )
    .await;
    let error = db.query("SELECT FROM", params![]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Syntax, "{error:?}");
}

/// Increments from many tasks at once are all kept.
async fn concurrent(db: &Db) {
    const TASKS: u32 = 16;
    const EACH: u32 = 10;
    db.execute(
        "INSERT INTO thing (name, size) VALUES (?, ?)",
        params!["counter", 0],
    )
    .await
    .unwrap();
    let failures = Arc::new(AtomicU32::new(0));
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        let (db, failures) = (db.clone(), Arc::clone(&failures));
        tasks.push(tokio::spawn(async move {
            for _ in 0..EACH {
                let outcome = db
                    .write(|tx| {
                        Box::pin(async move {
                            let lock = tx.engine().pick("", " FOR UPDATE");
                            let row = tx
                                .query_one(
                                    format!("SELECT size FROM thing WHERE name = ?{lock}"),
                                    params!["counter"],
                                )
                                .await?
                                .unwrap();
                            let size: i64 = row.get(0)?;
                            tx.execute(
                                "UPDATE thing SET size = ? WHERE name = ?",
                                params![size + 1, "counter"],
                            )
                            .await?;
                            Ok::<_, Error>(())
                        })
                    })
                    .await;
                if outcome.is_err() {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(failures.load(Ordering::Relaxed), 0);
    let row = db
        .query_one("SELECT size FROM thing WHERE name = ?", params!["counter"])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.get::<u32>(0).unwrap(), TASKS * EACH);
}
