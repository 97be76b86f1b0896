-- Opens a session, and ends the oldest ones over the limit, at most `step` of them. Returns `open`, `more`
-- or `done`, and the ended sessions as pairs of sid and jti; after `more` the caller repeats the call. Or
-- returns `limited` and the microseconds to wait: the account has opened too many sessions in the last
-- minute, by the generic cell rate algorithm (ITU-T I.371, annex A) as in check_session_and_cookie.lua.
--
-- `HSET` comes first: a full Redis refuses the first write of a script, but none after one that it
-- accepted. The set expires with the last of its sessions, which may have been opened with a longer TTL.
local session, sessions, prefix, opened = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local sid, over_since, expires = ARGV[1], ARGV[2], ARGV[3]
local keep, limit, step, rate = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local is_repeat = redis.call('EXISTS', session) == 1
local time, minute = redis.call('TIME'), 60000000
local now = time[1] * 1000000 + time[2]
local due = now
if rate > 0 and not is_repeat then
    due = math.max(now, tonumber(redis.call('GET', opened) or 0)) + minute / rate
    if due - now > minute then return { 'limited', string.format('%.0f', due - now - minute) } end
end
redis.call('HSET', session, unpack(ARGV, 8))
redis.call('EXPIRE', session, keep)
if due > now then
    redis.call('SET', opened, string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000))
end
redis.call('ZREMRANGEBYSCORE', sessions, '-inf', over_since)
redis.call('ZREM', sessions, sid)
local over = math.min(redis.call('ZCARD', sessions) - limit, step - 1)
local ended = { 'open', over == step - 1 and 'more' or 'done' }
-- ZRANGE counts a negative index from the end; below the limit no session ends.
for _, old in ipairs(over < 0 and {} or redis.call('ZRANGE', sessions, 0, over)) do
    local jti = redis.call('HGET', prefix .. old, 'jti')
    if jti then
        table.insert(ended, old)
        table.insert(ended, jti)
    end
    redis.call('DEL', prefix .. old)
    redis.call('ZREM', sessions, old)
end
redis.call('ZADD', sessions, expires, sid)
redis.call('EXPIRE', sessions, math.max(keep, redis.call('TTL', sessions)))
return ended
