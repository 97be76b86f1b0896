#!/bin/sh
# Runs once, while the data folder is empty. Creates the role of the service, which owns nothing;
# `customers migrate` grants its rights.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    --set password="$(cat /run/secrets/service_password)" <<'SQL'
create role customers_service login password :'password';
SQL
