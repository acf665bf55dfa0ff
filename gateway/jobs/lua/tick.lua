-- ARGV: now, lease_s, most losses, longest silence_s. Gives what was done: {lost, due, late, slots}.
-- After a silence (the store or everybody was away) all leases get their full length again, so that
-- who is still at work can say so before the work is given to another.
local now, lease_s, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ticked = tonumber(redis.call('GET', JOBS .. 'ticked') or ARGV[1])
redis.call('SET', JOBS .. 'ticked', instant(math.max(now, ticked)))
if now - ticked > tonumber(ARGV[4]) then
  for _, zset in ipairs({'leases', 'slot-leases'}) do
    for _, each in ipairs(redis.call('ZRANGEBYSCORE', JOBS .. zset, '-inf', instant(now + lease_s))) do
      redis.call('ZADD', JOBS .. zset, instant(now + lease_s), each)
    end
  end
end
local function due(zset) return redis.call('ZRANGEBYSCORE', JOBS .. zset, '-inf', instant(now), 'LIMIT', 0, 200) end

local lost, again, late, slots = 0, 0, 0, 0
for _, id in ipairs(due('leases')) do
  local status = redis.call('HGET', JOB .. id, 'status')
  if status and not has_ended(status) then
    put_back(id, now, 'losses', most, 'the worker was lost', 0, true)
    lost = lost + 1
  else
    redis.call('ZREM', JOBS .. 'leases', id)
  end
end
for _, id in ipairs(due('delayed')) do
  redis.call('ZREM', JOBS .. 'delayed', id)
  if redis.call('HGET', JOB .. id, 'status') == 'queued' then
    offer(id, true)
    again = again + 1
  end
end
for _, id in ipairs(due('deadlines')) do
  redis.call('ZREM', JOBS .. 'deadlines', id)
  local f = redis.call('HMGET', JOB .. id, 'status', 'worker', 'at_deadline')
  if f[1] and not has_ended(f[1]) then
    if f[3] == 'tell' then -- its worker brings it to an end by itself
      redis.call('HSET', JOB .. id, 'late', '1')
    else
      finish(id, 'failed', now, '', failure_of('deadline_exceeded', 'The job was not done before its deadline.'))
      if not f[2] then free_slot(id) end
    end
    late = late + 1
  end
end
for _, replica in ipairs(due('slot-leases')) do
  local id = redis.call('HGET', JOBS .. 'slots', replica)
  local status = id and redis.call('HGET', JOB .. id, 'status')
  if not status or has_ended(status) then
    redis.call('HDEL', JOBS .. 'slots', replica)
    redis.call('ZREM', JOBS .. 'slot-leases', replica)
    slots = slots + 1
  end
end
return {lost, again, late, slots}
