-- ARGV: id, fence, 'out' or 'err', name of the artifact, then the fields of the lines in it.
-- The lines have reached an artifact: they leave the store. Gives 'ok' or 'lost'.
local id = ARGV[1]
local f = redis.call('HMGET', JOB .. id, 'fence', 'status')
if f[1] ~= ARGV[2] or has_ended(f[2]) then return 'lost' end
local list = JOB .. id .. ':' .. ARGV[3]
if redis.call('LINDEX', list, -1) ~= ARGV[4] then redis.call('RPUSH', list, ARGV[4]) end
for i = 5, #ARGV do redis.call('HDEL', JOB .. id .. ':lines', ARGV[i]) end
return 'ok'
