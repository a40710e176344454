-- Spack for the users of petal-node's release RELEASE. Static; the files of the site are read-only.
help("Spack 1.1.1. It uses the packages of the release (/opt/petal/store)\010and installs yours with their modules to $PETAL_SPACK_DIR (~/spack).")
whatis("Name: spack")
whatis("Version: 1.1.1")
whatis("Description: Spack with the packages of the cluster and your own store")

local places = {
  { "/opt/petal/spack/1.1.1-KEY", "/opt/petal/spack/recipes-KEY/repos/spack_repo/builtin", { "/opt/petal/spack/1.1.1-KEY/bin/spack", "/opt/petal/spack/recipes-KEY/repos/spack_repo/builtin/repo.yaml", } },
  { "/opt/petal-node/spack/1.1.1-KEY", "/opt/petal-node/spack/recipes-KEY/repos/spack_repo/builtin", { "/opt/petal-node/spack/1.1.1-KEY/bin/spack", "/opt/petal-node/spack/recipes-KEY/repos/spack_repo/builtin/repo.yaml", } },
}
local function first_missing(files)
  for _, file in ipairs(files) do
    if not isFile(file) then return file end
  end
end
local place = places[1]
for _, other in ipairs(places) do
  if not first_missing(other[3]) then place = other break end
end
local missing = first_missing(place[3]) or first_missing({ "PYTHON", "/opt/petal/store/.spack-db/index.json", })
local mine = os.getenv("PETAL_SPACK_DIR") or ""
if mine == "" then mine = pathJoin(os.getenv("HOME") or "/", "spack") end
if mode() == "load" and missing then
  LmodError("Spack 1.1.1 cannot be used on this node: " .. missing .. " is missing.\n" ..
    "Ask an administrator to run: petal-node check, petal-node status\n")
end

pushenv("SPACK_ROOT", place[1])
pushenv("SPACK_PYTHON", "/opt/petal/releases/RELEASE/spack/debian12-x86_64_v3/python/bin/python3")
pushenv("SPACK_SYSTEM_CONFIG_PATH", "/opt/petal/releases/RELEASE/spack/debian12-x86_64_v3/scope")
if mode() ~= "spider" then -- in mode spider this fails in Lmod 8.7.60, which then loads no module
  pushenv("SPACK_DISABLE_LOCAL_CONFIG", false)
end
pushenv("PETAL_SPACK_RECIPES", place[2])
pushenv("PETAL_SPACK_DIR", mine)
pushenv("SPACK_USER_CACHE_PATH", pathJoin(mine, "1.1/cache"))
pushenv("SPACK_GNUPGHOME", pathJoin(mine, "1.1/gpg"))
prepend_path("PATH", pathJoin(place[1], "bin"))
prepend_path("MODULEPATH", pathJoin(mine, "1.1/modules/debian12-x86_64/Core"))
