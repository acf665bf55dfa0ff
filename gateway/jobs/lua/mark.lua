-- ARGV: id, fence, then names and values. A worker notes something about its job.
local f = redis.call('HMGET', JOB .. ARGV[1], 'fence', 'status')
if f[1] ~= ARGV[2] or has_ended(f[2]) then return 'lost' end
for i = 3, #ARGV, 2 do redis.call('HSET', JOB .. ARGV[1], ARGV[i], ARGV[i + 1]) end
return 'ok'
