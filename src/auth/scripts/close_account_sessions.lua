-- Ends every session that was opened before a change of the account. The session in which the change
-- was made stays open as if it had been opened after it, unless the previous change should have ended it.
-- Returns the ended sessions as pairs of sid and jti.
local sessions, prefix, changed = KEYS[1], KEYS[2], KEYS[3]
local except, previous, position, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
redis.call('ZREM', sessions, '')
if tonumber(redis.call('GET', changed) or 0) < position then
    redis.call('SET', changed, ARGV[3], 'EX', keep)
end
local ended = { epoch, 'ended' }
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
