-- Steampipe's tables of AWS. Columns: resource_id (required), name, state, instance_id, ips, macs, hostnames;
-- all others go to the asset's attributes. {region} and {account} are the scan's.

-- name: ec2_instance
select arn as resource_id, title as name, instance_state as state, instance_id, instance_type, vpc_id, tags,
  to_jsonb(array_remove(array[host(private_ip_address), host(public_ip_address)], null)) as ips,
  jsonb_path_query_array(network_interfaces, '$[*].MacAddress') as macs, private_dns_name as hostnames
from aws_ec2_instance where region = '{region}';

-- name: s3_bucket
select arn as resource_id, name, tags from aws_s3_bucket where region = '{region}';

-- name: rds_instance
select arn as resource_id, title as name, status as state, engine, publicly_accessible, tags,
  endpoint_address as hostnames
from aws_rds_db_instance where region = '{region}';

-- name: lambda_function
select arn as resource_id, name, state, runtime, tags from aws_lambda_function where region = '{region}';

-- name: vpc
select arn as resource_id, title as name, state, cidr_block, tags from aws_vpc where region = '{region}';

-- name: security_group
select arn as resource_id, title as name, vpc_id, tags from aws_vpc_security_group where region = '{region}';

-- name: eks_cluster
select arn as resource_id, name, status as state, version, tags from aws_eks_cluster where region = '{region}';
