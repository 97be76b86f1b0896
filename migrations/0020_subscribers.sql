-- The role `subscriber`: a program that keeps a copy of the customers reads them and their events, but not where
-- changes came from, and not what accounts did.
alter table accounts drop constraint accounts_role_known;
alter table accounts add constraint accounts_role_known
    check (role in ('viewer', 'editor', 'subscriber', 'auditor', 'admin'));
