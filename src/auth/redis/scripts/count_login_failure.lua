-- Counts a failed log-in, in a short and in a long window (none if it is 0); the first one opens each. The failure
-- that reaches the limit extends the short window, twice as long each time; after `many` failures in the
-- long window every `limit` of them do, however slowly they come. Returns whether this one did.
local limit, window, most, remembered = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local many, long_window = tonumber(ARGV[5]), tonumber(ARGV[6])
local failures = redis.call('INCR', KEYS[1])
if failures == 1 then redis.call('EXPIRE', KEYS[1], window) end
local in_all = 0
if long_window > 0 then
    in_all = redis.call('INCR', KEYS[3])
    if in_all == 1 then redis.call('EXPIRE', KEYS[3], long_window) end
end
local is_slow = limit > 0 and in_all >= many and in_all % limit == 0 and failures < limit
if failures ~= limit and not is_slow then return 0 end
local times = redis.call('INCR', KEYS[2])
redis.call('EXPIRE', KEYS[2], remembered)
redis.call('SET', KEYS[1], limit, 'EX', math.min(window * 2 ^ (times - 1), most))
return 1
