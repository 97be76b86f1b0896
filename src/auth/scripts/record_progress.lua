-- Records up to which position this epoch has the effects of the log, so that a process that starts need
-- not apply them all again. Fenced: only a process that trusts the epoch has applied them all.
local before, position = string.match(redis.call('GET', KEYS[1]) or '', '^(%x+) (%d+)$')
if before ~= epoch or tonumber(position) < tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], epoch .. ' ' .. ARGV[1])
end
return { epoch, 'recorded' }
