-- ARGV: id, fence, now, lease_s, progress, started ('1': the work has begun), engine ('' keeps it).
-- Gives 'ok'; 'told' when it is to be brought to an early end; 'ended' when somebody else has ended the job; 'lost' when it is another worker's.
local id, fence, now, lease_s = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local key = JOB .. id
local f = redis.call('HMGET', key, 'status', 'fence', 'progress', 'replica')
if not f[1] or f[2] ~= fence then return 'lost' end
local lease_until = instant(now + lease_s)
if f[4] and f[4] ~= '' and redis.call('HGET', JOBS .. 'slots', f[4]) == id then
  redis.call('ZADD', JOBS .. 'slot-leases', lease_until, f[4])
end
if has_ended(f[1]) then return 'ended' end
redis.call('HSET', key, 'lease_until', lease_until)
redis.call('ZADD', JOBS .. 'leases', lease_until, id)
if ARGV[7] ~= '' then redis.call('HSET', key, 'engine', ARGV[7]) end
if ARGV[6] == '1' and f[1] == 'queued' then
  redis.call('HSET', key, 'status', 'in_progress')
  redis.call('HSETNX', key, 'started_at', instant(now))
end
local progress = tonumber(ARGV[5])
if progress > tonumber(f[3] or '0') then
  redis.call('HSET', key, 'progress', ARGV[5])
  append(JOBS .. 'events', 'job', id, 'progress', ARGV[5], 'at', instant(now))
end
local wanted = redis.call('HMGET', key, 'late', 'cancelling_at')
return (wanted[1] or wanted[2]) and 'told' or 'ok'
