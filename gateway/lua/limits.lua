-- One gateway's reservations and settlements of one tenant, each exact over all gateways.
--
-- KEYS[1]  base of all keys, with the tenant as the hash tag: every key below lies in its slot
-- ARGV     now, day, end of the day, month, end of the month (ends in Unix seconds); then
--   r id tokens count, then of each subject: name requests tokens concurrency day month ("": no
--     limit)     reserve a call of an estimated size, for all subjects or for none
--   s id tokens requests     settle: what it was in truth; requests 0: it did not count
--   h id                     it still runs
--
-- Keys    :w:<subject>:<r|t>  window: quarter of a second -> amount; total, first, last
--         :c:<subject>        calls that run, by the instant at which they count as lost
--         :b:<subject>:<day or month>   tokens of the period
--         :call:<id>          what was reserved for a call, so that everything may be sent twice
--
-- Answer  per operation; of r: what is exhausted or "ok", seconds until it is not, its limit, then
--         limit, remaining, seconds until all is there again, of requests and of tokens ("-": none).
-- A window spans 60.25 s in steps of a quarter, so no 60 s ever hold more than the limit.

local base, now = KEYS[1], tonumber(ARGV[1])
local periods = {day = {ARGV[2], tonumber(ARGV[3])}, month = {ARGV[4], tonumber(ARGV[5])}}
local STEPS, PER_S, LOST_S, KEPT_S = 241, 4, 30, 7200
local call = redis.call
local step = math.floor(now * PER_S)

local function window_key(subject, kind) return base .. ':w:' .. subject .. ':' .. kind end

-- Give a window's total, first and last step, after dropping what is too old.
local function window(key)
  local found = call('HMGET', key, 'total', 'first', 'last')
  local total, first, last = tonumber(found[1] or 0), tonumber(found[2] or step), tonumber(found[3] or step)
  local old = step - STEPS
  if last <= old then
    call('DEL', key)
    return 0, step, step
  end
  if first <= old then
    for at = first, old do
      local amount = call('HGET', key, at)
      if amount then
        total = total - tonumber(amount)
        call('HDEL', key, at)
      end
    end
    first = old + 1
    call('HSET', key, 'total', total, 'first', first)
  end
  return total, first, last
end

local function add(key, at, amount)
  local total, first, last = window(key)
  call('HINCRBY', key, at, amount)
  call('HSET', key, 'total', total + amount, 'first', math.min(first, at), 'last', math.max(last, at))
  call('EXPIRE', key, 62)
end

-- Give the seconds until `amount` fits, given that nothing else comes.
local function until_fits(key, amount, limit)
  local total, first, last = window(key)
  for at = first, last do
    total = total - tonumber(call('HGET', key, at) or 0)
    if total + amount <= limit then return (at + STEPS) / PER_S - now end
  end
  return STEPS / PER_S
end

local function budget_key(subject, period) return base .. ':b:' .. subject .. ':' .. periods[period][1] end

local at = 6
local function field()
  at = at + 1
  return ARGV[at - 1]
end

local refused
local function refuse(what, after_s, limit)
  if not refused or after_s > refused[2] then refused = {what, after_s, limit} end
end

local function check(subject, tokens)
  local told = {}
  for kind, amount in pairs({r = 1, t = tokens}) do
    local limit = subject[kind]
    if limit then
      local key = window_key(subject.name, kind)
      local total, _, last = window(key)
      if amount > limit then
        refuse(kind == 't' and 'size' or 'requests', math.huge, limit)
      elseif total + amount > limit then
        refuse(kind == 't' and 'tokens' or 'requests', until_fits(key, amount, limit), limit)
      end
      told[kind] = {limit, total, total > 0 and (last + STEPS) / PER_S - now or 0}
    end
  end
  if subject.concurrency then
    local key = base .. ':c:' .. subject.name
    call('ZREMRANGEBYSCORE', key, '-inf', now)
    if call('ZCARD', key) >= subject.concurrency then refuse('concurrency', 1, subject.concurrency) end
  end
  for _, period in ipairs({'day', 'month'}) do
    local limit = subject[period]
    if limit and tonumber(call('GET', budget_key(subject.name, period)) or 0) + tokens > limit then
      refuse(period, math.huge, limit)
    end
  end
  return told
