-- Steampipe's tables of Kubernetes; see aws.sql for the columns. A "region" is a context.

-- name: node
select uid as resource_id, name, node_info, labels,
  jsonb_path_query_array(addresses, '$[*] ? (@.type like_regex "IP$").address') as ips,
  jsonb_path_query_array(addresses, '$[*] ? (@.type == "Hostname").address') as hostnames
from kubernetes_node where context_name = '{region}';

-- name: deployment
select uid as resource_id, namespace || '/' || name as name, replicas, labels
from kubernetes_deployment where context_name = '{region}';

-- name: service
select uid as resource_id, namespace || '/' || name as name, type, external_ips as ips, labels
from kubernetes_service where context_name = '{region}';
