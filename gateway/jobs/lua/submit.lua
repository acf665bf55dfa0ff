-- ARGV[1]: JSON {id, now, fields, index, deadline, idempotency?, retried?, most_waiting, known_only, quota?}.
local o = cjson.decode(ARGV[1])
local key = JOB .. o.id
if redis.call('EXISTS', key) == 1 then return {'made', o.id} end

for _, name in ipairs({'idempotency', 'retried'}) do
  local known = o[name]
  if known and known.key then
    local found = redis.call('HMGET', known.key, 'job', 'hash')
    if found[1] and redis.call('EXISTS', JOB .. found[1]) == 1 then
      if found[2] ~= known.hash then return {'conflict', found[1]} end
      if known.ask then return {'replayed', found[1]} end
    end
  end
end

if o.known_only then return {'unknown', ''} end
local pool = o.fields.pool
if redis.call('ZCARD', JOBS .. 'waiting:' .. pool) >= o.most_waiting then return {'full', ''} end

if o.quota then
  local used = tonumber(redis.call('GET', o.quota.key) or '0')
  if used + o.quota.units > o.quota.limit then return {'quota', tostring(used)} end
  redis.call('INCRBYFLOAT', o.quota.key, o.quota.units)
  redis.call('EXPIRE', o.quota.key, o.quota.ttl_s)
end

for _, name in ipairs({'idempotency', 'retried'}) do
  local known = o[name]
  if known and known.key then
    redis.call('HSET', known.key, 'job', o.id, 'hash', known.hash)
    redis.call('EXPIRE', known.key, known.ttl_s)
  end
end

for name, value in pairs(o.fields) do redis.call('HSET', key, name, value) end
redis.call('HSET', key, 'status', 'queued', 'progress', '0', 'fence', '0', 'attempts', '0',
  'losses', '0', 'ends', '0', 'created_at', instant(o.now), 'seq', redis.call('INCR', JOBS .. 'seq'))
redis.call('ZADD', o.index, 0, o.id)
redis.call('ZADD', JOBS .. 'live', instant(o.now), o.id)
redis.call('ZADD', JOBS .. 'deadlines', instant(o.deadline), o.id)
redis.call('SADD', JOBS .. 'pools', pool)
redis.call('HINCRBY', JOBS .. 'stats', 'made:' .. pool, 1)
offer(o.id, false)
return {'made', o.id}
