-- Pins a shell or a job to release RELEASE, also after another release becomes current.
help("The cluster's software in release RELEASE.\010module purge keeps this module; module --force unload petal removes it.")
whatis("Name: petal")
whatis("Version: RELEASE")
whatis("Description: the cluster's software in one release")
family("petal")
add_property("lmod", "sticky")

local root, release = "/opt/petal", "/opt/petal/releases/RELEASE"
local tree -- the first tree that the CPU of this node runs; spider would look for the trees of all releases
for name in (mode() ~= "spider" and os.getenv("PETAL_TREES") or ""):gmatch("[^:]+") do
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
if mode() ~= "spider" then
  prepend_path("MODULEPATH", pathJoin(release, "modules", tree or "none", "Core"))
end
