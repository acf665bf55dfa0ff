-- ARGV: id, now. Asks the worker of a job to bring it to an early end. Gives the status, or nothing.
local status = redis.call('HGET', JOB .. ARGV[1], 'status')
if status and not has_ended(status) then redis.call('HSETNX', JOB .. ARGV[1], 'cancelling_at', instant(tonumber(ARGV[2]))) end
return status
