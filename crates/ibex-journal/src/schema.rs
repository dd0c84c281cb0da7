//! Tables: the global database's, each user cluster's, and what the mover must know about them.
//!
//! Apart because a table is described three times (SQLite, MySQL, mover) and the three must be seen side by side. Every user
//! table's primary key begins with the user's number; nothing here refers to another database.

use ibex_cluster::{Column, Counter, Layout, Source, Table};
use ibex_sql::Migration;

const fn int(name: &'static str) -> Column {
    Column::int(name)
}
const fn text(name: &'static str) -> Column {
    Column::text(name)
}

/// Everything `ibex-cluster` must know about the journal.
pub const LAYOUT: Layout = Layout {
    component: "journal",
    user_table: "user",
    tables: TABLES,
    counters: COUNTERS,
    global_steps: GLOBAL,
    cluster_steps: CLUSTER,
};

const TABLES: &[Table] = &[
    Table {
        name: "userprop",
        user: "userid",
        key: &[text("name")],
        rest: &[text("value")],
    },
    Table {
        name: "log",
        user: "journalid",
        key: &[int("jitemid")],
        rest: &[
            int("posterid"),
            int("eventtime"),
            int("logtime"),
            int("security"),
            int("allowmask"),
            int("anum"),
            int("rlogtime"),
            int("revttime"),
            int("replycount"),
            int("edittime"),
        ],
    },
    Table {
        name: "logtext",
        user: "journalid",
        key: &[int("jitemid")],
        rest: &[text("subject"), text("body")],
    },
    Table {
        name: "logprop",
        user: "journalid",
        key: &[int("jitemid"), text("name")],
        rest: &[text("value")],
    },
    Table {
        name: "logtag",
        user: "journalid",
        key: &[int("jitemid"), text("tag")],
        rest: &[],
    },
    Table {
        name: "dupsig",
        user: "journalid",
        key: &[int("posterid")],
        rest: &[text("digest"), int("jitemid")],
    },
    Table {
        name: "talk",
        user: "journalid",
        key: &[int("jtalkid")],
        rest: &[
            int("jitemid"),
            int("parent"),
            int("posterid"),
            int("posttime"),
            text("state"),
        ],
    },
    Table {
        name: "talktext",
        user: "journalid",
        key: &[int("jtalkid")],
        rest: &[text("subject"), text("body")],
    },
    Table {
        name: "picture",
        user: "userid",
        key: &[int("picid")],
        rest: &[
            text("keyword"),
            text("mime"),
            int("width"),
            int("height"),
            text("md5"),
            int("created"),
        ],
    },
    Table {
        name: "media",
        user: "userid",
        key: &[int("mediaid")],
        rest: &[
            text("title"),
            int("security"),
            int("allowmask"),
            text("mime"),
            int("width"),
            int("height"),
            int("bytes"),
            int("anum"),
            int("created"),
        ],
    },
    Table {
        name: "session",
        user: "userid",
        key: &[int("sessid")],
        rest: &[
            text("auth"),
            text("exptype"),
            int("timecreate"),
            int("timeexpire"),
            text("useragent"),
        ],
    },
    Table {
        name: "apikey",
        user: "userid",
        key: &[int("keyid")],
        rest: &[text("name"), text("hash"), int("created")],
    },
    Table {
        name: "inbox",
        user: "userid",
        key: &[int("qid")],
        rest: &[
            text("eventkey"),
            text("title"),
            text("url"),
            int("created"),
            text("state"),
        ],
    },
];

const fn source(table: &'static str, user: &'static str, column: &'static str) -> Source {
    Source {
        table,
        user,
        column,
    }
}

