-- A binary package of petal-node, release RELEASE.
help("hello 1.0\010\010Version 1.0 in /opt/petal/store/linux-debian12-x86_64/hello-1.0-HASH, from /site/hello.tar.gz.")
whatis("Name: hello")
whatis("Version: 1.0")
whatis("Description: hello 1.0")
setenv("HELLO_ROOT", "/opt/petal/store/linux-debian12-x86_64/hello-1.0-HASH")
prepend_path("PATH", "/opt/petal/store/linux-debian12-x86_64/hello-1.0-HASH/bin")
prepend_path("CMAKE_PREFIX_PATH", "/opt/petal/store/linux-debian12-x86_64/hello-1.0-HASH")
