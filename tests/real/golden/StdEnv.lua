-- The modules that a login shell of release RELEASE loads and that `module reset` returns to.
help("The cluster's default modules, release RELEASE:\010  hello\010  openmpi/4.1")
whatis("Name: StdEnv")
whatis("Description: the cluster's default modules: hello, openmpi/4.1")
load("hello")
load("openmpi/4.1")
