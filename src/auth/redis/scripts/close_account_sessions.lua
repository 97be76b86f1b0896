-- Ends the sessions that were opened before a change of the account: `step` of them, from a rank on. The
-- session in which the change was made stays open as if it had been opened after it, unless the previous
-- change should have ended it. Returns the rank of the next step, empty after the last one, and the ended
-- sessions as pairs of sid and jti. From the first step on no request of those sessions is admitted.
local sessions, prefix, changed = KEYS[1], KEYS[2], KEYS[3]
local except, previous, position, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local rank, step = tonumber(ARGV[5]), tonumber(ARGV[6])
redis.call('ZREM', sessions, '')
if tonumber(redis.call('GET', changed) or 0) < position then
    redis.call('SET', changed, ARGV[3], 'EX', keep)
end
if except ~= '' then
    local known = tonumber(redis.call('HGET', prefix .. except, 'changed') or position)
    if known < position and known >= previous then
        redis.call('HSET', prefix .. except, 'changed', ARGV[3])
    end
end
local ended = { epoch, 'ended', '' }
local page = redis.call('ZRANGE', sessions, rank, rank + step - 1)
local kept = 0
for _, sid in ipairs(page) do
    local s = redis.call('HMGET', prefix .. sid, 'jti', 'changed')
    if not s[1] then
        redis.call('ZREM', sessions, sid)
    elseif tonumber(s[2] or 0) < position then
        table.insert(ended, sid)
        table.insert(ended, s[1])
        redis.call('DEL', prefix .. sid)
        redis.call('ZREM', sessions, sid)
    else
        kept = kept + 1
    end
end
if #page == step then ended[3] = tostring(rank + kept) end
return ended
