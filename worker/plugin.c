/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/plugin.h"

#include "proto/base/mem.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

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

/* dlopen searches the system's folders for a name without a slash; -A means a file. */
static void *open_file(const char *path)
{
    char *name = strchr(path, '/') ? mem_dup(path) : mem_printf("./%s", path);
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
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
