complete -c honeydew -f -a '(set -l words (commandline -opc) (commandline -ct); honeydew __complete -- $words[2..-1] 2>/dev/null)'
