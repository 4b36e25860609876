if standing[1] == 'OURS' then
  redis.call('DEL', lock)
end
return {'DONE'}
