-- ARGV: id, index. Removes every trace of a job that has ended (or ended long ago).
local id = ARGV[1]
local status = redis.call('HGET', JOB .. id, 'status')
if status and not has_ended(status) then return 0 end
free_slot(id)
redis.call('ZREM', ARGV[2], id)
redis.call('ZREM', JOBS .. 'expiring', id)
redis.call('ZREM', JOBS .. 'live', id)
local n = 0
for _, each in ipairs({'', ':reasons', ':rows', ':lines', ':out', ':err'}) do n = n + redis.call('DEL', JOB .. id .. each) end
return n
