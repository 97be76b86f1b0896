-- Tries every command of the other scripts on keys of its own, and returns those that the user may not run
-- and those that this server does not know (renamed or disabled), as pairs of command and reason. An error of
-- another kind (a full Redis, a replica) is the error of this script.
local text, hash, sorted = KEYS[1], KEYS[2], KEYS[3]
local missing, failure = {}, nil
local function try(command, ...)
    local reply = redis.pcall(command, ...)
    local problem = type(reply) == 'table' and reply.err
    if not problem then return end
    local reason
    if string.find(problem, "can't run this command", 1, true) or string.find(problem, 'permissions to run', 1, true) then
        reason = 'command'
    elseif string.find(problem, 'at least one of the keys', 1, true) or string.find(problem, 'permissions to access', 1, true) then
        reason = 'keys'
    elseif string.find(problem, 'Unknown Redis command', 1, true) then
        reason = 'unknown'
    else
        failure = failure or problem
        return
    end
    table.insert(missing, command)
    table.insert(missing, reason)
end
try('DEL', text, hash, sorted)
try('SET', text, '1', 'EX', 60)
try('INCR', text)
try('GET', text)
try('EXISTS', text)
try('EXPIRE', text, 60)
try('TTL', text)
try('HSET', hash, 'a', '1')
try('HGET', hash, 'a')
try('HMGET', hash, 'a')
try('HDEL', hash, 'a')
try('ZADD', sorted, 1, 'a')
try('ZCARD', sorted)
try('ZRANGE', sorted, 0, 0)
try('ZRANGEBYSCORE', sorted, 0, 1)
try('ZREM', sorted, 'a')
try('ZREMRANGEBYSCORE', sorted, 0, 1)
try('INFO', 'replication')
try('TIME')
redis.pcall('DEL', text, hash, sorted)
if failure and #missing == 0 then return redis.error_reply(failure) end
return missing
