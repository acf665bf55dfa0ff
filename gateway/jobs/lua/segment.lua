-- ARGV: id, fence, how many artifacts, their lists and names ('out' or 'err', name), then the
-- fields of the lines in them. The lines have reached artifacts: they leave the store.
local id, count = ARGV[1], tonumber(ARGV[3])
local f = redis.call('HMGET', JOB .. id, 'fence', 'status')
if f[1] ~= ARGV[2] or has_ended(f[2]) then return 'lost' end
for i = 1, count do
  local list, name = JOB .. id .. ':' .. ARGV[2 + 2 * i], ARGV[3 + 2 * i]
  if redis.call('LINDEX', list, -1) ~= name then redis.call('RPUSH', list, name) end
end
for i = 4 + 2 * count, #ARGV do redis.call('HDEL', JOB .. id .. ':lines', ARGV[i]) end
return 'ok'
