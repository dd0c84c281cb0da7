//! One small interface over SQLite and MySQL: DSNs, pools, transactions as closures, migrations, error classes.
