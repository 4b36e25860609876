-- The second half of an acquire.
-- ARGV: id, the counter that the first half saw, ttl in ms, principal, created, host, reason, mark
local state, found, left = read()
if state == 'LOCK' and found[1] == ARGV[1] then
  return {'OURS', left, found[4]}
end
if state == 'LOCK' then
  return held(found, left)
end
if state == 'FOREIGN' then
  return {'FOREIGN', found}
end
if counter() ~= ARGV[2] then
  return {'MOVED'}
end
local fence = next_fence()
redis.call('HSET', lock, 'id', ARGV[1], 'p', ARGV[4], 'c', ARGV[5], 'f', fence, 'h', ARGV[6],
  'n', ARGV[8])
if ARGV[7] ~= '' then
  redis.call('HSET', lock, 'r', ARGV[7])
end
redis.call('PEXPIRE', lock, ARGV[3])
return {'OURS', tonumber(ARGV[3]), fence}
