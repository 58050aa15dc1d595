#!/bin/sh
# Writes libs/agentmesh/api and Envoy's descriptor set from the protos; with --check, only says whether they would differ.
set -eu
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
out=libs
descriptors=gateway/envoy/agentmesh.binpb
if [ "${2:-}" = --check ]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
  descriptors=$out/agentmesh.binpb
fi
PATH="$bin:$PATH"
# shellcheck disable=SC2046
"$bin/python" -m grpc_tools.protoc -Iprotos -Iprotos/third_party \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" \
  $(cd protos && find agentmesh -name '*.proto' | sort)
find "$out/agentmesh/api" -type d -exec sh -c 'for d; do : > "$d/__init__.py"; done' sh {} +
PYTHONDONTWRITEBYTECODE=1 "$bin/python" protos/descriptors.py "$descriptors"
if [ "$out" != libs ]; then
  { cmp -s "$descriptors" gateway/envoy/agentmesh.binpb && diff -r -x __pycache__ "$out/agentmesh/api" libs/agentmesh/api >/dev/null; } || {
    echo "generated code is out of date: run make proto and commit the result" >&2
    exit 1
  }
fi
