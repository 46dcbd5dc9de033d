#!/usr/bin/env bash
# The man page, made of what `honeydew --help` says: man.sh BINARY VERSION DATE > honeydew.1
set -euo pipefail
honeydew=$1

roff() { sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^\([.']\)/\\\\\&\1/"; }
section() { printf '.SH %s\n' "$1"; }
block() { printf '.nf\n'; roff; printf '.fi\n'; }
verb() { # its own help page, under its name
  printf '.SS honeydew %s\n' "$*"
  "$honeydew" "$@" --help | block
}

printf '.TH HONEYDEW 1 "%s" "honeydew %s" "User Commands"\n' "$3" "$2"
section NAME
printf 'honeydew \\- pull the activity of your organisations, now or on a schedule\n'
section SYNOPSIS
printf '.B honeydew\n.I COMMAND\n[\\-\\-json] [\\-\\-help]\n'
section DESCRIPTION
"$honeydew" --help | block
section COMMANDS
for word in $("$honeydew" __complete -- ""); do
  text=$("$honeydew" help "$word")
  case $text in
    "  honeydew "*)
      sed -E 's/^  honeydew ([a-z-]+ [a-z-]+).*/\1/' <<<"$text" | while read -r group name; do verb "$group" "$name"; done ;;
    *) verb "$word" ;;
  esac
done
section FILES
printf '.I ~/.honeydew\nand everything in it; see README.md.\n'
