-- One batch of one gateway on one model's slots and queue: who runs where, and who comes next?
-- The rules are those of gateway/queue/order.py and book.py; only how they are kept differs.
--
-- KEYS[1]  base of all keys, with the model as the hash tag: every key below lies in its slot
-- ARGV     gateway, batch number, "next", "restore" (forget what it had) or "quit", now, starvation_s, channel prefix; then
--          operations, each its letter and fields (lists are joined by newlines, "" is no bound):
--   a lease rank first_token_by tenant weight work_us sequences kv prefill excluded candidates
--   l lease                 end a wait; where a slot was granted meanwhile, give it back
--   r lease replica         release
--   f lease replica         first token
--   b rank replica sequences kv prefill spare    bounds of a class ("*": of all) for this gateway
--   u replicas              those that this gateway may use; its bounds on all others go
--   o replicas              hand over what is free there
--   h lease replica rank sequences kv prefill work_us     a slot that this gateway holds (restore)
--   s gateway number ... .  sweep: gateways that were silent since the batch of that number, a dot
--
-- Keys    :meta      number, released, work_us; c<rank>: virtual time, passed_since, count, work_us
--         :gateways  gateway -> number of its last batch;  :done:<gateway>  the answer to that
--         :load      replica -> sequences, kv, prefill, then rank and calls of it, ...
--         :on:<replica>      lease -> rank, sequences, kv, prefill, work_us   (what :load sums up)
--         :wait      lease -> number, rank, tenant, weight, work_us, sequences, kv, prefill, since,
--                    excluded
--         :t:<rank>  tenants that wait by start tag;  :q:<rank>:<tenant>  their calls by deadline
--         :finish    <rank>:<tenant> -> finish tag
--         :view:<gateway>    replica, or replica newline rank -> bounds
--         :mail:<gateway>    lease -> replica: slots that it has not been told of by an answer
--
-- Answer  "ok", released, work_us, backlog ("rank calls work_us;..."), gateways (after a sweep),
--         number of grants, lease and replica of each, then replica, sequences, kv, prefill of every
--         load that changed; or "lost": the store does not know what this gateway did before.
-- Where a call finds no slot, who waits is told in the channel <prefix>waiting: base newline backlog.
-- A batch that comes twice changes nothing the second time and has the same answer.

local base, gateway, batch, mode = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now, starvation_s, channel = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local MOST_PASSED_OVER, MOST_LOOKED_AT, MOST_TAGS, BURST_CALLS, PAGE = 8, 256, 1024, 8, 8
local ROOM, FULL, SHORT = 1, 2, 3
local call, pack, unpack_, huge = redis.call, cmsgpack.pack, cmsgpack.unpack, math.huge
local K_GATEWAYS, K_META, K_LOAD, K_WAIT = base .. ':gateways', base .. ':meta', base .. ':load', base .. ':wait'
local K_FINISH, K_DONE = base .. ':finish', base .. ':done:' .. gateway

-- Has this batch been done, and is it the next one?
local last = tonumber(call('HGET', K_GATEWAYS, gateway) or nil)
if last == batch then
  local done = call('GET', K_DONE)
  if done then return unpack_(done) end
end
if mode == 'next' and last ~= batch - 1 then return {'lost'} end
if last and last > batch then return {'lost'} end -- it was under way for long, and is overtaken

-- What this run has read, and what it must write at its end.
local meta, classes = {number = 0, released = 0, work_us = 0}, {}
local fields = call('HGETALL', K_META)
for i = 1, #fields, 2 do
  local name = fields[i]
  if string.byte(name) == 99 then
    classes[tonumber(string.sub(name, 2))] = unpack_(fields[i + 1])
  else
    meta[name] = tonumber(fields[i + 1])
  end
end
local loads, touched, views, finishes, charged, granted, mail = {}, {}, {}, {}, {}, {}, {}
local closed = {} -- replica -> {gateway newline rank -> true}: full for that class, until more is free
local everything, must_wait = false, false

