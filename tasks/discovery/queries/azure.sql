-- Steampipe's tables of Azure; see aws.sql for the columns.

-- name: compute_virtual_machine
select id as resource_id, name, power_state as state, vm_id as instance_id, size, resource_group, tags,
  private_ips || public_ips as ips, computer_name as hostnames
from azure_compute_virtual_machine where region = '{region}';

-- name: storage_account
select id as resource_id, name, provisioning_state as state, allow_blob_public_access, tags
from azure_storage_account where region = '{region}';

-- name: sql_server
select id as resource_id, name, state, version, fully_qualified_domain_name as hostnames, tags
from azure_sql_server where region = '{region}';

-- name: kubernetes_cluster
select id as resource_id, name, provisioning_state as state, kubernetes_version, tags
from azure_kubernetes_cluster where region = '{region}';
