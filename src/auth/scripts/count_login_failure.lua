-- Counts a failed log-in; the first one opens the window, the one that reaches the limit extends it.
local limit, window, most, remembered = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local failures = redis.call('INCR', KEYS[1])
if failures == 1 then redis.call('EXPIRE', KEYS[1], window) end
if failures == limit then
    local times = redis.call('INCR', KEYS[2])
    redis.call('EXPIRE', KEYS[2], remembered)
    redis.call('EXPIRE', KEYS[1], math.min(window * 2 ^ (times - 1), most))
end
return failures
