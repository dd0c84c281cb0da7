//! The tables this crate owns: on the global database the moves, on each cluster the fence, counters, change log and outbox.
//!
//! Apart because they are the same for every application. The application's own steps run after these.

use ibex_sql::Migration;

pub(crate) const GLOBAL: &[Migration] = &[Migration {
    version: 1,
    name: "moves",
    sqlite: &["CREATE TABLE move (
            moveid INTEGER PRIMARY KEY AUTOINCREMENT, userid INTEGER NOT NULL, open_user INTEGER UNIQUE, src INTEGER NOT NULL, dst INTEGER NOT NULL,
            state TEXT NOT NULL, mover TEXT NOT NULL, lease_until INTEGER NOT NULL, epoch INTEGER NOT NULL, copied INTEGER NOT NULL,
            t_start INTEGER NOT NULL, t_lock INTEGER NOT NULL, t_pivot INTEGER NOT NULL, t_done INTEGER NOT NULL, error TEXT NOT NULL) STRICT"],
    mysql: &["CREATE TABLE move (
            moveid BIGINT PRIMARY KEY AUTO_INCREMENT, userid BIGINT NOT NULL, open_user BIGINT UNIQUE, src INT NOT NULL, dst INT NOT NULL,
            state VARCHAR(16) NOT NULL, mover VARCHAR(80) NOT NULL, lease_until BIGINT NOT NULL, epoch BIGINT NOT NULL, copied BIGINT NOT NULL,
            t_start BIGINT NOT NULL, t_lock BIGINT NOT NULL, t_pivot BIGINT NOT NULL, t_done BIGINT NOT NULL, error TEXT NOT NULL,
            KEY (state, t_done)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"],
}];

pub(crate) const CLUSTER: &[Migration] = &[Migration {
    version: 1,
    name: "fence, counters, change log, outbox",
    sqlite: &[
        "CREATE TABLE owner (userid INTEGER PRIMARY KEY, state TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
            fwd INTEGER NOT NULL, since INTEGER NOT NULL, moveid INTEGER NOT NULL, capture INTEGER NOT NULL) STRICT",
        "CREATE TABLE usercounter (userid INTEGER NOT NULL, area TEXT NOT NULL, max INTEGER NOT NULL, PRIMARY KEY (userid, area)) STRICT, WITHOUT ROWID",
        "CREATE TABLE change_log (userid INTEGER NOT NULL, seq INTEGER NOT NULL, n INTEGER NOT NULL, tbl TEXT NOT NULL, rowkey BLOB NOT NULL,
            PRIMARY KEY (userid, seq, n)) STRICT, WITHOUT ROWID",
        "CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, userid INTEGER NOT NULL, kind TEXT NOT NULL, payload TEXT NOT NULL, created \
        INTEGER NOT NULL) STRICT",
    ],
    mysql: &[
        "CREATE TABLE owner (userid BIGINT PRIMARY KEY, state CHAR(1) NOT NULL, epoch BIGINT NOT NULL, seq BIGINT NOT NULL,
            fwd INT NOT NULL, since BIGINT NOT NULL, moveid BIGINT NOT NULL, capture TINYINT NOT NULL) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE usercounter (userid BIGINT NOT NULL, area CHAR(1) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, max BIGINT NOT NULL,
            PRIMARY KEY (userid, area)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE change_log (userid BIGINT NOT NULL, seq BIGINT NOT NULL, n INT NOT NULL, tbl VARCHAR(64) NOT NULL, rowkey BLOB NOT NULL,
            PRIMARY KEY (userid, seq, n)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE outbox (id BIGINT PRIMARY KEY AUTO_INCREMENT, userid BIGINT NOT NULL, kind VARCHAR(64) NOT NULL, payload MEDIUMTEXT NOT NULL, \
        created BIGINT NOT NULL)
            ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    ],
}];
