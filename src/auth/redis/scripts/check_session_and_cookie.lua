-- Checks a session and its cookie; binds the session, or ends it after a token replay. `own`: this
-- installation has made the cookie. Another one that is not the session's is a neighbour's, and is none.
--
-- Of concurrent requests one gets the result; its process appends the event and confirms it by
-- bind_session.lua or close_session.lua. Without a confirmation within 5 s the next request gets the
-- result. `bound` is 0, 1 once the event is in the log, or the time (seconds since 1970) at which a
-- request got the result; `replayed` is such a time.
--
-- `requests` requests are checked as if one came after the other. A request that is admitted counts towards
-- the account's limit, by the clock of Redis and by the generic cell rate algorithm (ITU-T I.371, annex A):
-- `rate` is the theoretical arrival time of the next request, in microseconds; it may be one second ahead.
-- The reply has the number of requests that are admitted, and how long the next one would wait.
--
-- A full Redis refuses the first write of a script only if that write may use memory, and no write after
-- one that it accepted. The first write is a ZREM, so an open session stays usable, and can be ended.
local session, sessions, denied, changed, rate = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local sid, jti, cookie, own, obey, demanded = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local limit, requests = tonumber(ARGV[7]), tonumber(ARGV[8])
local time = redis.call('TIME')
local second = tonumber(time[1])
local s = redis.call(
    'HMGET', session, 'jti', 'role', 'cookie', 'bound', 'ip', 'user_agent', 'changed', 'replayed'
)
if s[1] ~= jti or redis.call('EXISTS', denied) == 1 then return { epoch, 'closed' } end
if tonumber(s[7] or 0) < tonumber(redis.call('GET', changed) or 0) then return { epoch, 'closed' } end
local right = cookie ~= '' and cookie == s[3]
local replayed = obey == '1' and not right and s[4] ~= '0'
if s[8] or replayed then
    if second - tonumber(s[8] or 0) < 5 then return { epoch, 'closed' } end
    redis.call('ZREM', sessions, sid)
    redis.call('HSET', session, 'replayed', second)
    return { epoch, 'replayed', s[5], s[6] }
end
if not right and (demanded == '1' or (obey == '1' and own == '1')) then return { epoch, 'refused' } end
local first = obey == '1' and right and s[4] ~= '1' and second - tonumber(s[4]) >= 5
if first or limit > 0 then redis.call('ZREM', sessions, '') end
if first then redis.call('HSET', session, 'bound', second) end
local admitted, wait = requests, 0
if limit > 0 then
    local now, whole = second * 1000000 + time[2], 1000000
    local due, step = math.max(now, tonumber(redis.call('GET', rate) or 0)), whole / limit
    -- The time is in whole microseconds.
    admitted = math.max(0, math.min(requests, math.floor((now + whole - due) / step + 0.000001)))
    wait = string.format('%.0f', due + (admitted + 1) * step - now - whole)
    if admitted == 0 then return { epoch, 'limited', wait } end
    due = due + admitted * step
    redis.call('SET', rate, string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000))
end
return { epoch, first and 'bound' or 'open', s[2], tostring(admitted), tostring(wait) }
