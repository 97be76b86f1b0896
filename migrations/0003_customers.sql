-- Customers' ids. A process leases a block of 32 at a time, so that a create costs no round trip;
-- ids that a process did not use before it stopped stay unused for ever.
create sequence customer_ids as bigint start with 1 increment by 32 maxvalue 9007199254740991;

-- How far each projection has followed the log. Its row is also the projection's lock.
create table projections (
    name       text    not null,
    version    integer not null,
    checkpoint bigint  not null,
    constraint projections_pkey primary key (name),
    constraint projections_checkpoint_not_negative check (checkpoint >= 0)
);

-- The read table: the customers as they are now, kept by the projection of the same name. The two
-- times are those of the customer's first and last event.
create table customers (
    id         bigint      not null,
    name       text        not null,
    dob        date        not null,
    version    bigint      not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint customers_pkey primary key (id)
);

-- Youngest first, ties by id: the order of every list.
create index customers_youngest on customers (dob desc, id);

insert into projections (name, version, checkpoint) values ('customers', 1, 0);
