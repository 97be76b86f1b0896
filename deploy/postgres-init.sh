#!/bin/sh
# Runs once, while the data folder is empty, as the superuser. Creates the owner of the tables and the role of
# the service, both plain roles, and their database. No other role may connect to it, and `customers migrate`
# grants the service's role its rights.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
    --set owner_password="$(cat /run/secrets/owner_password)" \
    --set service_password="$(cat /run/secrets/service_password)" <<'SQL'
create role customers_owner login password :'owner_password';
create role customers_service login password :'service_password';
create database customers owner customers_owner;
revoke all on database customers, postgres from public;
grant connect on database customers to customers_service;
SQL
