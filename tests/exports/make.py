#!/usr/bin/env python3
"""Makes the exports in this directory that programs of password managers would make, without any code of deaddrop.

    tests/exports/make.py [DIRECTORY]      the default: where this script is

Needs `cryptography` and `argon2-cffi` from PyPI (written with 50.0.2 and 25.1.0) and GnuPG (2.2.40). The formats are those that
docs/sources.md describes. GnuPG salts by itself, so its files differ from run to run; the others do not.
"""

import base64
import csv
import hashlib
import hmac
import io
import json
import os
import subprocess
import sys
import tempfile
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


# 1Password


def one_item(number, category, title, state="active", **details):
    url = details.pop("url", "")
    return {
        "uuid": f"{title.lower().replace(' ', ''):a<20.20}{number:06}",
        "favIndex": 0,
        "createdAt": 1614298956,
        "updatedAt": 1768638600,
        "state": state,
        "categoryUuid": category,
        "details": {"loginFields": [], "notesPlain": "", "sections": [], "passwordHistory": []} | details,
        "overview": {"subtitle": "", "title": title, "url": url, "ps": 0, "pbe": 0.0, "pgrng": False, "tags": []},
    }


def login(username, password):
    fields = [("username", "T", username), ("password", "P", password)]
    return [{"value": v, "id": n, "name": n, "fieldType": t, "designation": n} for n, t, v in fields]


def section(title, *fields):
    fields = [
        {"title": title, "id": id, "value": {kind: value}, "guarded": False, "multiline": False}
        for title, id, kind, value in fields
    ]
    return {"title": title, "name": title.lower(), "fields": fields}


