-- What both halves of an acquire begin with.
-- ARGV: id, the id of the lease that it breaks ('' if it breaks none), and what each takes more

-- What it comes to where it may not take the lock; nil where it may.
local function decided()
  local state, found, left = read()
  if state == 'FOREIGN' then
    return {'FOREIGN', found}
  end
  if state == 'LOCK' and found[1] == ARGV[1] then
    return {'OURS', left, found[4]}
  end
  if state == 'LOCK' and found[1] ~= ARGV[2] then
    return held(found, left)
  end
  if state == 'FREE' and ARGV[2] ~= '' then
    return {'GONE'}
  end
end
