#!/bin/bash
[ -e /var/lib/mysql/.filled ] && mariadb-admin --user=root --password="$(cat "$MARIADB_ROOT_PASSWORD_FILE")" --protocol=tcp --host=127.0.0.1 ping
