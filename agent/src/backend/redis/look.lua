-- The first half of an acquire. ARGV: id
on_the_primary()
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
local expected = counter()
if not expected then
  return {'FOREIGN', 'counter that is no number'}
end
return {'FREE', expected}
