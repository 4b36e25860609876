-- The second half of an acquire.
-- ARGV more: the counter that the first half saw, ttl in ms, principal, created, host, reason, mark
local answer = decided()
if answer then
  return answer
end
if counter() ~= ARGV[3] then
  return {'MOVED'}
end
local fence, ttl = next_fence(), tonumber(ARGV[4])
if ARGV[2] ~= '' then
  -- No less than what it breaks had left; -1 for a lock that somebody made without an end.
  ttl = math.max(ttl, redis.call('PTTL', lock))
end
-- Nothing of a lock that it breaks stays.
redis.call('DEL', lock)
redis.call('HSET', lock, 'id', ARGV[1], 'p', ARGV[5], 'c', ARGV[6], 'f', fence, 'h', ARGV[7],
  'n', ARGV[9])
if ARGV[8] ~= '' then
  redis.call('HSET', lock, 'r', ARGV[8])
end
redis.call('PEXPIRE', lock, ttl)
return {'OURS', ttl, fence}
