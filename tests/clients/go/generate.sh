#!/bin/sh
# Lays the module out in OUT, ready for `go build ./runner`: the hand-written sources and, under api/, what the
# protos generate. Usage: generate.sh OUT [PYTHON], where PYTHON has grpcio-tools.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
python=${2:-$root/.venv/bin/python}
mkdir -p "$1"
out=$(cd "$1" && pwd)
tools=${AGENTMESH_TEST_CACHE:-$HOME/.cache/agentmesh-test}/go-bin

# go_tool PACKAGE VERSION: one folder per version, as tests/support/go_tools.py keeps them. Prints the binary.
go_tool() {
  name=${1##*/}
  home=$tools/$name@$2
  if [ ! -x "$home/$name" ]; then
    GOBIN=$home go install "$1@$2" >&2
  fi
  echo "$home/$name"
}
go_plugin=$(go_tool google.golang.org/protobuf/cmd/protoc-gen-go v1.36.11)
grpc_plugin=$(go_tool google.golang.org/grpc/cmd/protoc-gen-go-grpc v1.6.0)

if [ "$out" != "$here" ]; then
  cp "$here/go.mod" "$here/go.sum" "$out/"
  rm -rf "$out/runner"
  cp -R "$here/runner" "$out/"
fi
rm -rf "$out/api"
# The protos name their Go packages agentmesh/api/…, which are folders of the module `agentmesh`.
# shellcheck disable=SC2046
"$python" -m grpc_tools.protoc -I"$root/protos" -I"$root/protos/third_party" \
  --plugin=protoc-gen-go="$go_plugin" --go_out="$out" --go_opt=module=agentmesh \
  --plugin=protoc-gen-go-grpc="$grpc_plugin" --go-grpc_out="$out" --go-grpc_opt=module=agentmesh \
  $(cd "$root/protos" && find agentmesh -name '*.proto' | sort)
