-- What every script of the jobs knows. Time always comes in as an argument; every script may be
-- repeated. Keys are built from ids that other keys hold, so all of it lives on one store.
local JOB, JOBS, GROUP = 'sluice:job:', 'sluice:jobs:', 'workers'

local function has_ended(status) return status == 'completed' or status == 'failed' end

local function instant(value) return string.format('%.6f', value) end

local function append(stream, ...) return redis.call('XADD', stream, 'MAXLEN', '~', 10000, '*', ...) end

-- The stream of a pool and class; who has waited before stands in a second one that is read first.
local function stream_of(pool, class, again)
  local name = JOBS .. 'stream:' .. pool .. ':' .. class
  if again then name = name .. ':again' end
  if redis.call('EXISTS', name) == 0 then redis.call('XGROUP', 'CREATE', name, GROUP, '0', 'MKSTREAM') end
  return name
end

-- Lets workers find a job.
local function offer(id, again)
  local f = redis.call('HMGET', JOB .. id, 'pool', 'class', 'rank', 'seq')
  local stream = stream_of(f[1], f[2], again)
  local entry = redis.call('XADD', stream, '*', 'job', id)
  redis.call('HSET', JOB .. id, 'stream', stream, 'entry', entry)
  redis.call('ZADD', JOBS .. 'waiting:' .. f[1], string.format('%.0f', tonumber(f[3]) * 1e12 + tonumber(f[4])), id)
end

-- Takes a job out of wherever it waits or is worked on; its slot stays.
local function withdraw(id)
  local f = redis.call('HMGET', JOB .. id, 'stream', 'entry', 'pool')
  if f[1] and f[2] then
    redis.call('XACK', f[1], GROUP, f[2])
    redis.call('XDEL', f[1], f[2])
    redis.call('HDEL', JOB .. id, 'entry')
  end
  redis.call('ZREM', JOBS .. 'waiting:' .. (f[3] or ''), id)
  redis.call('ZREM', JOBS .. 'delayed', id)
  redis.call('ZREM', JOBS .. 'leases', id)
end

local function free_slot(id)
  local replica = redis.call('HGET', JOB .. id, 'replica')
  if replica and redis.call('HGET', JOBS .. 'slots', replica) == id then
    redis.call('HDEL', JOBS .. 'slots', replica)
    redis.call('ZREM', JOBS .. 'slot-leases', replica)
  end
end

-- The one place where a job ends. The caller has made sure that it had not.
local function finish(id, status, now, result, failure)
  withdraw(id)
  local key = JOB .. id
  local f = redis.call('HMGET', key, 'pool', 'kind', 'tenant', 'ttl_s', 'fence', 'created_at', 'first_claimed_at', 'claimed_at')
  redis.call('HSET', key, 'status', status, 'ended_at', instant(now), 'ended_fence', f[5] or '0',
    'result', result, 'error', failure)
  if status == 'completed' then redis.call('HSET', key, 'progress', '100') end
  redis.call('HINCRBY', key, 'ends', 1)
  redis.call('ZREM', JOBS .. 'deadlines', id)
  redis.call('ZREM', JOBS .. 'live', id)
  local expires_at = now + tonumber(f[4])
  redis.call('HSET', key, 'expires_at', instant(expires_at))
  redis.call('ZADD', JOBS .. 'expiring', instant(expires_at), id)
  redis.call('HINCRBY', JOBS .. 'stats', status .. ':' .. f[1], 1)
  if f[7] then redis.call('HINCRBYFLOAT', JOBS .. 'stats', 'wait_s:' .. f[1], instant(math.max(f[7] - f[6], 0))) end
  if f[8] and status == 'completed' then
    redis.call('HINCRBYFLOAT', JOBS .. 'stats', 'service_s:' .. f[1], instant(math.max(now - f[8], 0)))
  end
  redis.call('XADD', JOBS .. 'ended', 'MAXLEN', '~', 100000, '*', 'job', id, 'kind', f[2], 'tenant', f[3], 'status', status, 'at', instant(now))
end

local function bury(id, now, reason)
  append(JOBS .. 'dead', 'job', id, 'at', instant(now), 'reason', reason)
  redis.call('HINCRBY', JOBS .. 'stats', 'dead:' .. redis.call('HGET', JOB .. id, 'pool'), 1)
end

local function failure_of(code, message) return cjson.encode({code = code, message = message}) end

local function keep_reason(id, now, reason)
  redis.call('RPUSH', JOB .. id .. ':reasons', instant(now) .. ' ' .. reason)
  redis.call('LTRIM', JOB .. id .. ':reasons', -20, -1)
end

-- Gives a job back to the queue, or ends it when it has failed too often. `counter` is what is
-- counted ('attempts': the work itself failed; 'losses': its worker did), up to `most`.
local function put_back(id, now, counter, most, reason, delay_s, keep_replica)
  local key = JOB .. id
  keep_reason(id, now, reason)
  withdraw(id)
  redis.call('HINCRBY', key, 'fence', 1)
  redis.call('HDEL', key, 'worker', 'lease_until')
  if not keep_replica then
    free_slot(id)
    redis.call('HDEL', key, 'replica', 'engine')
  end
  local count = counter == '' and 0 or redis.call('HINCRBY', key, counter, 1)
  if counter ~= '' and count >= most then
    free_slot(id)
    finish(id, 'failed', now, '', failure_of(counter == 'losses' and 'worker_lost' or 'generation_failed', reason))
    bury(id, now, reason)
    return 'failed'
  end
  redis.call('HSET', key, 'status', 'queued')
  redis.call('HINCRBY', JOBS .. 'stats', 'retries:' .. redis.call('HGET', key, 'pool'), 1)
  if delay_s > 0 then
    redis.call('ZADD', JOBS .. 'delayed', instant(now + delay_s), id)
  else
    offer(id, true)
  end
  return 'queued'
end
