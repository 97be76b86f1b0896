-- The number of failed log-ins in the window, and its remaining seconds.
return { tonumber(redis.call('GET', KEYS[1]) or '0'), redis.call('TTL', KEYS[1]) }
