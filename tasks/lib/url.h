/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_URL_H
#define TASKS_LIB_URL_H

#include "tasks/cworker.h"

/* What libcurl knows of URLs, for tasks. */

/* Where `reference` (a Location, a link) leads from `base`; NULL: it is none. */
char *url_resolve(cw_task *t, const char *base, const char *reference);

/* A host's name in the form that is looked up: beyond ASCII by IDNA, as xn-- labels; false when it
 * is no name. `ret` has room for 254 bytes. */
bool host_to_ascii(const char *host, char ret[254]);

#endif
