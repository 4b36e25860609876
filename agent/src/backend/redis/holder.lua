local state, found, left = read()
if state == 'LOCK' then
  return held(found, left)
end
if state == 'FOREIGN' then
  return {'FOREIGN', found}
end
return {'GONE'}
