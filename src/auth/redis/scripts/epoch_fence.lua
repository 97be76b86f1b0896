-- Runs before every fenced script. The epoch of a Redis is its replication id: a master gets a new one
-- with every start and every promotion, so a Redis that was loaded from an older dump, or a replica that
-- lagged, has another epoch than the master before. The last argument names the epochs in which the
-- script may run, or is `*` for any. In another epoch, and on a replica, the script returns the epoch and
-- does nothing.
local info = redis.call('INFO', 'replication')
local epoch = string.match(info, 'master_replid:(%x+)')
if not string.find(info, 'role:master', 1, true) then return { epoch, 'replica' } end
local epochs = ARGV[#ARGV]
if epochs ~= '*' and not string.find(epochs, epoch, 1, true) then return { epoch, 'unknown' } end
