-- Many locks at once. KEYS: the locks' keys
local answers = {}
for at = 1, #KEYS do
  lock = KEYS[at]
  local state, found, left = read()
  answers[at] = state == 'LOCK' and held(found, left) or {'GONE'}
end
return answers