/// Number spaces: entries, comments, pictures, media, sessions, keys, inbox items.
const COUNTERS: &[Counter] = &[
    Counter {
        area: 'L',
        sources: &[
            source("log", "journalid", "jitemid"),
            source("logtext", "journalid", "jitemid"),
            source("logprop", "journalid", "jitemid"),
            source("logtag", "journalid", "jitemid"),
            source("dupsig", "journalid", "jitemid"),
            source("talk", "journalid", "jitemid"),
        ],
    },
    Counter {
        area: 'T',
        sources: &[
            source("talk", "journalid", "jtalkid"),
            source("talktext", "journalid", "jtalkid"),
            source("talk", "journalid", "parent"),
        ],
    },
    Counter {
        area: 'P',
        sources: &[source("picture", "userid", "picid")],
    },
    Counter {
        area: 'A',
        sources: &[source("media", "userid", "mediaid")],
    },
    Counter {
        area: 'S',
        sources: &[source("session", "userid", "sessid")],
    },
    Counter {
        area: 'B',
        sources: &[source("apikey", "userid", "keyid")],
    },
    Counter {
        area: 'Q',
        sources: &[source("inbox", "userid", "qid")],
    },
];

const GLOBAL: &[Migration] = &[Migration {
    version: 1,
    name: "users, edges, usage, settings",
    sqlite: &[
        "CREATE TABLE counter (area TEXT PRIMARY KEY, max INTEGER NOT NULL) STRICT",
        "INSERT INTO counter (area, max) VALUES ('U', 0)",
        "CREATE TABLE user (userid INTEGER PRIMARY KEY, user TEXT NOT NULL UNIQUE, clusterid INTEGER NOT NULL, epoch INTEGER NOT NULL, dversion \
        INTEGER NOT NULL,
            kind TEXT NOT NULL, statusvis TEXT NOT NULL, status TEXT NOT NULL, name TEXT NOT NULL, caps INTEGER NOT NULL, defaultpicid INTEGER NOT NULL,
            opt_whocanreply TEXT NOT NULL, timecreate INTEGER NOT NULL) STRICT",
        "CREATE INDEX user_cluster ON user (clusterid)",
        "CREATE TABLE password (userid INTEGER PRIMARY KEY, hash TEXT NOT NULL) STRICT",
        "CREATE TABLE email (userid INTEGER PRIMARY KEY, email TEXT NOT NULL) STRICT",
        "CREATE TABLE edge (from_id INTEGER NOT NULL, to_id INTEGER NOT NULL, trust INTEGER NOT NULL, watch INTEGER NOT NULL, mask INTEGER NOT NULL,
            created INTEGER NOT NULL, PRIMARY KEY (from_id, to_id)) STRICT, WITHOUT ROWID",
        "CREATE INDEX edge_to ON edge (to_id)",
        "CREATE TABLE rel (userid INTEGER NOT NULL, target INTEGER NOT NULL, kind TEXT NOT NULL, PRIMARY KEY (userid, target, kind)) STRICT, WITHOUT ROWID",
        "CREATE INDEX rel_target ON rel (target)",
        "CREATE TABLE userusage (userid INTEGER PRIMARY KEY, timeupdate INTEGER NOT NULL, public INTEGER NOT NULL) STRICT",
        "CREATE INDEX usage_public ON userusage (public)",
        "CREATE TABLE apikey_lookup (hash TEXT PRIMARY KEY, userid INTEGER NOT NULL, keyid INTEGER NOT NULL) STRICT",
        "CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
        "CREATE TABLE login_failure (who TEXT NOT NULL, at INTEGER NOT NULL) STRICT",
        "CREATE INDEX login_failure_who ON login_failure (who, at)",
    ],
    mysql: &[
        "CREATE TABLE counter (area VARCHAR(8) PRIMARY KEY, max BIGINT NOT NULL) ENGINE=InnoDB",
        "INSERT IGNORE INTO counter (area, max) VALUES ('U', 0)",
        "CREATE TABLE user (userid BIGINT PRIMARY KEY, user VARCHAR(25) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL UNIQUE, clusterid INT NOT \
        NULL, epoch BIGINT NOT NULL,
            dversion INT NOT NULL, kind CHAR(1) NOT NULL, statusvis CHAR(1) NOT NULL, status CHAR(1) NOT NULL, name VARCHAR(255) NOT NULL, caps BIGINT NOT NULL,
            defaultpicid BIGINT NOT NULL, opt_whocanreply VARCHAR(8) NOT NULL, timecreate BIGINT NOT NULL, KEY (clusterid)) ENGINE=InnoDB DEFAULT \
            CHARSET=utf8mb4",
        "CREATE TABLE password (userid BIGINT PRIMARY KEY, hash VARCHAR(255) NOT NULL) ENGINE=InnoDB",
        "CREATE TABLE email (userid BIGINT PRIMARY KEY, email VARCHAR(255) NOT NULL) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE edge (from_id BIGINT NOT NULL, to_id BIGINT NOT NULL, trust INT NOT NULL, watch INT NOT NULL, mask BIGINT NOT NULL,
            created BIGINT NOT NULL, PRIMARY KEY (from_id, to_id), KEY (to_id)) ENGINE=InnoDB",
        "CREATE TABLE rel (userid BIGINT NOT NULL, target BIGINT NOT NULL, kind CHAR(1) NOT NULL, PRIMARY KEY (userid, target, kind), KEY (target)) \
        ENGINE=InnoDB",
        "CREATE TABLE userusage (userid BIGINT PRIMARY KEY, timeupdate BIGINT NOT NULL, public BIGINT NOT NULL, KEY (public)) ENGINE=InnoDB",
        "CREATE TABLE apikey_lookup (hash CHAR(64) PRIMARY KEY, userid BIGINT NOT NULL, keyid BIGINT NOT NULL) ENGINE=InnoDB",
        "CREATE TABLE setting (name VARCHAR(64) PRIMARY KEY, value TEXT NOT NULL) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE login_failure (who VARCHAR(128) NOT NULL, at BIGINT NOT NULL, KEY (who, at)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    ],
}];

