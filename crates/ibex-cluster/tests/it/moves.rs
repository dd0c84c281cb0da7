//! Moves under writers, and movers that die at every step.

use crate::app::{
    ANN, BOB, LAYOUT, ONE, TWO, delete_note, edit_note, notes, on_both, open, sign_up, write_note,
};
use ibex_cluster::{Cluster, ClusterId, Error, MoveError, MoveOptions, Recovered, Step};
use ibex_sql::params;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What writers were told: note number → body, `None` when deleted.
type Accepted = BTreeMap<i64, Option<String>>;

/// Writes, edits and deletes until told to stop; remembers only what was acknowledged.
async fn writer(cluster: Cluster, name: usize, stop: Arc<AtomicBool>) -> Accepted {
    let mut accepted = Accepted::new();
    let mut turn = 0_u32;
    while !stop.load(Ordering::SeqCst) {
        turn += 1;
        let body = format!("writer {name} turn {turn}");
        let id = write_note(&cluster, ANN, &body).await.unwrap();
        assert!(
            accepted.insert(id, Some(body)).is_none(),
            "number {id} was given twice"
        );
        if turn.is_multiple_of(3) {
            let edited = format!("writer {name} edited {turn}");
            edit_note(&cluster, ANN, id, &edited).await.unwrap();
            accepted.insert(id, Some(edited));
        }
        if turn.is_multiple_of(5) {
            delete_note(&cluster, ANN, id).await.unwrap();
            accepted.insert(id, None);
        }
    }
    accepted
}

fn expected(all: Vec<Accepted>) -> Vec<(i64, String)> {
    let mut merged = Accepted::new();
    for one in all {
        for (id, body) in one {
            assert!(
                merged.insert(id, body).is_none(),
                "number {id} was given to two writers"
            );
        }
    }
    merged
        .into_iter()
        .filter_map(|(id, body)| body.map(|body| (id, body)))
        .collect()
}

/// One live owner row and no rows of the user anywhere else (unless left to the reaper under an `X`).
async fn check_one_home(cluster: &Cluster, home: ClusterId) {
    for at in [ONE, TWO] {
        let db = cluster.db(at).await.unwrap();
        let owner = db
            .query_one(
                "SELECT state, capture, moveid FROM owner WHERE userid = ?",
                params![ANN],
            )
            .await
            .unwrap();
        let state = owner.as_ref().map(|row| row.get::<String>(0).unwrap());
        if at == home {
            let owner = owner.unwrap();
            assert_eq!(
                (
                    state.as_deref(),
                    owner.get::<i64>(1).unwrap(),
                    owner.get::<i64>(2).unwrap()
                ),
                (Some("L"), 0, 0)
            );
        } else {
            assert!(
                matches!(state.as_deref(), None | Some("X")),
                "cluster {at} says {state:?}"
            );
            if state.is_none() {
                for table in LAYOUT.tables {
                    let sql = format!(
                        "SELECT COUNT(*) FROM {} WHERE {} = ?",
                        table.name, table.user
                    );
                    let rows = db.query_one(sql, params![ANN]).await.unwrap().unwrap();
                    assert_eq!(
                        rows.get::<i64>(0).unwrap(),
                        0,
                        "rows of {} left on cluster {at}",
                        table.name
                    );
                }
            }
        }
        let log = db
            .query_one("SELECT COUNT(*) FROM change_log", params![])
            .await
            .unwrap()
            .unwrap();
        assert_eq!(log.get::<i64>(0).unwrap(), 0, "change log of cluster {at}");
    }
}

#[test]
fn users_move_back_and_forth_under_writers_and_no_accepted_write_is_lost_or_doubled() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        sign_up(&cluster, ANN, ONE).await;
        sign_up(&cluster, BOB, ONE).await;
        write_note(&cluster, BOB, "stays").await.unwrap();
        let mut first = Accepted::new();
        for n in 0..300 {
            let body = format!("early {n}");
            first.insert(write_note(&cluster, ANN, &body).await.unwrap(), Some(body));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for name in 0..3 {
            // Each writer is its own process as far as homes are concerned.
            writers.push(tokio::spawn(writer(
                open(&config).await,
                name,
                Arc::clone(&stop),
            )));
        }
        let mut changes = 0;
        for (dst, verify_full, delete) in
            [(TWO, false, false), (ONE, true, true), (TWO, false, true)]
        {
            let options = MoveOptions {
                chunk: 50,
                verify_full,
                delete,
                ..Default::default()
            };
            let report = cluster.move_user(ANN, dst, options).await.unwrap();
            assert!(report.rows > 0);
            changes += report.changes;
        }
        stop.store(true, Ordering::SeqCst);
        let mut all = vec![first];
        for writer in writers {
            all.push(writer.await.unwrap());
        }
        assert!(changes > 0, "the writers wrote while the user was copied");
        assert_eq!(notes(&cluster, ANN).await.unwrap(), expected(all));
        check_one_home(&cluster, TWO).await;
        assert_eq!(
            notes(&cluster, BOB).await.unwrap().len(),
            1,
            "others are not touched"
        );
    });
}

