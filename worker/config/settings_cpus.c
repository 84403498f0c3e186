/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/settings.h"

#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How many CPUs there are for us. Inside a container the number of CPUs of the machine is the wrong
 * answer: a quota of two on a machine of 64 would start 64 children that take turns on two. So the
 * quotas of our cgroup and of those above it count as well. */

static int affinity_cpus(void)
{
    cpu_set_t set;
    /* Machines beyond CPU_SETSIZE refuse the fixed set; there every CPU online is taken as ours. */
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                        : (int)sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? n : 1;
}

/* The quota of one cgroup folder in CPUs, rounded up; INT_MAX without one. */
static int quota_cpus(const char *folder)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    FILE *file = fopen(path, "re");
    if (!file)
        return INT_MAX;
    double quota = 0, period = 0;
    int n = fscanf(file, "%lf %lf", &quota, &period); /* "max 100000" reads as nothing */
    fclose(file);
    if (n != 2 || quota <= 0 || period <= 0 || quota / period > 1e6)
        return INT_MAX;
    return (int)ceil(quota / period);
}

static int cgroup_cpus(void)
{
    static const char mount[] = "/sys/fs/cgroup";
    char line[PATH_MAX], folder[PATH_MAX] = "";
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "0::/", 4) == 0) {
            line[strcspn(line, "\n")] = '\0';
            if (strlen(line) + sizeof mount < sizeof folder)
                snprintf(folder, sizeof folder, "%.20s%.4000s", mount, line + 3);
        }
    if (file)
        fclose(file);
    int least = INT_MAX;
    while (strlen(folder) >= sizeof mount - 1) {
        int n = quota_cpus(folder);
        least = n < least ? n : least;
        *strrchr(folder, '/') = '\0';
    }
    return least;
}

int settings_concurrency(const struct settings *s)
{
    if (s->worker_concurrency > 0)
        return (int)s->worker_concurrency;
    int cpus = affinity_cpus(), quota = cgroup_cpus();
    return quota < cpus ? quota : cpus;
}
