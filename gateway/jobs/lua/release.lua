-- ARGV: id, fence, now, counter ('attempts' or ''), most, reason, delay_s, keep_replica ('1').
-- Gives 'queued', 'failed' (too often) or 'lost'.
local f = redis.call('HMGET', JOB .. ARGV[1], 'status', 'fence')
if not f[1] or f[2] ~= ARGV[2] then return 'lost' end
if has_ended(f[1]) then
  free_slot(ARGV[1])
  return 'lost'
end
return put_back(ARGV[1], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), ARGV[8] == '1')
