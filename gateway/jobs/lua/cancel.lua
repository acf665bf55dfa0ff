-- ARGV: id, now, code, message, refund key ('' none). Gives the status before, or nothing.
-- A slot stays with the job until its worker has stopped the replica, or has died.
local id, now = ARGV[1], tonumber(ARGV[2])
local f = redis.call('HMGET', JOB .. id, 'status', 'worker', 'units', 'quota_key')
if not f[1] then return false end
if has_ended(f[1]) then return f[1] end
if not f[2] and f[4] and redis.call('EXISTS', f[4]) == 1 then
  redis.call('INCRBYFLOAT', f[4], -tonumber(f[3]))
end
finish(id, 'failed', now, '', failure_of(ARGV[3], ARGV[4]))
if not f[2] then free_slot(id) end
return f[1]
