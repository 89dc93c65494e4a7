"""A tar by Python's tarfile: make.py OUT FORM DIRECTORY. FORM is gnu, pax or ustar. Owners are those of a system, whoever
runs this."""

import sys
import tarfile

out, form, directory = sys.argv[1:]
forms = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}
with tarfile.open(out, "w", format=forms[form]) as archive:

    def owned(member):
        member.uname = member.gname = ""
        member.uid, member.gid = (998, 995) if member.name.startswith("srv") else (0, 0)
        return member

    for name in ("etc", "nix", "srv", "usr", "var"):
        archive.add(f"{directory}/{name}", arcname=name, filter=owned)
