/* SPDX-License-Identifier: Apache-2.0 */

/* Limits of the kernel around one run. The one idea: only the soft limit moves, so it can be lifted
 * again. Beyond the memory an allocation fails, beyond the CPU time SIGXCPU ends the child: either
 * way the task fails with WorkerLostError and the child is replaced. */

#include "worker/task/rlimits.h"

#include <math.h>
#include <sys/resource.h>

static void move(int resource, rlim_t soft)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) < 0)
        return;
    limit.rlim_cur = soft < limit.rlim_max ? soft : limit.rlim_max;
    setrlimit(resource, &limit);
}

static double cpu_used(void)
{
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void rlimits_set(const struct cw_table *table)
{
    if (table->max_memory_kb > 0)
        move(RLIMIT_DATA, (rlim_t)table->max_memory_kb * 1024);
    if (table->max_cpu > 0)
        move(RLIMIT_CPU, (rlim_t)ceil(cpu_used() + table->max_cpu));
}

void rlimits_lift(const struct cw_table *table)
{
    if (table->max_memory_kb > 0)
        move(RLIMIT_DATA, RLIM_INFINITY);
    if (table->max_cpu > 0)
        move(RLIMIT_CPU, RLIM_INFINITY);
}
