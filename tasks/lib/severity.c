/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/severity.h"

#include <string.h>
#include <strings.h>

const char *const severities[N_SEVERITIES] = {SEVERITIES};

const char *severity_name(const char *text)
{
    for (int i = 0; text && i < N_SEVERITIES; i++)
        if (strcasecmp(text, severities[i]) == 0)
            return severities[i];
    if (!text)
        return "UNKNOWN";
    if (strcasecmp(text, "informational") == 0 || strcasecmp(text, "ok") == 0 ||
        strcasecmp(text, "negligible") == 0 || strcasecmp(text, "debug") == 0)
        return "INFO";
    return strcasecmp(text, "moderate") == 0 || strcasecmp(text, "warn") == 0 ? "MEDIUM"
                                                                              : "UNKNOWN";
}

int severity_index(const char *name)
{
    const char *known = severity_name(name);
    for (int i = 0; i < N_SEVERITIES; i++)
        if (strcmp(known, severities[i]) == 0)
            return i;
    return N_SEVERITIES - 1;
}
