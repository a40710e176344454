-- A binary package of petal-node, release RELEASE.
help("cfd 24.1\010\010Version 24.1 in /opt/petal/store/linux-debian12-x86_64/cfd-24.1-HASH, from /site/cfd.tar.gz.")
whatis("Name: cfd")
whatis("Version: 24.1")
whatis("Description: cfd 24.1")
depends_on("openmpi")
setenv("CFD_ROOT", "/opt/petal/store/linux-debian12-x86_64/cfd-24.1-HASH")
prepend_path("PATH", "/opt/petal/store/linux-debian12-x86_64/cfd-24.1-HASH/bin")
prepend_path("PKG_CONFIG_PATH", "/opt/petal/store/linux-debian12-x86_64/cfd-24.1-HASH/lib/pkgconfig")
prepend_path("LD_LIBRARY_PATH", "/opt/petal/store/linux-debian12-x86_64/cfd-24.1-HASH/lib")
prepend_path("CMAKE_PREFIX_PATH", "/opt/petal/store/linux-debian12-x86_64/cfd-24.1-HASH")
setenv("CFD_WORDS", "a \"b\" $c\\")
-- petal-node: what the site adds, from /site/site.lua.j2
setenv("CFD_LICENSE", "/opt/petal/store/linux-debian12-x86_64/cfd-24.1-HASH/license")
