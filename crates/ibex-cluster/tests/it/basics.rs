//! Fence, numbers, placement, outbox, scatter/gather.

use crate::app::{ANN, BOB, ONE, TWO, delete_note, notes, on_both, open, sign_up, write_note};
use ibex_cluster::{BoxFuture, Error, UserId, UserTx};
use ibex_sql::{Tx, Value, params};
use std::sync::Arc;

#[test]
fn numbers_grow_and_are_not_given_twice_even_after_deletion_and_a_lost_counter() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        sign_up(&cluster, ANN, ONE).await;
        sign_up(&cluster, BOB, ONE).await;
        assert_eq!(write_note(&cluster, ANN, "x").await.unwrap(), 1);
        assert_eq!(write_note(&cluster, ANN, "y").await.unwrap(), 2);
        assert_eq!(
            write_note(&cluster, BOB, "z").await.unwrap(),
            1,
            "each user has numbers of his own"
        );
        delete_note(&cluster, ANN, 2).await.unwrap();
        assert_eq!(write_note(&cluster, ANN, "again").await.unwrap(), 3);
        let db = cluster.db(ONE).await.unwrap();
        db.execute("DELETE FROM usercounter WHERE userid = ?", params![ANN])
            .await
            .unwrap();
        db.execute(
            "DELETE FROM note WHERE userid = ? AND noteid = 3",
            params![ANN],
        )
        .await
        .unwrap();
        assert_eq!(
            write_note(&cluster, ANN, "rebuilt").await.unwrap(),
            4,
            "number 3 is still seen in the tags"
        );
    });
}

#[test]
fn concurrent_writers_of_one_user_get_different_numbers() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        sign_up(&cluster, ANN, ONE).await;
        let tasks: Vec<_> = (0..24)
            .map(|n| {
                let cluster = cluster.clone();
                tokio::spawn(
                    async move { write_note(&cluster, ANN, &n.to_string()).await.unwrap() },
                )
            })
            .collect();
        let mut given = Vec::new();
        for task in tasks {
            given.push(task.await.unwrap());
        }
        given.sort_unstable();
        assert_eq!(given, (1..=24).collect::<Vec<i64>>());
        let seq = cluster
            .db(ONE)
            .await
            .unwrap()
            .query_one("SELECT seq FROM owner WHERE userid = ?", params![ANN])
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            seq.get::<i64>(0).unwrap(),
            24,
            "each transaction counts once"
        );
    });
}

#[test]
fn a_process_with_an_old_home_finds_the_new_one_and_never_writes_to_the_old() {
    on_both(|config| async move {
        let (old, new) = (open(&config).await, open(&config).await);
        sign_up(&old, ANN, ONE).await;
        write_note(&old, ANN, "before").await.unwrap();
        new.move_user(ANN, TWO, ibex_cluster::MoveOptions::default())
            .await
            .unwrap();
        assert_eq!(notes(&old, ANN).await.unwrap().len(), 1);
        write_note(&old, ANN, "after").await.unwrap();
        assert_eq!(old.home(ANN).await.unwrap().cluster, TWO);
        let left = old
            .db(ONE)
            .await
            .unwrap()
            .query_one("SELECT COUNT(*) FROM note WHERE userid = ?", params![ANN])
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            left.get::<i64>(0).unwrap(),
            1,
            "nothing was written at the old home"
        );
        assert!(old.stats().refusals >= 1);
    });
}

#[test]
fn an_error_of_the_closure_leaves_nothing_behind() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        sign_up(&cluster, ANN, ONE).await;
        let outcome = cluster
            .write(
                ANN,
                |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(), Error>> {
                    Box::pin(async move {
                        let user = tx.user();
                        let id = tx.next('N').await?;
                        tx.write_row(
                            "note",
                            &[Value::Int(id)],
                            "INSERT INTO note (userid, noteid, body) VALUES (?, ?, 'half')",
                            params![user, id],
                        )
                        .await?;
                        tx.outbox("mail", "half").await?;
                        Err(Error::NoPlace)
                    })
                },
            )
            .await;
        assert!(matches!(outcome, Err(Error::NoPlace)));
        assert!(notes(&cluster, ANN).await.unwrap().is_empty());
        assert!(
            cluster
                .outbox_pending(ONE, i64::MAX, 10)
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(write_note(&cluster, ANN, "whole").await.unwrap(), 1);
    });
}

#[test]
fn a_write_must_name_a_table_of_the_layout_with_its_whole_key() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        sign_up(&cluster, ANN, ONE).await;
        for (table, key) in [("owner", params![]), ("tag", params![1_i64])] {
            let key = Arc::new(key);
            let outcome = cluster
                .write(
                    ANN,
                    move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(), Error>> {
                        let key = Arc::clone(&key);
                        Box::pin(async move {
                            tx.write_row(
                                table,
                                &key,
                                "DELETE FROM note WHERE userid = 0",
                                params![],
                            )
                            .await?;
                            Ok(())
                        })
                    },
                )
                .await;
            assert!(matches!(outcome, Err(Error::Sql(_))), "{table}");
        }
    });
}

