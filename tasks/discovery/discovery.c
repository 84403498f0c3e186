/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/discovery.h"

#include "tasks/lib/policy.h"
#include "tasks/tables.h"

/* The queue `discovery`: what there is. */

static const struct cw_arg steampipe_args[] = {
    {"scan_run_id", CW_STR, .help = "_id of the document in scan_runs"},
    {"region", CW_STR, .help = "as in eu-west-1"},
    {0},
};

static const struct cw_arg cluster_args[] = {
    {"cluster_id", CW_STR, .help = "_id of the document in k8s_clusters"},
    {0},
};

static const struct cw_arg team_args[] = {
    {"team_id", CW_STR, .help = "as in its documents"},
    {0},
};

static const struct cw_def defs[] = {
    {
        .name = "discovery.execute_steampipe_discovery",
        .run = execute_steampipe_discovery,
        .args = steampipe_args,
        BUILTIN_POLICY,
        .help = "Steampipe's tables of one region into assets",
    },
    {
        .name = "discovery.execute_kubernetes_cluster_discovery",
        .run = execute_kubernetes_cluster_discovery,
        .args = cluster_args,
        BUILTIN_POLICY,
        .help = "a cluster's objects into k8s_resources, what is unsafe into k8s_findings",
    },
    {
        .name = "discovery.execute_hybrid_asset_discovery",
        .run = execute_hybrid_asset_discovery,
        .args = team_args,
        BUILTIN_POLICY,
        .help = "on-prem networks by nmap, merged with cloud and cluster assets into hybrid_assets",
    },
    {0},
};

static const struct cw_index indexes[] = {
    {"assets", "team_id, provider, resource_id", .unique = true},
    {"assets", "team_id, cloud_account_id, region, gone"},
    {"assets", "team_id, network_id, gone"},
    {"onprem_networks", "team_id"},
    {"hybrid_assets", "team_id, asset_key", .unique = true},
    {"hybrid_assets", "team_id, gone, last_seen"},
    {"k8s_clusters", "team_id"},
    {"k8s_resources", "team_id, cluster_id, uid", .unique = true},
    {"k8s_resources", "team_id, cluster_id, kind, gone"},
    {"k8s_findings", "team_id, cluster_id, uid", .unique = true},
    {"k8s_findings", "team_id, cluster_id, kind, status"},
    {0},
};

const struct cw_table discovery_table = {
    .api = CW_API,
    .queue = "discovery",
    .defs = defs,
    .prefetch_multiplier = 1,
    .indexes = indexes,
};
