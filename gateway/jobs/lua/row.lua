-- ARGV: id, fence, index, '1' done well or '0', line, usage prompt, usage completion.
-- Keeps one finished row of a batch, once. Gives 'ok', 'known' (kept before) or 'lost'.
local id, index = ARGV[1], ARGV[3]
local f = redis.call('HMGET', JOB .. id, 'fence', 'status')
if f[1] ~= ARGV[2] or has_ended(f[2]) then return 'lost' end
local rows = JOB .. id .. ':rows'
if redis.call('SETBIT', rows, index, 1) == 1 then return 'known' end
redis.call('HSET', JOB .. id .. ':lines', ARGV[4] .. index, ARGV[5])
redis.call('HINCRBY', JOB .. id, ARGV[4] == '1' and 'rows_done' or 'rows_failed', 1)
redis.call('HINCRBY', JOB .. id, 'prompt_tokens', ARGV[6])
redis.call('HINCRBY', JOB .. id, 'completion_tokens', ARGV[7])
return 'ok'