def onepassword():
    address = {"street": "1 Rack\nRow", "city": "Town", "country": "de", "zip": "12345", "state": "NI"}
    ssh = {
        "privateKey": KEY + "\n",
        "metadata": {
            "privateKey": "-----BEGIN PRIVATE KEY-----\nplanted-pkcs8\n-----END PRIVATE KEY-----\n",
            "publicKey": "ssh-ed25519 planted-public",
            "fingerprint": "SHA256:planted",
            "keyType": {"t": "ed25519"},
        },
    }
    old_ssh = {"privateKey": "planted no PEM", "metadata": ssh["metadata"]}
    document = {"fileName": "backup key.bin", "documentId": "ofdocumentidofdocument1234", "decryptedSize": len(BINARY)}
    file = {"fileName": "wg0.conf", "documentId": "ofafilefieldofafilefield12", "decryptedSize": 5}
    gone = {"fileName": "gone.txt", "documentId": "ofnothingatallofnothing123", "decryptedSize": 5}
    hidden = {"value": "planted-pin", "id": "pin;opid=__1", "name": "pin", "fieldType": "P", "designation": ""}
    linked = {"value": {"email_address": "me@planted.example", "provider": "fastmail"}, "id": "e", "name": "email", "fieldType": "E"}
    router = section("Base", ("base station password", "password", "concealed", ""), ("wireless password", "wireless_password", "concealed", "planted-wifi"))
    kinds = section(
        "All kinds",
        ("text", "a1", "string", "planted-text"),
        ("secret", "a2", "concealed", "planted-concealed"),
        ("one-time password", "TOTP_1", "totp", "otpauth://totp/planted?secret=PLANTED"),
        ("web", "a3", "url", "https://planted.example/kinds"),
        ("mail", "a4", "email", {"email_address": "planted@example", "provider": None}),
        ("old mail", "a5", "email", "planted2@example"),
        ("phone", "a6", "phone", "+49 123"),
        ("day", "a7", "date", 1614298956),
        ("month", "a8", "monthYear", 202612),
        ("menu", "a9", "menu", "left"),
        ("gender", "a10", "gender", "x"),
        ("card", "a11", "creditCardNumber", "4111planted"),
        ("brand", "a12", "creditCardType", "visa"),
        ("home", "a13", "address", address),
        ("see", "a14", "reference", "otheritemotheritemother1"),
        ("config", "a15", "file", file),
        ("gone", "a16", "file", gone),
        ("sso", "a17", "ssoLogin", {"provider": "planted", "item": "x"}),
        ("number", "a18", "string", 4711),
        ("nothing", "a19", "string", None),
        ("", "a20", "string", "by its id"),
        ("same", "a21", "string", "1"),
        ("same", "a22", "string", "2"),
    )
    private = [
        one_item(1, "001", "Router", url="https://planted.example", loginFields=login("admin", "planted-router") + [hidden, linked], notesPlain="planted note\nsecond", sections=[section("", ("", "", "string", ""))]),
        one_item(2, "005", "Backup", password="planted-backup"),
        one_item(3, "110", "Server", sections=[section("", ("username", "username", "string", "root"), ("password", "password", "concealed", "planted-server"), ("URL", "url", "string", "ssh://planted"))]),
        one_item(4, "112", "Token", sections=[section("", ("username", "username", "string", "u"), ("credential", "credential", "concealed", "planted-token"))]),
        one_item(5, "114", "Deploy key", sections=[section("", ("private key", "private_key", "sshKey", ssh))]),
        one_item(6, "114", "Old key", sections=[section("", ("private key", "private_key", "sshKey", old_ssh))]),
        one_item(7, "006", "Restic", documentAttributes=document),
        one_item(8, "100", "Kinds", sections=[kinds]),
        one_item(9, "109", "Wifi", sections=[router]),
        one_item(10, "001", "Archived", "archived", loginFields=login("u", "planted-archived")),
        one_item(11, "001", "Trashed", loginFields=login("u", "planted-trashed")) | {"trashed": True},
        one_item(12, "003", "Bare note", notesPlain="planted bare"),
        one_item(13, "001", "Twin", loginFields=login("u", "planted-twin")),
        {"uuid": "oddoddoddoddoddoddoddodd14", "state": "active", "details": {"loginFields": None, "sections": [None, {"title": "x", "fields": None}]}, "overview": None},
    ]
    values = [
        one_item(20 + at, "001", name, loginFields=login("admin", value), notesPlain=value, sections=[section("s", ("custom", f"c{at}", "concealed", value))])
        for at, (name, value) in enumerate((VALUES | NUL | LONG).items())
    ]
    shared = [one_item(50, "001", "Twin", loginFields=login("u", "planted-shared"))]

    def vault(number, name, items):
        attrs = {"uuid": f"vault{number:021}", "desc": "", "avatar": "", "name": name, "type": "U"}
        # An export has them in either order.
        return {"attrs": attrs, "items": items} if number % 2 else {"items": items, "attrs": attrs}

    account = {"accountName": "me", "name": "me", "avatar": "", "email": "me@example", "uuid": "account", "domain": "https://my.1password.com/"}
    vaults = [vault(1, "Private", private), vault(2, "Odd values", values), vault(3, "Shared", shared)]
    data = {"accounts": [{"attrs": account, "vaults": vaults[:2]}, {"attrs": account, "vaults": vaults[2:]}]}
    return {
        "export.attributes": json.dumps({"version": 3, "description": "1Password Unencrypted Export", "createdAt": 1768638600}),
        "export.data": json.dumps(data, ensure_ascii=False),
        "files/ofdocumentidofdocument1234__backup key.bin": BINARY,
        "files/ofafilefieldofafilefield12__wg0.conf": "[Wg]\n",
    }


# Proton Pass


def gpg(content, *options):
    """Encrypts with the real gpg, in a home of its own."""
    with tempfile.TemporaryDirectory() as home:
        command = ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", PASSWORD]
        command += ["--cipher-algo", "AES256", "--s2k-mode", "3", *options, "--symmetric", "--armor"]
        done = subprocess.run(command, input=content, stdout=subprocess.PIPE, check=True)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=False)
    return done.stdout


def proton_item(number, kind, name, content, note="", extra=(), state=1, alias=None, **more):
    fields = [{"fieldName": n, "type": t, "data": {"totpUri" if t == "totp" else "content": v}} for n, t, v in extra]
    return {
        "itemId": f"item-{number:03}==",
        "shareId": "share-1==",
        "data": {
            "metadata": {"name": name, "note": note, "itemUuid": f"{number:08}"},
            "extraFields": fields,
            "platformSpecific": None,
            "type": kind,
            "content": content,
        },
        "state": state,
        "aliasEmail": alias,
        "contentFormatVersion": 6,
        "createTime": 1614298956,
        "modifyTime": 1768638600,
        "pinned": False,
        "shareCount": 0,
    } | more


