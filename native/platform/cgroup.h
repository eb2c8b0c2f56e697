/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INGOT_CGROUP_H
#define INGOT_CGROUP_H

/** CPUs that the control groups of this process allow, version 1 or 2: the least of all its groups. 0: no limit. */
double ingot_cgroup_quota(const char *root);

#endif
