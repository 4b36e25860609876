-- ARGV: id
on_the_primary()
if not counter() then
  return {'FOREIGN', 'counter that is no number'}
end
next_fence()
local state, found = read()
if state == 'LOCK' and found[1] == ARGV[1] then
  redis.call('DEL', lock)
end
return {'DONE'}
