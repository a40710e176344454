-- What a login shell of release RELEASE has loaded, and what `module reset` goes back to.
help("The cluster's default modules, release RELEASE:\010  hello\010  openmpi/4.1")
whatis("Name: StdEnv")
whatis("Description: the cluster's default modules: hello, openmpi/4.1")
load("hello")
load("openmpi/4.1")
