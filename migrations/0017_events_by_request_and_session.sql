-- The events that one request has caused, and those of one session, each found by an index however long the log is:
-- an incident begins with a request id in a log line, or with a stolen session. Both are members of `metadata`. The
-- position is in the index, so that a page begins where the last one ended. Every append writes to both, so they cost it as little as they can: ids are compared as bytes, and are made in
-- the order of time, so that new entries stand beside one another at the end of the index; and no condition leaves out
-- the few events that have none, because it would read the metadata once more for each of the others.
--
-- Building them reads the whole log once, and appends wait for it: some seconds for each million events.
create index events_of_requests on events ((metadata ->> 'request_id') collate "C", position);

create index events_of_session on events ((metadata ->> 'session') collate "C", position);

-- The positions of up to `number` events of a request, after `after` and up to `upto`, in their order. One import may
-- have most of the events, and another request one: no estimate fits both, and a plan that reads all events of the
-- request and sorts them, or all positions, would be chosen for one of them. So only the order of the index is left to
-- the planner: the conditions are about pairs, which the index of the positions has not, and nothing is sorted.
create function positions_of_request(
    of_request text, after bigint, upto bigint, number bigint
) returns setof bigint
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_sort = off
set enable_bitmapscan = off
set enable_seqscan = off
as $$
begin
    return query
    select e.position from public.events e
    where ((e.metadata ->> 'request_id') collate "C", e.position) > (of_request, after)
      and ((e.metadata ->> 'request_id') collate "C", e.position) <= (of_request, upto)
    order by (e.metadata ->> 'request_id') collate "C", e.position
    limit number;
end
$$;

-- The same of a session.
create function positions_of_session(
    of_session text, after bigint, upto bigint, number bigint
) returns setof bigint
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_sort = off
set enable_bitmapscan = off
set enable_seqscan = off
as $$
begin
    return query
    select e.position from public.events e
    where ((e.metadata ->> 'session') collate "C", e.position) > (of_session, after)
      and ((e.metadata ->> 'session') collate "C", e.position) <= (of_session, upto)
    order by (e.metadata ->> 'session') collate "C", e.position
    limit number;
end
$$;

revoke all on function positions_of_request, positions_of_session from public;
