# bash completions of deaddrop, for bash 4.4 and newer: source <(deaddrop completions bash)
_deaddrop() {
    local line
    COMPREPLY=()
    while IFS=$'\t' read -r line _; do
        COMPREPLY+=("$line")
    done < <(_DEADDROP_COMPLETE=bash command deaddrop -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    # After a directory, more of its path may follow.
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]]; then
        compopt -o nospace
    fi
}
complete -o nosort -F _deaddrop deaddrop
