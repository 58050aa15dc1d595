#!/usr/bin/env bash
# Builds the image of this commit and brings it to Azure Container Instances: see docs/deploy/azure.md.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=deploy/steps.sh
. "$root/deploy/steps.sh"

usage() {
  cat << 'END'
Usage: deploy/azure/deploy.sh [--dry-run]

Logs in to the registry, builds and pushes the image under the name of this commit, reads the secrets from Key Vault,
and makes the container group anew, which migrates the database first. --dry-run prints each command and changes
nothing; it reads no secret either.

Needed:
  RESOURCE_GROUP    where everything is
  REGISTRY          name of the Azure Container Registry
  VAULT             name of the Key Vault with the secrets that docs/deploy/azure.md lists
  IDENTITY          resource id of a user-assigned identity that may pull from the registry
  DNS_LABEL         the public name will be DNS_LABEL.LOCATION.azurecontainer.io
  TLS_CERT_FILE     the certificate for the public name with its chain, PEM
  TLS_KEY_FILE      its key, PEM
Optional:
  LOCATION          such as eastus (eastus)
  GROUP             name of the container group (agentmesh)
  IMAGE_TAG         instead of the commit
END
}

options "$@"
need_variables RESOURCE_GROUP REGISTRY VAULT IDENTITY DNS_LABEL TLS_CERT_FILE TLS_KEY_FILE
[ "$dry_run" = yes ] || need_tools az docker base64
for file in "$TLS_CERT_FILE" "$TLS_KEY_FILE"; do
  [ -r "$file" ] || fail "$file can't be read"
done

export GROUP=${GROUP:-agentmesh} LOCATION=${LOCATION:-eastus}
tag=$(image_tag)
export IMAGE=$REGISTRY.azurecr.io/agentmesh:$tag

umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# As text within double quotes of YAML. Secrets have no line breaks.
quoted() {
  local text=$1
  text=${text//\\/\\\\}
  printf '%s\n' "${text//\"/\\\"}"
}

secret() {
  local value
  value=$(ask "SECRET-$1" az keyvault secret show --vault-name "$VAULT" --name "$1" --query value --output tsv) \
    || fail "$1 can't be read from $VAULT"
  quoted "$value"
}

encoded() {
  base64 < "$1" | tr -d '\n'
}

say "Build and push $IMAGE"
log_in "$REGISTRY.azurecr.io" 00000000-0000-0000-0000-000000000000 \
  az acr login --name "$REGISTRY" --expose-token --query accessToken --output tsv
build_and_push "$IMAGE"

say "Read the secrets"
# Not exported: only this shell has them. `fill` reads them by name.
# shellcheck disable=SC2034
{
  DATABASE_URL=$(secret agentmesh-database-url)
  REDIS_URL=$(secret agentmesh-redis-url)
  SERVICES_TOKEN=$(secret agentmesh-services-token)
  API_KEYS=$(secret agentmesh-api-keys)
  OPENAI_API_KEY=$(secret agentmesh-openai-api-key)
  ENVOY_BASE64=$(encoded "$here/envoy.yaml")
  TLS_CERT_BASE64=$(encoded "$TLS_CERT_FILE")
  TLS_KEY_BASE64=$(encoded "$TLS_KEY_FILE")
}
fill "$here/container-group.yaml" GROUP LOCATION IDENTITY REGISTRY DNS_LABEL IMAGE ENVOY_BASE64 TLS_CERT_BASE64 \
  TLS_KEY_BASE64 DATABASE_URL REDIS_URL SERVICES_TOKEN API_KEYS OPENAI_API_KEY > "$work/container-group.yaml"

say "Make the container group and wait until it is"
run az container create --resource-group "$RESOURCE_GROUP" --file "$work/container-group.yaml" \
  --query provisioningState --output tsv
state=$(ask Running az container show --resource-group "$RESOURCE_GROUP" --name "$GROUP" \
  --query instanceView.state --output tsv)
[ "$state" = Running ] \
  || fail "the group is $state; read: az container logs -g $RESOURCE_GROUP -n $GROUP --container-name agentmesh"
finish "Done: https://$DNS_LABEL.$LOCATION.azurecontainer.io"
