-- Spack for the users of petal-node's release RELEASE: static, the site's files are only read.
help("Spack 1.1.1. What the release has is used as it is (/opt/petal/store),\010what you install goes to $PETAL_SPACK_DIR (~/spack), with modules of its own.")
whatis("Name: spack")
whatis("Version: 1.1.1")
whatis("Description: Spack on top of the cluster's software, with a store of your own")

local places = {
  { "/opt/petal/spack/1.1.1-KEY", "/opt/petal/spack/recipes-KEY/repos/spack_repo/builtin", { "/opt/petal/spack/1.1.1-KEY/bin/spack", "/opt/petal/spack/recipes-KEY/repos/spack_repo/builtin/repo.yaml", } },
  { "/opt/petal-node/spack/1.1.1-KEY", "/opt/petal-node/spack/recipes-KEY/repos/spack_repo/builtin", { "/opt/petal-node/spack/1.1.1-KEY/bin/spack", "/opt/petal-node/spack/recipes-KEY/repos/spack_repo/builtin/repo.yaml", } },
}
local function absent(files)
  for _, file in ipairs(files) do
    if not isFile(file) then return file end
  end
end
local place = places[1]
for _, other in ipairs(places) do
  if not absent(other[3]) then place = other break end
end
local missing = absent(place[3]) or absent({ "PYTHON", "/opt/petal/store/.spack-db/index.json", })
local mine = os.getenv("PETAL_SPACK_DIR") or ""
if mine == "" then mine = pathJoin(os.getenv("HOME") or "/", "spack") end
if mode() == "load" and missing then
  LmodError("Spack 1.1.1 cannot be used on this node: " .. missing .. " is not there.\n" ..
    "Ask an administrator to look: petal-node check, petal-node status\n")
end

pushenv("SPACK_ROOT", place[1])
pushenv("SPACK_PYTHON", "/opt/petal/releases/RELEASE/spack/debian12-x86_64_v3/python/bin/python3")
pushenv("SPACK_SYSTEM_CONFIG_PATH", "/opt/petal/releases/RELEASE/spack/debian12-x86_64_v3/scope")
if mode() ~= "spider" then -- where Lmod 8.7.60 fails of it, and then loads nothing of any module
  pushenv("SPACK_DISABLE_LOCAL_CONFIG", false)
end
pushenv("PETAL_SPACK_RECIPES", place[2])
pushenv("PETAL_SPACK_DIR", mine)
pushenv("SPACK_USER_CACHE_PATH", pathJoin(mine, "1.1/cache"))
pushenv("SPACK_GNUPGHOME", pathJoin(mine, "1.1/gpg"))
prepend_path("PATH", pathJoin(place[1], "bin"))
prepend_path("MODULEPATH", pathJoin(mine, "1.1/modules/debian12-x86_64/Core"))
