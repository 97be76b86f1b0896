-- Records the position up to which this epoch has the effects of the log, so that a process need not
-- apply them all again at its start. Fenced: only a process that trusts the epoch has applied them all.
local before, position = string.match(redis.call('GET', KEYS[1]) or '', '^(%x+) (%d+)$')
if before ~= epoch or tonumber(position) < tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], epoch .. ' ' .. ARGV[1])
end
return { epoch, 'recorded' }