#[test]
fn a_mover_that_dies_at_any_step_is_finished_or_undone_while_writers_go_on() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        sign_up(&cluster, ANN, ONE).await;
        let mut home = ONE;
        let mut kept = Vec::new();
        for n in 0..40 {
            kept.push((
                write_note(&cluster, ANN, &format!("early {n}"))
                    .await
                    .unwrap(),
                format!("early {n}"),
            ));
        }
        for step in Step::ALL {
            let dst = if home == ONE { TWO } else { ONE };
            let options = MoveOptions {
                chunk: 16,
                delete: step == Step::Reap,
                die_at: Some(step),
                ..Default::default()
            };
            let outcome = cluster.move_user(ANN, dst, options.clone()).await;
            assert!(
                matches!(outcome, Err(MoveError::Died(at)) if at == step),
                "{step:?}: {outcome:?}"
            );
            // A writer comes meanwhile; if the user is locked it waits for the recovery, as a web request would.
            let waiting = tokio::spawn({
                let (cluster, body) = (open(&config).await, format!("during {step:?}"));
                async move { (write_note(&cluster, ANN, &body).await.unwrap(), body) }
            });
            let recovered = cluster.recover(i64::MAX).await.unwrap();
            let pivoted = matches!(step, Step::PivotGlobal | Step::PivotSource | Step::Reap);
            match (step, recovered.as_slice()) {
                (Step::PivotSource | Step::Reap, []) => home = dst,
                (Step::PivotGlobal, [Recovered::Finished(_)]) => home = dst,
                (_, [Recovered::Undone(_)]) => assert!(!pivoted, "{step:?}"),
                (_, other) => panic!("{step:?}: {other:?}"),
            }
            kept.push(waiting.await.unwrap());
            assert_eq!(
                cluster.recover(i64::MAX).await.unwrap(),
                Vec::new(),
                "nothing is left open after {step:?}"
            );
            assert_eq!(cluster.home(ANN).await.unwrap().cluster, home, "{step:?}");
            assert_eq!(notes(&cluster, ANN).await.unwrap(), kept, "{step:?}");
            check_one_home(&cluster, home).await;
        }
    });
}

#[test]
fn a_slow_mover_that_was_taken_over_cannot_go_on() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        sign_up(&cluster, ANN, ONE).await;
        for n in 0..200 {
            write_note(&cluster, ANN, &n.to_string()).await.unwrap();
        }
        // Slow by its rate: it sleeps between chunks while the other takes the move over and undoes it.
        let slow = tokio::spawn({
            let cluster = open(&config).await;
            async move {
                cluster
                    .move_user(
                        ANN,
                        TWO,
                        MoveOptions {
                            chunk: 20,
                            rate: 100,
                            ..Default::default()
                        },
                    )
                    .await
            }
        });
        let mut undone = Vec::new();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while undone.is_empty() {
            assert!(
                std::time::Instant::now() < deadline,
                "the move never appeared"
            );
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            undone = cluster.recover(i64::MAX).await.unwrap();
        }
        assert!(matches!(undone.as_slice(), [Recovered::Undone(_)]));
        let outcome = slow.await.unwrap();
        assert!(
            matches!(outcome, Err(MoveError::LostLease(_) | MoveError::Busy(_))),
            "{outcome:?}"
        );
        assert_eq!(notes(&cluster, ANN).await.unwrap().len(), 200);
        check_one_home(&cluster, ONE).await;
    });
}

