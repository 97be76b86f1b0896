-- The role of an open session. Neither binds nor ends the session.
local s = redis.call('HMGET', KEYS[1], 'jti', 'role', 'changed', 'replayed')
if s[1] ~= ARGV[1] or s[4] or redis.call('EXISTS', KEYS[2]) == 1 then return { epoch, 'closed' } end
if tonumber(s[3] or 0) < tonumber(redis.call('GET', KEYS[3]) or 0) then return { epoch, 'closed' } end
return { epoch, 'open', s[2] }
