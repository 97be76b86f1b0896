-- Ends one session and denies its token. Returns 1 if it was there, else 0.
local ended = redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], '1', 'EX', ARGV[2])
return { epoch, 'closed', tostring(ended) }
