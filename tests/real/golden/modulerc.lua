hide_version("openmpi/4.1")
