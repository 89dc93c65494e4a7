# nushell completions of deaddrop, for nushell 0.108 and newer: save this as a file, and `use` or `source` that.
def "nu-complete deaddrop" [spans: list<string>] {
    with-env { _DEADDROP_COMPLETE: nushell } { ^deaddrop -- ...$spans | complete }
    | get stdout
    | lines
    | each {|line|
        let parts = $line | split row --number 2 "\t"
        { value: $parts.0, description: ($parts | get --optional 1) }
    }
}

# Without any argument in the signature, nushell passes on what is typed as to any other program.
@complete "nu-complete deaddrop"
export extern deaddrop []
