-- Accounts over HTTP, and service keys: the credentials with which programs get tokens of an account.

-- A secret has 256 random bits, so one SHA-256 keeps it: there is nothing to guess that a slow hash would protect.
-- A revoked key has no row; the log has both events. Expired keys stay until they are revoked.
create table service_keys (
    -- Not the account's: never used again, also after the key was revoked.
    client_id    uuid        not null,
    username     text        not null,
    name         text        not null,
    secret_hash  bytea       not null,
    created_at   timestamptz not null,
    expires_at   timestamptz not null,
    -- When it last opened a session, to the minute.
    last_used_at timestamptz,
    constraint service_keys_pkey primary key (client_id),
    constraint service_keys_account_known foreign key (username) references accounts (username),
    constraint service_keys_hash_is_sha256 check (octet_length(secret_hash) = 32)
);

create index service_keys_of_accounts on service_keys (username, client_id);

-- The changes below lock the account's row first and the log then, as those of migration 10 do, and append their
-- events through append_account_change, which checks that the payload says what is done.

-- Adds a key, at most 10 per account (SQLSTATE CU006), so that a list of them is short enough to be read. No row
-- comes back if there is no such account.
create function add_service_key(
    of_username text, new_client_id uuid, new_name text, new_hash bytea, new_expires_at timestamptz,
    command_id uuid, payload text, metadata text
) returns table ("position" bigint, previous bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Keys of one account are added one after the other, so each of them counts those before it.
    perform 1 from public.accounts a where a.username = of_username for update;
    if not found then
        return;
    end if;
    if (select count(*) from public.service_keys k where k.username = of_username) >= 10 then
        raise exception 'the account has 10 service keys' using errcode = 'CU006';
    end if;
    insert into public.service_keys (client_id, username, name, secret_hash, created_at, expires_at)
    values (new_client_id, of_username, new_name, new_hash, clock_timestamp(), new_expires_at);
    return query select * from public.append_account_change(
        of_username,
        jsonb_build_object(
            'type', 'ServiceKeyAdded', 'client_id', new_client_id, 'name', new_name,
            'expires_at', to_char(new_expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        ),
        command_id, payload, metadata
    );
end
$$;

-- No row comes back if the account has no such key. Of two revocations at once one waits for the other, and finds
-- none.
create function revoke_service_key(
    of_username text, of_client_id uuid, command_id uuid, payload text, metadata text
) returns table ("position" bigint, previous bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from public.service_keys where client_id = of_client_id and username = of_username;
    if found then
        return query select * from public.append_account_change(
            of_username, jsonb_build_object('type', 'ServiceKeyRevoked', 'client_id', of_client_id),
            command_id, payload, metadata
        );
    end if;
end
$$;

-- Changes role, password and state of an account, all or nothing; null leaves a part as it is. An event is appended
-- for each part that is another one then (a new hash always is), and a row comes back for each event. With
-- `must_keep_admin` it fails (CU005) rather than take the last enabled admin away.
create function change_account(
    of_username text, new_role text, new_hash text, new_disabled boolean, must_keep_admin boolean,
    command_id uuid, role_payload text, password_payload text, state_payload text, metadata text
) returns table ("position" bigint, event_type text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    earlier public.accounts%rowtype;
begin
    select a.* into earlier from public.accounts a where a.username = of_username for update;
    if not found then
        return;
    end if;
    update public.accounts a
    set role = coalesce(new_role, a.role), disabled = coalesce(new_disabled, a.disabled),
        password_hash = coalesce(new_hash, a.password_hash)
    where a.username = of_username;
    if must_keep_admin and earlier.role = 'admin' and not earlier.disabled then
        -- Under the lock of all changes, so that of two admins that take the role from each other one keeps it.
        lock table locks.append in exclusive mode;
        if not exists (select from public.accounts a where a.role = 'admin' and not a.disabled) then
            raise exception 'no enabled admin would be left' using errcode = 'CU005';
        end if;
    end if;

    if new_role <> earlier.role then
        return query select c.position, 'RoleChanged'::text from public.append_account_change(
            of_username, jsonb_build_object('type', 'RoleChanged', 'role', new_role),
            command_id, role_payload, metadata
        ) c;
    end if;
    if new_hash is not null then
        return query select c.position, 'PasswordChanged'::text from public.append_account_change(
            of_username, jsonb_build_object('type', 'PasswordChanged'),
            command_id, password_payload, metadata
        ) c;
    end if;
    if new_disabled <> earlier.disabled then
        return query
        select c.position, case when new_disabled then 'AccountDisabled' else 'AccountEnabled' end
        from public.append_account_change(
            of_username,
            jsonb_build_object(
                'type', case when new_disabled then 'AccountDisabled' else 'AccountEnabled' end
            ),
            command_id, state_payload, metadata
        ) c;
    end if;
end
$$;

-- The index of migration 9, with the event that ends the sessions of a key.
drop index events_of_sessions;
create index events_of_sessions on events (position)
    where aggregate_type = 'account' and event_type in (
        'SessionBound', 'SessionClosed', 'TokenReplayDetected',
        'PasswordChanged', 'RoleChanged', 'AccountDisabled', 'ServiceKeyRevoked'
    );

revoke all on service_keys from public;
revoke all on function add_service_key, revoke_service_key, change_account from public;
