_honeydew() {
  local current="${COMP_WORDS[COMP_CWORD]}" quote='' word
  case $current in
    [\"\']*) quote=${current:0:1} current=${current:1} ;; # the rest of a quoted word stands as it is
    *) current=${current//\\/} ;;
  esac
  COMPREPLY=()
  while IFS= read -r word; do
    case $word in __files*) continue ;; esac # bash completes files by itself where there is nothing else
    case $quote in
      "'") COMPREPLY+=("${word//\'/\'\\\'\'}") ;;
      '"') COMPREPLY+=("$(printf %s "$word" | sed 's/[\\$`"]/\\&/g')") ;;
      *) COMPREPLY+=("$(printf %q "$word")") ;;
    esac
  done < <(honeydew __complete -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$current" 2>/dev/null)
}
complete -o default -F _honeydew honeydew
