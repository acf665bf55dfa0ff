-- Who waits, what has each tenant had, and who comes next on a replica?

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
