//! The tables, exactly the original's, schema version 17.
//!
//! Owns their creation on an empty database and the refusal of a newer one. On a new MySQL database names and keys are binary columns, which the
//! original runs on too; an existing
//! database is left as it is.

use ibex_sql::{Db, Engine, Error, params};

/// The version of the original's schema these tables have.
pub(crate) const SCHEMA_VERSION: u64 = 17;

const SQLITE: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS domain (dmid SMALLINT UNSIGNED NOT NULL PRIMARY KEY, namespace VARCHAR(255), UNIQUE (namespace))",
    "CREATE TABLE IF NOT EXISTS class (dmid SMALLINT UNSIGNED NOT NULL, classid TINYINT UNSIGNED NOT NULL, classname VARCHAR(50), mindevcount TINYINT UNSIGNED NOT NULL, hashtype TINYINT UNSIGNED, replpolicy VARCHAR(255), UNIQUE (dmid,classid), UNIQUE (dmid,classname))",
    "CREATE TABLE IF NOT EXISTS file (fid INTEGER NOT NULL PRIMARY KEY, dmid SMALLINT UNSIGNED NOT NULL, dkey VARCHAR(255), length BIGINT UNSIGNED, classid TINYINT UNSIGNED NOT NULL, devcount TINYINT UNSIGNED NOT NULL, UNIQUE (dmid, dkey))",
    "CREATE TABLE IF NOT EXISTS tempfile (fid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, createtime INT UNSIGNED NOT NULL, classid TINYINT UNSIGNED NOT NULL, dmid SMALLINT UNSIGNED NOT NULL, dkey VARCHAR(255), devids VARCHAR(60))",
    "CREATE TABLE IF NOT EXISTS file_to_delete (fid INTEGER NOT NULL PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS unreachable_fids (fid INTEGER NOT NULL PRIMARY KEY, lastupdate INT UNSIGNED NOT NULL)",
    "CREATE INDEX IF NOT EXISTS unreachable_fids_lastupdate ON unreachable_fids (lastupdate)",
    "CREATE TABLE IF NOT EXISTS file_on (fid INTEGER NOT NULL, devid MEDIUMINT UNSIGNED NOT NULL, PRIMARY KEY (fid, devid))",
    "CREATE INDEX IF NOT EXISTS file_on_devid ON file_on (devid)",
    "CREATE TABLE IF NOT EXISTS file_on_corrupt (fid INTEGER NOT NULL, devid MEDIUMINT UNSIGNED NOT NULL, PRIMARY KEY (fid, devid))",
    "CREATE TABLE IF NOT EXISTS host (hostid MEDIUMINT UNSIGNED NOT NULL PRIMARY KEY, status TEXT, http_port MEDIUMINT UNSIGNED DEFAULT 7500, http_get_port MEDIUMINT UNSIGNED, hostname VARCHAR(40), hostip VARCHAR(15), altip VARCHAR(15), altmask VARCHAR(18), UNIQUE (hostname), UNIQUE (hostip), UNIQUE (altip))",
    "CREATE TABLE IF NOT EXISTS device (devid MEDIUMINT UNSIGNED NOT NULL PRIMARY KEY, hostid MEDIUMINT UNSIGNED NOT NULL, status TEXT, weight MEDIUMINT DEFAULT 100, mb_total INT UNSIGNED, mb_used INT UNSIGNED, mb_asof INT UNSIGNED)",
    "CREATE INDEX IF NOT EXISTS device_status ON device (status)",
    "CREATE TABLE IF NOT EXISTS server_settings (field VARCHAR(50) PRIMARY KEY, value TEXT)",
    "CREATE TABLE IF NOT EXISTS file_to_replicate (fid INTEGER NOT NULL PRIMARY KEY, nexttry INT UNSIGNED NOT NULL, fromdevid INT UNSIGNED, failcount TINYINT UNSIGNED NOT NULL DEFAULT 0, flags SMALLINT UNSIGNED NOT NULL DEFAULT 0)",
    "CREATE INDEX IF NOT EXISTS file_to_replicate_nexttry ON file_to_replicate (nexttry)",
    "CREATE TABLE IF NOT EXISTS file_to_delete_later (fid INTEGER NOT NULL PRIMARY KEY, delafter INT UNSIGNED NOT NULL)",
    "CREATE INDEX IF NOT EXISTS file_to_delete_later_delafter ON file_to_delete_later (delafter)",
    "CREATE TABLE IF NOT EXISTS fsck_log (logid INTEGER PRIMARY KEY AUTOINCREMENT, utime INT UNSIGNED NOT NULL, fid INTEGER, evcode CHAR(4), devid MEDIUMINT UNSIGNED)",
    "CREATE INDEX IF NOT EXISTS fsck_log_utime ON fsck_log (utime)",
    "CREATE TABLE IF NOT EXISTS file_to_queue (fid INTEGER NOT NULL, devid INT UNSIGNED, type TINYINT UNSIGNED NOT NULL, nexttry INT UNSIGNED NOT NULL, failcount TINYINT UNSIGNED NOT NULL DEFAULT 0, flags SMALLINT UNSIGNED NOT NULL DEFAULT 0, arg TEXT, PRIMARY KEY (fid, type))",
    "CREATE INDEX IF NOT EXISTS file_to_queue_type_nexttry ON file_to_queue (type, nexttry)",
    "CREATE TABLE IF NOT EXISTS file_to_delete2 (fid INTEGER NOT NULL PRIMARY KEY, nexttry INT UNSIGNED NOT NULL, failcount TINYINT UNSIGNED NOT NULL DEFAULT 0)",
    "CREATE INDEX IF NOT EXISTS file_to_delete2_nexttry ON file_to_delete2 (nexttry)",
    "CREATE TABLE IF NOT EXISTS checksum (fid INTEGER NOT NULL PRIMARY KEY, hashtype TINYINT UNSIGNED NOT NULL, checksum VARBINARY(64) NOT NULL)",
    "CREATE TABLE IF NOT EXISTS lock (lockid INT UNSIGNED NOT NULL PRIMARY KEY, hostname VARCHAR(255) NOT NULL, pid INT UNSIGNED NOT NULL, acquiredat INT UNSIGNED NOT NULL)",
];

