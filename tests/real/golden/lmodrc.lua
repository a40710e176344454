-- Points Lmod to the spider cache of the shell's release that this version of Lmod created. Shells of root use the link
-- "current", for which there is no cache: a cache contains the paths that it was created for.
local release, version = os.getenv("PETAL_RELEASE") or "", os.getenv("LMOD_VERSION") or ""
local path = ":" .. (os.getenv("MODULEPATH") or "")
local before = ":" .. release .. "/modules/"
local _, stop = path:find(before, 1, true)
local tree = stop and path:match("^([^/:]+)/Core", stop + 1)
if tree and version ~= "" and not release:find("/current$") then
  local dir = release .. "/cache/" .. tree .. "/" .. version
  scDescriptT = { { dir = dir, timestamp = dir .. "/timestamp" } }
end
