-- -*- lua -*-
-- Module file created by spack
--
-- SPEC
--

whatis([==[Name: libsigsegv]==])
whatis([==[Version: 2.14]==])
whatis([==[Description: GNU libsigsegv is a library for handling page faults in user mode.]==])
whatis([==[Target: ]==])
whatis([==[Configured with: --enable-shared]==])
whatis([==[From: Spack 1.1.1, builtin.libsigsegv /HASH]==])
whatis([==[Release: RELEASE]==])

help([==[libsigsegv 2.14

GNU libsigsegv is a library for handling page faults in user mode.

Built by Spack 1.1.1 in PREFIX
as libsigsegv@2.14 build_system=autotools, release RELEASE.]==])



prepend_path("CMAKE_PREFIX_PATH", "PREFIX/.", ":")
setenv("LIBSIGSEGV_ROOT", "PREFIX")

