-- Binds a session, if it is open, after its SessionBound event was appended to the log.
redis.call('HDEL', KEYS[1], '')
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'bound', '1') end
return { epoch, 'bound' }
