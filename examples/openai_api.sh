#!/bin/sh
# Send a media file to OpenAI's audio interface of the gateway, and print its subtitles.
#
#     ./openai_api.sh FILE [FORMAT]        FORMAT: srt (default), vtt, text, json, verbose_json
set -eu
server=${SUBTITLE_HTTP:-http://127.0.0.1:8600}
set -- "$1" "${2:-srt}"
if [ -n "${SUBTITLE_TOKEN:-}" ]; then
	set -- "$@" -H "Authorization: Bearer $SUBTITLE_TOKEN"
fi
file=$1 format=$2
shift 2
exec curl --fail-with-body --silent --show-error "$@" \
	-F "file=@$file" -F "response_format=$format" "$server/v1/audio/transcriptions"