const CLUSTER: &[Migration] = &[Migration {
    version: 1,
    name: "entries, comments, pictures, sessions, inbox",
    sqlite: &[
        "CREATE TABLE userprop (userid INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (userid, name)) STRICT, WITHOUT ROWID",
        "CREATE TABLE log (journalid INTEGER NOT NULL, jitemid INTEGER NOT NULL, posterid INTEGER NOT NULL, eventtime INTEGER NOT NULL, logtime \
        INTEGER NOT NULL,
            security INTEGER NOT NULL, allowmask INTEGER NOT NULL, anum INTEGER NOT NULL, rlogtime INTEGER NOT NULL, revttime INTEGER NOT NULL,
            replycount INTEGER NOT NULL, edittime INTEGER NOT NULL, PRIMARY KEY (journalid, jitemid)) STRICT, WITHOUT ROWID",
        "CREATE INDEX log_rlogtime ON log (journalid, rlogtime)",
        "CREATE INDEX log_revttime ON log (journalid, revttime)",
        "CREATE TABLE logtext (journalid INTEGER NOT NULL, jitemid INTEGER NOT NULL, subject TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY \
        (journalid, jitemid)) STRICT, WITHOUT ROWID",
        "CREATE TABLE logprop (journalid INTEGER NOT NULL, jitemid INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (journalid, \
        jitemid, name)) STRICT, WITHOUT ROWID",
        "CREATE TABLE logtag (journalid INTEGER NOT NULL, jitemid INTEGER NOT NULL, tag TEXT NOT NULL, PRIMARY KEY (journalid, jitemid, tag)) STRICT, \
        WITHOUT ROWID",
        "CREATE TABLE dupsig (journalid INTEGER NOT NULL, posterid INTEGER NOT NULL, digest TEXT NOT NULL, jitemid INTEGER NOT NULL, PRIMARY KEY \
        (journalid, posterid)) STRICT, WITHOUT ROWID",
        "CREATE TABLE talk (journalid INTEGER NOT NULL, jtalkid INTEGER NOT NULL, jitemid INTEGER NOT NULL, parent INTEGER NOT NULL, posterid INTEGER NOT NULL,
            posttime INTEGER NOT NULL, state TEXT NOT NULL, PRIMARY KEY (journalid, jtalkid)) STRICT, WITHOUT ROWID",
        "CREATE INDEX talk_item ON talk (journalid, jitemid)",
        "CREATE TABLE talktext (journalid INTEGER NOT NULL, jtalkid INTEGER NOT NULL, subject TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY \
        (journalid, jtalkid)) STRICT, WITHOUT ROWID",
        "CREATE TABLE picture (userid INTEGER NOT NULL, picid INTEGER NOT NULL, keyword TEXT NOT NULL, mime TEXT NOT NULL, width INTEGER NOT NULL, \
        height INTEGER NOT NULL,
            md5 TEXT NOT NULL, created INTEGER NOT NULL, PRIMARY KEY (userid, picid)) STRICT, WITHOUT ROWID",
        "CREATE TABLE media (userid INTEGER NOT NULL, mediaid INTEGER NOT NULL, title TEXT NOT NULL, security INTEGER NOT NULL, allowmask INTEGER NOT \
        NULL, mime TEXT NOT NULL,
            width INTEGER NOT NULL, height INTEGER NOT NULL, bytes INTEGER NOT NULL, anum INTEGER NOT NULL, created INTEGER NOT NULL, PRIMARY KEY \
            (userid, mediaid)) STRICT, WITHOUT ROWID",
        "CREATE TABLE session (userid INTEGER NOT NULL, sessid INTEGER NOT NULL, auth TEXT NOT NULL, exptype TEXT NOT NULL, timecreate INTEGER NOT \
        NULL, timeexpire INTEGER NOT NULL,
            useragent TEXT NOT NULL, PRIMARY KEY (userid, sessid)) STRICT, WITHOUT ROWID",
        "CREATE TABLE apikey (userid INTEGER NOT NULL, keyid INTEGER NOT NULL, name TEXT NOT NULL, hash TEXT NOT NULL, created INTEGER NOT NULL, \
        PRIMARY KEY (userid, keyid)) STRICT, WITHOUT ROWID",
        "CREATE TABLE inbox (userid INTEGER NOT NULL, qid INTEGER NOT NULL, eventkey TEXT NOT NULL, title TEXT NOT NULL, url TEXT NOT NULL, created \
        INTEGER NOT NULL, state TEXT NOT NULL,
            PRIMARY KEY (userid, qid), UNIQUE (userid, eventkey)) STRICT, WITHOUT ROWID",
    ],
    mysql: &[
        "CREATE TABLE userprop (userid BIGINT NOT NULL, name VARCHAR(40) NOT NULL, value MEDIUMTEXT NOT NULL, PRIMARY KEY (userid, name)) \
        ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE log (journalid BIGINT NOT NULL, jitemid BIGINT NOT NULL, posterid BIGINT NOT NULL, eventtime BIGINT NOT NULL, logtime BIGINT NOT NULL,
            security INT NOT NULL, allowmask BIGINT NOT NULL, anum INT NOT NULL, rlogtime BIGINT NOT NULL, revttime BIGINT NOT NULL, replycount INT NOT NULL,
            edittime BIGINT NOT NULL, PRIMARY KEY (journalid, jitemid), KEY (journalid, rlogtime), KEY (journalid, revttime)) ENGINE=InnoDB",
        "CREATE TABLE logtext (journalid BIGINT NOT NULL, jitemid BIGINT NOT NULL, subject VARCHAR(255) NOT NULL, body MEDIUMTEXT NOT NULL, PRIMARY \
        KEY (journalid, jitemid))
            ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE utf8mb4_bin",
        "CREATE TABLE logprop (journalid BIGINT NOT NULL, jitemid BIGINT NOT NULL, name VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT \
        NULL, value TEXT NOT NULL,
            PRIMARY KEY (journalid, jitemid, name)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE logtag (journalid BIGINT NOT NULL, jitemid BIGINT NOT NULL, tag VARCHAR(80) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
            PRIMARY KEY (journalid, jitemid, tag)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE dupsig (journalid BIGINT NOT NULL, posterid BIGINT NOT NULL, digest CHAR(32) NOT NULL, jitemid BIGINT NOT NULL, PRIMARY KEY \
        (journalid, posterid)) ENGINE=InnoDB",
        "CREATE TABLE talk (journalid BIGINT NOT NULL, jtalkid BIGINT NOT NULL, jitemid BIGINT NOT NULL, parent BIGINT NOT NULL, posterid BIGINT NOT \
        NULL, posttime BIGINT NOT NULL,
            state CHAR(1) NOT NULL, PRIMARY KEY (journalid, jtalkid), KEY (journalid, jitemid)) ENGINE=InnoDB",
        "CREATE TABLE talktext (journalid BIGINT NOT NULL, jtalkid BIGINT NOT NULL, subject VARCHAR(255) NOT NULL, body TEXT NOT NULL, PRIMARY KEY \
        (journalid, jtalkid))
            ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE utf8mb4_bin",
        "CREATE TABLE picture (userid BIGINT NOT NULL, picid BIGINT NOT NULL, keyword VARCHAR(80) NOT NULL, mime VARCHAR(40) NOT NULL, width INT NOT \
        NULL, height INT NOT NULL,
            md5 CHAR(32) NOT NULL, created BIGINT NOT NULL, PRIMARY KEY (userid, picid)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE media (userid BIGINT NOT NULL, mediaid BIGINT NOT NULL, title VARCHAR(255) NOT NULL, security INT NOT NULL, allowmask BIGINT \
        NOT NULL, mime VARCHAR(40) NOT NULL,
            width INT NOT NULL, height INT NOT NULL, bytes BIGINT NOT NULL, anum INT NOT NULL, created BIGINT NOT NULL, PRIMARY KEY (userid, \
            mediaid)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE session (userid BIGINT NOT NULL, sessid BIGINT NOT NULL, auth VARCHAR(40) NOT NULL, exptype VARCHAR(8) NOT NULL, timecreate \
        BIGINT NOT NULL, timeexpire BIGINT NOT NULL,
            useragent VARCHAR(255) NOT NULL, PRIMARY KEY (userid, sessid)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE apikey (userid BIGINT NOT NULL, keyid BIGINT NOT NULL, name VARCHAR(80) NOT NULL, hash CHAR(64) NOT NULL, created BIGINT NOT \
        NULL, PRIMARY KEY (userid, keyid))
            ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        "CREATE TABLE inbox (userid BIGINT NOT NULL, qid BIGINT NOT NULL, eventkey VARCHAR(80) NOT NULL, title VARCHAR(255) NOT NULL, url \
        VARCHAR(255) NOT NULL, created BIGINT NOT NULL,
            state CHAR(1) NOT NULL, PRIMARY KEY (userid, qid), UNIQUE KEY (userid, eventkey)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    ],
}];

#[cfg(test)]
mod tests {
    use super::*;

    /// Each table of the layout, read out of an empty database of its own schema: a column misspelt in one place would fail here.
    #[test]
    fn the_layout_names_what_the_schema_makes() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let db = ibex_sql::Db::open(&ibex_sql::Config::new("sqlite::memory:").unwrap())
                .await
                .unwrap();
            db.migrate("journal", CLUSTER).await.unwrap();
            for table in TABLES {
                let rows = db
                    .query(
                        format!("SELECT name FROM pragma_table_info('{}')", table.name),
                        Vec::new(),
                    )
                    .await
                    .unwrap();
                let made: Vec<String> = rows.iter().map(|row| row.get(0).unwrap()).collect();
                let named: Vec<&str> = std::iter::once(table.user)
                    .chain(table.columns().map(|column| column.name))
                    .collect();
                assert_eq!(made, named, "{}", table.name);
            }
            for counter in COUNTERS {
                for source in counter.sources {
                    db.query(
                        format!(
                            "SELECT MAX({}) FROM {} WHERE {} = 0",
                            source.column, source.table, source.user
                        ),
                        Vec::new(),
                    )
                    .await
                    .unwrap();
                }
            }
        });
    }
}