end

local function reserve(subject, id, tokens)
  if subject.r then add(window_key(subject.name, 'r'), step, 1) end
  if subject.t then add(window_key(subject.name, 't'), step, tokens) end
  if subject.concurrency then
    local key = base .. ':c:' .. subject.name
    call('ZADD', key, now + LOST_S, id)
    call('EXPIRE', key, KEPT_S)
  end
  for _, period in ipairs({'day', 'month'}) do
    if subject[period] then
      call('INCRBY', budget_key(subject.name, period), tokens)
      call('EXPIREAT', budget_key(subject.name, period), math.ceil(periods[period][2]) + KEPT_S)
    end
  end
end

local function tightest(all, kind, taken)
  local found
  for _, told in ipairs(all) do
    local each = told[kind]
    if each then
      local left = each[1] - each[2] - taken
      local reset = taken > 0 and STEPS / PER_S or each[3]
      if not found or left < found[2] then found = {each[1], math.max(0, left), reset} end
    end
  end
  if not found then return '- - -' end
  return string.format('%.0f %.0f %.3f', found[1], found[2], found[3])
end

local operations = {}

function operations.r()
  local id, tokens, count = field(), tonumber(field()), tonumber(field())
  local subjects = {}
  for i = 1, count do
    subjects[i] = {name = field(), r = tonumber(field()), t = tonumber(field()),
      concurrency = tonumber(field()), day = tonumber(field()), month = tonumber(field())}
  end
  local known = call('GET', base .. ':call:' .. id)
  if known then return cmsgpack.unpack(known).answer end
  refused = nil
  local all = {}
  for i, subject in ipairs(subjects) do all[i] = check(subject, tokens) end
  if refused then
    local after_s = refused[2] == math.huge and -1 or refused[2]
    return string.format('%s %.3f %.0f ', refused[1], after_s, refused[3])
      .. tightest(all, 'r', 0) .. ' ' .. tightest(all, 't', 0)
  end
  for _, subject in ipairs(subjects) do reserve(subject, id, tokens) end
  local answer = 'ok 0 0 ' .. tightest(all, 'r', 1) .. ' ' .. tightest(all, 't', tokens)
  local periods_now = {day = periods.day[1], month = periods.month[1]}
  call('SET', base .. ':call:' .. id,
    cmsgpack.pack({step = step, tokens = tokens, subjects = subjects, periods = periods_now, answer = answer}),
    'EX', KEPT_S)
  return answer
end

function operations.s()
  local id, tokens, requests = field(), tonumber(field()), tonumber(field())
  local text = call('GET', base .. ':call:' .. id)
  if not text then return 'ok' end
  call('DEL', base .. ':call:' .. id)
  local was = cmsgpack.unpack(text)
  for _, subject in ipairs(was.subjects) do
    for kind, more in pairs({r = requests - 1, t = tokens - was.tokens}) do
      if subject[kind] and more ~= 0 then
        local key = window_key(subject.name, kind)
        if was.step > step - STEPS then
          add(key, was.step, more)
        elseif more > 0 then
          add(key, step, more)
        end
      end
    end
    if subject.concurrency then call('ZREM', base .. ':c:' .. subject.name, id) end
    for _, period in ipairs({'day', 'month'}) do
      local key = base .. ':b:' .. subject.name .. ':' .. was.periods[period]
      if subject[period] and call('EXISTS', key) == 1 then call('INCRBY', key, tokens - was.tokens) end
    end
  end
  return 'ok'
end

function operations.h()
  local id = field()
  local text = call('GET', base .. ':call:' .. id)
  if text then
    for _, subject in ipairs(cmsgpack.unpack(text).subjects) do
      if subject.concurrency then call('ZADD', base .. ':c:' .. subject.name, now + LOST_S, id) end
    end
  end
  return 'ok'
end

local answers = {}
while at <= #ARGV do answers[#answers + 1] = operations[field()]() end
return answers
