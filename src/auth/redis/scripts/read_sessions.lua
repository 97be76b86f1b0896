-- The open ones of some sessions: for each its id, token id, times, address, user agent, and the service key that
-- opened it (empty for a log-in).
local prefix, changed = KEYS[1], KEYS[2]
local since = tonumber(redis.call('GET', changed) or 0)
local list = { epoch, 'list' }
for number = 1, #ARGV - 1 do
    local sid = ARGV[number]
    local s = redis.call(
        'HMGET', prefix .. sid, 'jti', 'created_at', 'expires_at', 'ip', 'user_agent', 'client_id', 'changed'
    )
    if s[1] and tonumber(s[7] or 0) >= since then
        table.insert(list, sid)
        for i = 1, 6 do table.insert(list, s[i] or '') end
    end
end
return list