local function owner(lease) return string.match(lease, '^[^:]*') end

local function class_of(rank)
  local class = classes[rank]
  if not class then
    class = {0, 0, 0, 0} -- virtual time, passed_since, count, work_us
    classes[rank] = class
  end
  return class
end

local function any_waiting()
  for _, class in pairs(classes) do
    if class[3] > 0 then return true end
  end
  return false
end

-- Loads: {sequences, kv, prefill, {rank = calls}}

local function load_from(text)
  if not text then return {0, 0, 0, {}} end
  local flat, ranks = unpack_(text), {}
  for i = 4, #flat, 2 do ranks[flat[i]] = flat[i + 1] end
  return {flat[1], flat[2], flat[3], ranks}
end

local function load_of(replica)
  local load = loads[replica]
  if not load then
    load = load_from(call('HGET', K_LOAD, replica))
    loads[replica] = load
  end
  return load
end

local function book(replica, lease, sign)
  local load, rank = load_of(replica), lease[1]
  load[1], load[2], load[3] = load[1] + sign * lease[2], load[2] + sign * lease[3], load[3] + sign * lease[4]
  local calls = (load[4][rank] or 0) + sign
  load[4][rank] = calls > 0 and calls or nil
  if not next(load[4]) then load[1], load[2], load[3] = 0, 0, 0 end
  touched[replica] = true
  if sign < 0 then closed[replica] = nil end
end

-- Bounds: {sequences, kv, prefill, spare}; false where the gateway may not use the replica.

local function bounds_from(text)
  local sequences, kv, prefill, spare = string.match(text, '^(%d+) (%d*) (%d*) ?(%d*)$')
  return {tonumber(sequences), tonumber(kv) or huge, tonumber(prefill) or huge, tonumber(spare) or 0}
end

local function view_of(who, rank)
  local view = views[who]
  if not view then view = {}; views[who] = view end
  local of_rank = view[rank]
  if not of_rank then of_rank = {}; view[rank] = of_rank end
  return of_rank
end

local function bounds_of(who, replica, rank)
  local view = view_of(who, rank)
  local found = view[replica]
  if found == nil then
    local told = call('HMGET', base .. ':view:' .. who, replica .. '\n' .. rank, replica)
    local text = told[1] or told[2]
    found = text and bounds_from(text)
    view[replica] = found
  end
  return found
end

local function forget_bounds()
  views[gateway], closed = nil, {}
end

