if standing[1] ~= 'OURS' then
  return {'GONE'}
end
redis.call('DEL', lock)
return {'DONE'}
