-- What a gateway may ask for, by its letter.

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

function operations.x()
  local before, replica, lease = next_field(), next_field(), next_field()
  local rank, tenant, weight, work_us = tonumber(next_field()), next_field(), tonumber(next_field()), tonumber(next_field())
  local sequences, kv, prefill = tonumber(next_field()), tonumber(next_field()), tonumber(next_field())
  mailed[before] = nil
  end_call(before, replica)
  local begun = {0, rank, tenant, weight, work_us, sequences, kv, prefill}
  charge(begun, start_of(begun))
  hold(lease, begun, replica)
  hand_over(replica) -- it may leave tokens to those who wait
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