-- Read what `fit` will ask for many replicas in two commands.
local function read_ahead(candidates, rank)
  local view, unread, untold = view_of(gateway, rank), {}, {}
  for _, replica in ipairs(candidates) do
    if not loads[replica] then unread[#unread + 1] = replica end
    if view[replica] == nil then untold[#untold + 1] = replica end
  end
  if #unread > 0 then
    local found = call('HMGET', K_LOAD, unpack(unread))
    for i, replica in ipairs(unread) do loads[replica] = load_from(found[i]) end
  end
  if #untold > 0 then
    local fields = {}
    for i, replica in ipairs(untold) do fields[i] = replica .. '\n' .. rank end
    local found = call('HMGET', base .. ':view:' .. gateway, unpack(fields))
    for i, replica in ipairs(untold) do
      if found[i] then view[replica] = bounds_from(found[i]) end
    end
  end
end

local function enough(used, cost, bound) return used == 0 or cost == 0 or used + cost <= bound end

-- A waiting call: {number, rank, tenant, weight, work_us, sequences, kv, prefill, since, excluded}

local function excludes(waiting, replica)
  return waiting[10] ~= '' and string.find('\n' .. waiting[10] .. '\n', '\n' .. replica .. '\n', 1, true) ~= nil
end

local function close(who, replica, rank)
  closed[replica] = closed[replica] or {}
  closed[replica][who .. '\n' .. rank] = true
  return nil
end

-- Give what a class may fill a replica up to, tightened by the classes that run there; nothing where
-- not even one sequence more may run.
local function limits(who, replica, rank)
  local shut = closed[replica]
  if shut and shut[who .. '\n' .. rank] then return nil end
  local own = bounds_of(who, replica, rank)
  if not own then return close(who, replica, rank) end
  local load, sequences, kv = load_of(replica), own[1], own[2]
  for other_rank in pairs(load[4]) do
    local other = other_rank ~= rank and bounds_of(who, replica, other_rank)
    if other and other[1] > 0 then -- what must leave binds nobody else
      sequences, kv = math.min(sequences, other[1]), math.min(kv, other[2])
    end
  end
  sequences = sequences - own[4] -- what it leaves free for others
  if load[1] + 1 > sequences then return close(who, replica, rank) end
  return load, sequences, kv, own[3]
end

local function fit(who, replica, waiting)
  if excludes(waiting, replica) then return FULL end
  local load, sequences, kv, prefill = limits(who, replica, waiting[2])
  if not load then return FULL end
  if enough(load[1], waiting[6], sequences) and enough(load[2], waiting[7], kv)
    and enough(load[3], waiting[8], prefill) then
    return ROOM
  end
  return SHORT
end

local function member(lease, number) return string.format('%015d:%s', number, lease) end
local function queue_key(rank, tenant) return base .. ':q:' .. rank .. ':' .. tenant end
local function exact(number) return string.format('%.17g', number) end

local function finish_of(rank, tenant)
  local key = rank .. ':' .. tenant
  if not finishes[key] then finishes[key] = tonumber(call('HGET', K_FINISH, key) or 0) end
  return finishes[key]
end

-- A tenant that comes back starts a few calls early, if it has not used them.
local function start_of(waiting)
  local rank, tenant = waiting[2], waiting[3]
  return math.max(class_of(rank)[1] - BURST_CALLS * waiting[5] / waiting[4], finish_of(rank, tenant))
end

local function set_finish(rank, tenant, tag)
  local key = rank .. ':' .. tenant
  finishes[key], charged[key] = tag, true
end

local function join(lease, waiting, first_token_by)
  local rank, tenant = waiting[2], waiting[3]
  local class = class_of(rank)
  if class[3] == 0 then class[2] = now end
  call('HSET', K_WAIT, lease, pack(waiting))
  if call('ZADD', queue_key(rank, tenant), first_token_by, member(lease, waiting[1])) == 1
    and call('ZCARD', queue_key(rank, tenant)) == 1 then
    call('ZADD', base .. ':t:' .. rank, exact(start_of(waiting)), tenant)
  end
  class[3], class[4] = class[3] + 1, class[4] + waiting[5]
end

local function withdraw(lease, waiting)
  local rank, tenant = waiting[2], waiting[3]
  local class = class_of(rank)
  call('HDEL', K_WAIT, lease)
  call('ZREM', queue_key(rank, tenant), member(lease, waiting[1]))
  if call('EXISTS', queue_key(rank, tenant)) == 0 then call('ZREM', base .. ':t:' .. rank, tenant) end
  class[3], class[4] = class[3] - 1, class[4] - waiting[5]
end

local function give(lease, waiting, replica)
  local held = {waiting[2], waiting[6], waiting[7], waiting[8], waiting[5]}
  call('HSET', base .. ':on:' .. replica, lease, pack(held))
  book(replica, held, 1)
  local who = owner(lease)
  if who == gateway then
    granted[#granted + 1] = lease
    granted[#granted + 1] = replica
  else
    call('HSET', base .. ':mail:' .. who, lease, replica)
    mail[who] = mail[who] or {}
    table.insert(mail[who], lease .. '\n' .. replica)
  end
end

-- Book a call's work in its class. `start` is its tenant's start tag.
local function charge(waiting, start)
  local class = class_of(waiting[2])
  local finish = start + waiting[5] / waiting[4]
  class[1], class[2] = math.max(class[1], start), now
  set_finish(waiting[2], waiting[3], finish)
  return finish
end

local function ranks_in_order()
  local ranks, first, since = {}, nil, huge
  for rank, class in pairs(classes) do
    if class[3] > 0 then ranks[#ranks + 1] = rank end
  end
  table.sort(ranks)
  for i = 2, #ranks do
    local passed_since = classes[ranks[i]][2]
    if now - passed_since >= starvation_s and passed_since < since then first, since = i, passed_since end
  end
  if first then table.insert(ranks, 1, table.remove(ranks, first)) end
  return ranks
end

-- Walk a sorted set page by page; `visit` ends the walk with an answer that is not nil.
local function walk(key, with_score, visit)
  local from, page = 0, 1
  while true do
    local found
    if with_score then
      found = call('ZRANGE', key, from, from + page - 1, 'WITHSCORES')
      for i = 1, #found, 2 do
        local answer = visit(found[i], found[i + 1])
        if answer ~= nil then return answer end
      end
      if #found < 2 * page then return nil end
    else
      found = call('ZRANGE', key, from, from + page - 1)
      for i = 1, #found do
        local answer = visit(found[i])
        if answer ~= nil then return answer end
      end
      if #found < page then return nil end
    end
    from, page = from + page, PAGE
  end
end

-- Who starts on a replica? Gives lease, waiting call and its tenant's start tag; or nothing.
local function next_for(replica)
  local passed_over, looked_at, chosen = 0, 0, nil
  for _, rank in ipairs(ranks_in_order()) do
    local ended = walk(base .. ':t:' .. rank, true, function(tenant, start)
      return walk(queue_key(rank, tenant), false, function(each)
        looked_at = looked_at + 1
        if looked_at > MOST_LOOKED_AT then return true end
        local lease = string.sub(each, 17)
        if not limits(owner(lease), replica, rank) then return false end -- on to the next class
        local waiting = unpack_(call('HGET', K_WAIT, lease))
        if excludes(waiting, replica) then return nil end
        local fits = fit(owner(lease), replica, waiting)
        if fits == ROOM then
          chosen = {lease, waiting, tonumber(start)}
          return true
        end
        passed_over = passed_over + 1
        if passed_over >= MOST_PASSED_OVER or now - waiting[9] >= starvation_s then return true end
        return nil
      end)
    end)
    if chosen then return chosen end
    if ended then return nil end
  end
  return nil
end

local function hand_over(replica)
  while any_waiting() do
    local chosen = next_for(replica)
    if not chosen then return end
    local lease, waiting, start = chosen[1], chosen[2], chosen[3]
    local finish = charge(waiting, start)
    call('ZADD', base .. ':t:' .. waiting[2], exact(finish), waiting[3])
    withdraw(lease, waiting)
    give(lease, waiting, replica)
  end
end

local function release(lease, replica, quietly)
  local key = base .. ':on:' .. replica
  local text = call('HGET', key, lease)
  if not text then return end
  call('HDEL', key, lease)
  local held = unpack_(text)
  book(replica, held, -1)
  if quietly then return end
  meta.released, meta.work_us = meta.released + 1, meta.work_us + held[5]
  hand_over(replica)
end

-- Forget all that a gateway holds and waits for; gives the replicas where something came free.
local function drop(who)
  local freed, prefix = {}, who .. ':'
  for _, replica in ipairs(call('HKEYS', K_LOAD)) do
    for _, lease in ipairs(call('HKEYS', base .. ':on:' .. replica)) do
      if string.sub(lease, 1, #prefix) == prefix then
        release(lease, replica, true)
        freed[replica] = true
      end
    end
  end
  for _, lease in ipairs(call('HKEYS', K_WAIT)) do
    if string.sub(lease, 1, #prefix) == prefix then withdraw(lease, unpack_(call('HGET', K_WAIT, lease))) end
  end
  call('DEL', base .. ':mail:' .. who, base .. ':view:' .. who, base .. ':done:' .. who)
  call('HDEL', K_GATEWAYS, who)
  views[who] = nil
  return freed
end

local function lines(text)
  local found = {}
  for line in string.gmatch(text, '[^\n]+') do found[#found + 1] = line end
  return found
end

-- Count a replica's load afresh from its leases.
local function recount(replica)
  closed[replica] = nil
  loads[replica] = {0, 0, 0, {}}
  touched[replica] = true
  local leases = call('HVALS', base .. ':on:' .. replica)
  for _, text in ipairs(leases) do book(replica, unpack_(text), 1) end
end

local at, next_field = 7, nil
next_field = function()
  at = at + 1
  return ARGV[at - 1]
end
local mailed = {}

local operations = {}

function operations.a()
  local lease, rank, first_token_by, tenant = next_field(), tonumber(next_field()), next_field(), next_field()
  local weight, work_us = tonumber(next_field()), tonumber(next_field())
  local sequences, kv, prefill = tonumber(next_field()), tonumber(next_field()), tonumber(next_field())
  local excluded, candidates = next_field(), next_field()
  meta.number = meta.number + 1
  local waiting = {meta.number, rank, tenant, weight, work_us, sequences, kv, prefill, now, excluded}
  local joined, seen = false, 0
  for replica in string.gmatch(candidates, '[^\n]+') do
    seen = seen + 1
    if seen == 5 then read_ahead(lines(candidates), rank) end
    if fit(gateway, replica, waiting) == ROOM then
      if not joined and not any_waiting() then
        charge(waiting, start_of(waiting))
        give(lease, waiting, replica)
        return
      end
      if not joined then join(lease, waiting, first_token_by) end
      joined = true
      hand_over(replica)
      if call('HEXISTS', K_WAIT, lease) == 0 then return end
    end
  end
  if not joined then join(lease, waiting, first_token_by) end
  must_wait = true
end

function operations.l()
  local lease = next_field()
  local text = call('HGET', K_WAIT, lease)
  if text then
    withdraw(lease, unpack_(text))
    return
  end
  local replica = mailed[lease]
  for i = 1, #granted, 2 do
    if granted[i] == lease then replica = granted[i + 1] end
  end
  if replica then
    mailed[lease] = nil
    release(lease, replica)
  end
end

function operations.r()
  local lease, replica = next_field(), next_field()
  mailed[lease] = nil
  release(lease, replica)
end

function operations.f()
  local lease, replica = next_field(), next_field()
  local key = base .. ':on:' .. replica
  local text = call('HGET', key, lease)
  if not text then return end
  local held = unpack_(text)
  if held[4] == 0 then return end
  local load = load_of(replica)
  load[3], touched[replica], held[4] = load[3] - held[4], true, 0
  call('HSET', key, lease, pack(held))
  for rank, class in pairs(classes) do
    if class[3] > 0 and limits(gateway, replica, rank) then
      hand_over(replica)
      return
    end
  end
end

function operations.b()
  local rank, replica = next_field(), next_field()
  local text = next_field() .. ' ' .. next_field() .. ' ' .. next_field()
  local spare = next_field()
  if spare ~= '' then text = text .. ' ' .. spare end -- "" in a store that older versions read, too
  local key = base .. ':view:' .. gateway
  if rank == '*' then
    call('HSET', key, replica, text)
  else
    call('HSET', key, replica .. '\n' .. rank, text)
    call('HSETNX', key, replica, text)
  end
  forget_bounds()
end

function operations.u()
  local usable, key = {}, base .. ':view:' .. gateway
  for _, replica in ipairs(lines(next_field())) do usable[replica] = true end
  for _, field in ipairs(call('HKEYS', key)) do
    if not usable[string.match(field, '^[^\n]*')] then call('HDEL', key, field) end
  end
  forget_bounds()
end

function operations.o()
  for _, replica in ipairs(lines(next_field())) do hand_over(replica) end
end

function operations.h()
  local lease, replica, held = next_field(), next_field(), {}
  for i = 1, 5 do held[i] = tonumber(next_field()) end
  if call('HSETNX', base .. ':on:' .. replica, lease, pack(held)) == 1 then book(replica, held, 1) end
end

function operations.s()
  local who = next_field()
  while who ~= '.' do
    local number = tonumber(next_field())
    if tonumber(call('HGET', K_GATEWAYS, who) or nil) == number then
      for replica in pairs(drop(who)) do hand_over(replica) end
    end
    who = next_field()
  end
  local some = call('HRANDFIELD', K_LOAD)
  if some then recount(some) end
  if call('HLEN', K_FINISH) > MOST_TAGS then
    local tags = call('HGETALL', K_FINISH)
    for i = 1, #tags, 2 do
      local class = classes[tonumber(string.match(tags[i], '^[^:]*'))]
      if not charged[tags[i]] and tonumber(tags[i + 1]) <= (class and class[1] or huge) then
        call('HDEL', K_FINISH, tags[i])
      end
    end
  end
  if any_waiting() then
    for _, field in ipairs(call('HKEYS', base .. ':view:' .. gateway)) do
      if not string.find(field, '\n', 1, true) then hand_over(field) end
    end
  end
  everything = true
end

if mode == 'restore' then drop(gateway) end
if mode == 'quit' then
  for replica in pairs(drop(gateway)) do hand_over(replica) end
end
local post = call('HGETALL', base .. ':mail:' .. gateway)
if #post > 0 then
  call('DEL', base .. ':mail:' .. gateway)
  for i = 1, #post, 2 do mailed[post[i]] = post[i + 1] end
end

local most = #ARGV
while at <= most do operations[next_field()]() end

-- Write what has changed, tell the others, and answer.
local gone, kept, changed = {}, {}, {}
for replica in pairs(touched) do
  local load = loads[replica]
  changed[#changed + 1] = replica
  for i = 1, 3 do changed[#changed + 1] = exact(load[i]) end
  if next(load[4]) then
    local flat = {load[1], load[2], load[3]}
    for rank, calls in pairs(load[4]) do
      flat[#flat + 1] = rank
      flat[#flat + 1] = calls
    end
    call('HSET', K_LOAD, replica, pack(flat))
  else
    call('HDEL', K_LOAD, replica)
  end
end
for key in pairs(charged) do call('HSET', K_FINISH, key, exact(finishes[key])) end
local told = {'number', exact(meta.number), 'released', exact(meta.released), 'work_us', exact(meta.work_us)}
local backlog = {}
for rank, class in pairs(classes) do
  told[#told + 1] = 'c' .. rank
  told[#told + 1] = pack(class)
  if class[3] > 0 then backlog[#backlog + 1] = string.format('%d %d %.0f', rank, class[3], class[4]) end
end
call('HSET', K_META, unpack(told))
for who, posted in pairs(mail) do call('PUBLISH', channel .. who, table.concat(posted, '\n')) end

if must_wait then call('PUBLISH', channel .. 'waiting', base .. '\n' .. table.concat(backlog, ';')) end
local answer = {'ok', exact(meta.released), exact(meta.work_us), table.concat(backlog, ';'), '', ''}
for lease, replica in pairs(mailed) do
  granted[#granted + 1] = lease
  granted[#granted + 1] = replica
end
answer[6] = tostring(#granted / 2)
for i = 1, #granted do answer[#answer + 1] = granted[i] end
if everything then
  local all, known = call('HGETALL', K_LOAD), {}
  for i = 1, #all, 2 do
    if not touched[all[i]] then
      local load = unpack_(all[i + 1])
      changed[#changed + 1] = all[i]
      for j = 1, 3 do changed[#changed + 1] = exact(load[j]) end
    end
  end
  for _, each in ipairs(call('HGETALL', K_GATEWAYS)) do known[#known + 1] = each end
  answer[5] = table.concat(known, ' ')
end
for i = 1, #changed do answer[#answer + 1] = changed[i] end
if mode == 'quit' then return answer end
call('HSET', K_GATEWAYS, gateway, batch)
call('SET', K_DONE, pack(answer), 'EX', 60)
return answer