const MYSQL: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS domain (dmid SMALLINT UNSIGNED NOT NULL PRIMARY KEY, namespace VARBINARY(255), UNIQUE (namespace)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS class (dmid SMALLINT UNSIGNED NOT NULL, classid TINYINT UNSIGNED NOT NULL, PRIMARY KEY (dmid,classid), classname VARBINARY(50), UNIQUE (dmid,classname), mindevcount TINYINT UNSIGNED NOT NULL, hashtype TINYINT UNSIGNED, replpolicy VARCHAR(255)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS file (fid BIGINT UNSIGNED NOT NULL, PRIMARY KEY (fid), dmid SMALLINT UNSIGNED NOT NULL, dkey VARBINARY(1024), UNIQUE dkey (dmid, dkey), length BIGINT UNSIGNED, classid TINYINT UNSIGNED NOT NULL, devcount TINYINT UNSIGNED NOT NULL, INDEX devcount (dmid,classid,devcount)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS tempfile (fid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, PRIMARY KEY (fid), createtime INT UNSIGNED NOT NULL, classid TINYINT UNSIGNED NOT NULL, dmid SMALLINT UNSIGNED NOT NULL, dkey VARBINARY(1024), devids VARCHAR(60)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS file_to_delete (fid BIGINT UNSIGNED NOT NULL, PRIMARY KEY (fid)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS unreachable_fids (fid BIGINT UNSIGNED NOT NULL, lastupdate INT UNSIGNED NOT NULL, PRIMARY KEY (fid), INDEX (lastupdate)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS file_on (fid BIGINT UNSIGNED NOT NULL, devid MEDIUMINT UNSIGNED NOT NULL, PRIMARY KEY (fid, devid), INDEX devid (devid)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS file_on_corrupt (fid BIGINT UNSIGNED NOT NULL, devid MEDIUMINT UNSIGNED NOT NULL, PRIMARY KEY (fid, devid)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS host (hostid MEDIUMINT UNSIGNED NOT NULL PRIMARY KEY, status ENUM('alive','dead','down','readonly'), http_port MEDIUMINT UNSIGNED DEFAULT 7500, http_get_port MEDIUMINT UNSIGNED, hostname VARCHAR(40), hostip VARCHAR(15), altip VARCHAR(15), altmask VARCHAR(18), UNIQUE (hostname), UNIQUE (hostip), UNIQUE (altip)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS device (devid MEDIUMINT UNSIGNED NOT NULL, hostid MEDIUMINT UNSIGNED NOT NULL, status ENUM('alive','dead','down','readonly','drain'), weight MEDIUMINT DEFAULT 100, mb_total INT UNSIGNED, mb_used INT UNSIGNED, mb_asof INT UNSIGNED, PRIMARY KEY (devid), INDEX (status)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS server_settings (field VARCHAR(50) PRIMARY KEY, value TEXT) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS file_to_replicate (fid BIGINT UNSIGNED NOT NULL PRIMARY KEY, nexttry INT UNSIGNED NOT NULL, INDEX (nexttry), fromdevid INT UNSIGNED, failcount TINYINT UNSIGNED NOT NULL DEFAULT 0, flags SMALLINT UNSIGNED NOT NULL DEFAULT 0) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS file_to_delete_later (fid BIGINT UNSIGNED NOT NULL PRIMARY KEY, delafter INT UNSIGNED NOT NULL, INDEX (delafter)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS fsck_log (logid INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, utime INT UNSIGNED NOT NULL, fid BIGINT UNSIGNED, evcode CHAR(4), devid MEDIUMINT UNSIGNED, INDEX (utime)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS file_to_queue (fid BIGINT UNSIGNED NOT NULL, devid INT UNSIGNED, type TINYINT UNSIGNED NOT NULL, nexttry INT UNSIGNED NOT NULL, failcount TINYINT UNSIGNED NOT NULL DEFAULT 0, flags SMALLINT UNSIGNED NOT NULL DEFAULT 0, arg TEXT, PRIMARY KEY (fid, type), INDEX type_nexttry (type,nexttry)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS file_to_delete2 (fid BIGINT UNSIGNED NOT NULL PRIMARY KEY, nexttry INT UNSIGNED NOT NULL, INDEX (nexttry), failcount TINYINT UNSIGNED NOT NULL DEFAULT 0) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS checksum (fid BIGINT UNSIGNED NOT NULL PRIMARY KEY, hashtype TINYINT UNSIGNED NOT NULL, checksum VARBINARY(64) NOT NULL) ENGINE=InnoDB",
];

/// What was found in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Tables of the right version, possibly made just now.
    Ready,
    /// A version this program does not know.
    Newer(u64),
}

/// Makes missing tables. Safe to run by several trackers at once.
pub(crate) async fn prepare(db: &Db) -> Result<Found, Error> {
    if let Some(version) = version(db).await? {
        if version > SCHEMA_VERSION {
            return Ok(Found::Newer(version));
        }
        if version == SCHEMA_VERSION {
            return Ok(Found::Ready);
        }
    }
    let statements = match db.engine() {
        Engine::Sqlite => SQLITE,
        Engine::MySql => MYSQL,
    };
    for statement in statements {
        db.execute(statement, params![]).await?;
    }
    db.execute(
        "REPLACE INTO server_settings (field, value) VALUES ('schema_version', ?)",
        params![SCHEMA_VERSION.to_string()],
    )
    .await?;
    Ok(Found::Ready)
}

/// The version noted in the settings; `None` on an empty database.
async fn version(db: &Db) -> Result<Option<u64>, Error> {
    let exists = db.engine().pick(
        "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'server_settings'",
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'server_settings'",
    );
    let tables: u64 = db
        .query_one(exists, params![])
        .await?
        .map_or(Ok(0), |row| row.get(0))?;
    if tables == 0 {
        return Ok(None);
    }
    let row = db
        .query_one(
            "SELECT value FROM server_settings WHERE field = 'schema_version'",
            params![],
        )
        .await?;
    row.map(|row| row.get::<u64>(0)).transpose()
}
