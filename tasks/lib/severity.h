/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_SEVERITY_H
#define TASKS_LIB_SEVERITY_H

/* Tools spell severities as they like; documents know these. */
#define SEVERITIES "CRITICAL", "HIGH", "MEDIUM", "LOW", "INFO", "UNKNOWN"
enum { N_SEVERITIES = 6 };
extern const char *const severities[N_SEVERITIES];

/* One of the above ("Informational", "ok" and "log" are INFO); never NULL. */
const char *severity_name(const char *text);
int severity_index(const char *name); /* its place in the list */

#endif
