-- Runs before every fenced script. The epoch of a Redis is its replication id: a master takes another
-- one whenever it starts and whenever it is promoted, so a Redis that was loaded from an older dump, or
-- a replica that lagged, is never taken for the one before. The last argument names the epochs in which
-- the script may do its work, or is `*` for any: in another epoch it says which one it is and does
-- nothing, and neither does a replica.
local info = redis.call('INFO', 'replication')
local epoch = string.match(info, 'master_replid:(%x+)')
if not string.find(info, 'role:master', 1, true) then return { epoch, 'replica' } end
local epochs = ARGV[#ARGV]
if epochs ~= '*' and not string.find(epochs, epoch, 1, true) then return { epoch, 'unknown' } end
