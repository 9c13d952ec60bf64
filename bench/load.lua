-- Closed loop: unique keys, customers c1 … cN. Arguments: kind (reserve | consume | pairs | events | priced | priced2), run, N.
local kind, run, customers = "reserve", "run", 1000
local count, holds, first = 0, {}, 1

function init(args)
  kind, run, customers = args[1], args[2], tonumber(args[3])
  math.randomseed(os.time())
  if kind == "pairs" then
    -- Only where it is needed: reading answers slows the client down.
    function response(status, _, body)
      if status == 201 then
        local id = string.match(body, '"id"%s*:%s*"(hld_%x+)"')
        if id then holds[#holds + 1] = id end
      end
    end
  end
end

function request()
  count = count + 1
  local headers = {
    ["Authorization"] = wrk.headers["Authorization"],
    ["Content-Type"] = "application/json",
    ["Idempotency-Key"] = run .. "-" .. count,
  }
  if kind == "pairs" and first <= #holds then
    local id = holds[first]
    holds[first] = nil
    first = first + 1
    if first > 10000 then
      local rest = {}
      for i = first, #holds do rest[#rest + 1] = holds[i] end
      holds, first = rest, 1
    end
    return wrk.format("POST", "/v1/holds/" .. id .. "/capture", headers, "{}")
  end
  local who = "c" .. math.random(1, customers)
  if kind == "events" then
    return wrk.format("POST", "/v1/events", headers, '{"id":"' .. run .. count .. '","source":"wrk","type":"request","subject":"'
      .. who .. '","data":{"model":"large","input_tokens":900,"output_tokens":120}}')
  end
  if kind == "priced" or kind == "priced2" then
    local usage = '{"meter":"input","quantity":900,"dimensions":{"model":"large-2"}}'
    if kind == "priced2" then
      usage = usage .. ',{"meter":"output","quantity":120,"dimensions":{"model":"large-2"}}'
    end
    return wrk.format("POST", "/v1/consume", headers, '{"customer_id":"' .. who .. '","usage":[' .. usage .. ']}')
  end
  local path = kind == "consume" and "/v1/consume" or "/v1/reserve"
  return wrk.format("POST", path, headers, '{"customer_id":"' .. who .. '","amount":"0.000001"}')
end
