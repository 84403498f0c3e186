/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/command.h"

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

static void print_versions(void)
{
    struct utsname system;
    printf("software -> cworker:%s\n", CWORKER_VERSION);
    printf("            hiredis:%d.%d.%d libevent:%s libmongoc:%s\n", HIREDIS_MAJOR, HIREDIS_MINOR,
           HIREDIS_PATCH, event_get_version(), mongoc_get_version());
    printf("            libcurl:%s cJSON:%s %s\n", curl_version_info(CURLVERSION_NOW)->version,
           cJSON_Version(), OpenSSL_version(OPENSSL_VERSION));
    if (uname(&system) == 0)
        printf("platform -> system:%s %s arch:%s compiler:%s\n", system.sysname, system.release,
               system.machine, __VERSION__);
}

static void print_settings(const struct options *o)
{
    cJSON *all = settings_dump(&o->settings, true), *changed = settings_dump(&o->settings, false);
    printf("\nsettings (* not the default)\n");
    for (const cJSON *at = all->child; at; at = at->next) {
        char *text = json_text(at);
        printf(" %c %s: %s\n", json_get(changed, at->string) ? '*' : ' ', at->string, text);
        free(text);
    }
    if (o->settings.ignored)
        printf("   without effect: %s\n", o->settings.ignored);
    cJSON_Delete(all);
    cJSON_Delete(changed);
}

static const char *origin_of(const struct registry_entry *entry)
{
    if (entry->command)
        return "program";
    return entry->builtin ? "built-in" : "plugin";
}

static void print_tasks(void)
{
    printf("\ntasks\n");
    for (int i = 0; i < registry_size; i++) {
        const struct registry_entry *entry = &registry[i];
        const char *queue = entry->table && entry->table->queue ? entry->table->queue : "";
        printf("   %s (%s%s%s)\n", entry->def->name, origin_of(entry), *queue ? ", queue " : "",
               queue);
    }
    if (registry_size == 0)
        printf("   none\n");
}

int command_report(struct options *o)
{
    if (command_word(o, 0))
        return command_usage(o, "unexpected argument \"%.60s\"", command_word(o, 0));
    print_versions();
    print_settings(o);
    print_tasks();
    return 0;
}
