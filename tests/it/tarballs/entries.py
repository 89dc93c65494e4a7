"""The entries of a tar as Python's tarfile reads them: for each a line with the SHA-256 of all its bytes (extended
headers, header, data, padding), its type, and its name; then one with the bytes behind the last entry."""

import hashlib
import sys
import tarfile

path = sys.argv[1]
with open(path, "rb") as file:
    whole = file.read()
with tarfile.open(path, "r:") as archive:
    members = archive.getmembers()
    end = archive.offset

starts = [member.offset for member in members]
for number, member in enumerate(members):
    if number + 1 < len(members):
        stop = starts[number + 1]
    else:
        # Where tarfile met the first block of zeros.
        stop = end
    digest = hashlib.sha256(whole[member.offset : stop]).hexdigest()
    print(digest, member.type.decode("latin-1"), member.name)
tail = whole[stop:]
print("end", tail.rstrip(b"\0").hex()[:64])
