-- The number of failed log-ins in the window, its remaining seconds, and the microseconds until the account
-- may open a session again (0 without a rate; see open_session.lua).
local wait, rate = 0, tonumber(ARGV[1])
if rate > 0 then
    local time, minute = redis.call('TIME'), 60000000
    local due = tonumber(redis.call('GET', KEYS[2]) or 0) + minute / rate
    wait = math.max(0, due - (time[1] * 1000000 + time[2]) - minute)
end
return { tonumber(redis.call('GET', KEYS[1]) or '0'), redis.call('TTL', KEYS[1]), string.format('%.0f', wait) }
