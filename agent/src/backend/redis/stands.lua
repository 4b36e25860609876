-- How a lease stands: what a renewal, a read-back and a release ask first. It goes before theirs.
-- ARGV: id, how many marks, the marks, and what each of them takes more
on_the_primary()
local marks = tonumber(ARGV[2])

local function stands()
  local state, found, left = read()
  if state ~= 'LOCK' then
    return {'GONE'}
  end
  if found[1] ~= ARGV[1] then
    return held(found, left)
  end
  if marks == 0 or not found[7] then
    return {'OURS', left}
  end
  for at = 3, 2 + marks do
    if ARGV[at] == found[7] then
      return {'OURS', left}
    end
  end
  return {'CLONED'}
end

local standing = stands()
