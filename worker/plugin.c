/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/plugin.h"

#include "proto/base/mem.h"

#include <dirent.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Opening a team's shared object. All symbols are bound at once, so that a plugin that would fail
 * later fails at the start; and it must not start threads, because children are forked after it. */

static int count_threads(void)
{
    DIR *folder = opendir("/proc/self/task");
    int count = 0;
    for (struct dirent *e; folder && (e = readdir(folder));)
        count += e->d_name[0] != '.';
    if (folder)
        closedir(folder);
    return count;
}

/* --- what a plugin does while it is loaded ---------------------------------------------------- */

static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
enum { N_FATAL = sizeof fatal / sizeof *fatal };
static const char *loading; /* NULL: none is */

/* In a signal handler: nothing but write. */
static void blame(const char *what)
{
    const char *const parts[] = {"cworker: ", loading, what};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (write(STDERR_FILENO, parts[i], strlen(parts[i])) < 0)
            return;
}

static void blame_signal(int number)
{
    blame(" crashes while it is loaded\n");
    signal(number, SIG_DFL);
    raise(number);
}

static void blame_exit(void)
{
    if (loading)
        blame(" ends the program while it is loaded\n");
}

/* Else nothing would tell which of several it was, or that it was one. */
static void loading_begin(const char *path, struct sigaction before[N_FATAL])
{
    static bool registered;
    struct sigaction act = {.sa_handler = blame_signal, .sa_flags = SA_NODEFER};
    loading = path;
    for (size_t i = 0; i < N_FATAL; i++)
        sigaction(fatal[i], &act, &before[i]);
    if (!registered)
        registered = atexit(blame_exit) == 0;
}

static void loading_end(const struct sigaction before[N_FATAL])
{
    for (size_t i = 0; i < N_FATAL; i++)
        sigaction(fatal[i], &before[i], NULL);
    loading = NULL;
}

/* --- opening ---------------------------------------------------------------------------------- */

/* dlopen searches the system's folders for a name without a slash; -A means a file. */
static void *open_file(const char *path)
{
    char *name = strchr(path, '/') ? mem_dup(path) : mem_printf("./%s", path);
    struct sigaction before[N_FATAL];
    loading_begin(path, before);
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    loading_end(before);
    free(name);
    return handle;
}

const struct cw_table *const *plugin_open(const char *path, struct error *err)
{
    int threads = count_threads();
    void *handle = open_file(path);
    if (!handle) {
        const char *why = dlerror();
        error_set(err, ERROR_INVALID, "%s cannot be loaded: %s", path,
                  why ? why : "unknown reason");
        return NULL;
    }
    const struct cw_table *const *tables = dlsym(handle, "cworker_tables");
    if (!tables)
        error_set(err, ERROR_INVALID,
                  "%s does not export cworker_tables (is it a plugin of cworker? see cworker.h)",
                  path);
    else if (count_threads() > threads) {
        error_set(err, ERROR_INVALID,
                  "%s starts threads while it is loaded: start them in the table's open()", path);
        tables = NULL;
    }
    return tables;
}
