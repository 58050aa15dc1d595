#!/usr/bin/env bash
# Builds the image of this commit and brings it to the ECS service that ecs.yaml made: see docs/deploy/aws.md.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=deploy/steps.sh
. "$root/deploy/steps.sh"

usage() {
  cat << 'END'
Usage: deploy/aws/deploy.sh [--dry-run]

Logs in to ECR, builds and pushes the image under the name of this commit, registers the task definition, migrates the
database in a task of its own, updates the service and waits until it is stable. --dry-run prints each command and
changes nothing.

Needed:
  AWS_REGION        such as us-west-2
  AWS_ACCOUNT_ID    twelve digits
  SECRET_ARN        the whole ARN of the secret that ecs.yaml was given
Optional:
  STACK             name of the stack, which its cluster, service and roles have, too (agentmesh)
  DESIRED_COUNT     number of tasks; without it, as many as there are
  IMAGE_TAG         instead of the commit
END
}

options "$@"
need_variables AWS_REGION AWS_ACCOUNT_ID SECRET_ARN
[ "$dry_run" = yes ] || need_tools aws docker

STACK=${STACK:-agentmesh}
registry=$AWS_ACCOUNT_ID.dkr.ecr.$AWS_REGION.amazonaws.com
tag=$(image_tag)
# What stands in the template.
export AWS_REGION AWS_PAGER=
export IMAGE=$registry/$STACK:$tag FAMILY=$STACK LOG_GROUP=/ecs/$STACK
export EXECUTION_ROLE_ARN=arn:aws:iam::$AWS_ACCOUNT_ID:role/$STACK-execution
export TASK_ROLE_ARN=arn:aws:iam::$AWS_ACCOUNT_ID:role/$STACK-task

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
definition=$work/task-definition.json
fill "$here/task-definition.json" FAMILY IMAGE EXECUTION_ROLE_ARN TASK_ROLE_ARN LOG_GROUP AWS_REGION SECRET_ARN \
  > "$definition"

# A tag is a commit and never changes, so what is there need not be built again.
is_pushed() {
  [ "$dry_run" = no ] && aws ecr describe-images --region "$AWS_REGION" --repository-name "$STACK" \
    --image-ids "imageTag=$tag" > "$work/images" 2>&1
}

if is_pushed; then
  say "$IMAGE is there already"
else
  say "Build and push $IMAGE"
  log_in "$registry" AWS aws ecr get-login-password --region "$AWS_REGION"
  build_and_push "$IMAGE"
fi

say "Register the task definition"
revision=$(ask "$FAMILY:REVISION" aws ecs register-task-definition --region "$AWS_REGION" \
  --cli-input-json "file://$definition" --query taskDefinition.taskDefinitionArn --output text)

say "Migrate the database; what runs goes on meanwhile"
network=$(ask NETWORK aws ecs describe-services --region "$AWS_REGION" --cluster "$STACK" --services "$STACK" \
  --query 'services[0].networkConfiguration' --output json)
task=$(ask TASK aws ecs run-task --region "$AWS_REGION" --cluster "$STACK" --launch-type FARGATE \
  --task-definition "$revision" --network-configuration "$network" \
  --overrides '{"containerOverrides": [{"name": "agentmesh", "command": ["migrate", "up"]}]}' \
  --query 'tasks[0].taskArn' --output text)
run aws ecs wait tasks-stopped --region "$AWS_REGION" --cluster "$STACK" --tasks "$task"
# shellcheck disable=SC2016 # the back quotes are a part of the query
code=$(ask 0 aws ecs describe-tasks --region "$AWS_REGION" --cluster "$STACK" --tasks "$task" \
  --query 'tasks[0].containers[?name==`agentmesh`]|[0].exitCode' --output text)
[ "$code" = 0 ] || fail "the migration ended with $code, nothing was deployed; read the log: aws logs tail $LOG_GROUP"

say "Update the service and wait until it is stable"
count=()
[ -z "${DESIRED_COUNT:-}" ] || count=(--desired-count "$DESIRED_COUNT")
run aws ecs update-service --region "$AWS_REGION" --cluster "$STACK" --service "$STACK" \
  --task-definition "$revision" ${count[@]+"${count[@]}"} --query service.status --output text
run aws ecs wait services-stable --region "$AWS_REGION" --cluster "$STACK" --services "$STACK"
# The service is stable as well after it was rolled back.
running=$(ask "$revision" aws ecs describe-services --region "$AWS_REGION" --cluster "$STACK" --services "$STACK" \
  --query 'services[0].taskDefinition' --output text)
[ "$running" = "$revision" ] || fail "the new tasks did not become healthy; ECS went back to $running"
finish "Done: $revision runs"
