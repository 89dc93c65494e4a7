"""Makes a tree that looks, in numbers and sizes, like the root of a small NixOS: for `mke2fs -d`.

    tree.py DIRECTORY FILES SECRETS

FILES files, most of them below /nix/store; about 20 KiB each, of which zstd makes a third. SECRETS files below /etc/secrets,
which are what every contender replaces. The same tree every time.
"""

import os
import random
import sys

from tree_names import store_hash

# What the files are cut from. Longer than the window of zstd -3, so that one file is no copy of another to it.
POOL = 24 << 20
# Of the bytes, how many are as good as random (compressed pages, hashes); the rest is words.
NOISE = 0.22


def pool(rng):
    """Bytes of text and noise, in runs of some hundred."""
    words = [bytes(rng.choices(b"etaoinshrdlucmfwypvbgkjqxz_-./", k=rng.randint(2, 11))) for _ in range(6000)]
    # Few words make up most of a text: Zipf's law.
    weights = [1 / (rank + 3) for rank in range(len(words))]
    parts, size = [], 0
    while size < POOL:
        if rng.random() < NOISE:
            part = rng.randbytes(600)
        else:
            part = b" ".join(rng.choices(words, weights, k=100))
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def main():
    root, files, secrets = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(20)
    source = pool(rng)
    for place in ("etc/secrets", "etc/ssh", "nix/store", "root", "var/lib", "var/log", "home", "run", "tmp", "boot"):
        os.makedirs(f"{root}/{place}")
    os.chmod(f"{root}/etc/secrets", 0o700)
    os.chmod(f"{root}/root", 0o700)
    write(f"{root}/etc/passwd", b"root:x:0:0:System administrator:/root:/run/current-system/sw/bin/bash\n")
    write(f"{root}/etc/group", b"root:x:0:\n")
    for number in range(secrets):
        path = f"{root}/etc/secrets/secret-{number:02}"
        write(path, b"first-" + b"0" * 58)
        os.chmod(path, 0o400)
    made = 2 + secrets
    while made < files:
        package = f"{root}/nix/store/{store_hash(rng)}-package-{rng.randint(1, 9)}.{rng.randint(0, 20)}"
        for place in ("bin", "lib", "share/doc"):
            os.makedirs(f"{package}/{place}")
            for number in range(rng.randint(5, 25)):
                if made < files:
                    # Many small files and a few large ones.
                    size = min(int(rng.lognormvariate(8.6, 1.6)), 2 << 20)
                    start = rng.randrange(POOL - size)
                    write(f"{package}/{place}/file-{number}", source[start : start + size])
                    made += 1


main()
