/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/finding.h"

#include <strings.h>

/* Who counts findings, lists them or asks whether one is open must mean the same. A filter names each
 * usual spelling, because only so an index serves it. */

bool finding_fails(const char *status)
{
    return status && (strcasecmp(status, "FAIL") == 0 || strcasecmp(status, "OPEN") == 0 ||
                      strcasecmp(status, "FAILED") == 0);
}

bool finding_is_open(const bson_t *finding)
{
    return finding_fails(doc_text(finding, "status")) && !doc_bool(finding, "muted", false);
}

void finding_match_failing(bson_t *filter)
{
    BCON_APPEND(filter, "status", "{", "$in", "[", "FAIL", "Fail", "fail", "OPEN", "Open", "open",
                "FAILED", "Failed", "failed", "]", "}");
}
