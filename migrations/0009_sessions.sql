-- What Redis must know of sessions whatever becomes of it. Each process follows these events and
-- makes Redis true to them; all of the last day again when another run of Redis answers: one that was
-- loaded from an older dump, or had not heard of all yet. The indexes are over those few events only,
-- so that they are found without reading everything else that happened.
create index events_of_sessions on events (position)
    where aggregate_type = 'account' and event_type in (
        'SessionBound', 'SessionClosed', 'TokenReplayDetected',
        'PasswordChanged', 'RoleChanged', 'AccountDisabled'
    );

-- An account's last change that ended its sessions. A session remembers which one was known when its
-- password was checked; on an older one it is over.
create index changes_of_accounts on events (aggregate_id, position)
    where aggregate_type = 'account' and event_type in (
        'PasswordChanged', 'RoleChanged', 'AccountDisabled'
    );
