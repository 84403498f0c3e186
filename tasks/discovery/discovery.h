/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_DISCOVERY_H
#define TASKS_DISCOVERY_DISCOVERY_H

#include "tasks/cworker.h"

cw_outcome execute_steampipe_discovery(cw_task *t);
cw_outcome execute_kubernetes_cluster_discovery(cw_task *t);
cw_outcome execute_hybrid_asset_discovery(cw_task *t);

#endif
