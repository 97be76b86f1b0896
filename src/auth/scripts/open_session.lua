-- Opens a session, and ends the oldest ones over the limit. Returns those as pairs of sid and jti.
--
-- `HSET` comes first: a full Redis refuses the first write of a script, but none after one that it
-- accepted. The set expires with the last of its sessions, which may have been opened with a longer TTL.
local session, sessions, prefix = KEYS[1], KEYS[2], KEYS[3]
local sid, over_since, expires = ARGV[1], ARGV[2], ARGV[3]
local keep, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
redis.call('HSET', session, unpack(ARGV, 6))
redis.call('EXPIRE', session, keep)
redis.call('ZREMRANGEBYSCORE', sessions, '-inf', over_since)
local ended = {}
if limit > 0 then
    local over = redis.call('ZCARD', sessions) - limit
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
end
redis.call('ZADD', sessions, expires, sid)
redis.call('EXPIRE', sessions, math.max(keep, redis.call('TTL', sessions)))
return ended
