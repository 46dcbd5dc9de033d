#compdef honeydew
_honeydew() {
  local -a candidates
  candidates=(${(f)"$(honeydew __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
  compadd -a candidates
}
compdef _honeydew honeydew
