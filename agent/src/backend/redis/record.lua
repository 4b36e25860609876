-- What every script begins with. KEYS[1] is the lock's key, KEYS[2] the counters of all locks.
local lock, fences = KEYS[1], KEYS[2]

-- Writes nothing, but as a write: only a primary that takes writes lets it pass, so what is read
-- after it is no stale copy. It also lets a script finish on a full store (the limit is checked
-- before a script's first write only). A counter that is no hash ends the script here.
local function on_the_primary()
  redis.call('HDEL', fences, '')
end

-- 'FREE', 'FOREIGN' with what is there, or 'LOCK' with its fields and the milliseconds left.
local function read()
  local kind = redis.call('TYPE', lock).ok
  if kind == 'none' then
    return 'FREE'
  end
  if kind ~= 'hash' then
    return 'FOREIGN', kind
  end
  local found = redis.call('HMGET', lock, 'id', 'p', 'c', 'f', 'h', 'r', 'n')
  if not found[1] or #found[1] ~= 16 then
    return 'FOREIGN', 'hash that is no lock'
  end
  return 'LOCK', found, redis.call('PTTL', lock)
end

-- As much of a field as can matter; another writer's may be as long as the server lets it.
local function short(field)
  return field and string.sub(field, 1, 1024)
end

local function held(found, left)
  local answer = {'HELD', left}
  for at = 1, 6 do
    answer[at + 2] = short(found[at])
  end
  return answer
end

-- The lock's counter as text, '' for none; nil if it cannot be one of ours.
local function counter()
  local text = redis.call('HGET', fences, lock) or ''
  if string.match(text, '^%d*$') and #text <= 18 then
    return text
  end
end

-- Moves the counter. Numbers of Lua are exact to 2^53: in microseconds, until the year 2255.
local function next_fence()
  local time = redis.call('TIME')
  redis.call('HINCRBY', fences, lock, 1)
  local now = string.format('%d%06d', time[1], time[2])
  local fence = redis.call('HGET', fences, lock)
  if tonumber(fence) < tonumber(now) then
    redis.call('HSET', fences, lock, now)
    return now
  end
  return fence
end