#[test]
fn the_outbox_is_written_with_the_data_and_kept_until_done() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        sign_up(&cluster, ANN, ONE).await;
        let (_, at, ids) = cluster
            .write_noting(
                ANN,
                |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(), Error>> {
                    Box::pin(async move {
                        tx.outbox("mail", "one").await?;
                        tx.outbox("mail", "two").await?;
                        Ok(())
                    })
                },
            )
            .await
            .unwrap();
        let pending = cluster.outbox_pending(at, i64::MAX, 10).await.unwrap();
        assert_eq!(
            pending
                .iter()
                .map(|row| (row.id, row.payload.as_str()))
                .collect::<Vec<_>>(),
            vec![(ids[0], "one"), (ids[1], "two")]
        );
        cluster.outbox_done(at, &ids[..1]).await.unwrap();
        assert_eq!(
            cluster
                .outbox_pending(at, i64::MAX, 10)
                .await
                .unwrap()
                .len(),
            1
        );
    });
}

#[test]
fn new_users_spread_over_the_clusters() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        for n in 1..=10 {
            let home = cluster.place().await.unwrap();
            sign_up(&cluster, UserId(n), home).await;
        }
        let loads = open(&config).await.loads().await.unwrap();
        assert_eq!(
            loads.iter().map(|load| load.users).collect::<Vec<_>>(),
            vec![5, 5]
        );
    });
}

#[test]
fn gather_asks_each_cluster_once_and_finds_users_that_moved() {
    on_both(|config| async move {
        let (cluster, other) = (open(&config).await, open(&config).await);
        let users: Vec<UserId> = (1..=6).map(UserId).collect();
        for user in &users {
            sign_up(&cluster, *user, if user.0 % 2 == 0 { TWO } else { ONE }).await;
            write_note(&cluster, *user, &format!("of {user}"))
                .await
                .unwrap();
        }
        let before = cluster.stats().gathers;
        let all = ask(&cluster, &users).await;
        assert_eq!(all.len(), 6);
        assert_eq!(
            cluster.stats().gathers - before,
            2,
            "one request per cluster"
        );
        other
            .move_user(
                UserId(1),
                TWO,
                ibex_cluster::MoveOptions {
                    delete: true,
                    ..Default::default()
                },
            )
            .await
            .unwrap();
        assert_eq!(
            ask(&cluster, &users).await,
            all,
            "the moved user is found in the second round"
        );
    });
}

async fn ask(cluster: &ibex_cluster::Cluster, users: &[UserId]) -> Vec<String> {
    let gathered = cluster
        .gather(
            users,
            |tx: &mut Tx,
             here: Arc<[UserId]>|
             -> BoxFuture<'_, Result<Vec<String>, ibex_sql::Error>> {
                Box::pin(async move {
                    let marks = vec!["?"; here.len()].join(",");
                    let sql = format!("SELECT body FROM note WHERE userid IN ({marks})");
                    let rows = tx
                        .query(sql, here.iter().map(|user| Value::from(*user)).collect())
                        .await?;
                    rows.iter().map(|row| row.get(0)).collect()
                })
            },
        )
        .await
        .unwrap();
    assert!(!gathered.is_partial());
    let mut found = gathered.found;
    found.sort();
    found
}

#[test]
fn a_cluster_that_is_down_costs_only_its_own_users() {
    let dir = tempfile::tempdir().unwrap();
    let dsn = |name: &str| {
        format!(
            "sqlite:{}?synchronous=normal",
            dir.path().join(name).display()
        )
    };
    let broken = format!("sqlite:{}", dir.path().join("no/such/dir/two.db").display());
    let mut config = ibex_cluster::Config::new(dsn("global.db"))
        .with_cluster(1, dsn("one.db"))
        .with_cluster(2, broken);
    config.probe_after = std::time::Duration::from_secs(600);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let cluster = ibex_cluster::Cluster::open(config, crate::app::LAYOUT)
            .await
            .unwrap();
        sign_up(&cluster, ANN, ONE).await;
        cluster
            .global()
            .execute(
                "INSERT INTO user (userid, clusterid, epoch) VALUES (?, ?, 1)",
                params![BOB, TWO],
            )
            .await
            .unwrap();
        write_note(&cluster, ANN, "fine").await.unwrap();
        assert!(matches!(
            write_note(&cluster, BOB, "lost").await,
            Err(Error::Unavailable { cluster: TWO, .. })
        ));
        assert_eq!(cluster.down(), vec![TWO]);
        assert_eq!(
            cluster.place().await.unwrap(),
            ONE,
            "no new users on a dead cluster"
        );
        let gathered = cluster
            .gather(
                &[ANN, BOB],
                |_tx: &mut Tx,
                 here: Arc<[UserId]>|
                 -> BoxFuture<'_, Result<Vec<UserId>, ibex_sql::Error>> {
                    Box::pin(async move { Ok(here.to_vec()) })
                },
            )
            .await
            .unwrap();
        assert_eq!((gathered.found, gathered.lost), (vec![ANN], vec![TWO]));
    });
}
