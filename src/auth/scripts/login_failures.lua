-- Failed log-ins so far, and the seconds that are left of their window.
return { tonumber(redis.call('GET', KEYS[1]) or '0'), redis.call('TTL', KEYS[1]) }