#[test]
fn tokens_that_a_dead_slow_mover_left_of_a_closed_move_hold_nobody_up() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        sign_up(&cluster, ANN, ONE).await;
        write_note(&cluster, ANN, "kept").await.unwrap();
        let died = MoveOptions {
            die_at: Some(Step::Claim),
            ..Default::default()
        };
        let outcome = cluster.move_user(ANN, TWO, died).await;
        assert!(matches!(outcome, Err(MoveError::Died(_))), "{outcome:?}");
        let undone = cluster.recover(i64::MAX).await.unwrap();
        let [Recovered::Undone(row)] = undone.as_slice() else {
            panic!("{undone:?}");
        };
        // What the mover would have written had it been slow instead of dead, and died then.
        let token = row.moveid;
        let source = "UPDATE owner SET capture = 1, moveid = ? WHERE userid = ?";
        let copy = "INSERT INTO owner (userid, state, epoch, seq, fwd, since, moveid, capture) VALUES (?, 'I', 1, 0, 0, 0, ?, 0)";
        let (one, two) = (
            cluster.db(ONE).await.unwrap(),
            cluster.db(TWO).await.unwrap(),
        );
        one.execute(source, params![token, ANN]).await.unwrap();
        two.execute(copy, params![ANN, token]).await.unwrap();
        cluster
            .move_user(ANN, TWO, MoveOptions::default())
            .await
            .unwrap();
        assert_eq!(notes(&cluster, ANN).await.unwrap().len(), 1);
        check_one_home(&cluster, TWO).await;
    });
}

#[test]
fn one_move_at_a_time_and_none_to_where_he_is_or_where_rows_of_his_lie() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        sign_up(&cluster, ANN, ONE).await;
        write_note(&cluster, ANN, "x").await.unwrap();
        assert!(matches!(
            cluster.move_user(ANN, ONE, MoveOptions::default()).await,
            Err(MoveError::AlreadyThere(..))
        ));
        let unknown = cluster
            .move_user(ANN, ClusterId(9), MoveOptions::default())
            .await;
        assert!(matches!(
            unknown,
            Err(MoveError::Cluster(Error::NoSuchCluster(_)))
        ));
        let died = MoveOptions {
            die_at: Some(Step::Claim),
            ..Default::default()
        };
        assert!(matches!(
            cluster.move_user(ANN, TWO, died).await,
            Err(MoveError::Died(_))
        ));
        assert!(matches!(
            cluster.move_user(ANN, TWO, MoveOptions::default()).await,
            Err(MoveError::Busy(_))
        ));
        cluster.recover(i64::MAX).await.unwrap();
        let stray = cluster.db(TWO).await.unwrap();
        stray
            .execute(
                "INSERT INTO note (userid, noteid, body) VALUES (?, 9, 'stray')",
                params![ANN],
            )
            .await
            .unwrap();
        assert!(matches!(
            cluster.move_user(ANN, TWO, MoveOptions::default()).await,
            Err(MoveError::Occupied { table: "note", .. })
        ));
        write_note(&cluster, ANN, "still writable").await.unwrap();
        stray
            .execute("DELETE FROM note WHERE userid = ?", params![ANN])
            .await
            .unwrap();
        cluster
            .move_user(ANN, TWO, MoveOptions::default())
            .await
            .unwrap();
    });
}

#[test]
fn a_write_that_forgot_to_name_its_row_is_found_and_the_move_undone() {
    on_both(|config| async move {
        let cluster = open(&config).await;
        sign_up(&cluster, ANN, ONE).await;
        for n in 0..30 {
            write_note(&cluster, ANN, &n.to_string()).await.unwrap();
        }
        let moving = tokio::spawn({
            let cluster = open(&config).await;
            async move {
                cluster
                    .move_user(
                        ANN,
                        TWO,
                        MoveOptions {
                            chunk: 10,
                            rate: 50,
                            ..Default::default()
                        },
                    )
                    .await
            }
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let two = cluster.db(TWO).await.unwrap();
        loop {
            let row = two
                .query_one("SELECT COUNT(*) FROM note WHERE userid = ?", params![ANN])
                .await
                .unwrap()
                .unwrap();
            if row.get::<i64>(0).unwrap() > 0 {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "nothing was copied");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let one = cluster.db(ONE).await.unwrap();
        one.execute(
            "UPDATE note SET body = 'behind the fence' WHERE userid = ? AND noteid = 1",
            params![ANN],
        )
        .await
        .unwrap();
        assert!(matches!(
            moving.await.unwrap(),
            Err(MoveError::Mismatch { table: "note", .. })
        ));
        check_one_home(&cluster, ONE).await;
        assert_eq!(write_note(&cluster, ANN, "goes on").await.unwrap(), 31);
    });
}
