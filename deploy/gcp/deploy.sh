#!/usr/bin/env bash
# Builds the image of this commit and brings it to Cloud Run: see docs/deploy/gcp.md.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=deploy/steps.sh
. "$root/deploy/steps.sh"

usage() {
  cat << 'END'
Usage: deploy/gcp/deploy.sh [--dry-run]

Logs in to Artifact Registry, builds and pushes the image under the name of this commit, migrates the database in a job
of Cloud Run, replaces the service and waits until it is ready. --dry-run prints each command and changes nothing.

Needed:
  PROJECT_ID        the project
  REGION            such as us-central1
Optional:
  SERVICE           name of the service (agentmesh)
  REPOSITORY        name of the repository in Artifact Registry (agentmesh)
  SERVICE_ACCOUNT   what the service runs as (SERVICE@PROJECT_ID.iam.gserviceaccount.com)
  NETWORK, SUBNET   where Cloud SQL and Memorystore are reached (default, default)
  PUBLIC            yes lets the internet in; agentmesh asks for keys itself (no)
  IMAGE_TAG         instead of the commit
END
}

options "$@"
need_variables PROJECT_ID REGION
[ "$dry_run" = yes ] || need_tools gcloud docker

export SERVICE=${SERVICE:-agentmesh} NETWORK=${NETWORK:-default} SUBNET=${SUBNET:-default}
export SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-$SERVICE@$PROJECT_ID.iam.gserviceaccount.com}
registry=$REGION-docker.pkg.dev
tag=$(image_tag)
export IMAGE=$registry/$PROJECT_ID/${REPOSITORY:-agentmesh}/agentmesh:$tag

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fill "$here/cloudrun.yaml" SERVICE IMAGE SERVICE_ACCOUNT NETWORK SUBNET > "$work/cloudrun.yaml"
where=(--project "$PROJECT_ID" --region "$REGION")

say "Build and push $IMAGE"
log_in "https://$registry" oauth2accesstoken gcloud auth print-access-token
build_and_push "$IMAGE"

say "Migrate the database; what runs goes on meanwhile"
run gcloud run jobs deploy "$SERVICE-migrate" "${where[@]}" --image "$IMAGE" --args migrate,up \
  --service-account "$SERVICE_ACCOUNT" --network "$NETWORK" --subnet "$SUBNET" --vpc-egress private-ranges-only \
  --set-secrets DATABASE_URL=agentmesh-database-url:latest,REDIS_URL=agentmesh-redis-url:latest \
  --set-env-vars ENVIRONMENT=production --max-retries 0 --task-timeout 30m --quiet
run gcloud run jobs execute "$SERVICE-migrate" "${where[@]}" --wait --quiet

say "Replace the service and wait until it is ready"
run gcloud run services replace "$work/cloudrun.yaml" "${where[@]}" --quiet
if [ "${PUBLIC:-no}" = yes ]; then
  run gcloud run services add-iam-policy-binding "$SERVICE" "${where[@]}" --member allUsers --role roles/run.invoker \
    --quiet
fi
url=$(ask URL gcloud run services describe "$SERVICE" "${where[@]}" --format 'value(status.url)')
finish "Done: $url"
