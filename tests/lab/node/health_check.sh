#!/bin/sh
# In place of ParallelCluster's 90_pcluster_health_check_manager. The lab has no GPU to check.
exit 0
