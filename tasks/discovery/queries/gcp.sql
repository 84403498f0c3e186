-- Steampipe's tables of Google Cloud; see aws.sql for the columns.

-- name: compute_instance
select self_link as resource_id, name, status as state, id::text as instance_id, machine_type_name, tags,
  jsonb_path_query_array(network_interfaces, '$[*].networkIP') as ips, hostname as hostnames
from gcp_compute_instance where location like '{region}%';

-- name: storage_bucket
select self_link as resource_id, name, storage_class, tags from gcp_storage_bucket where lower(location) = '{region}';

-- name: sql_database_instance
select self_link as resource_id, name, state, database_version, tags
from gcp_sql_database_instance where location = '{region}';

-- name: kubernetes_cluster
select self_link as resource_id, name, status as state, current_master_version, endpoint as ips
from gcp_kubernetes_cluster where location like '{region}%';
