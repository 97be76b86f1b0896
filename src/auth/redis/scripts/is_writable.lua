-- Whether this Redis is a trusted master and accepts writes.
redis.call('SET', KEYS[1], '1', 'EX', 60)
return { epoch, 'writable' }
