//! The scripts of sessions, run by Redis: each reads and writes keys of one account only, all under its
//! hash tag ([`super::session`] says which), so that they are legal on a cluster.

/// Which run of Redis answers: a master takes another replication id whenever it starts and whenever
/// it becomes one, so what was loaded from an older dump, or had not come to a replica yet, is never
/// taken for what was there before. The last argument names the runs in which the rest may be done, or is
/// `*` for any: another one says which it is and does nothing, nor does a replica.
pub(super) const RUN: &str = r"
local info = redis.call('INFO', 'replication')
local run = string.match(info, 'master_replid:(%x+)')
if not string.find(info, 'role:master', 1, true) then return { run, 'replica' } end
local runs = ARGV[#ARGV]
if runs ~= '*' and not string.find(runs, run, 1, true) then return { run, 'unknown' } end
";

/// Whether this run is believed, and nothing else. Behind [`RUN`].
pub(super) const KNOWN: &str = "return { run, 'known' }";

/// Whether Redis takes writes. Behind [`RUN`].
pub(super) const READY: &str = r"
redis.call('SET', KEYS[1], '1', 'EX', 60)
return { run, 'ready' }
";

/// Notes up to which position this run was told what ended, so that a process that starts need not do
/// it all again. Behind [`RUN`]: only who believes the run has told it all.
pub(super) const TELL: &str = r"
local before, position = string.match(redis.call('GET', KEYS[1]) or '', '^(%x+) (%d+)$')
if before ~= run or tonumber(position) < tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], run .. ' ' .. ARGV[1])
end
return { run, 'told' }
";

/// Such a note: a run and a position.
pub(super) const TOLD: &str = "return redis.call('GET', KEYS[1]) or ''";

/// Whether Redis keeps what it is given when it is full.
pub(super) const KEEPS: &str = r"
local memory = redis.call('INFO', 'memory')
return string.find(memory, 'maxmemory_policy:noeviction', 1, true) and 1 or 0
";

/// Opens a session; over the limit the oldest ones end. Returns those as pairs of sid and jti.
///
/// `HSET` comes first: a Redis that is full refuses the first write of a script, but none that
/// follows one that it took. The set lives as long as the last of its sessions, also when another
/// process opened that for longer.
pub(super) const OPEN: &str = r"
local session, sessions, prefix = KEYS[1], KEYS[2], KEYS[3]
local sid, over_since, expires = ARGV[1], ARGV[2], ARGV[3]
local keep, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
redis.call('HSET', session, unpack(ARGV, 6))
redis.call('EXPIRE', session, keep)
redis.call('ZREMRANGEBYSCORE', sessions, '-inf', over_since)
local ended = {}
if limit > 0 then
    local over = redis.call('ZCARD', sessions) - limit
    -- A negative end would count from the back: below the limit there is nothing to end.
    for _, old in ipairs(over < 0 and {} or redis.call('ZRANGE', sessions, 0, over)) do
        local jti = redis.call('HGET', prefix .. old, 'jti')
        if jti then
            table.insert(ended, old)
            table.insert(ended, jti)
        end
        redis.call('DEL', prefix .. old)
        redis.call('ZREM', sessions, old)
    end
end
redis.call('ZADD', sessions, expires, sid)
redis.call('EXPIRE', sessions, math.max(keep, redis.call('TTL', sessions)))
return ended
";

/// Checks a session and binds it, or ends it when its token was replayed. Behind [`RUN`].
///
/// Both are told to one of those who ask at once, who has to record it and say so by [`BIND`] or
/// [`CLOSE`]; if that did not come to its end within 5 s, the next one is told. `bound` is 0, 1 for what
/// is recorded, or the second since 1970 in which somebody was told; `replayed` such a second.
///
/// Whoever is let in counts towards the account's requests, by the clock of Redis and by the generic
/// cell rate algorithm (ITU-T I.371, annex A): `rate` is the time, in microseconds, at which all that
/// was asked so far is worked off; it may lie one second ahead.
///
/// A Redis that is full refuses the first write of a script only if that could take memory, and none
/// that follows one: those who are in stay in, and can leave.
pub(super) const CHECK: &str = r"
local session, sessions, denied, changed, rate = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local sid, jti, cookie, obey, demanded = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local limit = tonumber(ARGV[6])
local time = redis.call('TIME')
local second = tonumber(time[1])
local s = redis.call(
    'HMGET', session, 'jti', 'role', 'cookie', 'bound', 'ip', 'user_agent', 'changed', 'replayed'
)
if s[1] ~= jti or redis.call('EXISTS', denied) == 1 then return { run, 'closed' } end
if tonumber(s[7] or 0) < tonumber(redis.call('GET', changed) or 0) then return { run, 'closed' } end
local right = cookie ~= '' and cookie == s[3]
local replayed = obey == '1' and not right and s[4] ~= '0'
if s[8] or replayed then
    if second - tonumber(s[8] or 0) < 5 then return { run, 'closed' } end
    redis.call('ZREM', sessions, sid)
    redis.call('HSET', session, 'replayed', second)
    return { run, 'replayed', s[5], s[6] }
