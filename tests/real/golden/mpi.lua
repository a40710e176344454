-- A binary package of petal-node, release RELEASE.
help("Open MPI of the image\010\010Version 4.1 in /opt/amazon/openmpi, from the machine image.")
whatis("Name: openmpi")
whatis("Version: 4.1")
whatis("Description: Open MPI of the image")
family("mpi")
setenv("OPENMPI_ROOT", "/opt/amazon/openmpi")
prepend_path("PATH", "/opt/amazon/openmpi/bin")
prepend_path("CMAKE_PREFIX_PATH", "/opt/amazon/openmpi")
