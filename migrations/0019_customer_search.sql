-- The words of all names, kept by the projection of the same name: one row for each word, which has the rest of the name
-- from that word on, so that a prefix of it is found by the order of an index. The projection folds the names (case,
-- accents and width do not matter); texts are compared by their bytes, so no index depends on a collation that an
-- update of the operating system may change. The first word of a name (place 1) stands for the customer: it has the
-- other values, and the lists in other orders read only these rows.
create table customer_search (
    customer_id bigint           not null,
    place       smallint         not null,
    word        text collate "C" not null,
    shared      smallint         not null,
    sort_name   text collate "C" not null,
    dob         date             not null,
    created_at  timestamptz      not null,
    updated_at  timestamptz      not null,
    marked      text collate "C",
    name        text,
    external_id text,
    version     bigint,
    constraint customer_search_pkey primary key (customer_id, place)
);

-- Those whose names have a word with a prefix: all that a search sorts by is in the index.
create index customer_search_words on customer_search (word, dob desc, customer_id)
    include (shared, created_at, updated_at, sort_name);

-- The orders of lists.
create index customer_search_youngest on customer_search (dob desc, customer_id) where place = 1;
create index customer_search_by_name on customer_search (sort_name, customer_id) where place = 1;
create index customer_search_created on customer_search (created_at desc, customer_id) where place = 1;
create index customer_search_updated on customer_search (updated_at desc, customer_id) where place = 1;

insert into projections (name, version, checkpoint) values ('customer_search', 1, 0);
insert into projection_tables (projection, version, table_name)
values ('customer_search', 1, 'customer_search');
select partition_read_table('customer_search');
