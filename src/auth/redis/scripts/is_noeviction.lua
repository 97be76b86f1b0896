-- Whether a full Redis refuses writes instead of evicting sessions.
local memory = redis.call('INFO', 'memory')
return string.find(memory, 'maxmemory_policy:noeviction', 1, true) and 1 or 0
