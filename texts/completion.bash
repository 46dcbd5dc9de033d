_honeydew() {
  local current="${COMP_WORDS[COMP_CWORD]}" n=$COMP_CWORD key='' quote='' word
  if [[ $n -gt 1 && ${COMP_WORDS[n-1]} == '@' ]]; then # bash takes @FILE for two words, KEY=VALUE for three
    key=@ n=$((n - 1))
  elif [[ $current == '=' ]]; then
    key=${COMP_WORDS[n-1]}= current='' n=$((n - 1))
  elif [[ $n -gt 1 && ${COMP_WORDS[n-1]} == '=' ]]; then
    key=${COMP_WORDS[n-2]}= n=$((n - 2))
  fi
  case $current in
    [\"\']*) quote=${current:0:1} current=${current:1} ;; # the rest of a quoted word stands as it is
    *) current=${current//\\/} ;;
  esac
  COMPREPLY=()
  while IFS= read -r word; do
    case $word in
      __files@)
        while IFS= read -r word; do COMPREPLY+=("@$(printf %q "$word")"); done < <(compgen -f -- "${current#@}")
        continue ;;
      __files) continue ;; # bash completes files by itself where there is nothing else
      *=) compopt -o nospace 2>/dev/null ;;
    esac
    word=${word#"$key"}
    case $quote in
      "'") COMPREPLY+=("${word//\'/\'\\\'\'}") ;;
      '"') COMPREPLY+=("$(printf %s "$word" | sed 's/[\\$`"]/\\&/g')") ;;
      *) COMPREPLY+=("$(printf %q "$word")") ;;
    esac
  done < <(honeydew __complete -- "${COMP_WORDS[@]:1:n-1}" "$key$current" 2>/dev/null)
}
complete -o default -F _honeydew honeydew
