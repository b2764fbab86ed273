#!/bin/sh
# Entry point of the image: at the first start, create a token for the web page and print it once; then run `subtitled`.
set -eu
tokens=${SUBTITLED_HTTP__TOKEN_FILE:-}
if [ "${1:-}" = run ] && [ -n "$tokens" ] && [ ! -e "$tokens" ]; then
	(umask 077 && python -c 'import secrets; print(secrets.token_hex(16))' > "$tokens")
	echo "Web page: http://localhost:${SUBTITLED_HTTP__LISTEN##*:}/  User: any  Password: $(cat "$tokens")"
fi
exec subtitled "$@"
