-- Runs a script for Pktgen-DPDK on a table of Pktgen's Lua functions: each has the name and the number of arguments that
-- app/lpktgenlib.c of Pktgen-DPDK gives it, and any other name is an error. It sends nothing: what is "received" is
-- the second argument.
-- Usage: lua5.4 pktgen.lua SCRIPT RECEIVED

local script, received = arg[1], tonumber(arg[2])
local port = { pcap = false, count = 0, rate = 0, sending = false, sent = 0 }

local function ports(list)
  assert(type(list) == "string" and (list == "all" or list:match("^[%d,-]+$")), "a port list is a string")
end

local functions = {
  screen = { 1, function(state) assert(state == "on" or state == "off") end },
  clr = { 0, function() port.sent = 0 end },
  delay = { 1, function(ms)
    assert(math.type(ms) == "integer" and ms >= 0)
    if port.sending then port.sent = math.min(port.count, port.sent + 1 + port.count // 3) end
  end },
  set = { 3, function(list, what, value)
    ports(list)
    assert(({ count = true, rate = true, size = true, burst = true })[what], "set knows no " .. tostring(what))
    assert(type(value) == "number")
    port[what] = value
  end },
  pcap = { 2, function(list, state) ports(list); port.pcap = state == "on" end },
  start = { 1, function(list)
    ports(list)
    assert(port.pcap, "would send packets of its own making")
    assert(port.count > 0, "would send for ever")
    assert(port.rate > 0 and port.rate <= 100)
    port.sending = true
  end },
  stop = { 1, function(list) ports(list); port.sending = false end },
  portStats = { 2, function(list, what)
    ports(list)
    assert(what == "port")
    return { [tonumber(list)] = { opackets = port.sent, ipackets = received } }
  end },
  quit = { 0, function() port.quit = true end },
}

package.preload["Pktgen"] = function() return true end
pktgen = setmetatable({}, { __index = function(_, name)
  local known = functions[name] or error("Pktgen has no function " .. name, 2)
  return function(...)
    assert(select("#", ...) == known[1], name .. " takes " .. known[1] .. " arguments")
    return known[2](...)
  end
end })

dofile(script)
assert(port.quit, "doesn't end Pktgen")
assert(not port.sending, "leaves the port sending")
