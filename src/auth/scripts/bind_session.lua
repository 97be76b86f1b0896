-- Binds a session that is open: the log says that its cookie was seen.
redis.call('HDEL', KEYS[1], '')
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'bound', '1') end
return { epoch, 'bound' }
