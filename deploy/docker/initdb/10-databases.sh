#!/bin/sh
# Runs once, in the empty database container: one database and one user for each daemon and cluster, each user with rights on its own database only.
set -eu
for name in mogilefs theschwartz journal_global journal_c1 journal_c2; do
  password="$(cat "/run/secrets/db_${name}")"
  mariadb --user=root --password="$(cat /run/secrets/db_root)" <<SQL
CREATE DATABASE IF NOT EXISTS \`${name}\` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS '${name}'@'%' IDENTIFIED BY '${password}';
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP, LOCK TABLES, CREATE TEMPORARY TABLES, REFERENCES ON \`${name}\`.* TO '${name}'@'%';
SQL
done
