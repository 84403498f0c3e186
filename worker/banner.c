/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/banner.h"

#include "broker/url.h"
#include "proto/base/mem.h"
#include "worker/registry.h"
#include "worker/version.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

/* The banner keeps the sections, the labels and their order of Celery's, because people and scripts
 * look for `.> transport:` and `[queues]`; the drawing beside them is left out. */

static void print_head(const struct options *o)
{
    struct utsname system;
    char when[32] = "";
    time_t now = time(NULL);
    struct tm tm;
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", localtime_r(&now, &tm));
    printf("\n -------------- %s v%s (cworker)\n", o->hostname, CWORKER_VERSION);
    if (uname(&system) == 0)
        printf(" -- %s-%s-%s %s\n", system.sysname, system.release, system.machine, when);
}

static void print_config(const struct options *o, int concurrency)
{
    const struct settings *s = &o->settings;
    char *transport = url_mask(s->broker_url);
    char *results = s->result_backend ? url_mask(s->result_backend) : mem_dup("disabled://");
    printf("\n[config]\n .> app:         ");
    if (!o->apps)
        fputs("built-in tasks", stdout);
    for (char **app = o->apps; app && *app; app++)
        printf("%s%s", app == o->apps ? "" : ", ", *app);
    printf("\n .> transport:   %s\n .> results:     %s\n", transport, results);
    if (o->autoscale.max)
        printf(" .> concurrency: {min=%d, max=%d} (%s)\n", o->autoscale.min, o->autoscale.max,
               s->worker_pool);
    else
        printf(" .> concurrency: %d (%s)\n", concurrency, s->worker_pool);
    printf(" .> task events: %s\n",
           s->worker_send_task_events ? "ON" : "OFF (enable -E to monitor tasks in this worker)");
    free(transport);
    free(results);
}

static void print_queues(const struct options *o)
{
    printf("\n[queues]\n");
    for (char **queue = o->queues; queue && *queue; queue++)
        printf(" .> %-16s exchange=%s(direct) key=%s\n", *queue, *queue, *queue);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void print_tasks(bool internal)
{
    const char **names = mem_alloc(((size_t)registry_size + 1) * sizeof *names);
    int n = 0;
    for (int i = 0; i < registry_size; i++)
        if (internal || strncmp(registry[i].def->name, "celery.", 7) != 0)
            names[n++] = registry[i].def->name;
    qsort(names, (size_t)n, sizeof *names, by_name);
    printf("\n[tasks]\n");
    for (int i = 0; i < n; i++)
        printf("  . %s\n", names[i]);
    free(names);
}

void banner_print(const struct options *o, int concurrency)
{
    print_head(o);
    print_config(o, concurrency);
    print_queues(o);
    if (o->loglevel <= LOG_INFO)
        print_tasks(o->loglevel <= LOG_DEBUG);
    putchar('\n');
    fflush(stdout);
}
