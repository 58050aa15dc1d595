# What the deploy scripts of aws, gcp and azure share; sourced by them, for bash.
# shellcheck shell=bash

# Set by the scripts: the root of the checkout.
: "${root:?}"
dry_run=no
# Where dry runs print commands, also those whose output is taken.
exec 3>&1

# The last line of a script.
finish() {
  if [ "$dry_run" = yes ]; then say "This was a dry run: nothing was changed"; else say "$1"; fi
}

# Stop with a line that says what to do.
fail() {
  printf 'error: %s\n' "$1" >&2
  exit "${2:-1}"
}

# Say what is done; in a dry run, that is all.
say() {
  printf '%s\n' "$1" >&2
}

# Print a command as it could be typed.
show() {
  printf '+%s\n' "$(printf ' %q' "$@")" >&3
}

# Run a command; in a dry run, show it.
run() {
  if [ "$dry_run" = yes ]; then
    show "$@"
  else
    "$@"
  fi
}

# Run a command that prints something to go on with; in a dry run, go on with a word in its place.
ask() {
  local placeholder=$1
  shift
  if [ "$dry_run" = yes ]; then
    show "$@"
    printf '%s\n' "$placeholder"
  else
    "$@"
  fi
}

need_tools() {
  local tool
  for tool in "$@"; do
    command -v "$tool" > /dev/null || fail "$tool is not installed"
  done
}

# Name all variables that are missing, not only the first.
need_variables() {
  local name missing=()
  for name in "$@"; do
    [ -n "${!name:-}" ] || missing+=("$name")
  done
  [ "${#missing[@]}" -eq 0 ] || fail "set ${missing[*]}; --help says what each of them is"
}

options() {
  local option
  for option in "$@"; do
    case $option in
      --dry-run) dry_run=yes ;;
      --help | -h)
        usage
        exit 0
        ;;
      *) fail "unknown option $option; there are --dry-run and --help" 2 ;;
    esac
  done
}

# The commit that is built; what is not committed would run under the name of something else.
image_tag() {
  if [ -n "${IMAGE_TAG:-}" ]; then
    printf '%s\n' "$IMAGE_TAG"
    return
  fi
  need_tools git
  [ -z "$(git -C "$root" status --porcelain)" ] || fail "there are uncommitted changes; commit them, or set IMAGE_TAG"
  git -C "$root" rev-parse --short=12 HEAD
}

# Log in to a registry; the password goes from one program to the other, and stands in no list of processes.
log_in() {
  local server=$1 user=$2
  shift 2
  if [ "$dry_run" = yes ]; then
    printf '+%s | docker login --username %q --password-stdin %q\n' "$(printf ' %q' "$@")" "$user" "$server" >&3
  else
    "$@" | docker login --username "$user" --password-stdin "$server"
  fi
}

build_and_push() {
  local image=$1
  run docker build --platform linux/amd64 --file "$root/deploy/docker/Dockerfile" --tag "$image" "$root"
  run docker push "$image"
}

# Print a template with ${NAME} replaced for each NAME given; one that is not given is an error, not an empty text.
fill() {
  local template=$1 text rest name
  shift
  text=$(< "$template")
  rest=$text
  while [[ $rest =~ \$\{([A-Z0-9_]+)\} ]]; do
    name=${BASH_REMATCH[1]}
    [[ " $* " == *" $name "* ]] || fail "$template: nothing is known for $name"
    rest=${rest#*"${BASH_REMATCH[0]}"}
  done
  for name in "$@"; do
    text=${text//"\${$name}"/"${!name}"}
  done
  printf '%s\n' "$text"
}
