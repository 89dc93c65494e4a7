#compdef deaddrop
# zsh completions of deaddrop: a file _deaddrop in a directory of fpath, or: source <(deaddrop completions zsh)
_deaddrop() {
    local answer word
    local -a answers others directories
    answers=("${(@f)$(_DEADDROP_COMPLETE=zsh command deaddrop -- \
        "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    # A tilde keeps its meaning only where it is not inserted again.
    if [[ $PREFIX == '~'*/* ]]; then compset -P '*/'; fi
    for answer in $answers; do
        word=${${answer%%$'\t'*}#${(Q)IPREFIX}}
        # The two fields of _describe are parted by a colon.
        answer=${${word//\\/\\\\}//:/\\:}:${answer#*$'\t'}
        if [[ $word == */ ]]; then directories+=("${answer%:}"); else others+=("${answer%:}"); fi
    done
    # After a directory, more of its path may follow.
    _describe -V 'directory' directories -S ''
    _describe -V 'word' others
}
if [[ ${funcstack[1]} == _deaddrop ]]; then
    _deaddrop "$@"
else
    compdef _deaddrop deaddrop
fi
