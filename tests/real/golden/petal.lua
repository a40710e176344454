-- Pins a shell or a job to release RELEASE, whatever is current.
help("The cluster's software as release RELEASE has it.\010It stays when modules are purged; module --force unload petal ends it.")
whatis("Name: petal")
whatis("Version: RELEASE")
whatis("Description: the cluster's software of one release")
family("petal")
add_property("lmod", "sticky")

local root, release = "/opt/petal", "/opt/petal/releases/RELEASE"
local tree -- the first of those that this node's CPU runs
for name in (os.getenv("PETAL_TREES") or ""):gmatch("[^:]+") do
  if not tree and isDir(pathJoin(release, "modules", name, "Core")) then tree = name end
end
if mode() == "load" then
  if not tree then
    LmodError("Release RELEASE has no modules for this node's system and CPU, or was removed.\010See: petal-node releases\010")
  end
  for directory in (os.getenv("MODULEPATH") or ""):gmatch("[^:]+") do
    local ours = directory:find(root .. "/releases/", 1, true) == 1 or directory:find(root .. "/current/", 1, true) == 1
    if ours and directory:find("/modules/[^/]+/Core$") then remove_path("MODULEPATH", directory) end
  end
end
pushenv("PETAL_RELEASE", release)
if mode() ~= "spider" then -- which would read the trees of all releases to list their modules
  prepend_path("MODULEPATH", pathJoin(release, "modules", tree or "none", "Core"))
end
