-- ARGV: id, now. An operator has a failed job done after all: with new attempts and a new deadline.
local id, now = ARGV[1], tonumber(ARGV[2])
local key = JOB .. id
local f = redis.call('HMGET', key, 'status', 'deadline', 'created_at', 'hidden')
if f[1] ~= 'failed' or f[4] then return 0 end
free_slot(id)
local deadline = instant(now + math.max(f[2] - f[3], 60))
redis.call('HDEL', key, 'ended_at', 'ended_fence', 'expires_at', 'late', 'cancelling_at', 'worker', 'lease_until',
  'replica', 'engine', 'started_at', 'finalizing_at')
redis.call('HSET', key, 'status', 'queued', 'progress', '0', 'attempts', '0', 'losses', '0', 'result', '',
  'error', '', 'deadline', deadline)
redis.call('HINCRBY', key, 'fence', 1)
redis.call('HINCRBY', key, 'ends', -1)
redis.call('ZREM', JOBS .. 'expiring', id)
redis.call('ZADD', JOBS .. 'deadlines', deadline, id)
redis.call('ZADD', JOBS .. 'live', f[3], id)
keep_reason(id, now, 'an operator had it done again')
offer(id, true)
return 1
