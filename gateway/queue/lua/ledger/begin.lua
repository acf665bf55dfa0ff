-- Has this batch been done? What the run has read so far, and what it must write at its end.

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

local function lines(text)
  local found = {}
  for line in string.gmatch(text, '[^\n]+') do found[#found + 1] = line end
  return found
end

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

local waited = any_waiting()
