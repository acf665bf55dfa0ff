-- ARGV[1]: JSON {now, lease_s, worker, nonce, pools: [{pool, classes, replicas: [id] | false}]}.
-- Gives {id, fence, replica, flat fields of the job}, or nothing. The same nonce gives the same job.
local o = cjson.decode(ARGV[1])
local memory = JOBS .. 'claim:' .. o.worker
local known = redis.call('HMGET', memory, 'nonce', 'job', 'fence', 'replica')
if known[1] == o.nonce then
  if redis.call('HGET', JOB .. known[2], 'fence') ~= known[3] then return false end
  return {known[2], known[3], known[4], redis.call('HGETALL', JOB .. known[2])}
end

local function take(id, stream, entry, replica)
  local key = JOB .. id
  local lease_until = instant(o.now + o.lease_s)
  local fence = redis.call('HINCRBY', key, 'fence', 1)
  redis.call('HSET', key, 'worker', o.worker, 'lease_until', lease_until, 'replica', replica,
    'claimed_at', instant(o.now))
  redis.call('HSETNX', key, 'first_claimed_at', instant(o.now))
  redis.call('ZADD', JOBS .. 'leases', lease_until, id)
  redis.call('ZREM', JOBS .. 'waiting:' .. redis.call('HGET', key, 'pool'), id)
  if replica ~= '' then
    redis.call('HSET', JOBS .. 'slots', replica, id)
    redis.call('ZADD', JOBS .. 'slot-leases', lease_until, replica)
  end
  redis.call('HSET', memory, 'nonce', o.nonce, 'job', id, 'fence', fence, 'replica', replica)
  redis.call('EXPIRE', memory, 60)
  return {id, tostring(fence), replica, redis.call('HGETALL', key)}
end

-- Where a job may go: back to the replica that still works on it, else to a free one.
local function place(id, pool, free)
  if not pool.replicas then return '' end
  local before = redis.call('HGET', JOB .. id, 'replica')
  if before and before ~= '' then
    if redis.call('HGET', JOBS .. 'slots', before) == id then
      for _, each in ipairs(pool.replicas) do if each == before then return before end end
      free_slot(id)
    end
    redis.call('HDEL', JOB .. id, 'replica', 'engine')
  end
  return free[1]
end

for _, pool in ipairs(o.pools) do
  local free = {}
  for _, each in ipairs(pool.replicas or {}) do
    if redis.call('HEXISTS', JOBS .. 'slots', each) == 0 then free[#free + 1] = each end
  end
  for _, class in ipairs(pool.classes) do
    for _, again in ipairs({true, false}) do
      local stream = JOBS .. 'stream:' .. pool.pool .. ':' .. class .. (again and ':again' or '')
      local tries = 16
      if redis.call('EXISTS', stream) == 0 or (not again and pool.replicas and #free == 0) then tries = 0 end
      while tries > 0 do
        tries = tries - 1
        local read = redis.call('XREADGROUP', 'GROUP', GROUP, o.worker, 'COUNT', 1, 'STREAMS', stream, '>')
        if not read then break end
        local entry, id = read[1][2][1][1], read[1][2][1][2][2]
        local f = redis.call('HMGET', JOB .. id, 'status', 'entry')
        if not f[1] or has_ended(f[1]) or f[2] ~= entry then
          redis.call('XACK', stream, GROUP, entry)
          redis.call('XDEL', stream, entry)
        else
          local replica = place(id, pool, free)
          if replica then return take(id, stream, entry, replica) end
          withdraw(id) -- no room for this one now: it keeps its place among those who wait
          offer(id, true)
          break
        end
      end
    end
  end
end
return false