def proton_login(username, password, email="", totp="", urls=()):
    return {"itemEmail": email, "password": password, "urls": list(urls), "totpUri": totp, "passkeys": [], "itemUsername": username}


def proton():
    key = {"sectionName": "more", "sectionFields": [{"fieldName": "passphrase", "type": "hidden", "data": {"content": "planted-passphrase"}}]}
    identity = {"fullName": "A. Planted", "email": "planted@example", "floor": "", "extraPersonalDetails": [{"fieldName": "shoe", "type": "text", "data": {"content": "42"}}], "extraSections": [key]}
    card = {"cardholderName": "A. Planted", "cardType": 0, "number": "4111planted", "verificationNumber": "123", "expirationDate": "2030-01", "pin": "0000"}
    items = [
        proton_item(1, "login", "Router", proton_login("admin", "planted-router", "me@planted.example", "otpauth://planted", ["https://planted.example", "https://other.example"]), "planted note\nsecond", [("pin", "hidden", "planted-pin"), ("second factor", "totp", "otpauth://second"), ("blank", "text", "")]),
        proton_item(2, "login", "By mail", proton_login("", "planted-mail", "me@planted.example"), extra=[("code", "totp", "otpauth://code")]),
        proton_item(3, "login", "Old", {"username": "planted-old", "password": "planted-old-password", "urls": [], "totpUri": ""}),
        proton_item(4, "note", "Note", {}, "planted text"),
        proton_item(5, "alias", "Alias", {}, alias="planted.alias@example"),
        proton_item(6, "creditCard", "Card", card),
        proton_item(7, "identity", "Identity", identity),
        proton_item(8, "wifi", "Wifi", {"ssid": "planted-net", "password": "planted-wifi", "security": 3, "sections": []}),
        proton_item(9, "sshKey", "Key", {"privateKey": KEY, "publicKey": "ssh-ed25519 planted", "sections": [key]}),
        proton_item(10, "custom", "Custom", {"sections": [key]}, extra=[("token", "hidden", "planted-token"), ("same", "text", "1"), ("same", "text", "2")]),
        proton_item(11, "login", "Trashed", proton_login("u", "planted-trashed"), state=2),
        proton_item(12, "login", "Deep", proton_login("u", "planted-deep"), folderId="folder-2"),
        proton_item(13, "note", "Files", {}, files=["kubeconfig.AbCdEf0123456789xyz_-A==.yaml", "plain.txt", "a/b.bin", "0123456789abcdef", "missing.txt"]),
        proton_item(14, "login", "Twin", proton_login("u", "planted-1")),
        {"itemId": "item-015==", "state": 1, "data": None},
    ]
    odd = [proton_item(20 + at, "login", name, proton_login("admin", value), value, [("custom", "hidden", value)]) for at, (name, value) in enumerate((VALUES | NUL | LONG).items())]
    folders = [{"folderId": "folder-1", "parentFolderId": None, "name": "Rack"}, {"folderId": "folder-2", "parentFolderId": "folder-1", "name": "Shelf"}]
    shared = [proton_item(50, "login", "Twin", proton_login("u", "planted-2"))]
    data = {
        "version": "1.30.0",
        "userId": "user==",
        "encrypted": False,
        "vaults": {
            "share-1==": {"name": "Personal", "description": "", "display": {}, "folders": folders, "items": items},
            "share-2==": {"items": odd, "name": "Odd values", "description": "", "display": {}},
            "share-3==": {"name": "Shared", "description": "", "display": {}, "items": shared},
        },
    }
    files = {
        "kubeconfig.AbCdEf0123456789xyz_-A==.yaml": "planted: yaml\n",
        "plain.txt": "planted plain",
        "a_b.bin": BINARY,
        "0123456789abcdef-old.key": "planted old",
    }
    return json.dumps(data, ensure_ascii=False).encode(), {f"Proton Pass/files/{name}": content for name, content in files.items()}


def make_proton():
    data, files = proton()
    plain = {"Proton Pass/data.json": data} | files
    archive("proton.zip", plain)
    archive("proton-encrypted.zip", files | {"Proton Pass/data.pgp": gpg(data, "--s2k-count", "65011712")}, zipfile.ZIP_STORED)
    # As earlier versions did it: around the ZIP file, and around the JSON.
    write("proton-around.pgp", gpg(archive(None, plain), "--s2k-count", "65536", "--compress-algo", "none"))
    write("proton-json.pgp", gpg(data, "--s2k-count", "65536", "--cipher-algo", "AES128", "--compress-algo", "zip"))


