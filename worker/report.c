/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/report.h"

#include "proto/base/mem.h"
#include "worker/registry.h"
#include "worker/version.h"

#include <curl/curl.h>
#include <event2/event.h>
#include <hiredis/hiredis.h>
#include <mongoc/mongoc.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

/* What a bug report needs: what runs (versions as linked at run time, not as compiled against,
 * wherever the library tells), where, with which settings and tasks. Fit to be published: secrets
 * are masked. */

static void print_versions(struct buf *out)
{
    struct utsname system;
    buf_printf(out, "software -> cworker:%s\n", CWORKER_VERSION);
    buf_printf(out, "            hiredis:%d.%d.%d libevent:%s libmongoc:%s\n", HIREDIS_MAJOR,
               HIREDIS_MINOR, HIREDIS_PATCH, event_get_version(), mongoc_get_version());
    buf_printf(out, "            libcurl:%s cJSON:%s %s\n",
               curl_version_info(CURLVERSION_NOW)->version, cJSON_Version(),
               OpenSSL_version(OPENSSL_VERSION));
    if (uname(&system) == 0)
        buf_printf(out, "platform -> system:%s %s arch:%s compiler:%s\n", system.sysname,
                   system.release, system.machine, __VERSION__);
}

static void print_settings(const struct options *o, struct buf *out)
{
    cJSON *all = settings_dump(&o->settings, true), *changed = settings_dump(&o->settings, false);
    buf_printf(out, "\nsettings (* not the default)\n");
    for (const cJSON *at = all->child; at; at = at->next) {
        char *text = json_text(at);
        buf_printf(out, " %c %s: %s\n", json_get(changed, at->string) ? '*' : ' ', at->string,
                   text);
        free(text);
    }
    if (o->settings.ignored)
        buf_printf(out, "   without effect: %s\n", o->settings.ignored);
    cJSON_Delete(all);
    cJSON_Delete(changed);
}

static const char *origin_of(const struct registry_entry *entry)
{
    if (entry->command)
        return "program";
    return entry->builtin ? "built-in" : "plugin";
}

static void print_tasks(struct buf *out)
{
    buf_printf(out, "\ntasks\n");
    for (int i = 0; i < registry_size; i++) {
        const struct registry_entry *entry = &registry[i];
        const char *queue = entry->table && entry->table->queue ? entry->table->queue : "";
        buf_printf(out, "   %s (%s%s%s)\n", entry->def->name, origin_of(entry),
                   *queue ? ", queue " : "", queue);
    }
    if (registry_size == 0)
        buf_printf(out, "   none\n");
}

char *report_text(const struct options *o)
{
    struct buf out = BUF_INIT(1 << 24);
    print_versions(&out);
    print_settings(o, &out);
    print_tasks(&out);
    return buf_take(&out);
}
