-- Who may log in. What happened to an account is in the log; its secret is only here.
create table accounts (
    username      text        not null,
    password_hash text        not null,
    role          text        not null,
    disabled      boolean     not null default false,
    created_at    timestamptz not null,
    constraint accounts_pkey primary key (username),
    constraint accounts_role_known check (role in ('viewer', 'editor', 'auditor', 'admin'))
);