# Tables


def table(name, header, rows, **style):
    """Writes a CSV file as Python's csv module does. It knows LF, CRLF and which fields are quoted."""
    style = {"lineterminator": "\n"} | style
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, **style)
    writer.writerow(header)
    writer.writerows(rows)
    write(name, buffer.getvalue())


def make_tables():
    values = list((VALUES | NUL).items())
    key_note = "NoteType:SSH Key\nLanguage:en-US\nBit Strength:\nFormat:OpenSSH\nPassphrase:planted: pass\nPrivate Key:%s\nPublic Key:ssh-ed25519 planted-public\nHostname:nas:22\nDate:,,\nNotes:line: one\nHostname:not this\n"
    rsa = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,planted\n\nYWJj\n-----END RSA PRIVATE KEY-----"
    putty = "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: x\nPublic-Lines: 1\nplanted\nPrivate-MAC: 00"
    rows = [
        ["https://planted.example", "admin", "planted-router", "PLANTEDTOTP", "planted note\nNoteType:no", "Router", "Homelab\\Rack", "0"],
        ["http://sn", "", "", "", "planted text", "Note", "(none)", "0"],
        ["http://sn", "", "", "", key_note % KEY, "Key", "Homelab", "1"],
        ["http://sn", "", "", "", key_note % rsa, "RSA", "", "0"],
        ["http://sn", "", "", "", key_note % putty, "PuTTY", "", "0"],
        ["http://sn", "", "", "", "NoteType:Server\nLanguage:en-US\nHostname:nas\nUsername:root\nPassword:planted: server\nhttps://planted\nNotes:", "Server", "", "0"],
        ["http://sn", "", "", "", "NoteType:Wi-Fi Password\r\nSSID:net\r\nPassword:planted-wifi\r\nUse 802.1X:No", "Wifi", "", "0"],
        ["", "", "", "", "", "Bare", "", "0"],
        ["https://a.example", "u", "planted-1", "", "", "Twin", "", "0"],
        ["https://b.example", "u", "planted-2", "", "", "Twin", "Homelab", "0"],
    ]
    rows += [["https://x.example", "admin", value, "", value, name, "Odd values", "0"] for name, value in values]
    header = ["url", "username", "password", "totp", "extra", "name", "grouping", "fav"]
    table("lastpass.csv", header, rows)
    # An earlier version: no totp, and LF or CRLF as the browser has it.
    table("lastpass-old.csv", header[:3] + header[4:], [row[:3] + row[4:] for row in rows], lineterminator="\r\n")

    odd = [[name, "https://x.example", "admin", value, value] for name, value in values]
    chrome = [["Router", "https://planted.example/", "admin", "planted-router", "planted note"], *odd]
    table("chrome.csv", ["name", "url", "username", "password", "note"], chrome, lineterminator="\r\n")
    firefox = [["https://planted.example", "admin", "planted-router", "", "", "{0000}", "1", "2", "3"]]
    firefox += [[f"https://{name}.example", "admin", value, "", "", "{0001}", "1", "2", "3"] for name, value in values]
    head = ["url", "username", "password", "httpRealm", "formActionOrigin", "guid", "timeCreated", "timeLastUsed", "timePasswordChanged"]
    table("firefox.csv", head, firefox, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    safari = [["Router", "https://planted.example/", "admin", "planted-router", "planted note", "otpauth://planted"]]
    table("safari.csv", ["Title", "URL", "Username", "Password", "Notes", "OTPAuth"], safari + [row + [""] for row in odd])
    dashlane = [["admin", "second", "", "Router", "planted-router", "planted note", "https://planted.example", "Homelab", "otpauth://planted"]]
    dashlane += [["admin", "", "", name, value, value, "", "Odd values", ""] for name, value in values]
    head = ["username", "username2", "username3", "title", "password", "note", "url", "category", "otpUrl"]
    table("dashlane.csv", head, dashlane)


def main():
    make_bitwarden()
    make_tables()
    make_proton()
    archive("onepassword.1pux", onepassword())


if __name__ == "__main__":
    OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    main()
