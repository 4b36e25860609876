-- ARGV: id, how many marks, the marks with the new one as the last, ttl in ms
if standing[1] ~= 'OURS' then
  return standing
end
local ttl = ARGV[3 + marks]
redis.call('PEXPIRE', lock, ttl)
if marks > 0 then
  redis.call('HSET', lock, 'n', ARGV[2 + marks])
end
return {'OURS', tonumber(ttl)}
