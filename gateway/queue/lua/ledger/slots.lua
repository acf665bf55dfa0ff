-- Give slots, take them back, and count them afresh.

local function hold(lease, waiting, replica)
  local held = {waiting[2], waiting[6], waiting[7], waiting[8], waiting[5]}
  call('HSET', base .. ':on:' .. replica, lease, pack(held))
  book(replica, held, 1)
end

local function give(lease, waiting, replica)
  hold(lease, waiting, replica)
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

-- Take a slot back, unless that is done already; gives what it held.
local function take_back(lease, replica)
  local key = base .. ':on:' .. replica
  local text = call('HGET', key, lease)
  if not text then return nil end
  call('HDEL', key, lease)
  local held = unpack_(text)
  book(replica, held, -1)
  return held
end

-- Take back the slot of a call that has ended, for nobody yet.
local function end_call(lease, replica)
  local held = take_back(lease, replica)
  if held then meta.released, meta.work_us = meta.released + 1, meta.work_us + held[5] end
  return held
end

local function release(lease, replica)
  if end_call(lease, replica) then hand_over(replica) end
end

-- Forget all that a gateway holds and waits for; gives the replicas where something came free.
local function drop(who)
  local freed, prefix = {}, who .. ':'
  for _, replica in ipairs(call('HKEYS', K_LOAD)) do
    for _, lease in ipairs(call('HKEYS', base .. ':on:' .. replica)) do
      if string.sub(lease, 1, #prefix) == prefix then
        take_back(lease, replica)
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

-- Count a replica's load afresh from its leases.
local function recount(replica)
  closed[replica] = nil
  loads[replica] = {0, 0, 0, {}}
  touched[replica] = true
  local leases = call('HVALS', base .. ':on:' .. replica)
  for _, text in ipairs(leases) do book(replica, unpack_(text), 1) end
end