end
if not right and (demanded == '1' or (obey == '1' and cookie ~= '')) then return { run, 'refused' } end
local first = obey == '1' and right and s[4] ~= '1' and second - tonumber(s[4]) >= 5
if first or limit > 0 then redis.call('ZREM', sessions, '') end
if first then redis.call('HSET', session, 'bound', second) end
if limit > 0 then
    local now, whole = second * 1000000 + time[2], 1000000
    local due = math.max(now, tonumber(redis.call('GET', rate) or 0)) + whole / limit
    if due - now > whole then
        return { run, 'limited', string.format('%.0f', due - now - whole) }
    end
    redis.call('SET', rate, string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000))
end
return { run, first and 'bound' or 'open', s[2] }
";

/// The role of an open session, and nothing else: it neither binds nor ends. Behind [`RUN`].
pub(super) const ROLE: &str = r"
local s = redis.call('HMGET', KEYS[1], 'jti', 'role', 'changed', 'replayed')
if s[1] ~= ARGV[1] or s[4] or redis.call('EXISTS', KEYS[2]) == 1 then return { run, 'closed' } end
if tonumber(s[3] or 0) < tonumber(redis.call('GET', KEYS[3]) or 0) then return { run, 'closed' } end
return { run, 'open', s[2] }
";

/// The open sessions of an account: for each its id, token id, times, address and user agent. Behind
/// [`RUN`].
pub(super) const LIST: &str = r"
local sessions, prefix, changed = KEYS[1], KEYS[2], KEYS[3]
local since = tonumber(redis.call('GET', changed) or 0)
local list = { run, 'list' }
for _, sid in ipairs(redis.call('ZRANGEBYSCORE', sessions, ARGV[1], '+inf')) do
    local s = redis.call('HMGET', prefix .. sid, 'jti', 'created_at', 'expires_at', 'ip', 'user_agent', 'changed')
    if s[1] and tonumber(s[6] or 0) >= since then
        table.insert(list, sid)
        for i = 1, 5 do table.insert(list, s[i] or '') end
    end
end
return list
";

/// Binds a session that is there: the log says that its cookie was seen. Behind [`RUN`].
pub(super) const BIND: &str = r"
redis.call('HDEL', KEYS[1], '')
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'bound', '1') end
return { run, 'bound' }
";

/// Ends one session and denies its token. Behind [`RUN`].
pub(super) const CLOSE: &str = r"
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], '1', 'EX', ARGV[2])
return { run, 'closed' }
";

/// Ends every session that was opened before a change of the account but the one in which it was made,
/// which goes on as if it had been opened behind it, unless the change before this one should have ended
/// it; returns those that ended as pairs of sid and jti. Behind [`RUN`].
pub(super) const CLOSE_ALL: &str = r"
local sessions, prefix, changed = KEYS[1], KEYS[2], KEYS[3]
local except, previous, position, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
redis.call('ZREM', sessions, '')
if tonumber(redis.call('GET', changed) or 0) < position then
    redis.call('SET', changed, ARGV[3], 'EX', keep)
end
local ended = { run, 'ended' }
for _, sid in ipairs(redis.call('ZRANGE', sessions, 0, -1)) do
    local s = redis.call('HMGET', prefix .. sid, 'jti', 'changed')
    local known = tonumber(s[2] or 0)
    if not s[1] then
        redis.call('ZREM', sessions, sid)
    elseif known < position and sid == except and known >= previous then
        redis.call('HSET', prefix .. sid, 'changed', ARGV[3])
    elseif known < position then
        table.insert(ended, sid)
        table.insert(ended, s[1])
        redis.call('DEL', prefix .. sid)
        redis.call('ZREM', sessions, sid)
    end
end
return ended
";
