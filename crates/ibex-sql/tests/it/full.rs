//! A full disk: refused by class, nothing acknowledged lost, writing again once there is room.

use ibex_sql::{Config, Db, params};
use ibex_testkit::disk::Small;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_survived() {
    let Some(small) = Small::mount(2) else { return };
    let db = Db::open(&Config::new(&format!("sqlite:{}/full.db", small.path().display())).unwrap())
        .await
        .unwrap();
    db.execute(
        "CREATE TABLE t (n INTEGER PRIMARY KEY, data BLOB)",
        params![],
    )
    .await
    .unwrap();
    std::fs::write(small.path().join("ballast"), vec![1; 1_100_000]).unwrap();
    let mut acknowledged = 0_i64;
    let error = loop {
        // Several at once, so that a whole group meets the full disk.
        let writes = (0..4).map(|n| {
            let db = db.clone();
            tokio::spawn(async move {
                db.execute(
                    "INSERT INTO t (n, data) VALUES (?, ?)",
                    params![acknowledged * 10 + n, vec![7_u8; 20_000]],
                )
                .await
            })
        });
        let mut first = None;
        for write in writes.collect::<Vec<_>>() {
            match write.await.unwrap() {
                Ok(_) => acknowledged += 1,
                Err(error) => first = Some(error),
            }
        }
        if let Some(error) = first {
            break error;
        }
        assert!(
            acknowledged < 10_000,
            "a disk of two megabytes does not fill"
        );
    };
    assert!(error.is_disk_full(), "{error:?}");
    assert!(acknowledged > 0);
    let kept = async || -> i64 {
        db.query_one("SELECT COUNT(*) FROM t", params![])
            .await
            .unwrap()
            .unwrap()
            .get(0)
            .unwrap()
    };
    assert_eq!(
        kept().await,
        acknowledged,
        "acknowledged rows are there, refused ones are not"
    );
    std::fs::remove_file(small.path().join("ballast")).unwrap();
    db.execute("INSERT INTO t (n) VALUES (?)", params![-1])
        .await
        .unwrap();
    assert_eq!(
        kept().await,
        acknowledged + 1,
        "room again, writing again, without a restart"
    );
    db.close().await.unwrap();
}
