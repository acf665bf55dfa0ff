-- ARGV: id, index, when the record goes. Takes a job that has ended out of sight.
local status = redis.call('HGET', JOB .. ARGV[1], 'status')
if not status or not has_ended(status) then return 0 end
redis.call('HSET', JOB .. ARGV[1], 'hidden', '1')
redis.call('ZREM', ARGV[2], ARGV[1])
redis.call('ZADD', JOBS .. 'expiring', instant(tonumber(ARGV[3])), ARGV[1])
return 1
