-- ARGV: id, fence, now, status, result, error. Gives 'ok' or 'lost'; frees the slot either way.
local id, fence, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local f = redis.call('HMGET', JOB .. id, 'status', 'fence', 'ended_fence')
if not f[1] or f[2] ~= fence then return 'lost' end
free_slot(id)
if has_ended(f[1]) then
  return (f[1] == ARGV[4] and f[3] == fence and redis.call('HGET', JOB .. id, 'result') == ARGV[5]) and 'ok' or 'lost'
end
finish(id, ARGV[4], now, ARGV[5], ARGV[6])
return 'ok'
