#compdef honeydew
_honeydew() {
  local -a candidates
  candidates=(${(f)"$(honeydew __complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)"})
  if [[ $candidates == __files@ ]]; then
    compset -P @
    _files
  elif [[ $candidates == __files ]]; then
    _files
  else
    local -a keys=(${(M)candidates:#*=})
    candidates=(${candidates:#*=})
    (($#keys)) && compadd -S '' -a keys
    (($#candidates)) && compadd -a candidates
  fi
}
compdef _honeydew honeydew
