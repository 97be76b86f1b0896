-- What a command may append besides: the key that opened a session, its revocation as the cause of an end, and its wrong
-- secrets as the cause of a wait. All else is decided as before, also of these events. The other events of service keys
-- are appended by the functions of migration 18 alone.
alter function is_appendable rename to is_appendable_otherwise;

create function is_appendable(
    aggregate_type text, event_type text, event_version text, payload jsonb, metadata json
) returns boolean
language sql immutable
return case
        when aggregate_type = 'account' and event_type = 'SessionOpened' and payload ? 'client_id' then
            jsonb_typeof(payload -> 'client_id') = 'string'
            and public.is_appendable_otherwise(
                aggregate_type, event_type, event_version, payload - 'client_id', metadata
            )
        when aggregate_type = 'account' and event_type = 'SessionClosed'
            and payload ->> 'cause' = 'key-revoked' then
            public.is_appendable_otherwise(
                aggregate_type, event_type, event_version, payload || '{"cause": "log-out"}', metadata
            )
        when aggregate_type = 'account' and event_type = 'LoginThrottled' and payload ->> 'by' = 'key' then
            public.is_appendable_otherwise(
                aggregate_type, event_type, event_version, payload || '{"by": "account"}', metadata
            )
        else public.is_appendable_otherwise(
            aggregate_type, event_type, event_version, payload, metadata
        )
    end;

revoke all on function is_appendable from public;
