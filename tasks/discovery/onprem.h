/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_ONPREM_H
#define TASKS_DISCOVERY_ONPREM_H

#include "tasks/lib/mongo.h"

/* The hosts of a team's onprem_networks into assets (provider "onprem"), by nmap's host discovery.
 * A network that fails is told in `errors` (a list of texts) and the others go on; only a network
 * that was seen to its end lets hosts go. */
struct onprem_counts {
    int networks;
    int64_t hosts, gone;
};
int onprem_discover(cw_task *t, const char *team, cJSON *errors, struct onprem_counts *ret);

#endif
