-- Where Lmod finds the spider cache of the release that a shell has: one that this version of Lmod has made.
-- Root's shells name the release by its link, for which there is none: a cache serves the path that it was made for.
local release, version = os.getenv("PETAL_RELEASE") or "", os.getenv("LMOD_VERSION") or ""
local path = ":" .. (os.getenv("MODULEPATH") or "")
local before = ":" .. release .. "/modules/"
local _, stop = path:find(before, 1, true)
local tree = stop and path:match("^([^/:]+)/Core", stop + 1)
if tree and version ~= "" and not release:find("/current$") then
  local dir = release .. "/cache/" .. tree .. "/" .. version
  scDescriptT = { { dir = dir, timestamp = dir .. "/timestamp" } }
end
