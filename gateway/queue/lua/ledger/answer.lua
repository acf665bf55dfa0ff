-- Run the batch, write what has changed, tell the others, and answer.

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

if must_wait then
  local told_to_all = base .. '\n' .. table.concat(backlog, ';')
  call('PUBLISH', channel .. 'waiting', told_to_all)
  if not waited and #backlog > 0 then call('PUBLISH', channel .. 'begun', gateway .. '\n' .. told_to_all) end
end
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
