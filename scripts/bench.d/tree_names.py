"""Names of the store."""


def store_hash(rng):
    """A name's first part, as nix makes it: 32 characters of its own base 32."""
    return "".join(rng.choices("0123456789abcdfghijklmnpqrsvwxyz", k=32))
