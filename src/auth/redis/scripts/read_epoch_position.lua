-- The epoch and the position that write_epoch_position.lua stored; empty without a record.
return redis.call('GET', KEYS[1]) or ''
