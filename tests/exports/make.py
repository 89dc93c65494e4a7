#!/usr/bin/env python3
"""Makes the exports in this directory that programs of password managers would make, without any code of deaddrop.

    tests/exports/make.py [DIRECTORY]      the default: where this script is

Needs `cryptography` and `argon2-cffi` from PyPI (written with 50.0.2 and 25.1.0) and GnuPG (2.2.40). The formats are those that
docs/sources.md describes. GnuPG salts by itself, so its files differ from run to run; the others do not.
"""

import base64
import hashlib
import hmac
import io
import json
import os
import subprocess
import sys
import zipfile

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

PASSWORD = 'correct "horse" $battery ünïcödé'

# What may stand in a value. src/source/testing.rs has the same.
VALUES = {
    "unicode": "grüße 日本 🔑 \u202e\u0301x",
    "quotes": "\"double\" 'single' \\back\\slash `tick` ,;",
    "dollar": "$HOME ${X} $(id) $$ %d {{x}}",
    "newlines": "one\ntwo\r\nthree\n\n",
    "spaces": "  before and after \t",
    "html": "&lt;a &amp; b&gt; &quot;",
    "empty": "",
}
NUL = {"nul": "a\0b"}
LONG = {"long": "0123456789abcdef" * 65536}
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nplanted-private\nYWJj\n-----END OPENSSH PRIVATE KEY-----"
BINARY = bytes(range(256)) * 4


def write(name, content):
    with open(os.path.join(OUT, name), "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def archive(name, files, compression=zipfile.ZIP_DEFLATED):
    """Writes a ZIP file. A fixed time makes it the same every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as out:
        for path, content in files.items():
            info = zipfile.ZipInfo(path, (2026, 1, 17, 8, 30, 0))
            info.compress_type = compression
            out.writestr(info, content)
    if name:
        write(name, buffer.getvalue())
    return buffer.getvalue()


# Bitwarden


def bitwarden(values):
    items = [
        {
            "id": f"6f1c2a7e-0000-4000-8000-0000000001{at:02}",
            "folderId": "f01de400-0000-4000-8000-000000000001",
            "type": 1,
            "name": name,
            "notes": value or None,
            "revisionDate": "2026-01-17T08:30:00.000Z",
            "deletedDate": None,
            "fields": [{"name": "custom", "value": value, "type": 1, "linkedId": None}],
            "login": {"username": "admin", "password": value, "totp": None, "uris": None},
            "collectionIds": None,
        }
        for at, (name, value) in enumerate(values.items())
    ]
    folders = [{"id": "f01de400-0000-4000-8000-000000000001", "name": "odd values"}]
    return {"encrypted": False, "folders": folders, "items": items}


def enc_string(text, encryption, authentication, iv):
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(encryption), modes.CBC(iv)).encryptor()
    data = encryptor.update(padder.update(text.encode()) + padder.finalize()) + encryptor.finalize()
    mac = hmac.digest(authentication, iv + data, "sha256")
    return "2." + "|".join(base64.b64encode(part).decode() for part in (iv, data, mac))


def protected(inner, kdf, password=PASSWORD):
    salt = base64.b64encode(hashlib.sha256(b"a salt").digest()[:16]).decode()
    if kdf["kdfType"] == 0:
        key = PBKDF2HMAC(hashes.SHA256(), 32, salt.encode(), kdf["kdfIterations"]).derive(password.encode())
    else:
        key = hash_secret_raw(
            password.encode(),
            hashlib.sha256(salt.encode()).digest(),
            kdf["kdfIterations"],
            kdf["kdfMemory"] * 1024,
            kdf["kdfParallelism"],
            32,
            Type.ID,
            0x13,
        )
    keys = [HKDFExpand(hashes.SHA256(), 32, info).derive(key) for info in (b"enc", b"mac")]
    iv = hashlib.sha256(b"an iv").digest()[:16]
    return {
        "encrypted": True,
        "passwordProtected": True,
        "salt": salt,
        **kdf,
        "encKeyValidation_DO_NOT_EDIT": enc_string("6f1c2a7e-0000-4000-8000-000000000000", *keys, iv),
        "data": enc_string(inner, *keys, iv),
    }


def make_bitwarden():
    inner = json.dumps(bitwarden(VALUES | NUL), indent=2, ensure_ascii=False)
    pbkdf2 = {"kdfType": 0, "kdfIterations": 5000, "kdfMemory": None, "kdfParallelism": None}
    argon2 = {"kdfType": 1, "kdfIterations": 2, "kdfMemory": 16, "kdfParallelism": 3}
    for name, kdf in [("pbkdf2", pbkdf2), ("argon2", argon2)]:
        write(f"bitwarden-{name}.json", json.dumps(protected(inner, kdf), indent=2))
    data = json.dumps(bitwarden(VALUES | NUL | LONG), indent=2, ensure_ascii=False)
    item = "attachments/6f1c2a7e-0000-4000-8000-000000000100/"
    files = {"data.json": data, item + "binary": BINARY, item + "id_ed25519": KEY, item + "ünï cödé": "x", item + "empty": ""}
    files[item + "../../etc/passwd"] = "planted-up"
    archive("bitwarden.zip", files)


def main():
    make_bitwarden()


if __name__ == "__main__":
    OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    main()
