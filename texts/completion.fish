function __honeydew_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l plain (string unescape -- $current); or set plain $current
    for word in (honeydew __complete -- $words[2..-1] "$plain" 2>/dev/null)
        switch $word
            case __files@
                for path in (__fish_complete_path (string sub -s 2 -- "$plain"))
                    echo @$path
                end
            case __files
                __fish_complete_path "$plain"
            case '*'
                echo $word
        end
    end
end
complete -c honeydew -f -a '(__honeydew_complete)'
