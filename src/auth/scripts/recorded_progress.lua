-- What record_progress.lua recorded: an epoch and a position.
return redis.call('GET', KEYS[1]) or ''
