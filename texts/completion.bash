_honeydew() {
  local IFS=$'\n'
  COMPREPLY=($(honeydew __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _honeydew honeydew
