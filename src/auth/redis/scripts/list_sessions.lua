-- The ids of an account's sessions that expire after a time, at most `most`.
local list = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])
table.insert(list, 1, 'list')
table.insert(list, 1, epoch)
return list
