-- The first half of an acquire.
on_the_primary()
local answer = decided()
if answer then
  return answer
end
local expected = counter()
if not expected then
  return {'FOREIGN', 'counter that is no number'}
end
return {'FREE', expected}
