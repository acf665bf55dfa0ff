-- How full is each replica, how full may it be for a class, and does a call fit?

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
