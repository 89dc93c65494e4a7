# fish completions of deaddrop: deaddrop completions fish | source
function __deaddrop_answers
    set -l before (commandline --current-process --tokenize --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    _DEADDROP_COMPLETE=fish command deaddrop -- $before "$current" 2>/dev/null
end
complete --command deaddrop --no-files --keep-order --arguments '(__deaddrop_answers)'
