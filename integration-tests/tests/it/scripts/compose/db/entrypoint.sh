#!/bin/bash
# An empty data folder is filled first: a root password, then the scripts of /docker-entrypoint-initdb.d against a server that only the socket reaches.
set -eu
data=/var/lib/mysql
if [ ! -d "$data/mysql" ]; then
  mariadb-install-db --no-defaults --user=mysql --datadir="$data" --auth-root-authentication-method=normal --skip-test-db >/dev/null
  mariadbd --no-defaults --user=mysql --datadir="$data" --skip-networking --socket=/run/mysqld/mysqld.sock &
  server=$!
  until mariadb-admin --user=root ping >/dev/null 2>&1; do sleep 0.1; done
  mariadb --user=root -e "ALTER USER root@localhost IDENTIFIED BY '$(cat "$MARIADB_ROOT_PASSWORD_FILE")'; DELETE FROM mysql.global_priv WHERE User=''; FLUSH PRIVILEGES"
  for script in /docker-entrypoint-initdb.d/*.sh; do bash "$script"; done
  kill "$server"
  wait "$server"
fi
touch "$data/.filled"
exec mariadbd --no-defaults --user=mysql --datadir="$data" --bind-address=0.0.0.0 --socket=/run/mysqld/mysqld.sock --skip-name-resolve --innodb-flush-log-at-trx-commit=2
