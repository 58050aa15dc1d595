#!/bin/sh
# Makes the secrets that compose.yaml mounts, those that are not there yet: secrets.sh [FOLDER]
# To change one, remove it, and what is made from it: database_url from database_password, api_keys from client_key.
#
# Containers run as users of their own, and Compose mounts a file with the owner and mode that it has here. So the files
# can be read by any user, and the folder by you alone: nobody else on this machine gets to them.
set -eu
cd "$(dirname "$0")"
folder=${1:-secrets}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

# Keep what is there; else write standard input, whole or not at all.
secret() {
  if [ -e "$folder/$1" ]; then
    cat > /dev/null
    return
  fi
  cat > "$folder/.$1.new"
  chmod 644 "$folder/.$1.new"
  mv "$folder/.$1.new" "$folder/$1"
  echo "made $folder/$1"
}

random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

sha256() {
  if command -v sha256sum > /dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

random | secret service_token
random | secret database_password
printf 'postgresql://agentmesh:%s@postgres:5432/agentmesh' "$(cat "$folder/database_password")" | secret database_url
# What a client shows, and what the mesh knows of it; add more of the second kind by hand.
random | secret client_key
printf '[{sha256: "%s", tenant: default}]\n' "$(sha256 "$folder/client_key")" | secret api_keys
random | secret grafana_password

# To be filled in by you. An empty one is as none.
for name in openai_api_key anthropic_api_key smtp_password; do
  secret "$name" < /dev/null
done
echo 'https://hooks.slack.com/services/replace/this/one' | secret slack_webhook_url

# A certificate that nobody trusts, until there is a real one.
if [ ! -e "$folder/tls.key" ] && [ ! -e "$folder/tls.crt" ]; then
  host=${TLS_HOST:-localhost}
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj "/CN=$host" \
    -addext "subjectAltName=DNS:$host,DNS:localhost,IP:127.0.0.1" \
    -keyout "$folder/.key.new" -out "$folder/.crt.new" 2> /dev/null
  secret tls.key < "$folder/.key.new"
  secret tls.crt < "$folder/.crt.new"
  rm "$folder/.key.new" "$folder/.crt.new"
fi
