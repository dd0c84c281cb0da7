//! The smallest application: people with numbered notes, and a log of accepted writes to compare with.

use ibex_cluster::{
    BoxFuture, Cluster, ClusterId, Column, Config, Counter, Error, Layout, Source, Table, UserId,
    UserTx,
};
use ibex_sql::{Migration, Tx, Value, params};
use ibex_testkit::mariadb;
use std::time::Duration;

pub(crate) const LAYOUT: Layout = Layout {
    component: "notes",
    user_table: "user",
    tables: &[
        Table { name: "note", user: "userid", key: &[Column::int("noteid")], rest: &[Column::text("body")] },
        Table { name: "tag", user: "userid", key: &[Column::int("noteid"), Column::text("word")], rest: &[Column::blob("mark")] },
    ],
    counters: &[Counter {
        area: 'N',
        sources: &[
            Source { table: "note", user: "userid", column: "noteid" },
            Source { table: "tag", user: "userid", column: "noteid" },
        ],
    }],
    global_steps: &[Migration {
        version: 1,
        name: "user",
        sqlite: &["CREATE TABLE user (userid INTEGER PRIMARY KEY, clusterid INTEGER NOT NULL, epoch INTEGER NOT NULL) STRICT"],
        mysql: &["CREATE TABLE user (userid BIGINT PRIMARY KEY, clusterid INT NOT NULL, epoch BIGINT NOT NULL) ENGINE=InnoDB"],
    }],
    cluster_steps: &[Migration {
        version: 1,
        name: "note, tag",
        sqlite: &[
            "CREATE TABLE note (userid INTEGER NOT NULL, noteid INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (userid, noteid)) STRICT",
            "CREATE TABLE tag (userid INTEGER NOT NULL, noteid INTEGER NOT NULL, word TEXT NOT NULL, mark BLOB NOT NULL, PRIMARY KEY (userid, noteid, \
            word)) STRICT",
        ],
        mysql: &[
            "CREATE TABLE note (userid BIGINT NOT NULL, noteid BIGINT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (userid, noteid)) ENGINE=InnoDB \
            DEFAULT CHARSET=utf8mb4",
            "CREATE TABLE tag (userid BIGINT NOT NULL, noteid BIGINT NOT NULL, word VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, \
            mark BLOB NOT NULL,
                PRIMARY KEY (userid, noteid, word)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        ],
    }],
};

pub(crate) const ANN: UserId = UserId(1);
pub(crate) const BOB: UserId = UserId(2);
pub(crate) const ONE: ClusterId = ClusterId(1);
pub(crate) const TWO: ClusterId = ClusterId(2);

/// Runs `body` on SQLite, and on MariaDB when there is one: with the configuration of an empty application of two clusters.
pub(crate) fn on_both<F: Future<Output = ()>>(body: impl Fn(Config) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let dsn = |name: &str| {
        format!(
            "sqlite:{}?synchronous=normal",
            dir.path().join(name).display()
        )
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(body(config(
        &dsn("global.db"),
        &dsn("one.db"),
        &dsn("two.db"),
    )));
    if let Some(server) = mariadb::Server::start().unwrap() {
        let (global, one, two) = (
            server.database().unwrap(),
            server.database().unwrap(),
            server.database().unwrap(),
        );
        runtime.block_on(body(config(&global.url(), &one.url(), &two.url())));
        drop(runtime);
    }
}

fn config(global: &str, one: &str, two: &str) -> Config {
    let mut config = Config::new(global)
        .with_cluster(1, one)
        .with_cluster(2, two);
    // A machine that runs eight test suites is slower than a site's patience.
    config.gather_deadline = Duration::from_secs(10);
    config.write_hold = Duration::from_secs(20);
    config.call_timeout = Duration::from_secs(30);
    config
}

pub(crate) async fn open(config: &Config) -> Cluster {
    let cluster = Cluster::open(config.clone(), LAYOUT).await.unwrap();
    assert!(cluster.open_all().await.is_empty());
    cluster
}

pub(crate) async fn sign_up(cluster: &Cluster, user: UserId, home: ClusterId) {
    cluster.adopt(user, home).await.unwrap();
    cluster
        .global()
        .execute(
            "INSERT INTO user (userid, clusterid, epoch) VALUES (?, ?, 1)",
            params![user, home],
        )
        .await
        .unwrap();
}

/// Writes a note with two tags; returns its number.
pub(crate) async fn write_note(cluster: &Cluster, user: UserId, body: &str) -> Result<i64, Error> {
    let body = body.to_owned();
    cluster
        .write(
            user,
            move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<i64, Error>> {
                let body = body.clone();
                Box::pin(async move {
                    let (user, id) = (tx.user(), tx.next('N').await?);
                    tx.write_row(
                        "note",
                        &[Value::Int(id)],
                        "INSERT INTO note (userid, noteid, body) VALUES (?, ?, ?)",
                        params![user, id, body],
                    )
                    .await?;
                    let words = ["a", "Z"];
                    let keys = words.iter().map(|word| params![id, *word]).collect();
                    let sets = words
                        .iter()
                        .map(|word| params![user, id, *word, vec![0_u8, 255]])
                        .collect();
                    tx.write_rows(
                        "tag",
                        keys,
                        "INSERT INTO tag (userid, noteid, word, mark) VALUES (?, ?, ?, ?)",
                        sets,
                    )
                    .await?;
                    Ok(id)
                })
            },
        )
        .await
}

pub(crate) async fn edit_note(
    cluster: &Cluster,
    user: UserId,
    id: i64,
    body: &str,
) -> Result<(), Error> {
    let body = body.to_owned();
    cluster
        .write(
            user,
            move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(), Error>> {
                let body = body.clone();
                Box::pin(async move {
                    let user = tx.user();
                    tx.write_row(
                        "note",
                        &[Value::Int(id)],
                        "UPDATE note SET body = ? WHERE userid = ? AND noteid = ?",
                        params![body, user, id],
                    )
                    .await?;
                    Ok(())
                })
            },
        )
        .await
}

pub(crate) async fn delete_note(cluster: &Cluster, user: UserId, id: i64) -> Result<(), Error> {
    cluster
        .write(
            user,
            move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(), Error>> {
                Box::pin(async move {
                    let user = tx.user();
                    tx.write_row(
                        "note",
                        &[Value::Int(id)],
                        "DELETE FROM note WHERE userid = ? AND noteid = ?",
                        params![user, id],
                    )
                    .await?;
                    let keys = vec![params![id, "a"], params![id, "Z"]];
                    let sets = vec![params![user, id, "a"], params![user, id, "Z"]];
                    tx.write_rows(
                        "tag",
                        keys,
                        "DELETE FROM tag WHERE userid = ? AND noteid = ? AND word = ?",
                        sets,
                    )
                    .await?;
                    Ok(())
                })
            },
        )
        .await
}

/// All notes of a user in order, read where he lives.
pub(crate) async fn notes(cluster: &Cluster, user: UserId) -> Result<Vec<(i64, String)>, Error> {
    cluster
        .read(
            user,
            move |tx: &mut Tx| -> BoxFuture<'_, Result<Vec<(i64, String)>, Error>> {
                Box::pin(async move {
                    let rows = tx
                        .query(
                            "SELECT noteid, body FROM note WHERE userid = ? ORDER BY noteid",
                            params![user],
                        )
                        .await?;
                    Ok(rows
                        .iter()
                        .map(|row| Ok((row.get(0)?, row.get(1)?)))
                        .collect::<Result<_, ibex_sql::Error>>()?)
                })
            },
        )
        .await
}
